"""How often intervals hold what they promise, and the bootstrap against scipy's.

Simulations are seeded; nothing here trains or reads a file.
"""

import warnings

import numpy as np
import pytest
import torch
from scipy import stats

from decayfree.study.statistics import MIN_FOR_BOOTSTRAP, bootstrap, bootstrap_interval, mean_interval


@pytest.mark.parametrize(("n", "confidence"), [(2, 0.95), (5, 0.95), (5, 0.8)])
def test_a_t_interval_covers_the_truth_as_often_as_it_says(n: int, confidence: float) -> None:
    generator = np.random.default_rng(n)
    intervals = [mean_interval(list(generator.normal(3, 2, n)), confidence=confidence) for _ in range(4000)]
    covered = [
        bool(one.low < 3 < one.high) for one in intervals if one.low is not None and one.high is not None
    ]
    assert len(covered) == 4000
    # Two standard errors are 0.7 points at 95 % and 1.3 points at 80 %.
    assert np.mean(covered) == pytest.approx(confidence, abs=0.0135)


def bootstrap_coverage(n: int) -> float:
    """Share of 600 samples of ``n`` normal numbers whose 95 % BCa interval holds the mean."""
    generator = np.random.default_rng(0)
    covered = []
    for trial in range(600):
        low, high = bootstrap_interval(list(generator.normal(3, 2, n)), n_resamples=500, seed=trial)
        covered.append(low < 3 < high)
    return float(np.mean(covered))


def test_a_bootstrap_interval_covers_nearly_what_it_says_from_where_on_it_is_given() -> None:
    assert 0.90 < bootstrap_coverage(MIN_FOR_BOOTSTRAP) < 0.96


def test_of_five_numbers_a_bootstrap_interval_would_be_too_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "MIN_FOR_BOOTSTRAP", 5)
    assert bootstrap_coverage(5) < 0.88


def test_the_bootstrap_is_scipys_on_skewed_numbers() -> None:
    values = np.random.default_rng(7).exponential(size=20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = stats.bootstrap(
            (values,), np.mean, n_resamples=40_000, method="BCa", rng=np.random.default_rng(1)
        ).confidence_interval
    low, high = bootstrap_interval(list(values), n_resamples=40_000)
    width = expected.high - expected.low
    assert low == pytest.approx(expected.low, abs=0.02 * width)
    assert high == pytest.approx(expected.high, abs=0.02 * width)
    mean = values.mean()
    assert high - mean > 1.15 * (mean - low), "skewed numbers have a skewed interval"


def test_the_bootstrap_is_the_same_every_time_and_leaves_the_global_random_state_alone() -> None:
    values = [value**0.5 for value in range(20)]
    state = torch.get_rng_state()
    assert bootstrap_interval(values) == bootstrap_interval(values) != bootstrap_interval(values, seed=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_equal_numbers_have_an_interval_of_no_width() -> None:
    assert bootstrap_interval([0.5] * 20) == (0.5, 0.5)


def test_too_few_numbers_to_resample_are_refused() -> None:
    with pytest.raises(
        ValueError, match="expected at least 20 numbers to resample, got 19: use mean_interval"
    ):
        bootstrap_interval([1.0] * (MIN_FOR_BOOTSTRAP - 1))


def test_a_diverged_value_is_not_resampled() -> None:
    with pytest.raises(ValueError, match=r"expected finite numbers to resample, found .*nan"):
        bootstrap_interval([1.0] * 20 + [float("nan")])
