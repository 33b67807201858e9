"""A mean of a few numbers with its t interval, and the paired difference of two methods with its p value.

Intervals assume that seeds are independent and roughly normal. Nothing is corrected for making several
comparisons: `significance` does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from decayfree.arguments.kinds import SHARE, checked
from decayfree.errors import extra_needed

CONFIDENCE = 0.95
Outcome = Literal["higher", "lower", "no difference seen", "too few seeds"]


@dataclass(frozen=True)
class Estimate:
    """A mean of ``n`` numbers with its t interval; ``half_width`` is None where ``n`` allows none (n < 2)."""

    mean: float
    half_width: float | None
    n: int
    confidence: float = CONFIDENCE
    """Coverage of the interval, between 0 and 1."""
    degrees_of_freedom: float | None = None
    """Of its standard error; None for n − 1."""

    @property
    def freedom(self) -> float:
        """Degrees of freedom of its standard error."""
        return self.n - 1 if self.degrees_of_freedom is None else self.degrees_of_freedom

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the interval, in the unit of the mean."""
        return None if self.half_width is None else (self.mean - self.half_width, self.mean + self.half_width)

    @property
    def low(self) -> float | None:
        """Lower end of the interval, in the unit of the mean."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """Upper end of the interval, in the unit of the mean."""
        return None if self.half_width is None else self.mean + self.half_width

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean, in its unit; None where there is a single number."""
        return (
            None if self.half_width is None else self.half_width / t_quantile(self.freedom, self.confidence)
        )

    def half_width_at(self, confidence: float) -> float | None:
        """Half width of the interval of another coverage, in the unit of the mean."""
        error = self.standard_error
        return None if error is None else error * t_quantile(self.freedom, confidence)


@dataclass(frozen=True)
class Comparison:
    """The paired difference of two methods, first minus second, over the seeds that both have."""

    difference: Estimate

    @property
    def verdict(self) -> Outcome:
        """Where the interval of the difference lies: above, below or around zero, or that there is none."""
        low, high = self.difference.low, self.difference.high
        if low is None or high is None:
            return "too few seeds"
        if low > 0:
            return "higher"
        return "lower" if high < 0 else "no difference seen"

    @property
    def is_without_scatter(self) -> bool:
        """Whether all differences are equal, but for rounding: then no interval says anything."""
        error = self.difference.standard_error
        return error is not None and error <= 1e-12 * abs(self.difference.mean)

    @property
    def p_value(self) -> float | None:
        """Two-sided p value of the paired t test; None where there are fewer than two pairs.

        Differences that are all equal say nothing of their scatter, and a coarse test set makes that happen:
        they have the p value that n equal signs have, 2¹⁻ⁿ.
        """
        error = self.difference.standard_error
        if error is None:
            return None
        if self.is_without_scatter:
            return 2.0 ** (1 - self.difference.n) if self.difference.mean else 1.0
        from scipy.special import stdtr

        return 2 * float(stdtr(self.difference.freedom, -abs(self.difference.mean) / error))


@checked(confidence=SHARE)
def mean_interval(values: Sequence[float], *, confidence: float = CONFIDENCE) -> Estimate:
    """Mean and two-sided t interval of independent numbers.

    Args:
        values: One number a seed, at least one, all finite.
        confidence: Coverage of the interval, between 0 and 1.

    Returns:
        The estimate; without an interval where there is a single number.

    Raises:
        ValueError: If there are no numbers or one is not finite.

    Example:
        >>> estimate = mean_interval([1.0, 2.0, 3.0])
        >>> estimate.mean, round(estimate.half_width, 3)  # 4.303 · 1 / √3
        (2.0, 2.484)
    """
    n = len(values)
    if n == 0:
        raise ValueError("expected at least one number for a mean, found none")
    if not all(math.isfinite(value) for value in values):
        raise ValueError(
            f"expected finite numbers for a mean, found {list(values)}: leave out runs that diverged"
        )
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, 1, confidence)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Estimate(mean, t_quantile(n - 1, confidence) * math.sqrt(variance / n), n, confidence)


@checked(confidence=SHARE)
def paired_difference(
    first: Mapping[int, float], second: Mapping[int, float], *, confidence: float = CONFIDENCE
) -> Comparison | None:
    """Compare two methods seed by seed, so that what a seed does to both cancels.

    Args:
        first: Result by seed.
        second: Result by seed, in the same unit.
        confidence: Coverage of the interval, between 0 and 1.

    Returns:
        The difference, first minus second, over the common seeds; None where there is no common seed.

    Example:
        >>> paired_difference({0: 3.0, 1: 5.0, 2: 4.0}, {0: 1.0, 1: 2.0, 7: 9.0}).difference.mean
        2.5
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    return Comparison(mean_interval([first[seed] - second[seed] for seed in seeds], confidence=confidence))


@checked(confidence=SHARE, degrees_of_freedom=(1, math.inf, "of at least 1"))
@lru_cache(maxsize=4096)
def t_quantile(degrees_of_freedom: float, confidence: float = CONFIDENCE) -> float:
    """Half width of a two-sided t interval in standard errors: 12.706 for one degree of freedom at 95 %."""
    with extra_needed("study", "intervals need scipy, which is not installed"):
        from scipy.special import stdtrit  # comes with scikit-learn
    return float(stdtrit(degrees_of_freedom, 0.5 + confidence / 2))
