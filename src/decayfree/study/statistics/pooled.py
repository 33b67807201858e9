"""What is the difference of two methods over all groups, and what of it is each group's own?

Groups (networks, optimizers) that are trained with the same seeds and tested on the same images err together,
so that their differences are no independent numbers. It chooses no groups: who compares must say which.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from decayfree.errors import InvalidInputError
from decayfree.study.statistics.estimates import CONFIDENCE, Comparison, Estimate, mean_interval, t_quantile
from decayfree.study.statistics.significance import MAX_SIGN_FLIPS, sign_flip_p
from decayfree.study.statistics.two_way import crossed_interval

MIN_GROUPS_OF_SUCH = 4
"""Groups from which on they can stand for others: of three, Morris's shrinkage is none."""
MIN_GROUPS_OF_SIGNS = 5


@dataclass(frozen=True)
class PooledDifference:
    """A mean difference over groups, each counted once, as two questions ask for it."""

    these_groups: Estimate
    """Of these groups as they are: over other seeds and, in a table with images, other images."""
    such_groups: Estimate | None
    """Of groups like these, a sample of which they are taken to be; None of fewer than four."""
    spread: float
    """Standard deviation of true differences between groups, without what chance adds to it; at least 0."""
    shrunk: tuple[Estimate, ...]
    """Each group's difference drawn towards the mean, in their order; empty of fewer than four."""
    by_group: tuple[float, ...]
    """Each group's difference as it was found."""
    is_over_images: bool = False
    """Whether test images are a sample in it as seeds are."""

    @property
    def n_groups(self) -> int:
        """How many groups were counted."""
        return len(self.by_group)

    @property
    def primary(self) -> Comparison:
        """What is tested: such groups in general or, of fewer than four, these as they are."""
        return Comparison(self.such_groups or self.these_groups)

    @cached_property
    def sign_flip_p(self) -> float | None:
        """Exact p of the groups' signs, no normality assumed; None with fewer than five, or too many.

        A check beside the p of `primary`: it takes groups as independent, and what they share makes it too
        small.
        """
        is_possible = MIN_GROUPS_OF_SIGNS <= self.n_groups <= MAX_SIGN_FLIPS
        return sign_flip_p(self.by_group) if is_possible else None


def pooled_difference(cells: npt.ArrayLike, *others: npt.ArrayLike) -> PooledDifference:
    """Pool a table of differences whose groups share their seeds and, where it has them, their images.

    Groups that are tested on other images make another table: what such tables have in common is taken to be
    their seeds' names only. V and v are then of all G groups, each counted once.

    With d_g a group's mean, V the variance that seeds and images give the mean over G groups, and v that of a
    group's own error (its interactions with seeds and images), all groups err together by V − v/G, and::

        spread²            τ² = s²(d) − v, at least 0,
        such groups        V − v/G + s²(d)/G, at least V: what all share, and the t interval over groups,
        one group, shrunk  d̄ + (1 − B)(d_g − d̄), B = (G−3)/(G−1) · m/(m+2) · v/s²(d), s²(d) at least v,
                           with V + v(1 − 1/G)(1 − B) + 2/(G−3) · B²(d_g − d̄)².

    All groups have the same v, of m degrees of freedom. In such a table the estimates of τ² by moments,
    Paule and Mandel, and REML are all that of the first line. The last variance has what the mean and τ² are
    not known by in it (Morris, Eq. 1.16); that τ² is not known is also why B stays below 1.

    With five seeds a group's own standard error has four degrees of freedom and is rough, so that one whose
    differences happen to agree would be believed too much: hence one v for all. Where groups differ in their
    noise, intervals of shrunk differences hold the truth as often as they say in the mean over groups, too
    often in calm ones and not often enough in noisy ones.

    Args:
        cells: (n_groups, n_seeds) or (n_groups, n_seeds, n_images), of differences; at least two of each.
        others: More tables, of groups that are tested on other images; in the order of the answer's groups.

    Raises:
        InvalidInputError: If it is no table, has fewer than two of anything, or a number that is not finite.

    References:
        Morris, "Parametric empirical Bayes inference: theory and applications", 1983, Journal of the American
        Statistical Association 78(381), Eq. 1.15 and 1.16. DerSimonian and Laird, "Meta-analysis in clinical
        trials", 1986, Controlled Clinical Trials 7(3). Satterthwaite, as in `two_way`: degrees of freedom.

    Example:
        >>> found = pooled_difference([[1.0, 3.0], [1.0, 3.0], [4.0, 6.0]])
        >>> found.these_groups.mean, found.spread  # the groups' means are 2, 2 and 5, and they err together
        (3.0, 1.7320508075688772)
    """
    tables = [_checked_table(one) for one in (cells, *others)]
    of_tables = [_OneTable.of(values) for values in tables]
    means = np.concatenate([values.reshape(len(values), -1).mean(axis=1) for values in tables])
    n = len(means)
    these = _together(of_tables, n)
    of_mean = (these.standard_error or 0.0) ** 2
    of_group, freedom = _sum_of([((one.n - 1) / (n - len(tables)), one.of_group) for one in of_tables])
    of_means = float(means.var(ddof=1))
    such, shrunk = None, []
    if n >= MIN_GROUPS_OF_SUCH:
        shared = sum(
            (one.n / n) ** 2 * max(one.of_mean[0] - one.of_group[0] / one.n, 0.0) for one in of_tables
        )
        apart = max(of_means / n, of_mean - shared)
        such = _estimate(these.mean, ((shared, these.freedom), (apart, n - 1)), n)
        pull = (n - 3) / (n - 1) * freedom / (freedom + 2) * (of_group and of_group / max(of_means, of_group))
        for mean in means.tolist():
            gap = mean - these.mean
            of_spread = 2 / (n - 3) * (pull * gap) ** 2
            parts = (of_mean, these.freedom), (of_group * (1 - 1 / n) * (1 - pull), freedom)
            shrunk.append(_estimate(these.mean + (1 - pull) * gap, parts, these.n, of_spread))
    spread = max(of_means - of_group, 0.0) ** 0.5
    return PooledDifference(
        these, such, spread, tuple(shrunk), tuple(means.tolist()), is_over_images=tables[0].ndim == 3
    )


