"""What `decayfree convert` prints: a recipe without decay for typed settings, with or without a named model.

Trains nothing, so that gradient norms are what somebody gives it. fixed_norm.py works the numbers out.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal

import torch

from decayfree import equilibrium
from decayfree.columns import aligned
from decayfree.conversion.decay_rule import DecayRule, name_of, rule_of_group, settings_of
from decayfree.conversion.explained import derivation_of, schedule_and_limits
from decayfree.conversion.fixed_norm import FixedNormRecipe
from decayfree.conversion.schedule import equal_angle_schedule
from decayfree.errors import InvalidInputError, faults_of, raise_all
from decayfree.invariance.result import Invariance
from decayfree.optimizers import in_studies, settling

ScheduleName = Literal["constant", "cosine", "step"]
_SCHEDULES: Mapping[ScheduleName, Callable[[int, int], float]] = {
    "constant": lambda step, n_steps: 1.0,
    "cosine": lambda step, n_steps: (1 + math.cos(math.pi * step / n_steps)) / 2,
    "step": lambda step, n_steps: 0.1 ** ((2 * step >= n_steps) + (4 * step >= 3 * n_steps)),
}
_MAX_STEPS = 10**7
_SHOWN = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 1.0)
_MEASURE = """    with decayfree.GradientNorms(optimizer, found) as measured:
        ...  # a few hundred steps of your training, as it is"""


def rule_of(
    optimizer: str, *, lr: float, weight_decay: float, betas: str | None = None, **of_sgd: float | bool | None
) -> DecayRule:
    """The settings as they are typed, two betas with a comma between; None or False for what is not.

    Raises:
        InvalidInputError: If the optimizer does not have one of the settings, or one is no number. All faults
            at once.
    """
    row, settles = in_studies()[optimizer], settling()[optimizer]
    is_sgd, kind = settles is equilibrium.sgd, row.classes.split()[0]
    given = {key: value for key, value in of_sgd.items() if value is not None and value is not False}
    faults = [f"--{key} is a setting of SGD, not of {kind}" for key in given if not is_sgd]
    if is_sgd and betas is not None:
        faults.append("--betas is no setting of SGD: give --momentum")
    settings = {name: parameter.default for name, parameter in signature(settles).parameters.items()}
    if betas is not None:
        settings["betas"] = _numbers(betas, "--betas", faults)
        if len(settings["betas"]) != 2:
            faults.append(f"--betas must be two numbers as in 0.9,0.999, got {betas!r}")
    raise_all(faults_of(InvalidInputError, faults))
    settings |= {"lr": lr, "weight_decay": weight_decay, **given}
    return rule_of_group(settles, settings, decoupled="decoupled" in given or row.decay == "decoupled")


@dataclass(frozen=True)
class Conversion:
    """A recipe for the command line."""

    rule: DecayRule
    recipe: FixedNormRecipe | None
    """Weight by weight, where a model was named."""
    rows: Sequence[Mapping[str, Any]]
    """Where the rule settles for each fan-in, or for one of None where that plays no part; empty where a
    model was named, or the gradient norm is missing and nothing can be said without.
    """
    gradient_norm: float | None
    """What was given: ‖g‖·‖w‖ of every block, in units of the loss."""
    n_steps: int | None
    schedule: ScheduleName | None

    @property
    def time_constant_steps(self) -> float | None:
        """The median over weights, or over fan-ins."""
        if self.recipe is not None:
            return float(torch.cat([one.time_constants_steps for one in self.recipe.weights]).median())
        times: list[float] = sorted(row["time_constant_steps"] for row in self.rows)
        return times[len(times) // 2] if times else None

    def text(self) -> str:
        """Derivation, numbers, schedule, limits, and what to write in Python."""
        lines = [repr(self.recipe)] if self.recipe is not None else self._without_model()
        lines += ["", *self._length(), *self._schedule_table(), "In Python"]
        if self.rule.needs_gradient_norm:
            lines.append(_MEASURE)
        argument = ", gradient_norms=measured" if self.rule.needs_gradient_norm else ""
        made = f"    wrs = decayfree.drop_decay(optimizer, found{argument})  # before the scheduler is made"
        return "\n".join([*lines, made])

    def to_dict(self) -> dict[str, Any]:
        """All numbers, in types that JSON knows; null where a gradient norm or fan-in was not given."""
        return {
            **{key: getattr(self.rule, key) for key in settings_of(self.rule)},
            "gradient_norm": self.gradient_norm,
            "time_constant_steps": self.time_constant_steps,
            "schedule_exponent": self.rule.schedule_exponent,
            "rows": None if self.recipe is not None else self.rows,
            "weights": None if self.recipe is None else self.recipe.to_dict()["weights"],
            "n_steps": self.n_steps,
            "schedule": self._schedule_points() or None,
        }

    def _without_model(self) -> list[str]:
        angles, times = (
            torch.tensor([row[key] for row in self.rows], dtype=torch.float64)
            for key in ("angle_rad", "time_constant_steps")
        )
        if any(row["radius"] is not None for row in self.rows):
            columns = {"fan_in": "C a row", "radius": "radius", "lr_at_radius_1": "lr at radius 1"}
            keys = [key for key in columns if self.rows[0][key] is not None]
            table = [[columns[key] for key in keys]]
            table += [[_figure(row[key]) for key in keys] for row in self.rows]
            said = [
                "Hold rows that are blocks of their own at this radius and keep the learning rate, or at "
                "radius 1 with the other rate.",
                *(f"  {line}" for line in aligned(table)),
            ]
        elif self.rule.needs_gradient_norm:
            fan_in = " and --fan-in." if self.rule.optimizer == "Adam" else "."
            said = ["G is not known without your data: measure it as below, or give --gradient-norm" + fan_in]
        else:
            said = ["For radii give --fan-in, the weights in a row, or --model with --input."]
        return [*derivation_of(self.rule, angles, times), "", *said, "", *schedule_and_limits([self.rule])]

    def _length(self) -> list[str]:
        time = self.time_constant_steps
        if self.n_steps is None or time is None:
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
            f"{self.n_steps:,} steps are {ratio:.2g} times the {time:,.0f} in which norms approach "
            f"equilibrium: {verdict}.",
            "",
        ]

    def _schedule_points(self) -> list[dict[str, float]]:
        """At some steps what the learning rate is multiplied by; none where no schedule is known."""
        if self.n_steps is None or self.schedule is None:
            return []
        n_steps, decayed = self.n_steps, _SCHEDULES[self.schedule]
        fixed = equal_angle_schedule(
            lambda step: decayed(step, n_steps),
            time_constant_steps=self.time_constant_steps,
            exponent=self.rule.schedule_exponent,
        )
        return [
            {"step": step, "multiplier": decayed(step, n_steps), "multiplier_at_fixed_norm": fixed(step)}
            for step in dict.fromkeys(round(share * (n_steps - 1)) for share in _SHOWN)
        ]

    def _schedule_table(self) -> list[str]:
        rows = [
            [f"{step:,.0f}", f"{multiplier:.4g}", f"{fixed:.4g}"]
            for step, multiplier, fixed in (point.values() for point in self._schedule_points())
        ]
        if not rows:
            return []
        table = aligned([["step", "lr times, with decay", "lr times, at the radius"], *rows])
        title = f"Equal angles from equilibrium on, {self.schedule} schedule"
        return [title, *(f"  {line}" for line in table), ""]


