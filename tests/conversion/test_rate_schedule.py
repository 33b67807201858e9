"""Schedules by name: their shares by hand, and what is no schedule."""

import math

import pytest

from decayfree import InvalidInputError
from decayfree.conversion import RateSchedule


def shares(schedule, *steps):
    return [schedule(step) for step in steps]


def test_shapes_go_from_the_full_rate_to_the_last_share():
    assert shares(RateSchedule("cosine", 100), 0, 50, 100) == [1.0, 0.5, 0.0]
    assert shares(RateSchedule("cosine", 300), 100) == pytest.approx([0.75])
    assert shares(RateSchedule("linear", 100, last_share=0.1), 0, 50, 100) == [1.0, 0.55, 0.1]
    assert shares(RateSchedule("constant", 100), 0, 99) == [1.0, 1.0]


def test_after_the_run_the_rate_stays():
    assert shares(RateSchedule("linear", 100, last_share=0.25), 101, 10_000) == [0.25, 0.25]


def test_steps_drop_where_they_are_told_to():
    assert shares(RateSchedule("step", 100), 49, 50, 74, 75) == pytest.approx([1, 0.1, 0.1, 0.01])
    wide = RateSchedule("step", 200, drops=(60, 120, 160), drop_factor=0.5)
    assert shares(wide, 59, 60, 120, 160, 199) == [1, 0.5, 0.25, 0.125, 0.125]
    assert shares(RateSchedule("step", 10, drops=()), 9) == [1.0]


def test_the_rate_grows_from_0_and_the_shape_begins_after_it():
    warm = RateSchedule("cosine", 110, n_warmup_steps=10)
    assert shares(warm, 0, 5, 10, 60, 110) == [0.0, 0.5, 1.0, 0.5, 0.0]
    assert shares(RateSchedule("step", 40, n_warmup_steps=4, drops=(20,)), 2, 4, 20) == [0.5, 1.0, 0.1]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"shape": "poly"}, "shape must be one of 'cosine', 'linear', 'constant', 'step', got 'poly'"),
        ({"n_steps": 0}, "n_steps must be a whole number of at least 1, got 0"),
        ({"n_steps": 10**7 + 1}, "n_steps must be at most 10,000,000, got 10,000,001"),
        ({"n_warmup_steps": -1}, "n_warmup_steps must be a whole number of at least 0, got -1"),
        ({"n_warmup_steps": 100}, "n_warmup_steps must be fewer than all 100, got 100"),
        ({"last_share": 1.5}, "last_share must be at most 1, got 1.5"),
        ({"last_share": math.nan}, "last_share must be a number of at least 0, got nan"),
        ({"drop_factor": -1, "shape": "step"}, "drop_factor must be a number of at least 0, got -1"),
        ({"drops": (1, math.inf), "shape": "step"}, "each of drops must be a number of at least 0, got inf"),
        ({"drops": 5, "shape": "step"}, "drops must be a tuple of steps, got 5"),
        ({"drops": (5,)}, "drops and drop_factor are settings of 'step', not of 'cosine'"),
        ({"shape": "step", "last_share": 0.1}, "last_share is a setting of 'cosine' and 'linear', not of"),
    ],
)
def test_what_is_no_schedule_is_refused(settings, said):
    with pytest.raises(InvalidInputError) as error:
        RateSchedule(**{"shape": "cosine", "n_steps": 100, **settings})
    assert said in str(error.value)


def test_all_faults_are_told_at_once():
    with pytest.raises(InvalidInputError, match=r"n_steps must .*; shape must .*; last_share must"):
        RateSchedule("poly", 0.5, last_share="a")
