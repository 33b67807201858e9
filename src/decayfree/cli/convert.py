"""What `decayfree convert` prints: a recipe without decay for typed settings, with or without a named model.

Trains nothing, so that gradient norms are what somebody gives it. fixed_norm.py works the numbers out.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from decayfree.columns import aligned
from decayfree.conversion.decay_rule import DecayRule, settings_of
from decayfree.conversion.explained import derivation_of, schedule_and_limits
from decayfree.conversion.fixed_norm import FixedNormRecipe
from decayfree.conversion.schedule import equal_angle_schedule
from decayfree.equilibrium import Equilibrium
from decayfree.errors import InvalidInputError, faults_of, raise_all
from decayfree.invariance.result import Invariance

ScheduleName = Literal["constant", "cosine", "step"]
_OPTIMIZERS: Mapping[str, Literal["SGD", "Adam", "AdamW", "Lion"]] = {
    "sgd": "SGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "lion": "Lion",
}
_SHOWN = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 1.0)
_MEASURE = """    with decayfree.GradientNorms(optimizer, found) as measured:
        ...  # a few hundred steps of your training, as it is"""


def rule_of(
    optimizer: str,
    *,
    lr: float,
    weight_decay: float,
    momentum: float | None = None,
    nesterov: bool = False,
    dampening: float | None = None,
    decoupled: bool = False,
    betas: str | None = None,
) -> DecayRule:
    """The settings as they are typed; None or False for what is not.

    Raises:
        InvalidInputError: If the optimizer does not have one of the settings, or one is no number. All faults
            at once.
    """
    kind = _OPTIMIZERS[optimizer]
    of_sgd = {"momentum": momentum, "nesterov": nesterov, "dampening": dampening, "decoupled": decoupled}
    given = [key for key, value in of_sgd.items() if value is not None and value is not False]
    faults = [f"--{key} is a setting of SGD, not of {kind}" for key in given if kind != "SGD"]
    if kind == "SGD" and betas is not None:
        faults.append("--betas is no setting of SGD: give --momentum")
    default = (0.9, 0.99) if kind == "Lion" else (0.9, 0.999)
    pair = default if betas is None else _numbers(betas, "--betas", faults)
    if len(pair) != 2:
        faults.append(f"--betas must be two numbers as in 0.9,0.999, got {betas!r}")
    raise_all(faults_of(InvalidInputError, faults))
    if kind != "SGD":
        return DecayRule(kind, lr, weight_decay, betas=(pair[0], pair[1]))
    return DecayRule(
        "SGD",
        lr,
        weight_decay,
        momentum=momentum or 0.0,
        nesterov=nesterov,
        dampening=dampening or 0.0,
        decoupled=decoupled,
    )


