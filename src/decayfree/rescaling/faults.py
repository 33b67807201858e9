"""What speaks against holding the norms of these weights under this optimizer?

Says it in sentences with the cure. Changes nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer

from decayfree.errors import (
    Fault,
    InvalidInputError,
    MismatchError,
    faults_of,
    raise_all,
    whole_number_faults,
)
from decayfree.invariance.result import Invariance
from decayfree.invariance.verdict import ScaleInvariantWeight
from decayfree.rescaling.following import unknown_moments
from decayfree.rescaling.held import Held
from decayfree.rescaling.other_rows import OTHER_ROWS

GONE = "found weights, or what follows them, have gone or were renamed; find the weights again: "


def setting_faults(every: object, momentum: object, fused: object) -> list[Fault]:
    """What is wrong with these settings of a WeightRescaling."""
    faults = whole_number_faults("every", every)
    if momentum not in ("keep", "scale"):
        faults.append(f'momentum must be "keep" or "scale", got {momentum!r}')
    if not isinstance(fused, bool):
        faults.append(f"fused must be True or False, got {fused!r}")
    return faults_of(InvalidInputError, faults)


@contextmanager
def names_as_found(found: Invariance) -> Iterator[None]:
    """Where weights or normalizations have gone or were renamed since, raise a MismatchError with them."""
    try:
        yield
    except (KeyError, AttributeError):
        raise_all(faults_of(MismatchError, found.misfits(found.model)), about=GONE)
        raise


def decay_faults(
    optimizer: Optimizer, weights: Sequence[ScaleInvariantWeight], parameters: Mapping[str, Tensor]
) -> list[str]:
    """Groups that decay a weight whose norm is held, with the cure."""
    held = {id(parameters[name]): name for weight in weights for name in weight.names if name in parameters}
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
