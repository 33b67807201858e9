"""Can the norms that one run recorded be replayed by another?

Checks what methods that replay a weight-decay run have in common. Is no method itself.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from decayfree.errors import InvalidInputError, MismatchError
from decayfree.methods.method import BlockNormsByStep

if TYPE_CHECKING:
    from decayfree.invariance.result import Invariance


def fitting(replayed: BlockNormsByStep | None, found: Invariance, *, by: str) -> BlockNormsByStep:
    """The norms, if they are there and fit the blocks of ``found``; ``by`` says in words who wants them.

    Raises:
        InvalidInputError: If they are missing.
        MismatchError: If they do not fit; lists every weight.
    """
    if replayed is None:
        raise InvalidInputError(f"{by} needs the block norms of a weight-decay run: pass them as replayed=…")
    faults = _misfits(found, replayed)
    if faults:
        raise MismatchError(
            f"the block norms to replay do not fit {len(faults)} of {len(found)} weights:\n  "
            + "\n  ".join(faults)
        )
    return replayed


def check_not_over(replayed: BlockNormsByStep, n_steps: int) -> None:
    """Raise a `MismatchError` where ``n_steps`` are done and the replayed run has no further one."""
    n_replayed = min((len(norms) for norms in replayed.values()), default=math.inf)
    if n_steps >= n_replayed:
        raise MismatchError(
            f"the replayed run has {n_replayed} steps, and this would be step {n_steps + 1}: "
            "train the weight-decay run for at least as many steps"
        )


def _misfits(found: Invariance, replayed: BlockNormsByStep) -> list[str]:
    faults = []
    for weight in found:
        norms = replayed.get(weight.name)
        if norms is None:
            faults.append(f"{weight.name}: no norms are given for it")
        elif norms.ndim != 2 or norms.shape[1] != weight.blocks.n_blocks:
            faults.append(
                f"{weight.name}: expected shape (n_steps, {weight.blocks.n_blocks}), got {tuple(norms.shape)}"
            )
        elif not bool((torch.isfinite(norms) & (norms > 0)).all()):
            faults.append(f"{weight.name}: norms must be finite and above 0")
    return faults
