"""What of a weight is held, where only some of its rows are scale-invariant?

Those rows; the others are the optimizer's, to the last bit.
"""

import torch

from decayfree.blocks import Part


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
    if not part.blocks.is_partial:
        for own, new in zip(part.tensors, values.tensors, strict=True):
            own.copy_(new)
        return
    outside = part.each(torch.ones_like)
    outside.scale_(torch.zeros(part.blocks.n_blocks, device=part.weight.device))
    for own, new, is_outside in zip(part.tensors, values.tensors, outside.tensors, strict=True):
        own.copy_(torch.where(is_outside == 0, new, own))
