"""How is one run trained, from its settings to its last row?"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.study.training.loop import train as train

__getattr__ = lazy_face(__name__)
