"""How many samples of a batch does a search need?

What a scale does can be seen on a few; more are worth their time where the few did not reach something. Knows
batches, runs nothing.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from decayfree.invariance.finding import Finding

_ENOUGH = 8
# A kernel or two that no sample activates are dead, and more samples would not wake them.
_FEW_ROWS = 0.05


def few_of(inputs: Any) -> Any:
    """The first eight samples of a batch of at least twice as many, else None.

    A batch is what holds tensors of one length along dimension 0, and else only numbers and strings.

    Example:
        >>> few_of(torch.zeros(64, 3, 8, 8)).shape
        torch.Size([8, 3, 8, 8])
        >>> few_of({"ids": torch.zeros(64, 10), "mask": torch.zeros(32, 10)}), few_of(torch.zeros(15, 3))
        (None, None)
    """
    leaves = tree_leaves(inputs)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    lengths = {len(tensor) if tensor.ndim and tensor.layout == torch.strided else 0 for tensor in tensors}
    if len(lengths) != 1 or min(lengths) < 2 * _ENOUGH:
        return None
    if not all(leaf is None or isinstance(leaf, (Tensor, bool, int, float, str)) for leaf in leaves):
        return None
    return tree_map(lambda leaf: leaf[:_ENOUGH] if isinstance(leaf, Tensor) else leaf, inputs)


def may_need_more(finding: Finding) -> bool:
    """Whether other samples may say something of a parameter that these did not."""
    if not finding.is_real:
        return False
    is_unreached = not finding.has_path or finding.is_exactly_silent or finding.is_mostly_silent
    found = finding.partition
    has_many_silent = found is not None and found.n_silent_rows > _FEW_ROWS * found.blocks.n_rows
    return is_unreached or has_many_silent or finding.says in ("moves elsewhere", "choice", "two values")
