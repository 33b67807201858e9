"""Hooks sit on the optimizer that moves the weights, whatever is wrapped around it."""

import warnings

import pytest
import torch
from torch import nn

import decayfree
from decayfree import InvalidInputError, Recorder, WeightRescaling
from decayfree.attachment import hooked
from support.available import import_or_skip

INPUTS = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))


class Outer(torch.optim.Optimizer):
    """A wrapper that never calls Optimizer.__init__."""

    def __init__(self, optimizer, name="optimizer"):
        setattr(self, name, optimizer)
        self._name = name

    @property
    def inner(self):
        return getattr(self, self._name)

    @property
    def param_groups(self):
        return self.inner.param_groups

    @property
    def state(self):
        return self.inner.state

    def step(self, closure=None):
        return self.inner.step(closure)


class OwnHooks(Outer):
    """Hooks in a plain dictionary, which no handle can point to."""

    def __init__(self, optimizer):
        super().__init__(optimizer)
        self._optimizer_step_post_hooks = {}
        self._optimizer_step_pre_hooks = {}


@pytest.mark.parametrize(
    "wrap",
    [Outer, OwnHooks, lambda inner: Outer(Outer(inner))],
    ids=["without hooks", "hooks in a dict", "twice"],
)
def test_the_optimizer_inside_is_held_and_recorded(wrap):
    model = net()
    inner = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    optimizer = wrap(inner)
    found = decayfree.find_invariant(model, INPUTS)
    assert decayfree.exempt_(optimizer, found) == ["0.weight"]
    wrs = WeightRescaling(optimizer, found)
    assert wrs.optimizer is inner
    samples = []
    Recorder(optimizer, found, every=1, sink=samples.append)
    model(INPUTS).square().mean().backward()
    optimizer.step()
    assert wrs.n_steps == 1
    assert wrs.check().problems == ()
    assert len(samples) == 1
    assert decayfree.rescale_(model, found, radius=2.0, optimizer=optimizer)


def test_accelerates_optimizer_is_one():
    accelerator = import_or_skip("accelerate").Accelerator(cpu=True)
    model = net()
    found = decayfree.find_invariant(model, INPUTS)
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = accelerator.prepare(model, inner)
    wrs = WeightRescaling(optimizer, found)
    for _ in range(2):
        optimizer.zero_grad()
        accelerator.backward(model(INPUTS).square().mean())
        optimizer.step()
    assert wrs.n_steps == 2
    assert model[0].weight.norm(dim=1).allclose(torch.tensor(1.0))


def test_lightnings_optimizer_shares_its_hooks():
    kind = import_or_skip("lightning.pytorch.core.optimizer").LightningOptimizer
    model = net()
    optimizer = kind(torch.optim.SGD(model.parameters(), lr=0.1))
    assert hooked(optimizer) is optimizer


class Lookahead(Outer):
    """As old copies of timm's are made: what is inside has another name."""

    def __init__(self, optimizer):
        super().__init__(optimizer, "base_optimizer")


class Lonely(torch.optim.Optimizer):
    def __init__(self, parameters):
        self.param_groups = [{"params": list(parameters), "lr": 0.1}]
        self.state = {}


class Offloading(torch.optim.Optimizer):
    """As torchao's CPUOffloadOptimizer: one optimizer for what is small, one a weight for the rest."""

    def __init__(self, parameters):
        *self.large, small = parameters
        self.d_opt = torch.optim.SGD([small], lr=0.1)

    @property
    def param_groups(self):
        return [*self.d_opt.param_groups, {"params": self.large, "lr": 0.1}]


def test_what_moves_a_part_of_the_weights_is_no_cure():
    model = net()
    found = decayfree.find_invariant(model, INPUTS)
    message = r"Offloading has no step hooks .*\.d_opt moves a part of the weights only, so use one optimizer"
    for make in (WeightRescaling, Recorder, decayfree.exempt_, decayfree.GradientNorms):
        with pytest.raises(InvalidInputError, match=message):
            make(Offloading(model.parameters()), found)
    with pytest.raises(InvalidInputError, match=message):
        decayfree.rescale_(model, found, optimizer=Offloading(model.parameters()))


def test_what_cannot_be_hooked_is_refused_with_the_cure():
    model = net()
    found = decayfree.find_invariant(model, INPUTS)
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    for make in (WeightRescaling, Recorder, decayfree.exempt_, decayfree.GradientNorms):
        with pytest.raises(InvalidInputError, match=r"Lookahead has no step hooks .*\.base_optimizer"):
            make(Lookahead(inner), found)
        with pytest.raises(InvalidInputError, match=r"Lonely has no step hooks .*call super\(\).__init__"):
            make(Lonely(model.parameters()), found)
        with pytest.raises(InvalidInputError, match=r"must be a torch.optim.Optimizer, got Sequential"):
            make(model, found)
        with pytest.raises(InvalidInputError, match=r"got NoneType; found must come from .*, got list"):
            make(None, [])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        WeightRescaling(inner, found)
