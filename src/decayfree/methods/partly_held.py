"""What of a weight is a method's, where only some of its rows are scale-invariant?

Those rows; the others are the optimizer's, to the last bit. Knows no method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from decayfree.blocks import Part
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


def put_in_held_rows_(part: Part, values: Part) -> None:
    """Write the held rows of ``values`` into a weight and its bias.

    Example:
        >>> from decayfree.blocks import Blocks
        >>> blocks = Blocks(axis=0, block_sizes=(1,), starts=(1,))
        >>> weight = torch.tensor([[3.0], [4.0]])
        >>> put_in_held_rows_(Part(weight, None, blocks), Part(torch.zeros(2, 1), None, blocks))
        >>> weight.tolist()
        [[3.0], [0.0]]
    """
    outside = part.each(torch.ones_like if part.blocks.is_partial else torch.zeros_like)
    outside.scale_(torch.zeros(part.blocks.n_blocks, device=part.weight.device))
    for own, new, is_outside in zip(part.tensors, values.tensors, outside.tensors, strict=True):
        own.copy_(torch.where(is_outside == 0, new, own))
