"""What a few seeds can say: means, intervals, paired differences, families of them, ranks, best of a sweep.

It reads no files and knows nothing of methods: numbers in, numbers out, in float64. One file each:
`estimates` (t intervals), `significance` (p values, a family of comparisons), `power`, `bootstrap`, `ranks`,
`sweeps`.
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.study.statistics.bootstrap import MIN_FOR_BOOTSTRAP, bootstrap_interval
    from decayfree.study.statistics.estimates import (
        CONFIDENCE,
        Comparison,
        Estimate,
        Outcome,
        mean_interval,
        paired_difference,
        t_quantile,
    )
    from decayfree.study.statistics.power import POWER, detectable_difference
    from decayfree.study.statistics.ranks import MeanRanks, mean_ranks
    from decayfree.study.statistics.significance import (
        MAX_SIGN_FLIPS,
        Family,
        Judgement,
        family_of,
        holm,
        sign_flip_p,
    )
    from decayfree.study.statistics.sweeps import Choice, Spread, best_of_sweep, spread_of

__all__ = [
    "CONFIDENCE",
    "MAX_SIGN_FLIPS",
    "MIN_FOR_BOOTSTRAP",
    "POWER",
    "Choice",
    "Comparison",
    "Estimate",
    "Family",
    "Judgement",
    "MeanRanks",
    "Spread",
    "Outcome",
    "best_of_sweep",
    "bootstrap_interval",
    "detectable_difference",
    "family_of",
    "holm",
    "mean_interval",
    "mean_ranks",
    "paired_difference",
    "sign_flip_p",
    "spread_of",
    "t_quantile",
]

__getattr__ = lazy_face(
    __name__,
    {
        "bootstrap": "MIN_FOR_BOOTSTRAP bootstrap_interval",
        "estimates": "CONFIDENCE Comparison Estimate Outcome mean_interval paired_difference t_quantile",
        "power": "POWER detectable_difference",
        "ranks": "MeanRanks mean_ranks",
        "significance": "MAX_SIGN_FLIPS Family Judgement family_of holm sign_flip_p",
        "sweeps": "Choice Spread best_of_sweep spread_of",
    },
)
