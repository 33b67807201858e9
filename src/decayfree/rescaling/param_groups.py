"""Which parameter groups keep decay on the rest only?

Makes them for a new optimizer; touches no optimizer that exists.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from decayfree.errors import InvalidInputError
from decayfree.invariance.result import Invariance
from decayfree.invariance.twin import plain
from decayfree.rescaling.other_rows import OTHER_ROWS

# Why parameters that have no scale are not in a result, where nobody has asked for that.
_WITHOUT_SCALE = ("sign", "numbers", "no gradient")


def split_params(model: nn.Module, found: Invariance, *, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: what has no scale without decay, the rest with it.

    Without decay are the weights of ``found``, and those that a probe found to have no scale but that are
    none of its weights, since their rows are single numbers for instance; not what ``include`` or ``exclude``
    has left out. Vectors (gains and biases) are among them only where they are held.

    A weight that is held in some of its rows only is in a group of its own: an optimizer decays whole
    parameters, so it has no ``"weight_decay"`` there, and the decay of the other rows in
    ``"other_rows_weight_decay"``. :class:`decayfree.WeightRescaling` does it before each step, to the last
    bit but for rounding as the optimizer would do it to a parameter of those rows alone.

    Args:
        model: The model, or a copy of the one that was probed.
        found: Its scale-invariant weights.
        weight_decay: Of the rest, as the optimizer understands it.

    Returns:
        Groups of trainable parameters, with ``"weight_decay"`` set: without decay, with it, and those that
        are partly held; a group without any parameter is left out.

    Raises:
        InvalidInputError: If ``weight_decay`` is negative or not finite.
        MismatchError: If ``found`` does not fit ``model``.

    Example:
        >>> import torch
        >>> from decayfree import find_invariant
        >>> model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 2))
        >>> [(len(group["params"]), group["weight_decay"]) for group in split_params(
        ...     model, find_invariant(model, torch.randn(16, 4)), weight_decay=5e-4)]
        [(1, 0.0), (4, 0.0005)]
    """
    if not math.isfinite(weight_decay) or weight_decay < 0:
        raise InvalidInputError(f"weight_decay must be a number of at least 0, got {weight_decay!r}")
    model = plain(model)
    found.check_fits(model)
    without = {name for weight in found for name in weight.names}
    without |= {
        name
        for name, verdict in found.verdicts.items()
        if verdict.left_out in _WITHOUT_SCALE and len(verdict.shape) > 1
    }
    partly = {name for weight in found if weight.blocks.is_partial for name in weight.names}
    if weight_decay == 0:
        partly = set()
    groups: dict[str, dict[str, Any]] = {
        "without": {"params": [], "weight_decay": 0.0},
        "with": {"params": [], "weight_decay": weight_decay},
        "partly": {"params": [], "weight_decay": 0.0, OTHER_ROWS: weight_decay},
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = "partly" if name in partly else "without" if name in without else "with"
            groups[kind]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]
