"""What does a trial buy? The score of the best by validation among k settings that were tried.

Chooses nothing itself and knows no methods. A setting whose run diverged is a trial as well, the worst one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from decayfree.arguments.kinds import SHARE, checked
from decayfree.errors import InvalidInputError

TUNERS = 0.8
"""Share of tuners within a band."""
FAR_DOWN = 0.02
"""How far below the best a trial is far down, as a share of the images."""
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Budget:
    """Test score of what k trials lead to, for k = 1 … n; shares."""

    mean: tuple[float, ...]
    """Over all tuners."""
    low: tuple[float, ...]
    """Lower end of the band, that most tuners reach."""
    high: tuple[float, ...]
    """Upper end of the band."""

    @property
    def n(self) -> int:
        """How many settings there are to try."""
        return len(self.mean)

    def trials_to_reach(self, score: float) -> int | None:
        """The fewest trials whose mean is at least ``score``; None where not even all n are enough."""
        enough = (k for k, mean in enumerate(self.mean, start=1) if mean >= score - _ROUNDING)
        return next(enough, None)


@checked(tuners=SHARE)
def expected_best(
    validation: Sequence[Sequence[float]], test: Sequence[Sequence[float]], *, tuners: float = TUNERS
) -> Budget:
    """What a tuner ends with who tries k settings with one seed and keeps the best by validation.

    Settings are drawn without replacement and all seeds are as likely. Of n settings sorted by validation the
    i-th is kept with probability C(i − 1, k − 1)/C(n, k): the others of the k are among the i − 1 before it.
    Settings of equal validation share what they have together. For tuners who train every setting with all
    seeds, give the means as the only row.

    Args:
        validation: One row a seed with one number a setting, scores of at most 1.
        test: The same runs on the test images. A run that is not finite on either counts as 0 on both.
        tuners: Share of them between ``low`` and ``high``, with as many above as below.

    Raises:
        InvalidInputError: If shapes differ or are no tables, or a score is above 1.

    References:
        Dodge, Gururangan, Card, Schwartz, Smith, "Show Your Work: Improved Reporting of Experimental
        Results", 2019, arXiv 1909.03004: the curve, drawn with replacement. Tang et al., "Showing Your Work
        Doesn't Always Work", 2020, arXiv 2004.13705: without replacement it has no bias.

    Example:
        >>> expected_best([[0.5, 0.7, 0.9]], [[0.4, 0.8, 0.7]]).mean  # 1.9/3, 2.2/3
        (0.6333333333333333, 0.7333333333333333, 0.7)
    """
    chosen_by, kept = _scores(validation, test)
    order = np.argsort(kept, axis=None)
    bands, means = [], []
    for weights in _chances(chosen_by):
        means.append(float((weights * kept).sum()))
        reached = np.cumsum(weights.ravel()[order])
        ends = np.searchsorted(reached, [(1 - tuners) / 2 - _ROUNDING, (1 + tuners) / 2 - _ROUNDING])
        bands.append([float(kept.ravel()[order[end]]) for end in np.minimum(ends, kept.size - 1)])
    low, high = zip(*bands, strict=True)
    return Budget(tuple(means), low, high)


@checked()
def share_far_down(test: Sequence[Sequence[float]], best: float, *, margin: float = FAR_DOWN) -> float:
    """Share of all trials that end more than ``margin`` below ``best``, those that diverged among them.

    Args:
        test: Scores, as `expected_best` takes them; what is not finite is far down.
        best: What they are held against.
        margin: In the same unit.

    Example:
        >>> from math import nan
        >>> share_far_down([[0.90, 0.88], [0.87, nan]], 0.90)
        0.5
    """
    kept = np.asarray(test, dtype=np.float64)
    return float(np.mean(~(best - kept <= margin + _ROUNDING)))


def _scores(
    validation: Sequence[Sequence[float]], test: Sequence[Sequence[float]]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    lengths = [[len(row) for row in table] for table in (validation, test)]
    if lengths[0] != lengths[1] or len(set(lengths[0])) != 1 or not lengths[0][0]:
        raise InvalidInputError(
            "validation and test must have a row for every seed and a number in it for every setting, got "
            f"rows of {lengths[0]} and of {lengths[1]} numbers"
        )
    tables = [np.asarray(table, dtype=np.float64) for table in (validation, test)]
    is_known = np.isfinite(tables[0]) & np.isfinite(tables[1])
    first, second = (np.where(is_known, table, 0.0) for table in tables)
    if max(first.max(), second.max()) > 1:
        raise InvalidInputError("validation and test must be scores of at most 1")
    return first, second


def _chances(validation: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """(n_seeds, n_settings) for k = 1 … n: how likely each run is the one that a tuner ends with."""
    n_seeds, n = validation.shape
    tied = [np.unique(row, return_inverse=True, return_counts=True)[1:] for row in validation]
    earlier = np.arange(n - 1, 0, -1)
    for k in range(1, n + 1):
        # From the best setting, of chance k/n, down: C(i − 2, k − 1)/C(i − 1, k − 1) = (i − k)/(i − 1).
        steps = np.maximum(earlier + 1 - k, 0) / earlier
        by_rank = k / n * np.cumprod(np.concatenate([[1.0], steps]))[::-1]
        rows = []
        for place, counts in tied:
            ends = np.cumsum(counts)
            shares = np.add.reduceat(by_rank, ends - counts) / counts
            rows.append(shares[place])
        yield np.array(rows) / n_seeds
