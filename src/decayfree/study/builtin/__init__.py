"""The built-in studies, one TOML file each, in a size for two cores and in the paper's for a GPU.

Runs none of them. Every file says in comments what the paper claims, so that results can be held against it.
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.study.builtin.specs import BUILTIN, SIZES, adjusted, builtin_spec, builtin_text

__all__ = [
    "BUILTIN",
    "SIZES",
    "builtin_text",
    "builtin_spec",
    "adjusted",
]

__getattr__ = lazy_face(
    __name__,
    {
        "specs": "BUILTIN SIZES builtin_text builtin_spec adjusted",
    },
)
