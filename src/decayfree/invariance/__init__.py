"""Which weights of a model have no scale?

Finds them by the Euler probe, proves it, and says why the others are not among them. Changes no model.
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.invariance.discovery import find_invariant as find_invariant
    from decayfree.invariance.result import Invariance as Invariance
    from decayfree.invariance.running_statistics import NormLayer as NormLayer
    from decayfree.invariance.verdict import ScaleInvariantWeight as ScaleInvariantWeight
    from decayfree.invariance.verdict import Verdict as Verdict
    from decayfree.invariance.verdict import VerdictName as VerdictName

__getattr__ = lazy_face(__name__)
