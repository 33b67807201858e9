"""What a few seeds can say: means, intervals, paired differences, families of them, ranks, best of a sweep.

It reads no files and knows nothing of methods: numbers in, numbers out, in float64. One file each:
`estimates` (t intervals), `two_way` (seeds and images), `pooled` (over groups), `significance` (p values, a
family of comparisons), `power`, `bootstrap`, `ranks`, `sweeps`, `budget` (what trials buy).
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.study.statistics.bootstrap import MIN_FOR_BOOTSTRAP as MIN_FOR_BOOTSTRAP
    from decayfree.study.statistics.bootstrap import bootstrap_interval as bootstrap_interval
    from decayfree.study.statistics.budget import Budget as Budget
    from decayfree.study.statistics.budget import expected_best as expected_best
    from decayfree.study.statistics.budget import share_far_down as share_far_down
    from decayfree.study.statistics.estimates import CONFIDENCE as CONFIDENCE
    from decayfree.study.statistics.estimates import Comparison as Comparison
    from decayfree.study.statistics.estimates import Estimate as Estimate
    from decayfree.study.statistics.estimates import Outcome as Outcome
    from decayfree.study.statistics.estimates import mean_interval as mean_interval
    from decayfree.study.statistics.estimates import paired_difference as paired_difference
    from decayfree.study.statistics.estimates import t_quantile as t_quantile
    from decayfree.study.statistics.pooled import PooledDifference as PooledDifference
    from decayfree.study.statistics.pooled import pooled_difference as pooled_difference
    from decayfree.study.statistics.power import POWER as POWER
    from decayfree.study.statistics.power import detectable_difference as detectable_difference
    from decayfree.study.statistics.ranks import MeanRanks as MeanRanks
    from decayfree.study.statistics.ranks import mean_ranks as mean_ranks
    from decayfree.study.statistics.significance import MAX_SIGN_FLIPS as MAX_SIGN_FLIPS
    from decayfree.study.statistics.significance import Family as Family
    from decayfree.study.statistics.significance import Judgement as Judgement
    from decayfree.study.statistics.significance import family_of as family_of
    from decayfree.study.statistics.significance import holm as holm
    from decayfree.study.statistics.significance import sign_flip_p as sign_flip_p
    from decayfree.study.statistics.sweeps import Choice as Choice
    from decayfree.study.statistics.sweeps import Spread as Spread
    from decayfree.study.statistics.sweeps import best_of_sweep as best_of_sweep
    from decayfree.study.statistics.sweeps import spread_of as spread_of

__getattr__ = lazy_face(__name__, extra="study")
