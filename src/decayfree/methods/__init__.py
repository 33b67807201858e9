"""Ways to treat the norms of scale-invariant weights, one file each.

A method's fields are its settings; a new method is one file, which ``METHODS`` finds by itself.
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.methods.exact_replay import ExactReplay
    from decayfree.methods.hyperball import Hyperball
    from decayfree.methods.learning_rate_scaling import LearningRateScaling
    from decayfree.methods.method import AttachedMethod, BlockNormsByStep, Method, ParamGroups
    from decayfree.methods.none import NoTreatment
    from decayfree.methods.parametrizing import plain_name
    from decayfree.methods.projection import Projection
    from decayfree.methods.rotational_equilibrium import RotationalEquilibrium
    from decayfree.methods.table import METHODS
    from decayfree.methods.weight_decay import WeightDecay
    from decayfree.methods.weight_normalization import WeightNormalization
    from decayfree.methods.weight_standardization import WeightStandardization
    from decayfree.methods.wrs import WRS

__all__ = [
    "METHODS",
    "WRS",
    "AttachedMethod",
    "BlockNormsByStep",
    "ExactReplay",
    "Hyperball",
    "LearningRateScaling",
    "Method",
    "NoTreatment",
    "ParamGroups",
    "Projection",
    "RotationalEquilibrium",
    "WeightDecay",
    "WeightNormalization",
    "WeightStandardization",
    "plain_name",
]

__getattr__ = lazy_face(
    __name__,
    {
        "exact_replay": "ExactReplay",
        "hyperball": "Hyperball",
        "learning_rate_scaling": "LearningRateScaling",
        "method": "AttachedMethod BlockNormsByStep Method ParamGroups",
        "none": "NoTreatment",
        "parametrizing": "plain_name",
        "projection": "Projection",
        "rotational_equilibrium": "RotationalEquilibrium",
        "weight_decay": "WeightDecay",
        "weight_normalization": "WeightNormalization",
        "weight_standardization": "WeightStandardization",
        "wrs": "WRS",
        "table": "METHODS",
    },
)
