"""Ways to treat the norms of scale-invariant weights, one file each.

A method's fields are its settings; a new method is one file, which ``METHODS`` finds by itself.
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.methods.exact_replay import ExactReplay as ExactReplay
    from decayfree.methods.hyperball import Hyperball as Hyperball
    from decayfree.methods.learning_rate_scaling import LearningRateScaling as LearningRateScaling
    from decayfree.methods.method import AttachedMethod as AttachedMethod
    from decayfree.methods.method import BlockNormsByStep as BlockNormsByStep
    from decayfree.methods.method import Method as Method
    from decayfree.methods.method import ParamGroups as ParamGroups
    from decayfree.methods.method import RunLength as RunLength
    from decayfree.methods.none import NoTreatment as NoTreatment
    from decayfree.methods.parametrizing import plain_name as plain_name
    from decayfree.methods.projection import Projection as Projection
    from decayfree.methods.rotational_equilibrium import RotationalEquilibrium as RotationalEquilibrium
    from decayfree.methods.table import METHODS as METHODS
    from decayfree.methods.turning import TurningMethod as TurningMethod
    from decayfree.methods.weight_decay import WeightDecay as WeightDecay
    from decayfree.methods.weight_normalization import WeightNormalization as WeightNormalization
    from decayfree.methods.weight_standardization import WeightStandardization as WeightStandardization
    from decayfree.methods.wrs import WRS as WRS

__getattr__ = lazy_face(__name__)
