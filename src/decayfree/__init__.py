"""Train networks with normalization layers without weight decay.

Find the weights that have no scale, hold their norm under any optimizer, and see what that does.
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.conversion.converted_rescaling import ConvertedRescaling, drop_decay, fixed_norm_recipe
    from decayfree.conversion.gradient_norms import GradientNorms
    from decayfree.conversion.schedule import equal_angle_schedule
    from decayfree.dynamics.recorder import Recorder
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
    from decayfree.invariance.discovery import find_invariant
    from decayfree.invariance.result import Invariance
    from decayfree.invariance.running_statistics import NormLayer
    from decayfree.invariance.verdict import ScaleInvariantWeight, Verdict
    from decayfree.rescaling.deviation import Deviation
    from decayfree.rescaling.param_groups import split_params
    from decayfree.rescaling.rescale_once import rescale_
    from decayfree.rescaling.weight_rescaling import WeightRescaling

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

__getattr__ = lazy_face(
    __name__,
    {
        "invariance.discovery": "find_invariant",
        "invariance.result": "Invariance",
        "invariance.verdict": "ScaleInvariantWeight Verdict",
        "invariance.running_statistics": "NormLayer",
        "rescaling.weight_rescaling": "WeightRescaling",
        "rescaling.deviation": "Deviation",
        "rescaling.param_groups": "split_params",
        "rescaling.rescale_once": "rescale_",
        "dynamics.recorder": "Recorder",
        "conversion.converted_rescaling": "drop_decay ConvertedRescaling fixed_norm_recipe",
        "conversion.gradient_norms": "GradientNorms",
        "conversion.schedule": "equal_angle_schedule",
        "errors": (
            "AlreadyAttachedError DecayFreeError InvalidInputError MismatchError MissingExtraError "
            "NonFiniteWeightError UnsupportedWeightError WeightDecayError"
        ),
        **dict.fromkeys(
            (
                "blocks",
                "conversion",
                "dynamics",
                "equilibrium",
                "invariance",
                "methods",
                "report",
                "rescaling",
                "span",
                "study",
                "theory",
            ),
            "",
        ),
    },
)

__version__ = "0.1.0"
