"""What speaks against holding these weights under this optimizer?

Says it in sentences with the cure, and raises them together. Changes nothing.
"""

from torch.optim import Optimizer

from decayfree.blocks import is_flat_parameter, unsupported_weights
from decayfree.errors import InvalidInputError
from decayfree.invariance.result import Invariance
from decayfree.invariance.verdict import ScaleInvariantWeight


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


def nothing_in_common(optimizer: Optimizer, found: Invariance) -> str:
    """Why the optimizer holds none of the weights that were found."""
    if not len(found):
        return (
            "no scale-invariant weight was found in the model, "
            "so there is nothing to hold; print(found) says why"
        )
    n_parameters = sum(len(group["params"]) for group in optimizer.param_groups)
    return (
        f"none of the {len(found)} scale-invariant weights ({found[0].name}, …) is among the optimizer's "
        f"{n_parameters} parameters: `found` was made for another model, or the model was copied or replaced "
        "after the optimizer was made; for a copy, use decayfree.Invariance.from_dict(found.to_dict(), copy)"
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
