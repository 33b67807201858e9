"""An interval of a mean that does not assume normal numbers: the bias-corrected and accelerated bootstrap.

Not for a handful of seeds: resamples of few numbers scatter too little, and their intervals are too short.
Of five normal numbers a nominal 95 % cover 84 %, of twelve 90 %, of twenty 92 %. There the t interval stays.
"""

import math
from collections.abc import Sequence

from decayfree.arguments.kinds import COUNT, SEED, SHARE, checked
from decayfree.study.statistics.estimates import CONFIDENCE

MIN_FOR_BOOTSTRAP = 20
"""Numbers from which on an interval is given."""


@checked(confidence=SHARE, n_resamples=COUNT, seed=SEED)
@checked(confidence=SHARE, n_resamples=COUNT, seed=SEED)
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
    if min(values) == max(values):
        return float(values[0]), float(values[0])
    import numpy as np
    from scipy.stats import bootstrap

    ends = bootstrap(
        (values,),
        np.mean,
        method="BCa",
        confidence_level=confidence,
        n_resamples=n_resamples,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(ends.low), float(ends.high)
