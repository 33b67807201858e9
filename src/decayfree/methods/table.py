"""Ways to treat the norms of scale-invariant weights, one file each; this file lists them.

A method's fields are its settings, so a new method is one file and one entry in ``METHODS``.
"""

from decayfree.methods.exact_replay import ExactReplay
from decayfree.methods.hyperball import Hyperball
from decayfree.methods.learning_rate_scaling import LearningRateScaling
from decayfree.methods.method import Method
from decayfree.methods.none import NoTreatment
from decayfree.methods.projection import Projection
from decayfree.methods.rotational_equilibrium import RotationalEquilibrium
from decayfree.methods.weight_decay import WeightDecay
from decayfree.methods.weight_normalization import WeightNormalization
from decayfree.methods.weight_standardization import WeightStandardization
from decayfree.methods.wrs import WRS

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        NoTreatment,
        WeightDecay,
        LearningRateScaling,
        ExactReplay,
        WRS,
        Projection,
        WeightStandardization,
        WeightNormalization,
        Hyperball,
        RotationalEquilibrium,
    )
}
