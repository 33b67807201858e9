"""Means, intervals and paired differences against numbers that a reader can check by hand, and against scipy.

Nothing here trains or reads a file.
"""

import builtins
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from decayfree.errors import MissingExtraError
from decayfree.study.statistics import Comparison, Estimate, mean_interval, paired_difference, t_quantile


def test_the_interval_of_two_numbers_is_the_cauchy_quantile() -> None:
    # One degree of freedom is the Cauchy distribution: its 97.5 % quantile is tan(π · 0.475). s/√n of (0, 2)
    # is 1.
    estimate = mean_interval([0.0, 2.0])
    assert estimate.mean == 1.0
    assert estimate.n == 2
    assert estimate.half_width == pytest.approx(math.tan(math.pi * 0.475), rel=1e-12)


def test_the_interval_of_three_numbers_has_a_closed_form() -> None:
    # Two degrees of freedom: t(p) = a·√(2/(1 − a²)) with a = 2p − 1 = 0.95; s/√n of (1, 2, 3) is 1/√3.
    half_width = 0.95 * math.sqrt(2 / (1 - 0.95**2)) / math.sqrt(3)
    estimate = mean_interval([1.0, 2.0, 3.0])
    assert estimate.half_width == pytest.approx(half_width, rel=1e-12)
    assert estimate.low == pytest.approx(2 - half_width)
    assert estimate.high == pytest.approx(2 + half_width)


def test_the_interval_is_scipys(seed_values: list[float]) -> None:
    expected = stats.ttest_1samp(seed_values, 0.0).confidence_interval(0.95)
    estimate = mean_interval(seed_values)
    assert estimate.low == pytest.approx(expected.low, rel=1e-10)
    assert estimate.high == pytest.approx(expected.high, rel=1e-10)


def test_a_paired_difference_is_scipys_over_the_common_seeds(seed_values: list[float]) -> None:
    first = dict(enumerate(seed_values))
    second = {seed: value**2 for seed, value in first.items() if seed != 3} | {99: 1e6}
    common = sorted(set(first) & set(second))
    expected = stats.ttest_rel([first[s] for s in common], [second[s] for s in common]).confidence_interval(
        0.95
    )
    comparison = paired_difference(first, second)
    assert comparison is not None
    assert comparison.difference.n == len(common)
    assert comparison.difference.low == pytest.approx(expected.low, rel=1e-10)
    assert comparison.difference.high == pytest.approx(expected.high, rel=1e-10)


def test_pairing_cancels_what_a_seed_does_to_both() -> None:
    comparison = paired_difference({0: 10.0, 1: 20.0, 2: 30.0}, {0: 9.0, 1: 19.0, 2: 29.0})
    assert comparison == Comparison(Estimate(1.0, 0.0, 3))
    assert comparison.verdict == "higher"


@pytest.mark.parametrize(
    ("mean", "half_width", "verdict"),
    [
        (1.0, 0.5, "higher"),
        (-1.0, 0.5, "lower"),
        (1.0, 1.5, "no difference seen"),
        (-1.0, 1.5, "no difference seen"),
        (1.0, 1.0, "no difference seen"),
        (0.0, 0.0, "no difference seen"),
        (1.0, None, "too few seeds"),
    ],
)
def test_the_verdict_is_where_the_interval_lies(mean: float, half_width: float | None, verdict: str) -> None:
    comparison = Comparison(Estimate(mean, half_width, 4))
    assert comparison.verdict == verdict


def test_one_seed_has_a_mean_and_no_interval() -> None:
    estimate = mean_interval([0.25])
    assert (estimate.mean, estimate.half_width, estimate.low, estimate.high, estimate.n) == (
        0.25,
        None,
        None,
        None,
        1,
    )


def test_no_common_seed_is_no_comparison() -> None:
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one number for a mean, found none"):
        mean_interval([])


def test_a_diverged_value_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected finite numbers.*nan.*leave out runs that diverged"):
        mean_interval([1.0, float("nan")])


def test_the_quantile_falls_to_the_normal_one() -> None:
    assert t_quantile(10_000_000) == pytest.approx(stats.norm.ppf(0.975), rel=1e-6)
    assert t_quantile(1, 0.5) == pytest.approx(1.0)  # the upper quartile of the Cauchy distribution


def test_without_scipy_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def refuse_scipy(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("scipy"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse_scipy)
    with pytest.raises(MissingExtraError, match=r"scipy.*pip install 'decayfree\[study\]'"):
        t_quantile(3)


@pytest.fixture(params=[2, 5, 12])
def seed_values(request: pytest.FixtureRequest) -> list[float]:
    return list(np.random.default_rng(request.param).normal(0.9, 0.05, size=request.param))
