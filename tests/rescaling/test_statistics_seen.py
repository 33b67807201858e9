"""Whose change a weight made decides what its running statistics do: the optimizer's, or anybody else's.

References: BatchNorm's own moving average of the batch statistics that forward passes saw, each brought to
the radius; and outputs in eval mode, which somebody else's change must not move.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel

import decayfree

IMAGES, LABELS = torch.Size((16, 3, 8, 8)), 4


def network(*, eps: float = 1e-30) -> nn.Sequential:
    """Two convolutions before BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6, eps=eps),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3),
        nn.BatchNorm2d(5, eps=eps, momentum=0.3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * 16, LABELS),
    ).double()


LAYERS = ((0, 1), (3, 4))  # a convolution and the BatchNorm behind it


class Average:
    """BatchNorm's moving average of what its forward passes see, with every kernel brought to radius 1."""

    def __init__(self, model: nn.Sequential) -> None:
        self.of = {norm: self._start(model, conv, norm) for conv, norm in LAYERS}

    def _start(self, model: nn.Sequential, conv: int, norm: int) -> list[Tensor]:
        layer = model[norm]
        c, bias = self._factors(model[conv])
        layer.register_forward_pre_hook(lambda one, args: self._add(model[conv], norm, one, args[0]))
        return [c * (layer.running_mean - bias) + bias, c**2 * layer.running_var]

    def _factors(self, conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
        norms = conv.weight.detach().flatten(1).norm(dim=1)
        c = torch.where(norms > 0, 1 / norms, 1.0)
        return c, torch.zeros_like(c) if conv.bias is None else conv.bias.detach()

    def _add(self, conv: nn.Conv2d, norm: int, layer: nn.BatchNorm2d, values: Tensor) -> None:
        if not layer.training:
            return
        c, bias = self._factors(conv)
        mean, var = values.detach().mean((0, 2, 3)), values.detach().var((0, 2, 3))
        seen = (c * (mean - bias) + bias, c**2 * var)
        share = 1 / (int(layer.num_batches_tracked) + 1) if layer.momentum is None else layer.momentum
        self.of[norm] = [
            (1 - share) * old + share * new for old, new in zip(self.of[norm], seen, strict=True)
        ]

    def distance(self, model: nn.Sequential) -> float:
        """Largest relative distance of the model's running statistics from it."""
        return max(
            float(((buffer - expected).abs() / self.of[norm][1].sqrt() ** power).max())
            for norm, (mean, var) in self.of.items()
            for buffer, expected, power in (
                (model[norm].running_mean, mean, 1),
                (model[norm].running_var, var, 2),
            )
        )


def attached(optimizer: Callable[..., Any], *, eps: float = 1e-30, **options: Any) -> tuple[Any, ...]:
    """A network, its optimizer, the rescaling, and the reference."""
    model = network(eps=eps)
    found = decayfree.find_invariant(model, torch.randn(IMAGES, dtype=torch.float64))
    made = optimizer(model.parameters())
    return model, made, decayfree.WeightRescaling(made, found, **options), Average(model)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, n_steps: int) -> Iterator[int]:
    for step in range(n_steps):
        optimizer.zero_grad()
        images = torch.randn(IMAGES, dtype=torch.float64)
        cross_entropy(model(images), torch.randint(0, LABELS, IMAGES[:1])).backward()
        optimizer.step()
        yield step


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "SGD, rate 0.1": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "SGD, rate 3": lambda parameters: torch.optim.SGD(parameters, lr=3.0, momentum=0.9),
    "Adam, rate 0.1": lambda parameters: torch.optim.Adam(parameters, lr=0.1),
    # Divides rounding by rounding too: biases before BatchNorm move as far as everything else, as in float32.
    "Adam without an epsilon": lambda parameters: torch.optim.Adam(parameters, lr=0.1, eps=1e-30),
    "RMSprop without an epsilon": lambda parameters: torch.optim.RMSprop(parameters, lr=0.03, eps=1e-30),
}


@pytest.mark.parametrize("every", [1, 2, 3, 20])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_statistics_are_the_average_of_what_forward_passes_saw(optimizer: str, every: int, seed: int) -> None:
    model, made, wrs, average = attached(OPTIMIZERS[optimizer], every=every)
    worst, grown, bias = 0.0, 0.0, model[0].bias.detach().clone()
    for step in train(model, made, 60):
        grown = max(grown, float((wrs.factors["0.weight"] - 1).abs().max()))
        if (step + 1) % every == 0:
            worst = max(worst, average.distance(model))
    assert grown > 0.1 or optimizer == "SGD, rate 0.1"  # steps that a threshold of 10 % would take for a load
    assert ((model[0].bias - bias).abs().max() > 0.1) == ("epsilon" in optimizer)
    assert worst < 1e-9


