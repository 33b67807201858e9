"""A step that takes the step of its base class is one step, whatever hooks torch calls on the way.

torch calls hooks in the step of every class that it has prepared, which it does when one is made. The
reference is the base class itself: the subclass does nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import decayfree
from decayfree.conversion.gradient_norms import GradientNorms
from decayfree.methods.stepping import around_steps
from decayfree.rescaling.other_rows import OTHER_ROWS
from decayfree.step_counter import is_inner_step

DECAY = 0.3


class Calling(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


class CallingTwice(Calling):
    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


class CallingAdamW(torch.optim.AdamW):
    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


class Evaluating(torch.optim.AdamW):
    """Looks at the model twice, then takes the step of its base class, which is given no closure."""

    def step(self, closure: Any = None) -> Any:
        torch.enable_grad()(closure)()
        value = torch.enable_grad()(closure)()
        super().step()
        return value


class Failing(torch.optim.SGD):
    """Fails in the step of its base class, or after it, when it is told to."""

    fails = ""

    def step(self, closure: Any = None) -> Any:
        fails, self.fails = self.fails, ""
        if fails == "before":
            raise RuntimeError("told to")
        value = super().step(closure)
        if fails == "after":
            raise RuntimeError("told to")
        return value


@pytest.fixture(autouse=True)
def _prepared() -> None:
    """So that torch prepares the classes that there is an optimizer of."""
    for kind in (torch.optim.SGD, torch.optim.AdamW, Calling):
        kind([nn.Parameter(torch.zeros(1))])


class Projection(nn.Module):
    """Half of the rows have no scale, the others do."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 6)
        self.norm = nn.BatchNorm1d(6)
        self.layer = nn.Linear(6, 8)
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(self.norm(self.first(x)).relu())
        held = nn.functional.rms_norm(y[:, :4], (4,))
        return self.head(torch.cat([held, y[:, 4:]], dim=1).tanh())


