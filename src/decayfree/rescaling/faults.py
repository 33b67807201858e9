"""What speaks against holding the norms of these weights under this optimizer?

Says it in sentences with the cure. Changes nothing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from decayfree.arguments.stored import unsupported_weights
from decayfree.blocks import Part
from decayfree.errors import (
    AlreadyAttachedError,
    Fault,
    InvalidInputError,
    MismatchError,
    UnsupportedWeightError,
    WeightDecayError,
    faults_of,
    listed,
    raise_all,
    whole_number_faults,
)
from decayfree.invariance.result import Invariance
from decayfree.invariance.verdict import ScaleInvariantWeight
from decayfree.optimizers import decays_in
from decayfree.rescaling.following import unknown_moments, unscalable_moments
from decayfree.rescaling.other_rows import other_rows_faults

GONE = "found weights, or what follows them, have gone or were renamed; find the weights again: "
# What a state holds of every weight: one number for each block.
_TABLES = ("radii", "norms")


def setting_faults(every: object, momentum: object, fused: object, at_most: object) -> list[Fault]:
    """What is wrong with these settings of a WeightRescaling."""
    faults = whole_number_faults("every", every)
    if momentum not in ("keep", "scale"):
        faults.append(f'momentum must be "keep" or "scale", got {momentum!r}')
    for name, value in (("fused", fused), ("at_most", at_most)):
        faults += [] if isinstance(value, bool) else [f"{name} must be True or False, got {value!r}"]
    return faults_of(InvalidInputError, faults)


def state_faults(state: object, mine: Mapping[str, Any]) -> list[Fault]:
    """Why the state of a WeightRescaling cannot be loaded into one whose own is ``mine``.

    A radius of 0 is that of a block without a norm; a weight that has another has some such block at most.
    """
    if not isinstance(state, Mapping) or mine.keys() - state.keys():
        missing = sorted(mine.keys() - state.keys()) if isinstance(state, Mapping) else list(mine)
        listed = ", ".join(missing)
        return faults_of(MismatchError, [f"this is no state of a WeightRescaling: it has no {listed}"])
    tables: dict[str, Mapping[str, Any]] = {
        key: state[key] if isinstance(state[key], Mapping) else {key: None} for key in _TABLES
    }
    shapes = {name: values.shape for name, values in mine["radii"].items()}
    radii, norms = (
        {name: getattr(values, "shape", None) for name, values in table.items()} for table in tables.values()
    )
    differing = {name for name in shapes.keys() | radii.keys() if radii.get(name) != shapes.get(name)}
    differing |= {name for name, shape in norms.items() if shape is None or shape != shapes.get(name)}
    if differing:
        listed = ", ".join(sorted(map(str, differing)))
        return faults_of(
            MismatchError, [f"the state holds other weights or blocks than are held here: {listed}"]
        )
    if _shapes_of(state["biases"]) != _shapes_of(mine["biases"]):
        return faults_of(MismatchError, ["the state is of other biases before normalizations than are here"])
    wrong = [
        f"{key} of {name} must be finite and positive"
        for key, table in tables.items()
        for name, values in table.items()
        if not bool((torch.isfinite(values) & (values >= 0)).all())
        or not bool(values.any() or not mine["radii"][name].any())
    ]
    before = state["optimizer_steps_before"]
    wrong += whole_number_faults("n_steps", state["n_steps"], least=0)
    wrong += [] if before is None else whole_number_faults("optimizer_steps_before", before, least=0)
    return faults_of(InvalidInputError, wrong)


def _shapes_of(biases: object) -> dict[str, object] | None:
    """By name, of the averages in a state; None where it has other entries."""
    try:
        return {name: (one["average"].shape, one["n_passes"] is None) for name, one in biases.items()}  # type: ignore[attr-defined]
    except (AttributeError, KeyError, TypeError):
        return None


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
    """Groups that decay a weight whose norm is held, in one message with the cure; at most 400 letters."""
    held = {id(parameters[name]): name for weight in weights for name in weight.names if name in parameters}
    decayed = [
        (index, names, decays_in(optimizer, group))
        for index, group in enumerate(optimizer.param_groups)
        if (names := [held[id(parameter)] for parameter in group["params"] if id(parameter) in held])
    ]
    decayed = [one for one in decayed if one[2]]
    if not decayed:
        return []
    n_shown = 3 - min(len(decayed), 2)
    said = []
    for index, names, decays in decayed[:2]:
        settings = " and ".join(f"{key}={value:g}" for key, value in decays.items())
        said.append(f"group {index} has {settings} on {listed([_short(name) for name in names], n_shown)}")
    return [
        "decayfree.exempt_(optimizer, found) comes first: weights whose norm is held must not be decayed, "
        f"which only pollutes their moments or is undone: {', '.join(said)}"
        f"{', …' if len(decayed) > 2 else ''}. "
        "For a new optimizer: decayfree.split_params(model, found, weight_decay=...)"
    ]


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"…{name[-39:]}"


def attachment_faults(
    optimizer: Optimizer,
    weights: Sequence[ScaleInvariantWeight],
    parameters: Mapping[str, Tensor],
    others: Iterable["_Holding"],
) -> list[Fault]:
    """What speaks against holding these weights beside what holds others of the optimizer."""
    held = {weight.name: parameters[weight.name] for weight in weights}
    return [
        *faults_of(UnsupportedWeightError, unsupported_weights(held)),
        *faults_of(AlreadyAttachedError, already_attached(others, held)),
        *faults_of(WeightDecayError, decay_faults(optimizer, weights, parameters)),
        *faults_of(InvalidInputError, other_rows_faults(optimizer)),
    ]


def schedule_faults(schedule: object) -> list[Fault]:
    """What is wrong with how angles follow the learning rate."""
    is_one = schedule in ("plain", "follow")
    said = [] if is_one else [f'schedule must be "plain" or "follow", got {schedule!r}']
    return faults_of(InvalidInputError, said)


class _Holding(Protocol):
    def held_weights(self) -> list[Tensor]: ...


def already_attached(others: Iterable[_Holding], weights: Mapping[str, Tensor]) -> Iterator[str]:
    """Say of weights, by name, that somebody holds them already."""
    for other in others:
        theirs = {id(weight) for weight in other.held_weights()}
        shared = [name for name, weight in weights.items() if id(weight) in theirs]
        if shared:
            yield (
                f"{len(shared)} weights ({shared[0]}, …) are held already by another "
                f"{type(other).__name__} here: detach() it first"
            )


def moment_faults(optimizer: Optimizer, parts: Sequence[Part], cure: str) -> list[str]:
    """What the optimizer remembers and cannot follow, with the cure."""
    unknown = unknown_moments(optimizer, parts)
    return unscalable_faults(optimizer, parts, cure) or (
        [f"nobody knows how {', '.join(unknown)} reacts to scaling a weight, so it cannot follow: use {cure}"]
        if unknown
        else []
    )


def held_moment_faults(
    optimizer: Optimizer, parts: Sequence[Part], momentum: str, *, moves: bool
) -> list[str]:
    """The same of who holds norms: state is scaled in every step, or once at attachment if that moves."""
    if momentum == "scale":
        packed = unscalable_faults(optimizer, parts, 'momentum="keep" with radius="init"')
        return packed or moment_faults(optimizer, parts, 'momentum="keep"')
    return unscalable_faults(optimizer, parts, 'radius="init", or a new optimizer') if moves else []


def unscalable_faults(optimizer: Optimizer, parts: Sequence[Part], cure: str) -> list[str]:
    """What the optimizer remembers in a form that cannot be multiplied, with the cure."""
    stored = unscalable_moments(optimizer, parts)
    return [f"{listed(stored)} cannot be scaled along with the weights: use {cure}"] if stored else []
