"""What rescaling does on an accelerator and nowhere else, on a stand-in for one.

It waits for nothing between two steps, and tells what it saw in one after the next. That the numbers on a
real one are right is for a machine that has one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from decayfree.blocks import Blocks
from decayfree.errors import NonFiniteWeightError
from decayfree.invariance.discovery import find_invariant
from decayfree.rescaling import fused_holder
from decayfree.rescaling.fused_holder import FusedHolder, fused_holders_of
from decayfree.rescaling.held import Held
from decayfree.rescaling.holder import Holder
from decayfree.rescaling.weight_rescaling import WeightRescaling
from support.elsewhere import Elsewhere, Event, elsewhere, flag, put_elsewhere_


@pytest.fixture(params=["cuda", "xpu"])
def waits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the host waited for the accelerator with."""
    # Other kinds of accelerator have no such events, and are not asked for one.
    monkeypatch.setattr(torch.cuda, "Event", Event if request.param == "cuda" else None)
    Event.is_over, Event.n_waits = True, 0
    with elsewhere(request.param) as waited:
        yield waited


class Fused(torch.optim.Optimizer):
    """SGD whose ``step`` is called also where a GradScaler found infinities, and then does nothing."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        skips = getattr(self, "found_inf", torch.zeros(())).as_subclass(Tensor)
        for parameter in self.param_groups[0]["params"]:
            parameter.sub_(torch.where(skips > 0, 0.0, 0.1 * parameter.grad))


def attached(*, every: int = 1) -> tuple[nn.Module, Fused, WeightRescaling]:
    """A layer before a BatchNorm, on the accelerator and held there."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 2))
    found = find_invariant(model, torch.randn(16, 3))
    put_elsewhere_(model)
    optimizer = Fused(model.parameters(), {"lr": 0.1})
    return model, optimizer, WeightRescaling(optimizer, found, every=every)


def step(model: nn.Module, optimizer: Fused, size: float = 0.5) -> None:
    """One along a gradient of this size in each entry."""
    for parameter in model.parameters():
        parameter.grad = torch.full(parameter.shape, size)
    optimizer.step()


def norms(model: nn.Module) -> list[float]:
    return model[0].weight.detach().as_subclass(Tensor).norm(dim=1).tolist()


def test_norms_are_held_without_waiting(waits: list[str]) -> None:
    model, optimizer, wrs = attached()
    assert isinstance(model[0].weight, Elsewhere)
    waits.clear()
    for _ in range(5):
        step(model, optimizer)
        assert norms(model) == pytest.approx([1.0] * 4, rel=1e-6)
    assert waits == []
    assert wrs.n_steps == 5
    assert not wrs.check().problems


def test_steps_that_a_grad_scaler_skips_are_found_out_later(waits: list[str]) -> None:
    model, optimizer, wrs = attached()
    waits.clear()
    for skipped in (False, True, True, False):
        optimizer.found_inf = flag(skipped)  # type: ignore[attr-defined]
        step(model, optimizer)
    assert waits == []
    assert wrs.n_steps == wrs.state_dict()["n_steps"] == 2


def test_every_third_real_step_is_followed_by_a_rescale(waits: list[str]) -> None:
    model, optimizer, wrs = attached(every=3)
    held = []
    for skipped in (False, True, False, False, True, False, False, False):
        optimizer.found_inf = flag(skipped)  # type: ignore[attr-defined]
        step(model, optimizer)
        held.append(norms(model) == pytest.approx([1.0] * 4, rel=1e-6))
    assert held == [False, False, False, True, True, False, False, True]
    assert wrs.n_steps == 6


def test_a_weight_that_a_step_makes_not_finite_is_told_after_the_next(waits: list[str]) -> None:
    model, optimizer, _ = attached()
    step(model, optimizer, math.nan)
    with pytest.raises(NonFiniteWeightError, match=r"after optimizer step 1 .*: 0\.weight \(4, 3\)$"):
        step(model, optimizer)


def test_what_the_device_has_not_come_to_yet_is_told_when_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    with elsewhere("cuda"):
        model, optimizer, wrs = attached()
        Event.is_over, Event.n_waits = False, 0
        step(model, optimizer, math.nan)
        assert not wrs._finite.was_broken(wait=False)
        assert not Event.n_waits
        assert wrs.check().problems == ("0.weight holds NaN or infinity",)  # looking raises nothing
        Event.is_over = True
        with pytest.raises(NonFiniteWeightError, match=r"after optimizer step 1 .*: 0\.weight"):
            step(model, optimizer)
        assert not Event.n_waits


def test_statistics_follow_a_weight_that_was_loaded_there_too(waits: list[str]) -> None:
    model, optimizer, _ = attached()
    step(model, optimizer)
    before = model[1].running_var.as_subclass(Tensor).clone()
    with torch.no_grad():
        model[0].weight.mul_(1.5)
    step(model, optimizer, 0.0)
    assert norms(model) == pytest.approx([1.0] * 4, rel=1e-6)
    after = model[1].running_var.as_subclass(Tensor)
    assert torch.allclose(after, before / 1.5**2, rtol=1e-5)


def test_a_holder_there_gives_its_distance_as_a_tensor(waits: list[str]) -> None:
    weight = nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 1.0]]).as_subclass(Elsewhere))
    holder = Holder([Held(weight, None, Blocks(0, (1, 1)), "weight", torch.ones(2))])
    distance = holder.hold_()
    assert isinstance(distance, Tensor)
    assert waits == []
    assert distance.item() == pytest.approx(0.8)
    assert weight.detach().flatten().tolist() == pytest.approx([0.6, 0.8, 0.0, 1.0])


def test_weights_there_are_not_fused(waits: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_holder, "_compiled", lambda: lambda *arguments: 0.0)
    for kind, fused in ((Tensor, True), (Elsewhere, False)):
        held = Held(torch.ones(2, 2).as_subclass(kind), None, Blocks(0, (1, 1)), "weight", torch.ones(2))
        assert [isinstance(holder, FusedHolder) for holder in fused_holders_of([held])] == [fused]