def converted(
    rule: DecayRule,
    found: Invariance | None,
    fan_ins: str | None,
    gradient_norm: float | None,
    *,
    n_steps: int | None,
    schedule: ScheduleName | None,
) -> Conversion:
    """Work out what can be without training; fan-ins are as they are typed, ``27,144``.

    Raises:
        InvalidInputError: If what is asked cannot be told, or a setting has no equilibrium. All faults at
            once.
    """
    faults: list[str] = []
    sizes = _numbers(fan_ins, "--fan-in", faults) if fan_ins is not None else ()
    if not all(1 <= size < 2**63 and size == int(size) for size in sizes):
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
    if n_steps is not None and n_steps > _MAX_STEPS:
        faults.append(f"--steps must be at most {_MAX_STEPS:,}, got {n_steps:,}")
    if schedule is not None and n_steps is None:
        faults.append("--schedule wants --steps, the length of the training")
    if found is not None and rule.needs_gradient_norm and gradient_norm is None:
        faults.append(
            f"a table for a model under {name_of(rule)} needs gradient norms, which only your training "
            "tells: measure them in Python,\n"
            f"{_MEASURE}\n    print(decayfree.fixed_norm_recipe(optimizer, found, gradient_norms=measured))\n"
            "or give one for all, --gradient-norm G"
        )
    try:
        rule.equilibrium(fan_in=1.0, gradient_norm=1.0 if gradient_norm is None else gradient_norm)
    except InvalidInputError as fault:
        faults.append(str(fault))
    raise_all(faults_of(InvalidInputError, faults))
    recipe = None if found is None else _recipe(rule, found, gradient_norm)
    rows = [] if found is not None else _rows(rule, [int(size) for size in sizes], gradient_norm)
    return Conversion(rule, recipe, rows, gradient_norm, n_steps, schedule)


def _rows(rule: DecayRule, fan_ins: Sequence[int], gradient_norm: float | None) -> list[dict[str, Any]]:
    if rule.optimizer == "Adam" and (gradient_norm is None or not fan_ins):
        return []
    rows = []
    sizes: Sequence[int | None] = fan_ins or [None]
    for fan_in in dict.fromkeys(sizes):
        settled = rule.equilibrium(fan_in=fan_in, gradient_norm=gradient_norm)
        radius = None if settled.fixed_norm is None else torch.tensor(settled.fixed_norm, dtype=torch.float64)
        rate = None if radius is None else float(rule.lr_at_radius_1(radius))
        row = {key: getattr(settled, key) for key in ("angle_rad", "time_constant_steps")}
        rows.append({"fan_in": fan_in, **row, "radius": settled.fixed_norm, "lr_at_radius_1": rate})
    return rows


def _recipe(rule: DecayRule, found: Invariance, gradient_norm: float | None) -> FixedNormRecipe:
    if not len(found):
        raise InvalidInputError(
            "no scale-invariant weight was found in the model, so there is nothing to convert; "
            "decayfree inspect says why"
        )
    norms = None
    if gradient_norm is not None:
        norms = {one.name: torch.full((one.blocks.n_blocks,), gradient_norm) for one in found}
    return FixedNormRecipe.of(found, {one.name: rule for one in found}, norms)


def _numbers(text: str, name: str, faults: list[str]) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        faults.append(f"{name} must be numbers with commas between, got {text!r}")
        return (1.0, 1.0)


def _figure(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"
