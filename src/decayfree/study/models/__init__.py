"""The networks of the studies, by name; one file for each family.

Does not decide how their weights are treated, nor on which device or in which memory format they lie. A
further network is one file and one entry in ``MODELS``.
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.study.models.networks import MODELS, build_model, model_faults
    from decayfree.study.models.sizes import Builder, Sizes

__all__ = [
    "MODELS",
    "Builder",
    "Sizes",
    "build_model",
    "model_faults",
]

__getattr__ = lazy_face(
    __name__,
    {
        "sizes": "Builder Sizes",
        "networks": "MODELS build_model model_faults",
    },
)
