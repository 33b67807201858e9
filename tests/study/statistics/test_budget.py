"""What trials buy, against every subset of settings and by hand.

Nothing here trains or reads a file.
"""

import itertools
import math

import numpy as np
import pytest

from decayfree.errors import InvalidInputError
from decayfree.study.statistics import Budget, expected_best, share_far_down

NAN = float("nan")


def every_tuner(validation: np.ndarray, test: np.ndarray, k: int) -> list[tuple[float, float]]:
    """(Probability, test accuracy) of all that tuners with k trials can end with, subset by subset."""
    n_seeds, n = validation.shape
    subsets = list(itertools.combinations(range(n), k))
    found = []
    for seed in range(n_seeds):
        for subset in subsets:
            top = max(validation[seed, i] for i in subset)
            ties = [i for i in subset if validation[seed, i] == top]
            found += [(1 / (n_seeds * len(subsets) * len(ties)), float(test[seed, i])) for i in ties]
    return found


def quantile(tuners: list[tuple[float, float]], share: float) -> float:
    """The smallest accuracy that at least this share of tuners do not exceed."""
    reached = 0.0
    for probability, accuracy in sorted(tuners, key=lambda one: one[1]):
        reached += probability
        if reached >= share - 1e-12:
            return accuracy
    raise AssertionError("probabilities do not sum to 1")


# With one decimal there are ties; one seed, several; one setting, as many as subsets allow.
@pytest.mark.parametrize("decimals", [1, 9])
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 2), (1, 7), (3, 5), (2, 9)])
@pytest.mark.parametrize("tuners", [0.8, 0.5])
def test_it_is_what_all_subsets_give(shape: tuple[int, int], decimals: int, tuners: float) -> None:
    draw = np.random.default_rng(shape[0] * 10 + shape[1])
    validation, test = draw.random(shape).round(decimals), draw.random(shape)
    found = expected_best(validation.tolist(), test.tolist(), tuners=tuners)
    assert found.n == shape[1]
    for k in range(1, shape[1] + 1):
        everyone = every_tuner(validation, test, k)
        assert found.mean[k - 1] == pytest.approx(math.fsum(p * a for p, a in everyone), rel=1e-12)
        assert found.low[k - 1] == quantile(everyone, (1 - tuners) / 2)
        assert found.high[k - 1] == quantile(everyone, (1 + tuners) / 2)


def test_one_trial_is_the_mean_and_all_of_them_lead_to_what_validation_chooses() -> None:
    validation, test = [[0.5, 0.9, 0.7]], [[0.6, 0.7, 0.8]]
    found = expected_best(validation, test)
    # Two of three: {0.6, 0.7} → 0.7, {0.6, 0.8} → 0.8, {0.7, 0.8} → 0.7.
    assert found.mean == pytest.approx((2.1 / 3, 2.2 / 3, 0.7), rel=1e-12)
    assert (found.low, found.high) == ((0.6, 0.7, 0.7), (0.8, 0.8, 0.7))


def test_a_tuner_has_one_seed_and_means_are_those_of_one_row() -> None:
    validation, test = [[0.9, 0.1], [0.1, 0.9]], [[0.8, 0.2], [0.4, 0.6]]
    assert expected_best(validation, test).mean == pytest.approx((0.5, 0.7))
    assert expected_best([[0.5, 0.5]], [[0.6, 0.4]]).mean == pytest.approx((0.5, 0.5)), (
        "both settings tie: each is half of it"
    )


def test_settings_of_equal_validation_share_what_they_have() -> None:
    found = expected_best([[0.5, 0.5, 0.5]], [[0.0, 0.3, 0.9]])
    assert found.mean == pytest.approx((0.4, 0.4, 0.4), rel=1e-12)


@pytest.mark.parametrize("lost", [(NAN, NAN), (NAN, 0.9), (0.99, NAN), (-math.inf, 0.9)])
def test_a_diverged_setting_is_a_trial_and_the_worst_one(lost: tuple[float, float]) -> None:
    found = expected_best([[lost[0], 0.6, 0.8]], [[lost[1], 0.7, 0.5]])
    assert found.n == 3
    # Alone it is 0; beside another the other one is kept.
    assert found.mean == pytest.approx((1.2 / 3, (0.7 + 0.5 + 0.5) / 3, 0.5), rel=1e-12)
    assert found.low[0] == 0.0


def test_with_nothing_but_diverged_settings_trials_buy_nothing() -> None:
    assert expected_best([[NAN, NAN]], [[NAN, NAN]]) == Budget((0, 0), (0, 0), (0, 0))


def test_many_settings_are_neither_slow_nor_rounded_away() -> None:
    order = [[k / 399 for k in range(400)]]
    found = expected_best(order, order)
    # The expected largest of k among 1 … n is k(n + 1)/(k + 1).
    for k in (1, 2, 50, 399, 400):
        assert found.mean[k - 1] == pytest.approx((k * 401 / (k + 1) - 1) / 399, rel=1e-11)


def test_trials_to_reach_an_accuracy_are_the_first_whose_mean_does() -> None:
    found = expected_best([[0.5, 0.9, 0.7]], [[0.6, 0.7, 0.8]])
    assert found.trials_to_reach(2.1 / 3) == 1
    assert found.trials_to_reach(2.1 / 3 + 1e-9) == 2, "by more than rounding"
    assert found.trials_to_reach(2.2 / 3) == 2
    assert found.trials_to_reach(0.75) is None


def test_trials_far_down_are_counted_with_those_that_diverged() -> None:
    # 0.88 is 2 points below 0.90, but for rounding: not more than that.
    test = [[0.90, 0.88], [0.8799, NAN]]
    assert share_far_down(test, 0.90) == 0.5
    assert share_far_down(test, 0.90, margin=0.03) == 0.25
    assert share_far_down(test, 0.50) == 0.25


@pytest.mark.parametrize(
    ("validation", "test", "got"),
    [
        ([[0.1, 0.2]], [[0.1], [0.2]], r"rows of \[2\] and of \[1, 1\] numbers"),
        ([[0.1, 0.2], [0.3]], [[0.1, 0.2], [0.3]], r"rows of \[2, 1\] and of \[2, 1\] numbers"),
        ([], [], r"rows of \[\] and of \[\] numbers"),
        ([[]], [[]], r"rows of \[0\] and of \[0\] numbers"),
    ],
)
def test_what_is_no_table_of_seeds_and_settings_is_refused(
    validation: list[list[float]], test: list[list[float]], got: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"a row for every seed .*, got {got}"):
        expected_best(validation, test)


def test_what_is_no_share_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="must be scores of at most 1"):
        expected_best([[0.5]], [[87.0]])


def test_a_score_may_be_worse_than_that_of_no_answer() -> None:
    assert expected_best([[0.5, 0.6]], [[0.4, -0.3]]).mean == pytest.approx((0.05, -0.3), abs=1e-15)
