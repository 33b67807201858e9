"""Which weights of a model have no scale?

Finds them by the Euler probe, proves it, and says why the others are not among them. Changes no model.
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.invariance.discovery import find_invariant
    from decayfree.invariance.result import Invariance
    from decayfree.invariance.running_statistics import NormLayer
    from decayfree.invariance.verdict import ScaleInvariantWeight, Verdict, VerdictName

__all__ = [
    "Invariance",
    "NormLayer",
    "ScaleInvariantWeight",
    "Verdict",
    "VerdictName",
    "find_invariant",
]

__getattr__ = lazy_face(
    __name__,
    {
        "discovery": "find_invariant",
        "result": "Invariance",
        "verdict": "ScaleInvariantWeight Verdict VerdictName",
        "running_statistics": "NormLayer",
    },
)
