"""What speaks against holding these weights under this optimizer?

Says it in sentences with the cure, and raises them together. Changes nothing.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from decayfree.errors import DecayFreeError, InvalidInputError
from decayfree.following import unknown_moments
from decayfree.holding import Held
from decayfree.invariance import Invariance, ScaleInvariantWeight
from decayfree.unsupported import is_flat_parameter, unsupported_weights

Fault = tuple[type[DecayFreeError], str]


def raise_all(faults: Sequence[Fault]) -> None:
    """Raise one error with all faults; its class is that of the first."""
    if faults:
        raise faults[0][0]("; ".join(message for _, message in faults))


def weights_in(optimizer: Optimizer, found: Invariance) -> list[ScaleInvariantWeight]:
    """Those of the weights that an optimizer has.

    Raises:
        InvalidInputError: If the two are not what they should be.
        MismatchError: If ``found`` does not fit its model any more.
    """
    if not isinstance(optimizer, Optimizer):
        raise InvalidInputError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    if not isinstance(found, Invariance):
        raise InvalidInputError(f"found must come from decayfree.find_invariant, got {type(found).__name__}")
    found.check_fits(found.model)
    inside = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    parameters = dict(found.model.named_parameters())
    return [weight for weight in found if id(parameters[weight.name]) in inside]


def decay_faults(
    optimizer: Optimizer, weights: Sequence[ScaleInvariantWeight], parameters: Mapping[str, Tensor]
) -> list[str]:
    """Groups that decay a weight whose norm is held, with the cure."""
    held = {id(parameters[name]): name for weight in weights for name in (weight.name, weight.bias) if name}
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
    return faults


def nothing_in_common(optimizer: Optimizer, found: Invariance) -> str:
    """Why the optimizer holds none of the weights that were found."""
    if not len(found):
        return "no scale-invariant weight was found in the model, so there is nothing to hold; print(found) says why"
    n_parameters = sum(len(group["params"]) for group in optimizer.param_groups)
    return (
        f"none of the {len(found)} scale-invariant weights ({found[0].name}, …) is among the optimizer's {n_parameters} parameters: "
        "`found` was made for another model, or the model was copied or replaced after the optimizer was made; for a copy, "
        "use decayfree.Invariance.from_dict(found.to_dict(), copy)"
    )


def flat_parameters(optimizer: Optimizer) -> list[str]:
    """Parameters of the optimizer into which FSDP1 has flattened several weights."""
    parameters = {
        f"a parameter of group {index}": parameter
        for index, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
        if is_flat_parameter(parameter)
    }
    return unsupported_weights(parameters)


def moment_faults(optimizer: Optimizer, held: Sequence[Held], cure: str) -> list[str]:
    """What the optimizer remembers and cannot follow, with the cure."""
    unknown = unknown_moments(optimizer, held)
    return (
        [f"nobody knows how {', '.join(unknown)} reacts to scaling a weight, so it cannot follow: use {cure}"]
        if unknown
        else []
    )
