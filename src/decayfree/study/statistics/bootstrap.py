"""An interval of a mean that does not assume normal numbers: the bias-corrected and accelerated bootstrap.

Not for a handful of seeds: resamples of five numbers scatter too little, and their intervals are too short.
There the t interval stays.
"""

import math
from collections.abc import Sequence

import torch

from decayfree.study.statistics.estimates import CONFIDENCE

MIN_FOR_BOOTSTRAP = 8
"""Numbers from which on an interval is given."""


def bootstrap_interval(
    values: Sequence[float], *, confidence: float = CONFIDENCE, n_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Both ends of the BCa interval of a mean; the same every time.

    Args:
        values: At least `MIN_FOR_BOOTSTRAP` finite numbers.
        confidence: Nominal coverage, between 0 and 1.
        n_resamples: Drawn with replacement.
        seed: Of the draws; the global random state is left alone.

    Raises:
        ValueError: If there are too few numbers, or one is not finite.

    References:
        Efron, "Better bootstrap confidence intervals", 1987, Journal of the American Statistical Association
        82(397), Eq. 6.8.
    """
    n = len(values)
    if n < MIN_FOR_BOOTSTRAP:
        raise ValueError(
            f"expected at least {MIN_FOR_BOOTSTRAP} numbers to resample, got {n}: use mean_interval"
        )
    if not all(map(math.isfinite, values)):
        raise ValueError(f"expected finite numbers to resample, found {list(values)}")
    sample = torch.tensor(values, dtype=torch.float64)
    mean = sample.mean()
    if bool((sample == sample[0]).all()):
        return float(mean), float(mean)
    draws = torch.randint(n, (n_resamples, n), generator=torch.Generator().manual_seed(seed))
    means = sample[draws].mean(dim=1).sort().values
    levels = _levels(sample, means, confidence)
    low, high = torch.quantile(means, levels).tolist()
    return low, high


def _levels(sample: torch.Tensor, means: torch.Tensor, confidence: float) -> torch.Tensor:
    """(2,), float64: the quantiles of the resampled means at which the interval ends."""
    mean = sample.mean()
    ties = 0.5 * (means == mean).double().mean()
    bias = torch.special.ndtri((means < mean).double().mean() + ties)  # ẑ₀
    left_out = (sample.sum() - sample) / (len(sample) - 1)
    gaps = left_out.mean() - left_out
    acceleration = gaps.pow(3).sum() / (6 * gaps.pow(2).sum().pow(1.5))  # â, by the jackknife
    tail = (1 - confidence) / 2
    z = bias + torch.special.ndtri(torch.tensor([tail, 1 - tail], dtype=torch.float64))
    levels: torch.Tensor = torch.special.ndtr(bias + z / (1 - acceleration * z))
    return levels
