"""The networks of the studies, by name; one file for each family."""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.study.models.networks import MODELS as MODELS
    from decayfree.study.models.networks import build_model as build_model
    from decayfree.study.models.sizes import Builder as Builder
    from decayfree.study.models.sizes import Sizes as Sizes

__getattr__ = lazy_face(__name__)
