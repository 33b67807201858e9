"""How large a true difference must be for seeds like these to show it.

Not the half width of an interval, which is about the mean that was seen: a true difference of just that size
is seen about half of the time.
"""

import math

from decayfree.arguments.kinds import SHARE, checked
from decayfree.study.statistics.estimates import CONFIDENCE, Estimate, t_quantile

POWER = 0.8
_FAR, _FARTHEST = 30.0, 37.0
"""Standard errors. From the first on the chance in the mean changes the answer by 0.13 % at most, with few
degrees of freedom at the level of a large family; beyond the second scipy's noncentral t is no number.
"""


@checked(alpha=SHARE, power=SHARE)
def detectable_difference(
    difference: Estimate, *, power: float = POWER, alpha: float = 1 - CONFIDENCE
) -> float | None:
    """The true difference that a paired t test of equal n and scatter shows with probability ``power``.

    Args:
        difference: Mean and interval of the paired differences; the mean plays no part.
        power: Probability that the test at level ``alpha`` finds it, between ``alpha`` and 1.
        alpha: Level of the two-sided test, between 0 and 1.

    Returns:
        The difference, in the unit of the mean; None where there are fewer than two pairs.

    References:
        Cohen, "Statistical Power Analysis for the Behavioral Sciences", 2nd ed. 1988, ch. 2: the noncentral
        t.

    Example:
        >>> from decayfree.study.statistics import Estimate, t_quantile
        >>> of_error_1 = Estimate(0.0, t_quantile(4), 5)  # five pairs whose mean has a standard error of 1
        >>> round(detectable_difference(of_error_1), 2)  # t_quantile(4) is 2.78
        3.76
    """
    error = difference.standard_error
    if error is None:
        return None
    from scipy.optimize import brentq
    from scipy.special import chdtri, nctdtr

    freedom = difference.freedom
    critical = t_quantile(freedom, 1 - alpha)
    # What it would be if only the estimated error were by chance, and not the mean too.
    alone = critical * math.sqrt(float(chdtri(freedom, 1 - power)) / freedom)
    if alone > _FAR:
        return error * alone

    def lacking(shift: float) -> float:
        # The far tail, a difference seen with the wrong sign, is of no use to anyone and is left out.
        return power - (1 - float(nctdtr(freedom, shift, critical)))

    return error * float(brentq(lacking, 0.0, min(alone + 20.0, _FARTHEST)))
