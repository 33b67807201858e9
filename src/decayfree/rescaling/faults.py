"""What speaks against holding the norms of these weights under this optimizer?

Says it in sentences with the cure. Changes nothing and raises nothing.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from decayfree.invariance.verdict import ScaleInvariantWeight
from decayfree.rescaling.following import unknown_moments
from decayfree.rescaling.held import Held
from decayfree.rescaling.other_rows import OTHER_ROWS


def decay_faults(
    optimizer: Optimizer, weights: Sequence[ScaleInvariantWeight], parameters: Mapping[str, Tensor]
) -> list[str]:
    """Groups that decay a weight whose norm is held, with the cure."""
    held = {id(parameters[name]): name for weight in weights for name in weight.names}
    faults = []
    for index, group in enumerate(optimizer.param_groups):
        names = [held[id(parameter)] for parameter in group["params"] if id(parameter) in held]
        settings = ("weight_decay", "lambd") if isinstance(optimizer, torch.optim.ASGD) else ("weight_decay",)
        decays = [f"{key}={float(group[key]):g}" for key in settings if float(group.get(key, 0.0)) != 0.0]
        if names and decays:
            listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            faults.append(
                f"parameter group {index} has {' and '.join(decays)} on weights whose norm is held ({listed})"
            )
    if faults:
        faults[-1] += (
            "; decay only pollutes their moments or is undone: set it to 0, or give the optimizer "
            "decayfree.split_params(model, found, weight_decay=...), which keeps it on the rest"
        )
        if any(weight.blocks.is_partial for weight in weights):
            faults[-1] += f", and on the rows that are not held as {OTHER_ROWS}"
    return faults


def moment_faults(optimizer: Optimizer, held: Sequence[Held], cure: str) -> list[str]:
    """What the optimizer remembers and cannot follow, with the cure."""
    unknown = unknown_moments(optimizer, held)
    return (
        [f"nobody knows how {', '.join(unknown)} reacts to scaling a weight, so it cannot follow: use {cure}"]
        if unknown
        else []
    )