@pytest.mark.parametrize("momentum", [0.3, None, 1.0])
def test_however_many_passes_a_step_has_their_biases_are_averaged_as_their_means(
    momentum: float | None, seed: int
) -> None:
    """With passes that accumulate gradients, others that only look, and BatchNorm's two kinds of average."""
    model, made, _, average = attached(OPTIMIZERS["Adam without an epsilon"], every=4)
    for _, norm in LAYERS:
        model[norm].momentum = momentum
    for step in range(12):
        for _ in range(1 + step % 3):
            images = torch.randn(IMAGES, dtype=torch.float64)
            cross_entropy(model(images), torch.randint(0, LABELS, IMAGES[:1])).backward()
        made.step()
        made.zero_grad()
        if step % 4 == 3:
            assert average.distance(model) < 1e-9


def test_biases_in_the_running_mean_are_resumed(seed: int) -> None:
    model, made, wrs, average = attached(OPTIMIZERS["Adam without an epsilon"], every=4)
    list(train(model, made, 6))
    twin, of_twin, other, _ = attached(OPTIMIZERS["Adam without an epsilon"])
    for loads, saved in ((twin, model), (of_twin, made), (other, wrs)):
        loads.load_state_dict(copy.deepcopy(saved.state_dict()))
    state = torch.get_rng_state()
    list(train(model, made, 6))
    torch.set_rng_state(state)
    list(train(twin, of_twin, 6))
    for name, value in twin.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert average.distance(model) < 1e-9


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_statistics_belong_to_the_norms_that_passes_inside_a_step_saw(
    search: str | None, every: int, seed: int
) -> None:
    model, made, wrs, average = attached(
        lambda parameters: torch.optim.LBFGS(parameters, lr=0.05, max_iter=6, line_search_fn=search),
        every=every,
    )
    images, labels = torch.randn(IMAGES, dtype=torch.float64), torch.randint(0, LABELS, IMAGES[:1])

    def closure() -> Tensor:
        made.zero_grad()
        loss = cross_entropy(model(images), labels)
        loss.backward()
        return loss

    grown = 0.0
    for _ in range(6):
        made.step(closure)
        grown = max(grown, float((wrs.factors["0.weight"] - 1).abs().max()))
    assert grown > 1e-3
    assert average.distance(model) < 1e-6


