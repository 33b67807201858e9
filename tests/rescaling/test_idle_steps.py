"""Which steps move nothing, under every optimizer of torch: they are not counted, and nothing is rescaled.

The rows are in optimizer_rows.py. What moves is told by the bits of the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import decayfree
from support.networks import digit_losses, find, small_net
from support.optimizer_rows import ROWS, Row

Loss = Callable[[nn.Module], Tensor]
# Of two steps with a learning rate of 0, those that move weights all the same: Rprop goes by its own step
# sizes after the first step, ASGD by the rate that the step before left.
MOVES_WITHOUT_RATE = {"Rprop": [True, True], "ASGD": [True, False]}


def take_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, *, gradients: str = "those of the loss"
) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(model)
        if gradients != "none":
            value.backward()  # type: ignore[no-untyped-call]
        for parameter in model.parameters() if gradients == "zero" else []:
            if parameter.grad is not None:
                parameter.grad.zero_()
        return value.detach()

    if isinstance(optimizer, torch.optim.LBFGS):
        optimizer.step(closure)  # type: ignore[arg-type]
    else:
        closure()
        optimizer.step()


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def trained(row: Row) -> tuple[nn.Module, torch.optim.Optimizer, decayfree.WeightRescaling, Any, Any]:
    """After two steps, with what counts steps, and two losses more."""
    model = small_net()
    optimizer, losses, found = row.optimizer(model), digit_losses(4, torch.float32), find(model)
    wrs = decayfree.WeightRescaling(optimizer, found)
    recorder = decayfree.Recorder(optimizer, found, every=1, sink=lambda _: None, family="none")
    for loss in losses[:2]:
        take_step(model, optimizer, loss)
    return model, optimizer, wrs, recorder, losses[2:]


def steps_that_moved(row: Row, gradients: str, *, rate: float | None = None) -> list[bool]:
    """Of two steps, after each of which the counts are looked at."""
    model, optimizer, wrs, recorder, losses = trained(row)
    if rate is not None:
        set_rate(optimizer, rate)
    held = [part.weight for part in wrs.found.parts().values()]
    moved = []
    for loss in losses:
        with torch.no_grad():
            held[-1].mul_(1.01)  # somebody else's change, which a step that moves nothing must leave alone
        before, n_before = [weight.detach().clone() for weight in held], wrs.n_steps
        take_step(model, optimizer, loss, gradients=gradients)
        moved.append(not all(map(torch.equal, before, held)))
        assert wrs.n_steps == n_before + moved[-1]
        assert recorder.n_steps == wrs.n_steps == recorder.last.step
    assert not [problem for problem in wrs.check().problems if "steps" in problem]
    return moved


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_step_at_a_learning_rate_of_zero_counts_where_it_moves_weights(row: Row) -> None:
    moved = steps_that_moved(row, "those of the loss", rate=0.0)
    assert moved == MOVES_WITHOUT_RATE.get(type(row.optimizer(small_net())).__name__, [False, False])


WITHOUT_CLOSURE = {name: row for name, row in ROWS.items() if name != "LBFGS"}


@pytest.mark.parametrize("row", WITHOUT_CLOSURE.values(), ids=WITHOUT_CLOSURE)
def test_a_step_without_gradients_does_not_count(row: Row) -> None:
    assert steps_that_moved(row, "none") == [False, False]


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_gradients_of_zero_are_gradients(row: Row) -> None:
    """Momentum moves weights by them, and who would tell by the numbers had to pass over all weights."""
    model, optimizer, wrs, recorder, losses = trained(row)
    for number, loss in enumerate(losses, start=3):
        take_step(model, optimizer, loss, gradients="zero")
        assert wrs.n_steps == recorder.n_steps == number


def test_a_group_without_gradients_and_one_without_a_rate_move_nothing() -> None:
    model = small_net()
    parameters = list(model.parameters())
    groups = [{"params": parameters[:2], "lr": 0.0}, {"params": parameters[2:]}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    wrs = decayfree.WeightRescaling(optimizer, find(model))
    take_step(model, optimizer, digit_losses(1, torch.float32)[0])
    assert wrs.n_steps == 1
    for parameter in parameters[2:]:
        parameter.grad = None
    optimizer.step()
    assert wrs.n_steps == 1