@dataclass(frozen=True)
class _OneTable:
    """Groups that share seeds and images."""

    n: int
    together: Estimate
    of_group: tuple[float, float]
    """v, and its degrees of freedom."""

    @staticmethod
    def of(values: npt.NDArray[np.float64]) -> "_OneTable":
        mean = values.mean(axis=0)
        together = crossed_interval(mean) if values.ndim == 3 else mean_interval(mean.tolist())
        return _OneTable(len(values), together, _own_variance(values - mean))

    @property
    def of_mean(self) -> tuple[float, float]:
        """V, and its degrees of freedom."""
        return (self.together.standard_error or 0.0) ** 2, self.together.freedom


def _together(tables: Sequence[_OneTable], n: int) -> Estimate:
    """The mean over all groups, as these tables have it."""
    if len(tables) == 1:
        return tables[0].together
    mean = sum(one.n / n * one.together.mean for one in tables)
    parts = tuple(((one.n / n) ** 2 * one.of_mean[0], one.of_mean[1]) for one in tables)
    return _estimate(mean, parts, max(one.together.n for one in tables))


def _sum_of(parts: Sequence[tuple[float, tuple[float, float]]]) -> tuple[float, float]:
    """Σ w·v and its degrees of freedom, of weights and variances with theirs."""
    variance = sum(weight * own for weight, (own, _) in parts)
    spread = sum((weight * own) ** 2 / freedom for weight, (own, freedom) in parts)
    return variance, variance**2 / spread if spread else sum(freedom for _, (_, freedom) in parts)


def _checked_table(cells: npt.ArrayLike) -> npt.NDArray[np.float64]:
    try:
        values = np.asarray(cells, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInputError(f"cells must be a table of numbers: {error}") from error
    if values.ndim not in (2, 3) or min(values.shape) < 2 or not np.isfinite(values).all():
        raise InvalidInputError(
            "cells must be finite, of two groups, two seeds and, if any, two images at least, "
            f"got {values.shape}"
        )
    return values


def _own_variance(rest: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Variance of a group's mean that other groups do not share, and its degrees of freedom.

    ``rest`` is the table less its mean over groups: what is left is the groups, and their interactions.
    """
    n, n_seeds, *images = rest.shape
    n_cells = rest[0].size
    by_group = rest.reshape(n, -1).mean(axis=1)
    by_seed = rest.reshape(n, n_seeds, -1).mean(axis=2) - by_group[:, None]
    dof = (n - 1) * (n_seeds - 1)
    seeds = float((by_seed**2).sum()) / dof / n_seeds
    if not images:
        return seeds, dof
    by_image = rest.mean(axis=1) - by_group[:, None]
    left = rest - by_group[:, None, None] - by_seed[:, :, None] - by_image[:, None, :]
    dofs = dof, (n - 1) * (images[0] - 1), dof * (images[0] - 1)
    squares = images[0] * (by_seed**2).sum(), n_seeds * (by_image**2).sum(), (left**2).sum()
    parts = [float(square) / one / n_cells for square, one in zip(squares, dofs, strict=True)]
    variance = max(parts[0] + parts[1] - parts[2], parts[2])  # as in `crossed_interval`
    spread = sum(part**2 / one for part, one in zip(parts, dofs, strict=True))
    return variance, max(variance**2 / spread, 1.0) if spread else dof


def _estimate(mean: float, parts: tuple[tuple[float, float], ...], n: int, more: float = 0.0) -> Estimate:
    """A mean whose variance is a sum of parts, each with its degrees of freedom, and of ``more`` without."""
    variance = sum(part for part, _ in parts) + more
    spread = sum(part**2 / freedom for part, freedom in parts)
    freedom = max(variance**2 / spread, 1.0) if spread else 1.0
    return Estimate(
        mean, variance**0.5 * t_quantile(freedom), n, confidence=CONFIDENCE, degrees_of_freedom=freedom
    )
