"""The built-in studies, one TOML file each."""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.study.builtin.specs import BUILTIN as BUILTIN
    from decayfree.study.builtin.specs import SIZES as SIZES
    from decayfree.study.builtin.specs import adjusted as adjusted
    from decayfree.study.builtin.specs import builtin_spec as builtin_spec
    from decayfree.study.builtin.specs import builtin_text as builtin_text

__getattr__ = lazy_face(__name__)
