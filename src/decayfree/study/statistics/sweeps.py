"""Which setting of a sweep is chosen, by validation results alone, and how much the choice matters.

It never sees test results when it chooses.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Generic, TypeVar

from decayfree.arguments.kinds import checked

Setting = TypeVar("Setting", bound=Hashable)


@dataclass(frozen=True)
class Choice(Generic[Setting]):
    """The setting with the highest mean validation result, and those that could not be chosen."""

    chosen: Setting | None
    """None where no setting has validation results."""
    left_out: tuple[Setting, ...]
    """Settings that lack a seed which another one has: a run of theirs diverged, failed or is not done."""


@dataclass(frozen=True)
class Spread:
    """The worst, the median and the best of a sweep."""

    worst: float
    median: float
    best: float
    n: int
    """How many settings."""


@checked()
def best_of_sweep(validation: Mapping[Setting, Mapping[int, float]]) -> Choice[Setting]:
    """Choose by the mean over seeds; of equal means the first one.

    A mean over fewer seeds may be higher only because the run that diverged is not in it, so that settings
    which lack a seed of the sweep are left out, unless all do.

    Args:
        validation: For every setting the validation result by seed, higher is better; what is not finite
            counts as lacking.

    Example:
        >>> best_of_sweep({0.1: {0: 0.80, 1: 0.90}, 0.3: {0: 0.89, 1: 0.83}, 1.0: {0: 0.99}})
        Choice(chosen=0.3, left_out=(1.0,))
    """
    known = {
        setting: {seed: value for seed, value in seeds.items() if math.isfinite(value)}
        for setting, seeds in validation.items()
    }
    most = max(map(len, known.values()), default=0)
    if most == 0:
        return Choice(None, ())
    every = set().union(*known.values())
    complete = {setting: seeds for setting, seeds in known.items() if seeds.keys() == every}
    if not complete:  # no setting has them all: those that lack the fewest
        complete = {setting: seeds for setting, seeds in known.items() if len(seeds) == most}
    means = {setting: math.fsum(seeds.values()) / len(seeds) for setting, seeds in complete.items()}
    chosen = max(means, key=lambda setting: means[setting])
    return Choice(chosen, tuple(setting for setting in known if setting not in complete))


@checked()
def spread_of(values: Sequence[float]) -> Spread | None:
    """Worst, median and best of the finite results, one a setting, or None where there is none."""
    known = [value for value in values if math.isfinite(value)]
    return Spread(min(known), median(known), max(known), len(known)) if known else None
