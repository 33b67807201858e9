"""When are scale-invariant weights put back onto their norms?

After every step of the optimizer that is there already. Finds no weights.
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.rescaling.deviation import Deviation
    from decayfree.rescaling.param_groups import split_params
    from decayfree.rescaling.radius import Radius
    from decayfree.rescaling.rescale_once import rescale_
    from decayfree.rescaling.weight_rescaling import WeightRescaling, rescalings_on

__all__ = [
    "Deviation",
    "Radius",
    "WeightRescaling",
    "rescale_",
    "rescalings_on",
    "split_params",
]

__getattr__ = lazy_face(
    __name__,
    {
        "weight_rescaling": "WeightRescaling rescalings_on",
        "deviation": "Deviation",
        "param_groups": "split_params",
        "rescale_once": "rescale_",
        "radius": "Radius",
    },
)
