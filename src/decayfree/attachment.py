"""What speaks against holding these weights under this optimizer?

Says it in sentences with the cure, and raises them together. Changes nothing.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch.optim import Optimizer

from decayfree.arguments.stored import is_flat_parameter, unsupported_weights
from decayfree.errors import InvalidInputError, UnsupportedWeightError, faults_of, raise_all
from decayfree.invariance.result import Invariance
from decayfree.invariance.verdict import ScaleInvariantWeight

_Attached = TypeVar("_Attached", bound="Attached")


def attachable(optimizer: object, found: Invariance) -> tuple[Optimizer, Invariance]:
    """The optimizer that can be hooked, of one that may be wrapped, and the result, which fits its model.

    Raises:
        InvalidInputError: If the two are not what they should be.
        UnsupportedWeightError: If the optimizer has parameters that FSDP1 has flattened.
        MismatchError: If ``found`` does not fit its model any more.
    """
    faults = []
    try:
        inner = hooked(optimizer)
    except InvalidInputError as error:
        faults.append(str(error))
    raise_all(faults_of(InvalidInputError, faults + found_faults(found)))
    # Before names and shapes are compared, which FSDP1 has changed.
    raise_all(faults_of(UnsupportedWeightError, _flat_parameters(inner)))
    found.check_fits(found.model)
    return inner, found


def found_faults(found: object) -> list[str]:
    """Say of what is no result of a search that it must be one."""
    kind = type(found).__name__
    is_one = isinstance(found, Invariance)
    return [] if is_one else [f"found must come from decayfree.find_invariant, got {kind}"]


def hooked(optimizer: object) -> Optimizer:
    """The optimizer itself, or the one inside that can be hooked where a wrapper cannot.

    Raises:
        InvalidInputError: If it is no optimizer, or a wrapper that nobody can hook, with the cure.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> class Wrapped(Optimizer):
        ...     def __init__(self, optimizer):
        ...         self.optimizer = optimizer
        >>> inner = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
        >>> hooked(Wrapped(inner)) is inner
        True
    """
    inner: object = optimizer
    while not _can_be_hooked(inner) and hasattr(inner, "optimizer"):
        inner = inner.optimizer
    if _can_be_hooked(inner):
        return inner  # type: ignore[return-value]
    kind = type(optimizer).__name__
    if not (isinstance(optimizer, Optimizer) or hasattr(optimizer, "param_groups")):
        raise InvalidInputError(f"optimizer must be a torch.optim.Optimizer, got {kind}")
    raise InvalidInputError(
        f"{kind} has no step hooks of its own, since it never calls Optimizer.__init__: {_cure(optimizer)}"
    )


def uncompiled(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A bound method as a hook that torch.compile leaves alone where it compiles the step of an optimizer.

    Traced, it would be graphs and breaks of its own. Whose method it is can be asked as of the method.
    """
    left_alone: Any = torch.compiler.disable(hook)
    left_alone.__self__ = hook.__self__  # type: ignore[attr-defined]
    return left_alone  # type: ignore[no-any-return]


class Attached:
    """What an optimizer calls by hooks, until it is detached; a context manager, too."""

    optimizer: Optimizer

    @property
    def is_attached(self) -> bool:
        """Whether the optimizer still calls this object; copying or unpickling one drops its hooks."""
        return len(list(self._hooks())) == 2  # before and after a step

    def detach(self) -> None:
        """Stop, and leave no trace in the optimizer; weights stay as they are."""
        for hooks, key in list(self._hooks()):
            del hooks[key]

    def __enter__(self: _Attached) -> _Attached:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def _hooks(self) -> Iterator[tuple[dict[int, Any], int]]:
        """Where the optimizer holds hooks of this object."""
        for hooks in (self.optimizer._optimizer_step_pre_hooks, self.optimizer._optimizer_step_post_hooks):
            for key, hook in hooks.items():
                if getattr(hook, "__self__", None) is self:
                    yield hooks, key


def _cure(optimizer: object) -> str:
    within = {name: value for name, value in vars(optimizer).items() if _can_be_hooked(value)}
    inside = {name: _parameters(value) for name, value in within.items()}
    whole = [name for name, theirs in inside.items() if theirs >= _parameters(optimizer)]
    if whole:
        return f"pass the optimizer inside it, .{whole[0]}, whose steps can be followed"
    if within:  # torchao's CPUOffloadOptimizer
        return f"its .{next(iter(within))} moves a part of the weights only, so use one optimizer for all"
    return "call super().__init__(params, defaults) in it"


def _parameters(optimizer: Any) -> set[int]:
    return {id(one) for group in getattr(optimizer, "param_groups", []) for one in group["params"]}


def weights_in(optimizer: Optimizer, found: Invariance) -> list[ScaleInvariantWeight]:
    """Those of the weights that an optimizer has."""
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


def _flat_parameters(optimizer: Optimizer) -> list[str]:
    """Parameters of the optimizer into which FSDP1 has flattened several weights."""
    parameters = {
        f"a parameter of group {index}": parameter
        for index, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
        if is_flat_parameter(parameter)
    }
    return unsupported_weights(parameters)


def _can_be_hooked(optimizer: object) -> bool:
    """Handles of hooks are weak references, which a plain dict has none of."""
    hooks = (getattr(optimizer, f"_optimizer_step_{when}_hooks", None) for when in ("pre", "post"))
    return isinstance(optimizer, Optimizer) and all(isinstance(one, OrderedDict) for one in hooks)
