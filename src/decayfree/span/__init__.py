"""Where does a weight live? In the span of what its layer's inputs reach, and with a part off it."""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.span.cleaning import CleanedWeight, Cleaning, remove_off_span_
    from decayfree.span.input_span import InputSpan, Named
    from decayfree.span.layer_span import LayerSpan, principal_angles_rad

__all__ = [
    "CleanedWeight",
    "Cleaning",
    "InputSpan",
    "LayerSpan",
    "Named",
    "principal_angles_rad",
    "remove_off_span_",
]

__getattr__ = lazy_face(
    __name__,
    {
        "input_span": "InputSpan Named",
        "layer_span": "LayerSpan principal_angles_rad",
        "cleaning": "CleanedWeight Cleaning remove_off_span_",
    },
)
