"""How does a tuned recipe with weight decay go on without it?

Reads an optimizer's settings, takes the decay off the weights without scale, and holds each at the norm that
decay would have held it at. fixed_norm.py works out which norm that is, and weight_rescaling.py holds it.
"""

import glob
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from decayfree.arguments.kinds import ABOVE_0, checked
from decayfree.attachment import attachable, nothing_in_common
from decayfree.conversion.decay_rule import DecayRule, rule_of_group, unknown_balance
from decayfree.conversion.fixed_norm import FixedNormRecipe
from decayfree.conversion.schedule import Multiplier, equal_angle_schedule
from decayfree.errors import InvalidInputError, MismatchError, listed, raise_all
from decayfree.invariance.result import Invariance
from decayfree.optimizers import row_of
from decayfree.rescaling.param_groups import Kind, divide_groups_
from decayfree.rescaling.weight_rescaling import WeightRescaling

_OTHER_RULES = ("amsgrad", "caution", "corrected_weight_decay")


def drop_decay(
    optimizer: Optimizer, found: Invariance, *, gradient_norms: Mapping[str, Tensor] | None = None
) -> "ConvertedRescaling":
    """Take weight decay off the scale-invariant weights and hold their norms.

    Each block is held at a norm at which it turns as it would under decay.

    It is the norm that decay would settle at, for the learning rates that stay as they are. The decay of all
    other parameters and the optimizer's state stay too, and that of rows that are not held, of a weight of
    which others are. Groups that hold both kinds are split: the weights that are held move to new groups at
    the end. ``print(fixed_norm_recipe(optimizer, found))`` shows the
    numbers beforehand, with their derivation and limits.

    Call it before the learning-rate scheduler is made, and make that ``LambdaLR(optimizer,
    wrs.schedules(multiplier))``. To resume a run, call it as at the start, then load the states of the
    optimizer and of what is returned, which holds the radii.

    Args:
        optimizer: SGD, Adam, AdamW, or SGDW or Lion from elsewhere, with the tuned learning rate and weight
            decay. Its groups are changed.
        found: From :func:`decayfree.find_invariant` for the model whose parameters the optimizer has.
        gradient_norms: For SGD and for Adam with L2 regularization: :class:`decayfree.GradientNorms` of a few
            hundred steps of the same training, or what was saved of it, name of a weight -> (n_blocks,).

    Returns:
        The rescaling, attached. ``radii`` has the norms, ``recipe`` where they come from,
        ``schedules(multiplier)`` the learning rates.

    Raises:
        InvalidInputError: If the optimizer's rule is not known, it does not decay one of the weights,
            gradient norms are needed and missing, a learning-rate scheduler was made on it before, or its
            settings have no equilibrium.
        MismatchError: If the optimizer has none of the weights, or gradient norms do not fit them.
        DecayFreeError: Whatever :class:`decayfree.WeightRescaling` raises. After an error nothing has
            changed.

    Example:
        >>> import torch, decayfree
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(200, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
        >>> wrs = drop_decay(optimizer, decayfree.find_invariant(model, torch.randn(16, 200)))
        >>> wrs.radii["0.weight"].round(decimals=2)  # √(ηC/(2λ))
        tensor([1., 1., 1.])
        >>> [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
        [(5, 0.1), (1, 0.0)]
    """
    optimizer, found = attachable(optimizer, found)
    recipe = _recipe(optimizer, found, gradient_norms, _scheduler_faults(optimizer))
    parameters = dict(found.model.named_parameters())
    kinds: dict[int, Kind] = {
        id(parameters[name]): "partly" if weight.blocks.is_partial else "without"
        for weight in found
        if weight.name in recipe.radii
        for name in weight.names
    }
    groups = [(group, dict(group)) for group in optimizer.param_groups]
    try:
        divide_groups_(optimizer, kinds)
        return ConvertedRescaling(optimizer, found, recipe)
    except BaseException:
        del optimizer.param_groups[len(groups) :]
        for group, before in groups:
            group.clear()
            group.update(before)
        raise


def fixed_norm_recipe(
    optimizer: Optimizer, found: Invariance, *, gradient_norms: Mapping[str, Tensor] | None = None
) -> FixedNormRecipe:
    """Work out what :func:`drop_decay` would do, and change nothing.

    Printing it shows derivation, table and limits.

    Args:
        optimizer: As for :func:`drop_decay`.
        found: As for :func:`drop_decay`.
        gradient_norms: As for :func:`drop_decay`.

    Returns:
        Radii, learning rates at radius 1, angles and time constants of all weights.

    Raises:
        InvalidInputError: As :func:`drop_decay`, but for the scheduler.
        MismatchError: As :func:`drop_decay`.
    """
    return _recipe(*attachable(optimizer, found), gradient_norms, [])


