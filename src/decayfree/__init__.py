"""Train networks with normalization layers without weight decay.

Find the weights that have no scale, hold their norm under any optimizer, and see what that does.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

# In the order in which the README meets them.
# isort: off
if TYPE_CHECKING:
    from decayfree.invariance.discovery import find_invariant as find_invariant
    from decayfree.invariance.result import Invariance as Invariance
    from decayfree.invariance.verdict import ScaleInvariantWeight as ScaleInvariantWeight
    from decayfree.invariance.running_statistics import NormLayer as NormLayer
    from decayfree.invariance.verdict import Verdict as Verdict
    from decayfree.rescaling.weight_rescaling import WeightRescaling as WeightRescaling
    from decayfree.rescaling.turning import Turning as Turning
    from decayfree.rescaling.deviation import Deviation as Deviation
    from decayfree.rescaling.param_groups import split_params as split_params
    from decayfree.rescaling.param_groups import exempt_ as exempt_
    from decayfree.rescaling.rescale_once import rescale_ as rescale_
    from decayfree.rescaling.average import averaged as averaged
    from decayfree.dynamics.recorder import Recorder as Recorder
    from decayfree.dynamics.watched import watch as watch
    from decayfree.dynamics.watched import Watched as Watched
    from decayfree.conversion.converted_rescaling import drop_decay as drop_decay
    from decayfree.conversion.converted_rescaling import ConvertedRescaling as ConvertedRescaling
    from decayfree.conversion.converted_rescaling import fixed_norm_recipe as fixed_norm_recipe
    from decayfree.conversion.gradient_norms import GradientNorms as GradientNorms
    from decayfree.conversion.schedule import equal_angle_schedule as equal_angle_schedule
    from decayfree.errors import DecayFreeError as DecayFreeError
    from decayfree.errors import InvalidInputError as InvalidInputError
    from decayfree.errors import MismatchError as MismatchError
    from decayfree.errors import WeightDecayError as WeightDecayError
    from decayfree.errors import UnsupportedWeightError as UnsupportedWeightError
    from decayfree.errors import NonFiniteWeightError as NonFiniteWeightError
    from decayfree.errors import AlreadyAttachedError as AlreadyAttachedError
    from decayfree.errors import MissingExtraError as MissingExtraError

__getattr__ = lazy_face(
    __name__,
    submodules=(
        "blocks conversion dynamics equilibrium invariance methods plots report rescaling span study theory"
    ),
)

__version__ = "0.1.0"

# Who has loaded torch wants what needs it, and not within the first call; the command line's help has not.
if "torch" in sys.modules:
    import_module("decayfree.invariance.discovery")
