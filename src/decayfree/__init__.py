"""Train networks with normalization layers without weight decay.

Find the weights that have no scale, hold their norm under any optimizer, and see what that does.
"""

from decayfree.deviation import Deviation
from decayfree.errors import (
    AlreadyAttachedError,
    DecayFreeError,
    InvalidInputError,
    MismatchError,
    MissingExtraError,
    NonFiniteWeightError,
    UnsupportedWeightError,
    WeightDecayError,
)
from decayfree.invariance import Invariance, ScaleInvariantWeight, Verdict, find_invariant
from decayfree.once import rescale_
from decayfree.rescaling import WeightRescaling, split_params
from decayfree.running import NormLayer

__version__ = "0.1.0"

__all__ = [
    "find_invariant",
    "Invariance",
    "ScaleInvariantWeight",
    "NormLayer",
    "Verdict",
    "WeightRescaling",
    "Deviation",
    "split_params",
    "rescale_",
    "DecayFreeError",
    "InvalidInputError",
    "MismatchError",
    "WeightDecayError",
    "UnsupportedWeightError",
    "NonFiniteWeightError",
    "AlreadyAttachedError",
    "MissingExtraError",
]
