"""Which parameter groups keep decay on the rest only?

Makes them for a new optimizer; touches no optimizer that exists.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from decayfree.errors import (
    InvalidInputError,
)
from decayfree.invariance.result import Invariance
from decayfree.invariance.twin import plain


def split_params(model: nn.Module, found: Invariance, *, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: scale-invariant weights without decay, the rest with it.

    Args:
        model: The model, or a copy of the one that was probed.
        found: Its scale-invariant weights.
        weight_decay: Of the rest, as the optimizer understands it.

    Returns:
        Two groups of trainable parameters, with ``"weight_decay"`` set; a group without any parameter is left
        out.

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
    held = {name for weight in found for name in weight.names}
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = [
        {"params": [parameter for name, parameter in trainable.items() if name in held], "weight_decay": 0.0},
        {
            "params": [parameter for name, parameter in trainable.items() if name not in held],
            "weight_decay": weight_decay,
        },
    ]
    return [group for group in groups if group["params"]]
