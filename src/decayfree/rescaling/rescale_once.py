"""How are weights put onto their radius once, so that nothing else notices?

Measures all of them first, changes nothing where one is not finite, and lets running statistics and moments
follow. weight_rescaling.py says when.
"""

import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from decayfree.arguments.stored import unsupported_weights
from decayfree.arguments.wrappers import model_faults, plain
from decayfree.attachment import found_faults, hooked, nothing_in_common
from decayfree.errors import (
    InvalidInputError,
    MismatchError,
    UnsupportedWeightError,
    faults_of,
    raise_all,
)
from decayfree.invariance.result import Invariance
from decayfree.invariance.verdict import ScaleInvariantWeight
from decayfree.rescaling.faults import moment_faults
from decayfree.rescaling.following import (
    follow_gradients_,
    follow_moments_,
    follow_statistics_,
    warn_of_eps,
    warn_of_unknown_shifts,
)
from decayfree.rescaling.held import held_of, radii_of, relations_of
from decayfree.rescaling.holder import ROUNDING_OF_WEIGHTS, Holder, by_name, holders_of, raise_not_finite
from decayfree.rescaling.radius import radius_faults
from decayfree.rescaling.sharded import Shifts


def rescale_(
    model: nn.Module,
    found: Invariance,
    *,
    radius: float | Mapping[str, float] = 1.0,
    optimizer: Optimizer | None = None,
) -> dict[str, Tensor]:
    """Put every scale-invariant block onto its radius once, without changing what the model computes.

    Outputs in train and in eval mode stay the same but for the normalizations' ε: running statistics follow,
    and so do gradients that are there and the moments of ``optimizer``. To continue the same run, multiply
    the learning rate by c² (SGD family) or c (Adam family), c being the factor.

    Args:
        model: The model that was probed, or a copy of it such as an average of its weights.
        found: Its scale-invariant weights; those by request are left alone.
        radius: As for :class:`WeightRescaling`, but for ``"init"``.
        optimizer: Whose moments follow.

    Returns:
        For each weight the factors of its blocks, (n_blocks,), no unit; 1 where a block was on its radius or
        has norm zero.

    Raises:
        MismatchError: If ``found`` does not fit ``model``, or ``optimizer`` has none of its weights.
        UnsupportedWeightError: If a weight is flattened (FSDP1), sparse, quantized or without data.
        NonFiniteWeightError: If a weight holds NaN or infinity.
        InvalidInputError: If ``radius`` is not positive. After an error nothing has changed.

    Example:
        >>> from decayfree import find_invariant
        >>> model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1))
        >>> found = find_invariant(model, torch.randn(16, 2))
        >>> _ = model[0].weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> rescale_(model, found, radius=10.0)
        {'0.weight': tensor([2.])}
    """
    raise_all(faults_of(InvalidInputError, model_faults(model) + found_faults(found)))
    weights = [weight for weight in found if not weight.by_request]
    faults = faults_of(InvalidInputError, radius_faults(radius, [weight.name for weight in found]))
    if any(
        isinstance(value, str) for value in (radius.values() if isinstance(radius, Mapping) else [radius])
    ):
        faults.append((InvalidInputError, 'radius="init" is what the weights have: give a number'))
    raise_all(faults)
    optimizer = None if optimizer is None else hooked(optimizer)
    model = plain(model)
    found.check_fits(model)
    parts = found.parts(model)
    parameters = {weight.name: parts[weight.name].weight for weight in weights}
    raise_all(faults_of(UnsupportedWeightError, unsupported_weights(parameters)))
    held = held_of(model, weights, radii_of(model, weights, radius))
    if optimizer is not None:
        inside = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if weights and not any(id(parameter) in inside for parameter in parameters.values()):
            raise MismatchError(nothing_in_common(optimizer, found))
        unknown = moment_faults(optimizer, held, "optimizer=None, or a new optimizer")
        raise_all(faults_of(InvalidInputError, unknown))
    shifts = Shifts(model, weights)
    holders = holders_of(held, shifts)
    put_on_radius_(model, weights, holders, shifts, optimizer, stacklevel=3)
    return {name: factors.clone() for holder in holders for name, factors in by_name(holder, of="factors")}


@torch.no_grad()
def put_on_radius_(
    model: nn.Module,
    weights: Sequence[ScaleInvariantWeight],
    holders: Sequence[Holder],
    shifts: Shifts,
    optimizer: Optimizer | None,
    *,
    unless: Mapping[str, Tensor] = MappingProxyType({}),
    stacklevel: int,
) -> None:
    """Measure all, and only if all are finite scale all, with statistics, gradients and moments.

    Blocks that have their norm of ``unless``, by name, up to the rounding of their weight, are left alone.
    """
    for holder in holders:
        holder.measure()
    raise_not_finite(holders, about="these weights hold NaN or infinity; nothing was rescaled: ")
    for holder in holders:
        holder.factors.copy_(holder.careful_factors())
        for one in holder.held if unless else []:
            at, rounding = holder.slices[one.name], ROUNDING_OF_WEIGHTS.get(one.weight.dtype, 1e-5)
            is_same = (holder.norms[at] - unless[one.name]).abs() <= rounding * unless[one.name]
            holder.factors[at] = torch.where(is_same, 1.0, holder.factors[at])
            # To the last bit, or a run that is resumed would not be the one that went on.
            holder.norms[at] = torch.where(is_same, unless[one.name], holder.norms[at])
    factors = {name: values for holder in holders for name, values in by_name(holder, of="factors")}
    relations = [
        (layer, values) for layer, values in relations_of(weights, factors) if bool((values != 1).any())
    ]
    warn_of_eps(model, weights, factors, stacklevel=stacklevel + 1)
    warn_of_unknown_shifts((layer for layer, _ in relations), stacklevel=stacklevel + 1)
    _warn_of_zeros(holders, stacklevel=stacklevel + 1)
    follow_statistics_(model, relations, shifts.now())
    for holder in holders:
        holder.scale_()
        applied = [(one, holder.factors[holder.slices[one.name]]) for one in holder.held]
        follow_gradients_(applied)
        if optimizer is not None:
            follow_moments_(optimizer, applied)


def _warn_of_zeros(holders: Sequence[Holder], *, stacklevel: int) -> None:
    counts = {
        name: (int((norms == 0).sum()), len(norms)) for holder in holders for name, norms in by_name(holder)
    }
    listed = [f"{name} ({n_zero} of {n_blocks})" for name, (n_zero, n_blocks) in counts.items() if n_zero]
    if listed:
        warnings.warn(
            "blocks of norm zero have no direction to keep and are left alone until they "
            f"move: {', '.join(listed)}",
            stacklevel=stacklevel + 1,
        )
