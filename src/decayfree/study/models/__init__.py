"""The networks of the studies, by name; one file for each family.

Does not decide how their weights are treated, nor on which device or in which memory format they lie. A
further network is one file, one entry in ``MODELS`` and its name in ``run_settings``.
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.study.models.networks import MODELS, build_model
    from decayfree.study.models.sizes import Builder, Sizes

__all__ = [
    "MODELS",
    "Builder",
    "Sizes",
    "build_model",
]

__getattr__ = lazy_face(
    __name__,
    {
        "sizes": "Builder Sizes",
        "networks": "MODELS build_model",
    },
)
