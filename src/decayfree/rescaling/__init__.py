"""When are scale-invariant weights put back onto their norms?

After every step of the optimizer that is there already. Finds no weights.
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.rescaling.deviation import Deviation as Deviation
    from decayfree.rescaling.param_groups import split_params as split_params
    from decayfree.rescaling.radius import Radius as Radius
    from decayfree.rescaling.rescale_once import rescale_ as rescale_
    from decayfree.rescaling.weight_rescaling import WeightRescaling as WeightRescaling
    from decayfree.rescaling.weight_rescaling import rescalings_on as rescalings_on

__getattr__ = lazy_face(__name__)