class Perturbed(torch.optim.SGD):
    """Sharpness-aware: the gradient of weights that lie beside, in one call of step."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> None:
        parameters = [one for one in self.param_groups[0]["params"] if one.requires_grad]
        torch.enable_grad()(closure)()
        shifts = [0.1 * parameter.grad.sign() for parameter in parameters]
        for parameter, shift in zip(parameters, shifts, strict=True):
            parameter.add_(shift)
        torch.enable_grad()(closure)()
        for parameter, shift in zip(parameters, shifts, strict=True):
            parameter.sub_(shift)
        super().step()


def test_what_a_pass_beside_the_weights_saw_is_brought_to_the_radius(seed: int) -> None:
    torch.optim.SGD([nn.Parameter(torch.zeros(1))])  # torch hooks the base class when there is one of it
    model, made, _, average = attached(lambda parameters: Perturbed(parameters, lr=0.1))

    def closure() -> Tensor:
        made.zero_grad()
        loss = cross_entropy(model(images), labels)
        loss.backward()
        return loss

    for _ in range(12):
        images, labels = torch.randn(IMAGES, dtype=torch.float64), torch.randint(0, LABELS, IMAGES[:1])
        made.step(closure)
    assert average.distance(model) < 1e-9


def test_between_two_rescales_statistics_go_with_the_norms_there_are(seed: int) -> None:
    model, made, _, average = attached(OPTIMIZERS["SGD, rate 3"], every=7)
    images = torch.randn(IMAGES, dtype=torch.float64)
    for step in train(model, made, 20):
        held = copy.deepcopy(model).eval()
        for conv, norm in LAYERS:
            norms = held[conv].weight.detach().flatten(1).norm(dim=1)
            (mean, var), bias = average.of[norm], held[conv].bias.detach()
            held[norm].running_mean.copy_(norms * (mean - bias) + bias)
            held[norm].running_var.copy_(norms**2 * var)
        assert torch.allclose(model.eval()(images), held(images), rtol=1e-9), step
        model.train()


@pytest.mark.parametrize("every", [1, 3])
def test_a_kernel_that_was_pruned_and_revives_keeps_what_was_seen(every: int, seed: int) -> None:
    model, made, _, average = attached(OPTIMIZERS["SGD, rate 0.1"], eps=1e-5, every=every)
    list(train(model, made, 6))
    with torch.no_grad():
        model[0].weight[:3] = 0
        for _ in range(20):
            model(torch.randn(IMAGES, dtype=torch.float64))
    with pytest.warns(UserWarning, match=r"blocks of norm zero .*: 0\.weight \(3 of 6\)") as told:
        list(train(model, made, 9))
    assert [warning.filename for warning in told] == [__file__]
    assert average.distance(model) < 1e-9


def shrunk(model: nn.Module) -> None:
    with torch.no_grad():
        for conv, _ in LAYERS:
            model[conv].weight.mul_(0.97)  # type: ignore[index]


def loaded(model: nn.Module) -> None:
    other = network()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        for conv, norm in LAYERS:
            other[conv].weight.copy_(torch.randn_like(other[conv].weight))
            other[norm].running_var.uniform_(0.5, 2.0)
    model.load_state_dict(other.state_dict())


def averaged(model: nn.Module) -> None:
    average = AveragedModel(model, use_buffers=True)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    average.update_parameters(other)
    model.load_state_dict(average.module.state_dict())


def pruned(model: nn.Module) -> None:
    with torch.no_grad():
        model[0].weight.mul_(torch.rand_like(model[0].weight) > 0.5)  # type: ignore[index]


def replaced(model: nn.Module) -> None:
    for conv, _ in LAYERS:
        model[conv].weight.data = 1.5 * model[conv].weight.detach()  # type: ignore[index]


CHANGES = {function.__name__: function for function in (shrunk, loaded, averaged, pruned, replaced)}


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("change", CHANGES)
def test_somebody_elses_change_is_put_on_the_radius_without_moving_outputs(
    change: str, every: int, seed: int
) -> None:
    model, made, wrs, _ = attached(OPTIMIZERS["SGD, rate 0.1"], every=every)
    list(train(model, made, 5))
    CHANGES[change](model)
    images = torch.randn(IMAGES, dtype=torch.float64)
    before = copy.deepcopy(model).eval()(images)
    made.zero_grad()
    model.eval()
    cross_entropy(model(images), torch.zeros(IMAGES[0], dtype=torch.long)).backward()
    for group in made.param_groups:
        group["lr"], group["momentum"] = 1e-12, 0.0
    made.step()
    assert torch.allclose(model(images), before, rtol=1e-6)
    norms = model[0].weight.detach().flatten(1).norm(dim=1)
    assert torch.allclose(norms, torch.ones(6, dtype=torch.float64))
    assert wrs.n_steps == 6


def test_a_change_before_the_step_is_what_rescaling_there_would_have_made_of_it(seed: int) -> None:
    # The gradient was taken at twice the norm: put on the radius, it is twice as long, and so is the step.
    model, made, _, _ = attached(OPTIMIZERS["Adam, rate 0.1"])
    list(train(model, made, 5))
    twin, twins = copy.deepcopy(model), copy.deepcopy(made)  # a copy has no hooks
    twins.param_groups[0]["params"] = list(twin.parameters())
    twins.load_state_dict(copy.deepcopy(made.state_dict()))
    rescaled = decayfree.WeightRescaling(twins, decayfree.find_invariant(twin, torch.randn(IMAGES).double()))
    with torch.no_grad():
        for one in (model, twin):
            one[3].weight.mul_(2.0)
    decayfree.rescale_(twin, rescaled.found, optimizer=twins)
    images, labels = torch.randn(IMAGES, dtype=torch.float64), torch.randint(0, LABELS, IMAGES[:1])
    for one, optimizer in ((model, made), (twin, twins)):
        optimizer.zero_grad()
        cross_entropy(one(images), labels).backward()
        optimizer.step()
    for (name, mine), theirs in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-9), name


def no_gradients(optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    optimizer.step()


def no_rate(optimizer: torch.optim.Optimizer) -> None:
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


@pytest.mark.parametrize("idle", [no_gradients, no_rate])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_that_moves_nothing_is_not_counted_and_rescales_nothing(
    optimizer: str, idle: Callable[..., None], seed: int
) -> None:
    model, made, wrs, _ = attached(OPTIMIZERS[optimizer], every=2)
    idle(made)
    list(train(model, made, 3))
    shrunk(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    idle(made)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert wrs.n_steps == 3
    list(train(model, made, 1))
    assert wrs.n_steps == 4
    assert not wrs.check().problems


def test_a_write_through_data_counts_as_the_optimizers(seed: int) -> None:
    model, made, wrs, _ = attached(OPTIMIZERS["SGD, rate 0.1"])
    list(train(model, made, 3))
    before = model[1].running_var.clone()
    model.eval()
    made.zero_grad()
    cross_entropy(model(torch.randn(IMAGES).double()), torch.zeros(IMAGES[0], dtype=torch.long)).backward()
    model[0].weight.data.mul_(2.0)
    made.step()
    assert torch.equal(model[1].running_var, before)  # as the docstring says: nobody can tell
    assert not wrs.check().problems
