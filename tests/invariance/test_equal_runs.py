"""Do equal runs of a model give equal outputs, whatever its forward keeps, draws, counts and differentiates?

Forwards with a state of their own, with gradients inside and with checkpoints: each with the verdict of
finite scaling, and left as it was. Modules of other kinds are in test_any_model.py.
"""

import copy
import functools
import random
from collections import deque

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from decayfree import DecayFreeError, find_invariant
from decayfree.invariance.probe import Probe
from support.around import N_KERNELS, Around, assert_found, body, names_in, pictures
from support.zoo_entry import net

GENERATOR = torch.Generator().manual_seed(0)
COUNTER = {"calls": 0}


# State of their own


class Annealed(Around):
    def __init__(self) -> None:
        super().__init__()
        self.n_calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.n_calls += 1
        return self.net(x) / (1 + 0.1 * self.n_calls)


class CountsInBuffer(Around):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("n_calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.n_calls += 1
        return self.net(x) / (1 + 0.1 * self.n_calls)


class CountsInTensor(Around):
    def __init__(self) -> None:
        super().__init__()
        self.n_calls = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        self.n_calls += 1
        return self.net(x) / (1 + 0.1 * self.n_calls)


class KeepsInContainers(Around):
    """Lists, dictionaries, queues and objects that grow, each of which changes the outputs."""

    class Bank:
        def __init__(self) -> None:
            self.kept: deque[Tensor] = deque(maxlen=3)

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.by_name: dict[str, Tensor] = {}
        self.bank = self.Bank()

    def forward(self, x: Tensor) -> Tensor:
        y = self.net.norm(self.net.conv(x))
        self.seen.append(y)
        self.by_name[f"call {len(self.by_name)}"] = y
        self.bank.kept.append(y)
        return self.net(x) * (len(self.seen) + len(self.by_name) + len(self.bank.kept))


class SharesAList(nn.Module):
    """Two parts that count in one list."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.calls = body(), []
        self.net.calls = self.calls

    def forward(self, x: Tensor) -> Tensor:
        self.net.calls.append(1)
        return self.net(x) * len(self.calls)


class LazyCache(Around):
    """Makes a table in its first run and reads it later, as rotary embeddings do."""

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "table"):
            self.table = torch.linspace(0, 1, x.shape[-1])
            self.register_buffer("other", torch.ones(x.shape[-1]), persistent=False)
        return self.net(x + self.table * self.other)


class OwnGenerators(Around):
    def __init__(self) -> None:
        super().__init__()
        self.of_torch = torch.Generator().manual_seed(1)
        self.of_numpy, self.of_python = numpy.random.default_rng(0), random.Random(0)

    def forward(self, x: Tensor) -> Tensor:
        factor = 1 + self.of_numpy.random() + self.of_python.random()
        return factor * self.net(x + 0.1 * torch.randn(x.shape, generator=self.of_torch))


class GlobalGenerator(Around):
    def forward(self, x: Tensor, generator: torch.Generator = GENERATOR) -> Tensor:
        noise = torch.rand(x.shape, generator=GENERATOR) + torch.empty_like(x).normal_(generator=generator)
        return self.net(x + 0.1 * noise)


class Reseeds(Around):
    def forward(self, x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return self.net(x + 0.1 * torch.randn_like(x))


class DropsLayersNowAndThen(Around):
    """Draws from Python in every run, but the draw seldom shows."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        for _ in range(8):
            y = y if random.random() < 0.1 else 2 * y
        return y


class SetsItsMode(Around):
    """Puts a part into eval mode while it runs: the next run would find it so."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        self.net.norm.training = False
        return y


class ChangesItsInputs(Around):
    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2).add_(1)
        return self.net(x).exp() * x.mean()


class SharedMemory(Around):
    """Two buffers in one memory: what is written to one is read from the other."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("whole", torch.ones(4))
        self.register_buffer("part", self.whole[1:3])

    def forward(self, x: Tensor) -> Tensor:
        self.whole.fill_(float(x.mean()))
        return self.net(x) if bool((self.part == self.whole[0]).all()) else self.net.conv(x)


class HooksThatCount(Around):
    """An object, its method and a partial function as hooks, each with a state, one shared with the model."""

    class Counter:
        def __init__(self) -> None:
            self.kept: list[Tensor] = []

        def __call__(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            self.kept.append(output)
            return output * len(self.kept)

        def count(self, module: nn.Module, inputs: object) -> None:
            self.kept.append(torch.zeros(1))

    def __init__(self) -> None:
        super().__init__()
        self.counter = self.Counter()
        self.net.head.register_forward_hook(self.Counter())
        self.net.head.register_forward_pre_hook(self.counter.count)
        self.net.head.register_forward_hook(functools.partial(self._times, []))

    @staticmethod
    def _times(kept: list[int], module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        kept.append(1)
        return output * len(kept)

    def forward(self, x: Tensor) -> Tensor:
        before = len(self.counter.kept)
        y = self.net(x)
        assert len(self.counter.kept) == before + 1
        return y


STATEFUL = [
    *(Annealed, CountsInBuffer, CountsInTensor, KeepsInContainers, SharesAList, LazyCache),
    *(OwnGenerators, GlobalGenerator, Reseeds, DropsLayersNowAndThen, SetsItsMode, ChangesItsInputs),
    *(SharedMemory, HooksThatCount),
]


@pytest.mark.usefixtures("seed")
@pytest.mark.parametrize("kind", STATEFUL, ids=lambda kind: kind.__name__)
def test_every_run_starts_from_the_same_state(kind: type[nn.Module]) -> None:
    before = GENERATOR.get_state(), torch.get_rng_state(), random.getstate()
    model, inputs = kind(), pictures()
    built = torch.get_rng_state(), copy.deepcopy(vars(model)), model.net.norm.running_mean.clone()
    for _ in range(2):
        assert_found(model, inputs)
    assert torch.equal(GENERATOR.get_state(), before[0])
    assert torch.equal(torch.get_rng_state(), built[0])
    assert random.getstate() == before[2]
    assert torch.equal(inputs, pictures())
    assert vars(model).keys() == built[1].keys()
    assert model.training
    assert model.net.norm.training
    assert torch.equal(model.net.norm.running_mean, built[2])
    model(pictures()).sum().backward()  # with what a training step leaves behind
    if kind is not SetsItsMode:
        assert_found(model)


class CountsElsewhere(Around):
    def forward(self, x: Tensor) -> Tensor:
        COUNTER["calls"] += 1
        return self.net(x) / (1 + 0.1 * COUNTER["calls"])


@pytest.mark.usefixtures("seed")
def test_runs_that_cannot_be_made_equal_are_refused_with_the_cure() -> None:
    with pytest.raises(DecayFreeError, match=r"two equal runs of this CountsElsewhere differ.*attributes.*"):
        find_invariant(CountsElsewhere(), pictures())

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        COUNTER["calls"] = 0
        return model(x)

    assert names_in(CountsElsewhere(), pictures(), forward=forward) == ["net.conv.weight"]


# Gradients inside


def energy_net(norm: type[nn.Module] = nn.LayerNorm) -> nn.Sequential:
    return net(fc=nn.Linear(3, 8), norm=norm(8), act=nn.Tanh(), head=nn.Linear(8, 1))


class Inside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = energy_net()


class Forces(Inside):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone().requires_grad_(True)
        energy = self.net(x)
        return energy, torch.autograd.grad(energy.sum(), x, create_graph=True)[0]


class ForcesIfGradients(Inside):
    """Computes something else where gradients are off."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return self.net(x)
        x = x.clone().requires_grad_(True)
        energy = self.net(x)
        return energy + torch.autograd.grad(energy.sum(), x, create_graph=True)[0].square().sum(
            1, keepdim=True
        )


class HandNorm(nn.Module):
    """PyTorch's own LayerNorm has wrong third derivatives, and wrong ones along a direction."""

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        return x / x.square().mean(-1, keepdim=True).sqrt()


class Residual(Inside):
    """A physics-informed residual: of its own inputs, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.net.norm = HandNorm()

    def forward(self, x: Tensor) -> Tensor:
        u = self.net(x)
        slope = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
        return u - torch.autograd.grad(slope[:, 0].sum(), x, create_graph=True)[0][:, :1]


class Penalized(Inside):
    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            score = self.net(x)
            slope = torch.autograd.grad(score.sum(), x, create_graph=True)[0]
            return score.mean() + (slope.norm(dim=1) - 1).square().mean()


class Functional(Inside):
    def __init__(self) -> None:
        super().__init__()
        self.net.norm = HandNorm()

    def forward(self, x: Tensor) -> Tensor:
        def energy(one: Tensor) -> Tensor:
            return self.net(one).squeeze()

        slopes = torch.func.vmap(torch.func.grad(energy))(x)
        _, along = torch.func.jvp(self.net, (x,), (torch.ones_like(x),))
        return slopes.sum(1, keepdim=True) + along


class Adversarial(Inside):
    """Attacks itself with ``backward``, which leaves gradients in parameters."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            attacked = x.detach().clone().requires_grad_()
            self.net(attacked).sum().backward()
        return self.net(x + 0.1 * attacked.grad.sign())


class InnerStep(Inside):
    """One step of gradient descent on the head inside, as meta-learning takes it."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            head = dict(self.net.head.named_parameters())
            loss = self.net(x).square().mean()
            slopes = torch.autograd.grad(loss, list(head.values()), create_graph=True)
            moved = [value - 0.1 * slope for value, slope in zip(head.values(), slopes, strict=True)]
            return F.linear(self.net.act(self.net.norm(self.net.fc(x))), *moved)


class InnerStepOfAll(Inside):
    """One step on copies of all parameters; matrices meet the inner gradient as parameters themselves."""

    def forward(self, x: Tensor) -> Tensor:
        start = dict(self.net.named_parameters())
        loss = torch.func.functional_call(self.net, start, (x,)).square().mean()
        slopes = torch.autograd.grad(loss, list(start.values()), create_graph=True)
        moved = {name: start[name] - 0.1 * slope for name, slope in zip(start, slopes, strict=True)}
        head = {name: moved[name] if "head" in name else start[name] for name in start}
        return torch.func.functional_call(self.net, head, (x,))


class InItsBackward(torch.autograd.Function):
    """Runs a module without a graph, and again in its backward, as an adjoint method does."""

    @staticmethod
    def forward(ctx, module: nn.Module, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.module = module
        ctx.save_for_backward(x, *parameters)
        with torch.no_grad():
            return module(x)

    @staticmethod
    def backward(ctx, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return (None, *torch.autograd.grad(ctx.module(x), [x, *parameters], slope))


class Adjoint(Inside):
    """Uses the same weights twice, so that each backward gives a part of their gradients."""

    def forward(self, x: Tensor) -> Tensor:
        for part in (x, 2 * x.flip(0)):
            x = x + InItsBackward.apply(self.net, part, *self.net.parameters())
        return x


@pytest.mark.usefixtures("seed")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize(
    "kind",
    [
        Forces,
        ForcesIfGradients,
        Residual,
        Penalized,
        Functional,
        Adversarial,
        InnerStep,
        InnerStepOfAll,
        Adjoint,
    ],
    ids=lambda kind: kind.__name__,
)
def test_models_that_differentiate_inside(kind: type[nn.Module]) -> None:
    x = torch.randn(9, 3, requires_grad=kind is Residual)
    model = kind()
    found = find_invariant(model, x)
    assert [(weight.name, weight.bias) for weight in found] == [("net.fc.weight", "net.fc.bias")], found
    assert found.verdicts["net.head.weight"].verdict == "not_invariant"
    assert not any("not the derivative" in verdict.reason for verdict in found.verdicts.values())
    assert x.grad is None
    assert all(parameter.grad is None for parameter in model.parameters())


# Checkpoints


class Recomputed(Around):
    def __init__(self, *, is_reentrant: bool, noise: float = 0.5) -> None:
        super().__init__()
        self.is_reentrant, self.noise = is_reentrant, noise
        self.second = net(conv=nn.Conv2d(N_KERNELS, 4, 3, bias=False), norm=nn.BatchNorm2d(4), act=nn.ReLU())

    def first(self, x: Tensor) -> Tensor:
        return F.dropout(self.net.act(self.net.norm(self.net.conv(x))), self.noise)

    def forward(self, x: Tensor) -> Tensor:
        y = checkpoint(self.first, x, use_reentrant=self.is_reentrant)
        return checkpoint(self.second, y, use_reentrant=self.is_reentrant).mean((2, 3))


@pytest.mark.usefixtures("seed")
@pytest.mark.parametrize("is_reentrant", [False, True])
def test_what_is_checkpointed_is_found(is_reentrant: bool) -> None:
    x = pictures().requires_grad_()  # as reentrant checkpoints want it
    scale = torch.ones((), requires_grad=True)
    scale.grad = torch.full((), 7.0)
    model = Recomputed(is_reentrant=is_reentrant)
    found = find_invariant(model, x, forward=lambda model, x: scale * model(x))
    assert [weight.name for weight in found] == ["net.conv.weight", "second.conv.weight"], found
    assert (x.grad, float(scale.grad)) == (None, 7.0)


class FunctionalNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(5, 8, bias=False), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = checkpoint(lambda x: F.layer_norm(self.fc(x), (8,), eps=0.5), x, use_reentrant=False)
        return self.head(torch.tanh(y))


@pytest.mark.usefixtures("seed")
def test_an_eps_is_set_aside_in_what_is_recomputed_too() -> None:
    probe = Probe(FunctionalNorm(), torch.randn(9, 5), None, torch.float64, seed=0)
    probe.perturb_()
    gradient = probe.gradients(probe.run().outputs)["fc.weight"]
    assert abs(float((probe.parameters["fc.weight"].detach() * gradient).sum())) < 1e-12 * float(
        gradient.norm()
    )
