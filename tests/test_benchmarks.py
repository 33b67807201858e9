"""How benchmarks compare: trainings take turns, and a median has an interval. No time is looked at."""

import importlib
from collections.abc import Callable
from itertools import count
from types import ModuleType

import pytest

from support.scripts import ROOT


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("measure")


def test_trainings_take_a_step_each_in_turn_and_end_by_themselves(measure: ModuleType) -> None:
    done: list[str] = []

    def train(name: str) -> Callable[[Callable[[], None]], None]:
        def run(end_step: Callable[[], None]) -> None:
            for _ in range(5):
                done.append(name)
                end_step()
            done.append("end")

        return run

    seconds = count(step=0.5)
    step_ms = measure.steps_in_turns(
        {"a": train("a"), "b": train("b")}, n_steps=4, n_skipped=1, clock=lambda: next(seconds)
    )
    rounds = [done[start : start + 2] for start in range(0, 10, 2)]
    assert all(sorted(one) == ["a", "b"] for one in rounds)
    assert len({tuple(one) for one in rounds}) == 2  # in an order drawn anew
    assert done[10:] == ["end", "end"]
    assert step_ms == {"a": [500.0] * 4, "b": [500.0] * 4}


def test_what_a_training_raises_is_raised(measure: ModuleType) -> None:
    def fails(end_step: Callable[[], None]) -> None:
        end_step()
        raise ValueError("a training that fails")

    with pytest.raises(ValueError, match="a training that fails"):
        measure.steps_in_turns({"a": fails}, n_steps=3, n_skipped=1, clock=float)


@pytest.mark.parametrize(
    # Of the table for the sign test: below n = 6 there is no interval of 95 %.
    ("n", "first", "last"),
    [(2, 1, 2), (5, 1, 5), (6, 1, 6), (8, 1, 8), (9, 2, 8), (12, 3, 10), (20, 6, 15), (100, 40, 61)],
)
def test_the_interval_of_a_median_is_that_of_the_sign_test(
    measure: ModuleType, n: int, first: int, last: int
) -> None:
    spread = measure.median_between([float(value) for value in reversed(range(1, n + 1))])
    assert (spread.low, spread.median, spread.high) == (first, (n + 1) / 2, last)
