"""Which parameter groups keep decay on the rest only?

Divides groups, those of an optimizer that exists too. Moves no weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from decayfree.arguments.wrappers import plain
from decayfree.attachment import attachable, found_faults
from decayfree.errors import InvalidInputError, MismatchError, faults_of, number_faults, raise_all
from decayfree.invariance.result import Invariance
from decayfree.optimizers import decays_in
from decayfree.rescaling.other_rows import OTHER_ROWS

# Why parameters that have no scale are not in a result, where nobody has asked for that.
_WITHOUT_SCALE = ("sign", "numbers", "no gradient")
# What a group says of each of its parameters, beside "params".
_BY_PARAMETER = frozenset({"params", "param_names"})

Group = dict[str, Any]
Kind = Literal["with", "without", "partly"]
"""Whether a parameter keeps its decay, in none of its rows or in some."""


def split_params(
    model: nn.Module | Iterable[Mapping[str, Any]], found: Invariance, *, weight_decay: float = 0.0
) -> list[Group]:
    """Parameter groups for an optimizer: what has no scale without decay, the rest with it.

    Without decay are the weights of ``found``, and those that a probe found to have no scale but that are
    none of its weights, since their rows are single numbers for instance; not what ``include`` or ``exclude``
    has left out. Vectors (gains and biases) are among them only where they are held.

    A weight that is held in some of its rows only is in a group of its own: an optimizer decays whole
    parameters, so it has no ``"weight_decay"`` there, and the decay of the other rows in
    ``"other_rows_weight_decay"``. :class:`decayfree.WeightRescaling` does it before each step, to the last
    bit but for rounding as the optimizer would do it to a parameter of those rows alone.

    Args:
        model: The model, or a copy of the one that was probed; or groups that exist, each a mapping with
            ``"params"``: their other settings, learning rates for instance, go with every part of them.
        found: Its scale-invariant weights; that of the groups' own model.
        weight_decay: Of the rest, as the optimizer understands it; for groups, of those that say nothing.

    Returns:
        Groups of parameters, with ``"weight_decay"`` set. Of a model its trainable ones: without decay, with
        it, and those that are partly held. Of groups the same for each of them. One without any parameter is
        left out.

    Raises:
        InvalidInputError: If ``weight_decay`` is no number of at least 0, or the first argument is neither a
            model nor groups.
        MismatchError: If ``found`` does not fit ``model``, or its weights are in none of the groups.

    Example:
        >>> import torch
        >>> from decayfree import find_invariant
        >>> model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 2))
        >>> found = find_invariant(model, torch.randn(16, 4))
        >>> [(len(group["params"]), group["weight_decay"]) for group in split_params(
        ...     model, found, weight_decay=5e-4)]
        [(1, 0.0), (4, 0.0005)]
        >>> backbone = {"params": model[:2].parameters(), "lr": 0.01}
        >>> [(len(group["params"]), group["lr"], group["weight_decay"]) for group in split_params(
        ...     [backbone], found, weight_decay=5e-4)]
        [(1, 0.01, 0.0), (2, 0.01, 0.0005)]
    """
    faults = number_faults("weight_decay", weight_decay, least=0) + found_faults(found)
    raise_all(faults_of(InvalidInputError, faults))
    if isinstance(model, nn.Module):
        model = plain(model)
        found.check_fits(model)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups: list[Group] = [{"params": trained, "weight_decay": weight_decay}]
    else:
        groups = [{"weight_decay": weight_decay, **group} for group in _groups(model)]
        model = found.model
        inside = {id(parameter) for group in groups for parameter in group["params"]}
        if len(found) and not any(id(part.weight) in inside for part in found.parts().values()):
            raise MismatchError(
                f"none of the {len(found)} scale-invariant weights ({found[0].name}, …) is in these groups: "
                "`found` was made for another model, or the model was copied after it"
            )
    kinds = _kinds(model, found)
    return [part for group in groups for part in _divided(group, kinds, ("weight_decay",)).values()]


def exempt_(optimizer: Optimizer, found: Invariance) -> list[str]:
    """Take what has no scale out of the weight decay of an optimizer that exists; all else stays as it is.

    In place. A group that decays scale-invariant weights beside others is divided: the others stay in it, and
    these go to a new group behind all others, with the same settings (learning rate, layer decay, betas) but
    without decay. A group of them alone only loses its decay. Which weights these are, and what becomes of
    those that are partly held, :func:`split_params` says. Moments stay with their parameters. A
    learning rate in a tensor stays that one tensor, as in groups that torch makes of one: give a group
    another to part them.

    Call it before a scheduler is made, which knows the groups by number, and before the state of an optimizer
    is loaded that was made ready in the same way.

    Args:
        optimizer: Any optimizer, or a wrapper around one.
        found: The scale-invariant weights of the model whose parameters it has.

    Returns:
        Names of the parameters that were decayed and are not any more, in the order of the groups.

    Raises:
        InvalidInputError: If a scheduler has taken the groups already, and one would have to be divided.
        MismatchError: If ``found`` does not fit its model. After an error nothing has changed.

    Example:
        >>> import torch
        >>> from decayfree import find_invariant
        >>> model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 2))
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.05)
        >>> exempt_(optimizer, find_invariant(model, torch.randn(16, 4)))
        ['0.weight']
        >>> [(len(group["params"]), group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
        [(4, 0.01, 0.05), (1, 0.01, 0.0)]
    """
    optimizer, found = attachable(optimizer, found)
    taken = divide_groups_(optimizer, _kinds(found.model, found))
    names = {id(parameter): name for name, parameter in found.model.named_parameters()}
    return [names[id(parameter)] for parameter in taken]


def divide_groups_(optimizer: Optimizer, kinds: Mapping[int, Kind]) -> list[Tensor]:
    """Move parameters out of the groups of an optimizer that decay them, as :func:`exempt_` says.

    Args:
        optimizer: Its groups are changed in place.
        kinds: By ``id`` of a parameter; those that are not in it keep their decay.

    Returns:
        The parameters that were decayed.

    Raises:
        InvalidInputError: If a scheduler has taken the groups already, and one would have to be divided.
    """
    decaying = [(group, tuple(decays_in(optimizer, group))) for group in optimizer.param_groups]
    divided = [(group, _divided(group, kinds, keys)) for group, keys in decaying if keys]
    divided = [(group, parts) for group, parts in divided if parts.keys() - {"with"}]
    if any(len(parts) > 1 and "initial_lr" in group for group, parts in divided):
        raise InvalidInputError(
            "a learning-rate scheduler has taken the groups already (they have an initial_lr) and would not "
            "know a new one: take weights out of decay before the scheduler is made"
        )
    taken: list[Tensor] = []
    for group, parts in divided:
        stays = next(kind for kind in ("with", "partly", "without") if kind in parts)
        group.update(parts[stays])
        for kind, part in parts.items():
            if kind != stays:
                optimizer.add_param_group(part)
            taken += part["params"] if kind != "with" else []
    return taken


def _groups(groups: object) -> list[Group]:
    """Copies of groups with lists of parameters, which may have been generators."""
    listed = list(groups) if isinstance(groups, Iterable) and not isinstance(groups, (str, Tensor)) else None
    if listed is None or not all(isinstance(group, Mapping) and "params" in group for group in listed):
        raise InvalidInputError(
            "split_params wants the model, or parameter groups (mappings with 'params'), got "
            f"{type(groups).__name__}"
        )
    return [
        {**group, "params": [group["params"]] if isinstance(group["params"], Tensor) else [*group["params"]]}
        for group in listed
    ]


def _kinds(model: nn.Module, found: Invariance) -> dict[int, Kind]:
    """By ``id`` of the parameters that have no scale whether that is so of all their rows."""
    parameters = dict(model.named_parameters())
    without = [
        name
        for name, verdict in found.verdicts.items()
        if verdict.left_out in _WITHOUT_SCALE and len(verdict.shape) > 1
    ]
    kinds: dict[int, Kind] = {id(parameters[name]): "without" for name in without if name in parameters}
    for weight in found:
        for name in weight.names:
            kinds[id(parameters[name])] = "partly" if weight.blocks.is_partial else "without"
    return kinds


def _divided(group: Mapping[str, Any], kinds: Mapping[int, Kind], decays: Sequence[str]) -> dict[Kind, Group]:
    """A group as up to three, without the empty ones; ``decays`` are the settings that are taken off."""
    decay = group.get("weight_decay", 0.0)
    off = dict.fromkeys(decays, 0.0)
    settings: dict[Kind, Group] = {"without": off, "with": {}, "partly": {**off, OTHER_ROWS: decay}}
    of_each = [kinds.get(id(one), "with") for one in group["params"]]
    if not decay:  # nothing to keep on other rows
        of_each = ["without" if kind == "partly" else kind for kind in of_each]
    parts: dict[Kind, Group] = {}
    for kind, changed in settings.items():
        if kind in of_each:
            # A learning rate in a tensor stays the one that its owner fills, as in groups that torch makes.
            parts[kind] = {**group, **changed}
            for key in _BY_PARAMETER & group.keys():
                values = zip(group[key], of_each, strict=True)
                parts[kind][key] = [value for value, its in values if its == kind]
    return parts
