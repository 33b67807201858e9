"""Which steps count where a GradScaler skips some, on the host and on a stand-in for an accelerator.

What happens at a step is the question of test_recorder.py and test_on_an_accelerator.py.
"""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from decayfree.step_counter import StepCounter
from support.elsewhere import elsewhere, flag

SKIPPED = [list(pattern) for pattern in product((False, True), repeat=7)]


def step(skipped: bool, *, there: bool = True) -> Any:
    """An optimizer in the step that a GradScaler had it take."""
    return SimpleNamespace(found_inf=flag(skipped) if there else torch.tensor(float(skipped)))


@pytest.mark.parametrize("there", [True, False], ids=["accelerator", "host"])
def test_steps_that_are_skipped_do_not_count(there: bool) -> None:
    counter = StepCounter(10)
    for skipped in (False, True, True, False, False):
        counter.count(step(skipped, there=there))
    assert counter.n_steps == 13
    counter.count(step(True, there=there))
    counter.count(step(False, there=there))
    assert counter.n_steps == counter.n_steps == 14


def test_on_the_host_a_skipped_step_is_known_at_once() -> None:
    counter = StepCounter()
    taken = [counter.count(step(skipped, there=False)) for skipped in (False, True, False)]
    assert taken == [True, False, True]


def test_without_a_grad_scaler_every_step_counts() -> None:
    counter = StepCounter()
    assert [counter.count(SimpleNamespace()) for _ in range(3)] == [True] * 3  # type: ignore[arg-type]
    assert counter.n_steps == 3


@pytest.mark.parametrize("every", [1, 2, 3])
def test_before_a_step_its_number_is_told_right(every: int) -> None:
    """Whatever was skipped before it, and without counting a step that is skipped itself."""
    for pattern in SKIPPED:
        counter, n_real = StepCounter(), 0
        for skipped in pattern:
            is_due = counter.next_is_multiple_of(every, step(skipped))
            assert is_due == (not skipped and (n_real + 1) % every == 0), pattern
            assert counter.count(step(skipped)) or not is_due
            n_real += not skipped
        assert counter.n_steps == n_real


@pytest.mark.parametrize("every", [1, 2, 3])
def test_after_a_step_its_number_is_told_right(every: int) -> None:
    """After one that was skipped the answer may be that of the last real one: nothing has moved since."""
    for pattern in SKIPPED:
        counter, n_real = StepCounter(), 0
        for skipped in pattern:
            counter.count(step(skipped))
            n_real += not skipped
            is_due = counter.is_multiple_of(every)
            assert skipped or is_due == (n_real % every == 0), pattern
            assert not is_due or n_real % every == 0, pattern


def test_the_device_is_asked_no_more_often_than_it_must_be() -> None:
    with elsewhere() as waits:
        counter = StepCounter()
        for _ in range(12):
            counter.count(step(True))
            assert counter.is_multiple_of(1)
        assert waits == []
        counter = StepCounter()
        for number in range(1, 13):
            counter.count(step(False))
            assert counter.is_multiple_of(4) == (number % 4 == 0)
        assert len(waits) == 3
        counter.next_is_multiple_of(4, step(False))
        assert len(waits) == 3
