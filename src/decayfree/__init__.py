"""Train networks with normalization layers without weight decay.

Find the weights that have no scale, hold their norm under any optimizer, and see what that does.
"""

from decayfree.conversion import ConvertedRescaling, drop_decay, fixed_norm_recipe
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
from decayfree.gradient_norms import GradientNorms
from decayfree.invariance import Invariance, ScaleInvariantWeight, Verdict, find_invariant
from decayfree.once import rescale_
from decayfree.recorder import Recorder
from decayfree.rescaling import WeightRescaling, split_params
from decayfree.running import NormLayer
from decayfree.schedule import equal_angle_schedule

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
    "Recorder",
    "drop_decay",
    "ConvertedRescaling",
    "fixed_norm_recipe",
    "GradientNorms",
    "equal_angle_schedule",
    "DecayFreeError",
    "InvalidInputError",
    "MismatchError",
    "WeightDecayError",
    "UnsupportedWeightError",
    "NonFiniteWeightError",
    "AlreadyAttachedError",
    "MissingExtraError",
]