class Run:
    """A model under an optimizer with everything that listens to its steps."""

    def __init__(self, make: Callable[..., Any], **settings: Any) -> None:
        torch.manual_seed(1)
        self.model = Projection().double()
        found = decayfree.find_invariant(self.model, torch.randn(9, 5).double())
        assert found["layer.weight"].blocks.is_partial
        self.optimizer = make(decayfree.split_params(self.model, found, weight_decay=DECAY), lr=0.1)
        self.wrs = decayfree.WeightRescaling(self.optimizer, found, **settings)
        self.samples: list[Any] = []
        self.recorder = decayfree.Recorder(self.optimizer, found, every=2, sink=self.samples.append)
        self.norms = GradientNorms(self.optimizer, found)

    def take_steps(self, n_steps: int, *, with_closure: bool = False, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(n_steps):
            x = torch.randn(9, 5, generator=generator).double()

            def closure(x: Tensor = x) -> Tensor:
                self.optimizer.zero_grad()
                loss = self.model(x).square().mean()
                loss.backward()
                return loss

            if with_closure:
                self.optimizer.step(closure)
            else:
                closure()
                self.optimizer.step()

    def is_as(self, other: Run) -> None:
        for (name, mine), theirs in zip(
            self.model.state_dict().items(), other.model.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14, msg=name)
        assert self.wrs.n_steps == other.wrs.n_steps
        assert self.norms.n_steps == other.norms.n_steps
        mine, theirs = ([(one.step, one.weights) for one in run.samples] for run in (self, other))
        assert mine == theirs


PAIRS = {
    "SGD": (Calling, torch.optim.SGD),
    "SGD, two bases": (CallingTwice, torch.optim.SGD),
    "AdamW": (CallingAdamW, torch.optim.AdamW),
}


@pytest.mark.parametrize("with_closure", [False, True])
@pytest.mark.parametrize("settings", [{}, {"every": 2}, {"every": 3, "momentum": "scale"}], ids=str)
@pytest.mark.parametrize(("kind", "base"), PAIRS.values(), ids=PAIRS)
def test_it_is_one_step_of_its_base_class(
    kind: Any, base: Any, settings: dict[str, Any], with_closure: bool
) -> None:
    runs = [Run(one, **settings) for one in (kind, base)]
    for run in runs:
        run.take_steps(7, with_closure=with_closure)
        assert run.wrs.n_steps == run.recorder.n_steps == 7
        assert [sample.step for sample in run.samples] == [2, 4, 6]
        assert run.norms.n_steps == 7
    runs[0].is_as(runs[1])


@pytest.mark.parametrize("fails", ["before", "after"])
@pytest.mark.parametrize("with_closure", [False, True])
def test_a_step_that_raised_leaves_nothing_to_the_next(fails: str, with_closure: bool) -> None:
    run, twin = Run(Failing, every=2), Run(torch.optim.SGD, every=2)
    for one in (run, twin):
        one.take_steps(2, with_closure=with_closure)
    start, state = copy.deepcopy((run.model.state_dict(), run.wrs.state_dict()))
    run.optimizer.fails = fails
    with pytest.raises(RuntimeError, match="told to") as kept:  # the error keeps its stack
        run.take_steps(1, with_closure=with_closure, seed=5)
    run.model.load_state_dict(start)
    run.wrs.load_state_dict(state)
    for one in (run, twin):
        one.take_steps(5, with_closure=with_closure, seed=2)
    assert kept.value is not None
    assert run.wrs.n_steps == twin.wrs.n_steps == 7
    assert run.recorder.n_steps == 7
    for (name, mine), theirs in zip(
        run.model.state_dict().items(), twin.model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9, msg=name)


def test_after_a_step_that_raised_gradients_are_the_own_ones_or_those_given_since() -> None:
    run = Run(Failing)
    run.take_steps(1)
    weight = run.model.layer.weight
    own, later = torch.randn_like(weight), torch.randn_like(weight)
    for given in (None, later):
        for parameter in run.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        weight.grad = own
        run.optimizer.fails = "before"
        with pytest.raises(RuntimeError, match="told to"):
            run.optimizer.step()
        assert weight.grad is not own  # with the decay of the rows that are not held
        if given is not None:
            weight.grad = given
        run.optimizer.step()
        assert weight.grad is (own if given is None else later)


def test_however_often_a_step_evaluates_other_rows_decay_once() -> None:
    """By ηλ times what they were when it began, as a parameter of their own does."""
    run, plain = Run(Evaluating), Run(Evaluating)
    for group in plain.optimizer.param_groups:
        group.pop(OTHER_ROWS, None)
    before = run.model.layer.weight.detach().clone()
    for one in (run, plain):
        one.take_steps(1, with_closure=True)
    decayed = plain.model.layer.weight[4:] - 0.1 * DECAY * before[4:]
    torch.testing.assert_close(run.model.layer.weight[4:], decayed, rtol=1e-12, atol=1e-14)
    assert torch.equal(run.model.layer.weight[:4], plain.model.layer.weight[:4])


def test_a_scheduler_and_a_grad_scaler_wrap_one_step() -> None:
    runs = [Run(one, every=2) for one in (Calling, torch.optim.SGD)]
    for run in runs:
        scheduler = torch.optim.lr_scheduler.ExponentialLR(run.optimizer, 0.9)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for seed in range(5):
            x = torch.randn(9, 5, generator=torch.Generator().manual_seed(seed)).double()
            run.optimizer.zero_grad()
            scaler.scale(run.model(x).square().mean()).backward()
            scaler.step(run.optimizer)
            scaler.update()
            scheduler.step()
        assert run.wrs.n_steps == 5
    runs[0].is_as(runs[1])


def test_a_method_gets_around_the_outer_step() -> None:
    optimizer, calls = CallingTwice([nn.Parameter(torch.ones(1))], lr=0.1), list[str]()
    around_steps(
        optimizer, lambda: calls.append("before"), lambda: calls.append("after"), by="a method of this test"
    )
    for _ in range(2):
        optimizer.step()
    assert calls == ["before", "after"] * 2


def test_a_step_of_another_optimizer_inside_is_a_step_of_its_own() -> None:
    parameter, other = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    inner = torch.optim.SGD([other], lr=0.1)

    class Around(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            inner.step()
            return super().step(closure)

    seen: list[tuple[str, bool]] = []
    outer = Around([parameter], lr=0.1)
    names = {inner: "inner", outer: "outer"}
    for optimizer in names:
        optimizer.register_step_pre_hook(lambda one, *_: seen.append((names[one], is_inner_step(one))))
    outer.step()
    assert seen == [("outer", False), ("inner", False), ("outer", True)]
    assert not is_inner_step(outer)
