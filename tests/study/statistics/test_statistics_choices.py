"""Ranks over groups and the best of a sweep: by hand and against scipy.

Nothing here trains or reads a file.
"""

import math

import numpy as np
import pytest
from scipy import stats

from decayfree.study.statistics import Choice, Spread, best_of_sweep, mean_ranks, spread_of

NAN = float("nan")


def test_the_critical_difference_is_that_of_the_published_table() -> None:
    # Demšar 2006: four classifiers, 14 data sets, q = 2.569: CD = 2.569·√(4·5/(6·14)) = 1.25.
    scores = {name: list(np.random.default_rng(index).random(14)) for index, name in enumerate("abcd")}
    assert mean_ranks(scores).critical_difference == pytest.approx(2.569 * math.sqrt(20 / 84), abs=1e-3)


@pytest.mark.parametrize("decimals", [1, 6])  # with one decimal there are ties
def test_friedmans_test_is_scipys(decimals: int) -> None:
    shifts = np.array([[0.0], [0.0], [0.1], [0.2]])
    scores = np.random.default_rng(2).random((4, 7)).round(decimals) + shifts
    found = mean_ranks(dict(zip("abcd", scores.round(decimals).tolist(), strict=True)))
    assert found.p_value == pytest.approx(stats.friedmanchisquare(*scores.round(decimals)).pvalue, rel=1e-9)
    expected = stats.rankdata(-scores.round(decimals), axis=0).mean(axis=1)
    assert list(found.ranks.values()) == pytest.approx(list(expected))


def test_pairs_lie_apart_when_their_ranks_do() -> None:
    # Five groups, three methods: CD = 3.314/√2·√(3·4/30) = 1.48, so that 1 and 3 lie apart and their
    # neighbors do not.
    found = mean_ranks({"b": [2.0] * 5, "c": [1.0] * 5, "a": [3.0] * 5})
    assert found.ranks == {"b": 2.0, "c": 3.0, "a": 1.0}
    assert found.critical_difference == pytest.approx(1.482, abs=1e-3)
    assert found.pairs_apart == [("a", "c")]
    assert found.n_groups == 5


def test_methods_that_are_equal_everywhere_share_their_rank() -> None:
    found = mean_ranks({"a": [1.0] * 5, "b": [1.0] * 5, "c": [1.0] * 5})
    assert set(found.ranks.values()) == {2.0}
    assert (found.p_value, found.pairs_apart) == (1.0, [])


@pytest.mark.parametrize("shape", [(2, 5), (3, 4), (0, 0)])
def test_too_little_to_rank_is_refused(shape: tuple[int, int]) -> None:
    scores = {str(index): [1.0] * shape[1] for index in range(shape[0])}
    with pytest.raises(
        ValueError, match=f"at least 3 methods and 5 groups to rank, got {shape[0]} and {shape[1]}"
    ):
        mean_ranks(scores)


@pytest.mark.parametrize("numbers", [[1.0] * 4, [1.0] * 4 + [NAN]])
def test_a_missing_number_is_not_ranked(numbers: list[float]) -> None:
    with pytest.raises(ValueError, match="expected a finite number of every method in every group"):
        mean_ranks({"a": [1.0] * 5, "b": [2.0] * 5, "c": numbers})


def test_the_highest_mean_over_seeds_is_chosen() -> None:
    validation = {"a": {0: 0.9, 1: 0.7}, "b": {0: 0.8, 1: 0.9}, "c": {0: 0.85, 1: 0.85}}
    assert best_of_sweep(validation) == Choice("b", ())
    assert best_of_sweep({"a": {0: 0.9, 1: 0.7}, "b": {0: 0.8, 1: 0.8}}).chosen == "a", (
        "of equal ones the first"
    )


def test_a_setting_of_which_a_run_diverged_is_left_out() -> None:
    assert best_of_sweep({"a": {0: 0.8, 1: 0.8}, "b": {0: 0.99}}) == Choice("a", ("b",))
    assert best_of_sweep({"a": {0: 0.8, 1: 0.8}, "b": {0: 0.99, 1: NAN}}) == Choice("a", ("b",))
    assert best_of_sweep({"a": {0: 0.8}, "b": {0: 0.99}}) == Choice("b", ())


@pytest.mark.parametrize("validation", [{}, {"a": {}}, {"a": {0: NAN}, "b": {}}])
def test_without_validation_results_nothing_is_chosen(validation: dict[str, dict[int, float]]) -> None:
    assert best_of_sweep(validation).chosen is None


def test_the_spread_of_a_sweep_is_its_worst_median_and_best() -> None:
    assert spread_of([0.9, 0.1, NAN, 0.8, 0.85]) == Spread(0.1, pytest.approx(0.825), 0.9, 4)
    assert spread_of([NAN]) is None


def test_a_setting_that_lacks_a_seed_of_another_is_not_chosen() -> None:
    """Means over different seeds would be compared."""
    found = best_of_sweep(
        {"a": {0: 0.9, 1: 0.9, 2: 0.9}, "b": {1: 0.95, 2: 0.95}, "c": {0: 0.91, 1: 0.91, 2: 0.9}}
    )
    assert (found.chosen, found.left_out) == ("c", ("b",))
