"""Where does a weight live? In the span of what its layer's inputs reach, and with a part off it."""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.span.cleaning import CleanedWeight as CleanedWeight
    from decayfree.span.cleaning import Cleaning as Cleaning
    from decayfree.span.cleaning import remove_off_span_ as remove_off_span_
    from decayfree.span.input_span import InputSpan as InputSpan
    from decayfree.span.input_span import Named as Named
    from decayfree.span.layer_span import LayerSpan as LayerSpan
    from decayfree.span.layer_span import principal_angles_rad as principal_angles_rad

__getattr__ = lazy_face(__name__)
