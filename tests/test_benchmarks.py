"""How benchmarks compare: trainings take turns, and rounds give an interval. No time is looked at."""

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


def test_a_ratio_over_rounds_is_that_of_all_steps_with_the_interval_over_rounds(measure: ModuleType) -> None:
    below = [1.0, 3.0] * 3
    above = [4.0, 0.0, 2.0, 2.4, 3.0, 0.6]  # by round 1, 1.1 and 0.9; of steps, from 0 to 4
    spread = measure.over_rounds(above, below, length=2)
    assert spread.median == pytest.approx(1.0)
    # Student's t with two degrees of freedom is 4.3027; three rounds scatter by 0.1.
    assert spread.high - 1.0 == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)
    assert 1.0 - spread.low == pytest.approx(spread.high - 1.0)


def test_a_round_counts_as_much_as_it_took(measure: ModuleType) -> None:
    assert measure.over_rounds([2.0, 30.0, 2.0], [1.0, 10.0, 1.0], length=1).median == pytest.approx(34 / 12)


def test_two_rounds_have_no_interval(measure: ModuleType) -> None:
    spread = measure.over_rounds([1.0, 2.0], [1.0, 1.0], length=1)
    assert (spread.low, spread.median, spread.high) == (-float("inf"), 1.5, float("inf"))
