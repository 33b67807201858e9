"""How are the rows of a weight decayed that are not held, where others are?

An optimizer decays whole parameters. So the group of such a weight has no decay, and a setting that says what
its other rows get, which is done here before every step. Holds nothing and makes no groups.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from decayfree.blocks import Part, scale_blocks_, scale_other_rows_
from decayfree.errors import InvalidInputError, faults_of, raise_all
from decayfree.optimizers import decay_form_in

OTHER_ROWS = "other_rows_weight_decay"
"""The setting of a parameter group: decay of the rows that are not held, as its optimizer understands it."""


@torch.no_grad()
def decay_other_rows_(optimizer: Optimizer, parts: Iterable[Part]) -> list[tuple[Tensor, Tensor]]:
    """Decay the other rows of partly held weights as the optimizer would in its next step.

    To be called before a step. Decoupled decay multiplies them by 1 − ηλ; coupled decay adds λw to their
    gradient, in a copy that the optimizer sees instead. What has no gradient is left alone, as by the
    optimizer.

    Args:
        optimizer: Groups with :data:`OTHER_ROWS` are looked at.
        parts: Weights that are held, with the biases that belong to them.

    Returns:
        Parameters and their own gradients, to be put back after the step.

    Raises:
        InvalidInputError: If nobody knows what the optimizer's decay does.
    """
    groups = {id(one): group for group in _groups(optimizer) for one in group["params"]}
    decayed = [
        (tensor, blocks, groups[id(tensor)])
        for one in parts
        if one.blocks.is_partial
        for tensor, blocks in zip(one.tensors, (one.blocks, one.blocks.of_bias), strict=False)
        if id(tensor) in groups
    ]
    raise_all(faults_of(InvalidInputError, other_rows_faults(optimizer)) if decayed else [])
    before: list[tuple[Tensor, Tensor]] = []
    for tensor, blocks, group in decayed:
        gradient = tensor.grad
        if gradient is None:
            continue
        decay = float(group[OTHER_ROWS])
        if decay_form_in(type(optimizer), group) == "decoupled":
            shrinkage = group["lr"] * decay
            skipped = getattr(optimizer, "found_inf", None)  # a fused optimizer under a GradScaler
            if skipped is not None:
                shrinkage = shrinkage * (skipped == 0)
            scale_other_rows_(tensor, 1 - shrinkage, blocks)
            continue
        before.append((tensor, gradient))
        rows = tensor.detach().clone()
        scale_blocks_(rows, torch.zeros(blocks.n_blocks, device=rows.device), blocks)
        alpha = -decay if group.get("maximize", False) else decay
        scale = getattr(optimizer, "grad_scale", None)
        tensor.grad = gradient.add(rows if scale is None else rows * scale, alpha=alpha)
    return before


def other_rows_faults(optimizer: Optimizer) -> list[str]:
    """What speaks against decaying other rows under this optimizer, with the cure."""
    kind = type(optimizer).__name__
    return [
        f"nobody knows what weight decay does under {kind}, so that rows that are not held cannot get "
        f"{OTHER_ROWS}={float(group[OTHER_ROWS]):g}: set it to 0, or make two parameters of the weight"
        for group in _groups(optimizer)
        if decay_form_in(type(optimizer), group) is None
    ][:1]


def _groups(optimizer: Optimizer) -> Iterator[Mapping[str, Any]]:
    """Those that decay other rows."""
    return (group for group in optimizer.param_groups if float(group.get(OTHER_ROWS, 0.0)) != 0.0)
