"""What of a weight is a method's, where only some of its rows are scale-invariant?

Says no where a method cannot treat these alone. Knows no method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from decayfree.errors import UnsupportedWeightError

if TYPE_CHECKING:
    from decayfree.invariance.result import Invariance


def refuse_partly_held(found: Invariance, *, by: str, lacks: str = "treats these alone") -> None:
    """Raise an `UnsupportedWeightError` where a weight is scale-invariant in some of its rows only.

    It says in words whose fault that is (``by``), and what is not done (``lacks``).
    """
    names = [weight.name for weight in found if weight.blocks.is_partial]
    if names:
        raise UnsupportedWeightError(
            f"only some rows of {', '.join(names)} are scale-invariant, and nothing in {by} {lacks}: leave "
            "it out (find_invariant(..., exclude=...)), or make two parameters of it"
        )