@dataclass(frozen=True)
class Conversion:
    """A recipe for the command line.

    Args:
        rule: The settings.
        recipe: Weight by weight, where a model was named.
        settled: Fan-in of a row, or None where that plays no part -> where the rule settles; empty where a
            model was named or the gradient norm is missing and nothing can be said without.
        gradient_norm: What was given, of every block.
        n_steps: Length of the training.
        schedule: Its learning rate.
    """

    rule: DecayRule
    recipe: FixedNormRecipe | None
    settled: Mapping[int | None, Equilibrium]
    gradient_norm: float | None
    n_steps: int | None
    schedule: ScheduleName | None

    @property
    def time_constant_steps(self) -> float | None:
        """The median over weights, or over fan-ins."""
        if self.recipe is not None:
            return float(torch.cat([one.time_constants_steps for one in self.recipe.weights]).median())
        times = [one.time_constant_steps for one in self.settled.values()]
        return sorted(times)[len(times) // 2] if times else None

    def text(self) -> str:
        """Derivation, numbers, schedule, limits, and what to write in Python."""
        lines = [repr(self.recipe)] if self.recipe is not None else self._without_model()
        lines += ["", *self._length(), *self._schedule_table()] if self.n_steps else [""]
        needs_norms = self.rule.needs_gradient_norm
        argument = ", gradient_norms=measured" if needs_norms else ""
        lines += ["In Python", *([_MEASURE] if needs_norms else [])]
        lines += [
            f"    wrs = decayfree.drop_decay(optimizer, found{argument})  # before the scheduler is made"
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """All numbers, in types that JSON knows; null where a gradient norm or fan-in was not given."""
        return {
            **{key: getattr(self.rule, key) for key in settings_of(self.rule)},
            "gradient_norm": self.gradient_norm,
            "time_constant_steps": self.time_constant_steps,
            "schedule_exponent": self.rule.schedule_exponent,
            "rows": None if self.recipe is not None else [self._row(*one) for one in self.settled.items()],
            "weights": None if self.recipe is None else self.recipe.to_dict()["weights"],
            "n_steps": self.n_steps,
            "schedule": self._schedule_points(),
        }

    def _row(self, fan_in: int | None, settled: Equilibrium) -> dict[str, Any]:
        radius = settled.fixed_norm
        return {
            "fan_in": fan_in,
            "angle_rad": settled.angle_rad,
            "time_constant_steps": settled.time_constant_steps,
            "radius": radius,
            "lr_at_radius_1": None
            if radius is None
            else float(self.rule.lr_at_radius_1(torch.tensor(radius, dtype=torch.float64))),
        }

    def _without_model(self) -> list[str]:
        rows = [self._row(*one) for one in self.settled.items()]
        angles, times = (
            torch.tensor([row[key] for row in rows], dtype=torch.float64)
            for key in ("angle_rad", "time_constant_steps")
        )
        lines = [*derivation_of(self.rule, angles, times), ""]
        known = [row for row in rows if row["radius"] is not None]
        if known:
            columns = {"fan_in": "C a row", "radius": "radius", "lr_at_radius_1": "lr at radius 1"}
            keys = [key for key in columns if known[0][key] is not None]
            table = [[columns[key] for key in keys]]
            table += [[_figure(row[key]) for key in keys] for row in known]
            lines += [
                "Hold rows that are blocks of their own at this radius and keep the learning rate, or at "
                "radius 1 with the other rate."
            ]
            lines += [*(f"  {line}" for line in aligned(table)), ""]
        elif self.rule.needs_gradient_norm:
            lines += [
                "G is not known without your data: measure it as below, or give --gradient-norm"
                + (" and --fan-in." if self.rule.optimizer == "Adam" else "."),
                "",
            ]
        else:
            lines += ["For radii give --fan-in, the weights in a row, or --model with --input.", ""]
        return lines + schedule_and_limits([self.rule])

    def _length(self) -> list[str]:
        time = self.time_constant_steps
        assert self.n_steps is not None
        if time is None:
            return []
        ratio = self.n_steps / time
        verdict = (
            "the norms never get there, and the angles under decay are set by where they began"
            if ratio < 1
            else "the norms get there late in it"
            if ratio < 3
            else "the norms are there for most of it"
        )
        return [
            (
                f"{self.n_steps:,} steps are {ratio:.2g} times the {time:,.0f} in which norms approach "
                f"equilibrium: {verdict}."
            ),
            "",
        ]

    def _schedule_points(self) -> list[dict[str, float]] | None:
        if self.n_steps is None or self.schedule is None:
            return None
        multiplier = _SCHEDULES[self.schedule](self.n_steps)
        fixed = equal_angle_schedule(
            multiplier, time_constant_steps=self.time_constant_steps, exponent=self.rule.schedule_exponent
        )
        steps = [round(share * (self.n_steps - 1)) for share in _SHOWN]
        return [
            {"step": step, "multiplier": multiplier(step), "multiplier_at_fixed_norm": fixed(step)}
            for step in dict.fromkeys(steps)
        ]

    def _schedule_table(self) -> list[str]:
        points = self._schedule_points()
        if points is None:
            return []
        rows = [["step", "lr times, with decay", "lr times, at the radius"]]
        rows += [
            [
                f"{point['step']:,.0f}",
                f"{point['multiplier']:.4g}",
                f"{point['multiplier_at_fixed_norm']:.4g}",
            ]
            for point in points
        ]
        return [
            f"Equal angles from equilibrium on, {self.schedule} schedule",
            *(f"  {line}" for line in aligned(rows)),
            "",
        ]


def converted(
    rule: DecayRule,
    *,
    found: Invariance | None = None,
    fan_ins: str | None = None,
    gradient_norm: float | None = None,
    n_steps: int | None = None,
    schedule: ScheduleName | None = None,
) -> Conversion:
    """Work out what can be without training.

    Args:
        rule: From :func:`rule_of`.
        found: The weights of a named model.
        fan_ins: Fan-ins as they are typed, as in ``27,144``.
        gradient_norm: ‖g‖·‖w‖ of every block, in units of the loss.
        n_steps: Length of the training.
        schedule: Shape of its learning rate.

    Raises:
        InvalidInputError: If what is asked cannot be told, or a setting has no equilibrium. All faults at
            once.
    """
    faults: list[str] = []
    sizes = _numbers(fan_ins, "--fan-in", faults) if fan_ins is not None else ()
    if any(size < 1 or size != int(size) for size in sizes):
        faults.append(f"--fan-in must be whole numbers of at least 1, got {fan_ins!r}")
    if fan_ins is not None and found is not None:
        faults.append("--fan-in and --model were both given: a model has its own fan-ins")
    if fan_ins is not None and rule.optimizer == "SGD":
        faults.append(
            "--fan-in plays no part under SGD: its norms follow from gradient norms, --gradient-norm"
        )
    if gradient_norm is not None and not rule.needs_gradient_norm:
        faults.append(
            f"--gradient-norm plays no part under {rule.optimizer}: its norms follow from the fan-in"
        )
    if schedule is not None and n_steps is None:
        faults.append("--schedule wants --steps, the length of the training")
    if found is not None and rule.needs_gradient_norm and gradient_norm is None:
        faults.append(
            "a table for a model under "
            f"{'SGD' if rule.optimizer == 'SGD' else 'Adam with L2 regularization'} needs gradient norms, "
            "which only your training tells: measure them in Python,\n"
            f"{_MEASURE}\n    print(decayfree.fixed_norm_recipe(optimizer, found, gradient_norms=measured))\n"
            "or give one for all, --gradient-norm G"
        )
    raise_all(faults_of(InvalidInputError, [*faults, *_setting_faults(rule, gradient_norm)]))
    recipe = None if found is None else _recipe(rule, found, gradient_norm)
    settled = {} if found is not None else _settled(rule, [int(size) for size in sizes], gradient_norm)
    return Conversion(rule, recipe, settled, gradient_norm, n_steps, schedule)


def _settled(
    rule: DecayRule, fan_ins: Sequence[int], gradient_norm: float | None
) -> dict[int | None, Equilibrium]:
    if rule.optimizer == "Adam" and (gradient_norm is None or not fan_ins):
        return {}
    sizes: Sequence[int | None] = fan_ins or [None]
    return {size: rule.equilibrium(fan_in=size, gradient_norm=gradient_norm) for size in sizes}


def _recipe(rule: DecayRule, found: Invariance, gradient_norm: float | None) -> FixedNormRecipe:
    if not len(found):
        raise InvalidInputError(
            "no scale-invariant weight was found in the model, so there is nothing to convert; "
            "decayfree inspect says why"
        )
    norms: dict[str, Tensor] | None = None
    if gradient_norm is not None:
        norms = {one.name: torch.full((one.blocks.n_blocks,), gradient_norm) for one in found}
    return FixedNormRecipe.of(found, {one.name: rule for one in found}, norms)


def _setting_faults(rule: DecayRule, gradient_norm: float | None) -> list[str]:
    try:
        rule.equilibrium(fan_in=1.0, gradient_norm=1.0 if gradient_norm is None else gradient_norm)
    except InvalidInputError as fault:
        return [str(fault)]
    return []


def _numbers(text: str, name: str, faults: list[str]) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        faults.append(f"{name} must be numbers with commas between, got {text!r}")
        return (1.0, 1.0)


def _figure(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _cosine(n_steps: int) -> Callable[[int], float]:
    return lambda step: (1 + math.cos(math.pi * step / n_steps)) / 2


def _step(n_steps: int) -> Callable[[int], float]:
    return lambda step: 0.1 ** ((2 * step >= n_steps) + (4 * step >= 3 * n_steps))


_SCHEDULES: Mapping[str, Callable[[int], Callable[[int], float]]] = {
    "constant": lambda n_steps: lambda step: 1.0,
    "cosine": _cosine,
    "step": _step,
}
