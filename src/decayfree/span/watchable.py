"""Whose inputs can be watched, and why not those of the rest?

Reads a model's structure: linear layers and convolutions that compute what their class says. Runs nothing.
"""

from collections.abc import Collection, Sequence

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import ParametrizationList

from decayfree.arguments.stored import is_flat_parameter
from decayfree.span.patches import RowLayout

_SUPPORTED = (
    nn.Linear,
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)

Watchable = dict[str, tuple[RowLayout, list[nn.Module]]]
"""For each weight, by its first name, where its rows are and the modules that use it."""


def watchable_weights(
    model: nn.Module, chosen: Collection[str] | None, max_features: int
) -> tuple[Watchable, dict[str, str]]:
    """The weights whose inputs can be watched, and the reason for each other one.

    Args:
        model: Any module.
        chosen: First names of parameters; None for all but vectors, which are no weights with rows.
        max_features: Weights with longer rows are left out.
    """
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append((module, leaf))
    watchable: Watchable = {}
    left_out: dict[str, str] = {}
    for name, parameter in model.named_parameters():
        if name not in chosen if chosen is not None else _is_vector(parameter):
            continue
        reason = _reason_to_leave_out(owners[id(parameter)], max_features)
        if reason:
            left_out[name] = reason
        else:
            modules = [module for module, _ in owners[id(parameter)]]
            watchable[name] = layout_of(modules[0]), modules
    return watchable, left_out


def first_names(model: nn.Module) -> dict[str, str]:
    """For every name of every parameter the first one that it has: a tied one has several."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    return {name: first[id(parameter)] for name, parameter in model.named_parameters(remove_duplicate=False)}


def layout_of(module: nn.Module) -> RowLayout:
    """Where the rows of a supported module's weight are."""
    shape = tuple(module.get_parameter("weight").shape)
    if not isinstance(module, _ConvNd):
        return RowLayout(shape)
    return RowLayout(shape, axis=1 if module.transposed else 0, groups=module.groups)


def _is_vector(parameter: Tensor) -> bool:
    return not (nn.parameter.is_lazy(parameter) or is_flat_parameter(parameter)) and parameter.ndim < 2


def _reason_to_leave_out(owners: Sequence[tuple[nn.Module, str]], max_features: int) -> str | None:
    shared = f"it is shared by {len(owners)} layers, and " if len(owners) > 1 else ""
    reasons = [reason for module, leaf in owners if (reason := _reason_against(module, leaf))]
    if reasons:
        return shared + reasons[0]
    layouts = {layout_of(module) for module, _ in owners}
    if len(layouts) > 1:
        return shared + "their rows do not see inputs of the same kind"
    layout = layouts.pop()
    if layout.n_features > max_features:
        megabytes = 8 * layout.groups * layout.n_features**2 / 1e6
        return (
            f"a row has {layout.n_features} features, more than max_features={max_features}: its second "
            f"moment would take {megabytes:,.3g} MB"
        )
    return None


def _reason_against(module: nn.Module, leaf: str) -> str | None:
    """Why the inputs of one parameter of a module are not known, or None where they are."""
    kind = type(module).__name__
    own = next((supported for supported in _SUPPORTED if isinstance(module, supported)), None)
    if isinstance(module, ParametrizationList):
        return "a parametrization computes the weight from it"
    if own is None:
        return f"{kind} is no linear layer and no convolution"
    if leaf == "bias":
        return "a bias has no input"
    if leaf != "weight":
        return f"{kind} computes its weight from it"
    methods = ("forward", "_conv_forward")
    if any(getattr(type(module), method, None) is not getattr(own, method, None) for method in methods):
        return f"{kind} has a forward of its own, which may treat inputs or weight in another way"
    parameter: Tensor = module.get_parameter("weight")
    if nn.parameter.is_lazy(parameter):
        return "it is lazy and has no shape yet: run the model once first"
    return None if parameter.is_floating_point() else "it does not hold real numbers"
