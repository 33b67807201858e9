"""Methods ranked in every group (optimizer, network, data set), and how far mean ranks must lie apart.

A rank forgets by how much a method was better. With few groups only ranks that agree nearly everywhere are
told apart.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from decayfree.arguments.kinds import SHARE, checked
from decayfree.study.statistics.estimates import CONFIDENCE

MIN_GROUPS = 5
MIN_METHODS = 3


@dataclass(frozen=True)
class MeanRanks:
    """Mean rank of every method over the groups, 1 the highest, and Friedman's and Nemenyi's tests."""

    ranks: Mapping[str, float]
    n_groups: int
    p_value: float
    """Friedman's: that all methods are alike."""
    critical_difference: float
    """Nemenyi's: mean ranks that lie further apart differ, all pairs considered together."""

    @property
    def pairs_apart(self) -> list[tuple[str, str]]:
        """Pairs whose mean ranks lie further apart than the critical difference, the better one first."""
        ordered = sorted(self.ranks, key=lambda name: self.ranks[name])
        return [
            (better, worse)
            for index, better in enumerate(ordered)
            for worse in ordered[index + 1 :]
            if self.ranks[worse] - self.ranks[better] > self.critical_difference
        ]


@checked(alpha=SHARE)
@checked(alpha=SHARE)
def mean_ranks(scores: Mapping[str, Sequence[float]], *, alpha: float = 1 - CONFIDENCE) -> MeanRanks:
    """Rank methods group by group.

    Args:
        scores: For every method one finite number a group, in the same order of groups; higher is better.
        alpha: Level of the critical difference.

    Raises:
        ValueError: If there are fewer than three methods or five groups, or a number is missing.

    References:
        Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", 2006, Journal of Machine
        Learning Research 7, sec. 3.2.2.

    Example:
        >>> mean_ranks({"a": [3, 3, 3, 3, 3], "b": [2, 2, 2, 2, 2], "c": [1, 1, 1, 1, 1]}).ranks
        {'a': 1.0, 'b': 2.0, 'c': 3.0}
    """
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    sizes = {name: len(values) for name, values in scores.items()}
    n_methods, n_groups = len(scores), max(sizes.values(), default=0)
    if n_methods < MIN_METHODS or n_groups < MIN_GROUPS:
        raise ValueError(
            f"expected at least {MIN_METHODS} methods and {MIN_GROUPS} groups to rank, "
            f"got {n_methods} and {n_groups}"
        )
    if set(sizes.values()) != {n_groups} or not all(
        math.isfinite(value) for values in scores.values() for value in values
    ):
        raise ValueError(f"expected a finite number of every method in every group, got sizes {sizes}")
    # scipy ranks from the lowest; equal numbers share the mean of their ranks.
    ranks = n_methods + 1 - rankdata(list(scores.values()), axis=0)
    are_tied = bool((ranks == ranks[0]).all())  # everywhere: then Friedman's statistic is 0/0
    q = float(studentized_range.ppf(1 - alpha, n_methods, math.inf)) / math.sqrt(2)
    return MeanRanks(
        dict(zip(scores, ranks.mean(axis=1).tolist(), strict=True)),
        n_groups,
        1.0 if are_tied else float(friedmanchisquare(*scores.values()).pvalue),
        q * math.sqrt(n_methods * (n_methods + 1) / (6 * n_groups)),
    )