class ConvertedRescaling(WeightRescaling):
    """A rescaling that stands in for weight decay: made by :func:`drop_decay`, and knows the recipe.

    Attributes:
        recipe: Radii, angles and time constants; printing it shows derivation, table and limits.
    """

    def __init__(self, optimizer: Optimizer, found: Invariance, recipe: FixedNormRecipe) -> None:
        radius = {glob.escape(name): radii for name, radii in recipe.radii.items()}
        super().__init__(optimizer, found, radius=radius)
        self.recipe = recipe

    def _repr_html_(self) -> str:
        """What a notebook shows: the recipe's table."""
        return self.recipe._repr_html_()

    @checked(steps_per_call=ABOVE_0, start_angle=ABOVE_0)
    def schedules(
        self, multiplier: Multiplier, *, steps_per_call: float = 1, start_angle: float = 1.0
    ) -> list[Multiplier]:
        """One multiplier for each parameter group, for LambdaLR.

        That of equal angles where weights are held, elsewhere as it was. Under decay the norm follows the
        learning rate with a delay, its time constant: see :func:`decayfree.equal_angle_schedule`.

        Args:
            multiplier: The tuned schedule: step -> multiplier of the learning rate, 1 where the recipe was
                worked out.
            steps_per_call: Optimizer steps in one step of the schedule: those of an epoch where it goes by
                epochs.
            start_angle: As for :func:`decayfree.equal_angle_schedule`; 1 is what the radius gives.

        Returns:
            In the order of ``optimizer.param_groups``.

        Raises:
            InvalidInputError: If a setting is out of range.

        Example:
            >>> import torch, decayfree
            >>> from torch import nn
            >>> model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
            >>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1.0)
            >>> wrs = drop_decay(optimizer, decayfree.find_invariant(model, torch.randn(16, 4)))
            >>> rest, held = wrs.schedules(lambda step: 0.25)
            >>> # The norm takes 500 steps to follow, and more at a quarter of the rate.
            >>> rest(0), held(0), round(held(50_000), 6)
            (0.25, 0.25, 0.5)
        """
        parameters = dict(self.found.model.named_parameters())
        converted = {
            id(parameters[name]): one for one in self.recipe.weights for name in self.found[one.name].names
        }
        schedules: list[Multiplier] = []
        for group in self.optimizer.param_groups:
            here = [converted[id(p)] for p in group["params"] if id(p) in converted]
            if not here:
                schedules.append(multiplier)
                continue
            times = torch.cat([one.time_constants_steps for one in here])
            times = times[torch.isfinite(times)]
            schedules.append(
                equal_angle_schedule(
                    multiplier,
                    time_constant_steps=float(times.median()) / steps_per_call if len(times) else None,
                    start_angle=start_angle,
                    exponent=here[0].rule.schedule_exponent,
                )
            )
        return schedules


def _recipe(
    optimizer: Optimizer,
    found: Invariance,
    gradient_norms: Mapping[str, Tensor] | None,
    faults: Sequence[str],
) -> FixedNormRecipe:
    group_of = {id(p): index for index, group in enumerate(optimizer.param_groups) for p in group["params"]}
    parameters = dict(found.model.named_parameters())
    where = {w.name: group_of[id(parameters[w.name])] for w in found if id(parameters[w.name]) in group_of}
    if not where:
        raise MismatchError(nothing_in_common(optimizer, found))
    all_faults = list(faults)
    rules: dict[int, DecayRule] = {}
    for index in dict.fromkeys(where.values()):
        rules[index], of_group = _rule_of(optimizer, optimizer.param_groups[index])
        names = [name for name, its in where.items() if its == index]
        if rules[index].weight_decay == 0 and not of_group:
            of_group = [
                f"parameter group {index} has weight_decay=0 on {listed(names)}: without decay there is no "
                "equilibrium to keep; leave them out of `found` (find_invariant(..., exclude=...)), or "
                "choose their radius yourself with decayfree.WeightRescaling"
            ]
        all_faults += of_group
    for weight in found:
        own = where.get(weight.name)
        of_bias = group_of.get(id(parameters[weight.bias])) if weight.bias else None
        if of_bias is None or own is None or of_bias == own:
            continue
        if _rule_of(optimizer, optimizer.param_groups[of_bias])[0] != rules[own]:
            all_faults.append(
                f"{weight.name} and {weight.bias} are one block, but their groups {own} and {of_bias} differ "
                "in decay, learning rate or momentum, so that no norm settles as the formulas say: "
                "give both the same settings"
            )
    raise_all([(InvalidInputError, fault) for fault in dict.fromkeys(all_faults)])
    return FixedNormRecipe.of(found, {name: rules[index] for name, index in where.items()}, gradient_norms)


def _rule_of(optimizer: Optimizer, group: Mapping[str, Any]) -> tuple[DecayRule, list[str]]:
    """The settings of a parameter group, and what speaks against them."""
    kind = type(optimizer).__name__
    row = row_of(type(optimizer))  # a subclass of another name may do anything
    if row is None or row.equilibrium is None:
        return DecayRule("SGD", 0.0, 0.0), [
            f"{unknown_balance(kind)}: choose a radius yourself with decayfree.WeightRescaling"
        ]
    faults = [
        f"{kind} with {key}={group[key]!r} is another rule, and where it settles is not known: choose a "
        "radius yourself with decayfree.WeightRescaling"
        for key in _OTHER_RULES
        if group.get(key)
    ]
    is_decoupled = bool(group.get("decoupled_weight_decay", row.decay == "decoupled"))
    return rule_of_group(row.equilibrium, group, decoupled=is_decoupled), faults


def _scheduler_faults(optimizer: Optimizer) -> list[str]:
    if not any("initial_lr" in group for group in optimizer.param_groups):
        return []
    return [
        "a learning-rate scheduler was made on this optimizer already (its groups have an 'initial_lr'): the "
        "learning rates may be in the middle of a schedule, and the scheduler would not know a new group; "
        "call drop_decay first, then make the scheduler, with LambdaLR(optimizer, wrs.schedules(multiplier))"
    ]
