"""What `decayfree recipe` prints: what a recipe with weight decay implies, and the same without it.

For typed settings, with or without a named model. Trains nothing, so that gradient norms are what somebody
gives it. forgetting.py and fixed_norm.py work the numbers out.
"""

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch

from decayfree import equilibrium
from decayfree.columns import aligned
from decayfree.conversion.decay_rule import DecayRule, name_of, rule_of_group, settings_of, unknown_balance
from decayfree.conversion.explained import derivation_of, schedule_and_limits, title_of
from decayfree.conversion.fixed_norm import FixedNormRecipe
from decayfree.conversion.forgetting import Forgetting
from decayfree.conversion.rate_schedule import RateSchedule
from decayfree.conversion.schedule import equal_angle_schedule
from decayfree.errors import InvalidInputError, closest, faults_of, raise_all
from decayfree.invariance.result import Invariance
from decayfree.optimizers import OPTIMIZERS, row_called

_SHOWN = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 1.0)
_OPTIONS = {"shape": "schedule", "n_warmup_steps": "warmup-steps"} | {
    name: name.replace("_", "-") for name in ("last_share", "drop_factor")
}
_EXEMPT = "    decayfree.exempt_(optimizer, found)  # before the scheduler is made"
_MEASURE = """    with decayfree.GradientNorms(optimizer, found) as measured:
        ...  # a few hundred steps of your training, as it is"""


@dataclass(frozen=True)
class Implied:
    """What a recipe implies, for the command line."""

    rule: DecayRule
    forgetting: Forgetting | None
    """None under Adam with L2 where not one gradient norm and one fan-in were given."""
    recipe: FixedNormRecipe | None
    """Weight by weight, where a model was named."""
    rows: Sequence[Mapping[str, Any]]
    """Where the rule settles for each fan-in, or for one of None where that plays no part; empty where a
    model was named, or the gradient norm is missing and nothing can be said without.
    """
    gradient_norm: float | None
    """What was given: ‖g‖·‖w‖ of every block, in units of the loss."""
    schedule: RateSchedule | None
    """Constant where only the number of steps was given."""
    steps_per_epoch: int | None

    @property
    def time_constant_steps(self) -> float | None:
        """The median over weights, or over fan-ins."""
        if self.recipe is not None:
            return float(torch.cat([one.time_constants_steps for one in self.recipe.weights]).median())
        times: list[float] = sorted(row["time_constant_steps"] for row in self.rows)
        return times[len(times) // 2] if times else None

    def text(self) -> str:
        """The memory, then the norms with their derivation and limits; what to write in Python for both."""
        norms = [repr(self.recipe)] if self.recipe is not None else self._without_model()
        lines = [title_of(self.rule), "", *self._memory(), *norms, "", *self._schedule_table()]
        return "\n".join([*lines, *self._at_fixed_norms()])

    def to_dict(self) -> dict[str, Any]:
        """All numbers, in types that JSON knows; null where what they depend on was not given."""
        found, schedule = self.forgetting, self.schedule
        memory = None if found is None else found.memory_steps
        mean = None if found is None else found.mean_memory_steps
        return {
            **{key: getattr(self.rule, key) for key in settings_of(self.rule)},
            "gradient_norm": self.gradient_norm,
            "angle_rad": None if found is None else found.angle_rad,
            "memory_steps": memory,
            "memory_epochs": self._epochs(memory),
            "forgotten": None if found is None else found.whole,
            "mean_memory_steps": mean,
            "mean_memory_epochs": self._epochs(mean),
            "time_constant_steps": self.time_constant_steps,
            "schedule_exponent": self.rule.schedule_exponent,
            "rows": None if self.recipe is not None else self.rows,
            "weights": None if self.recipe is None else self.recipe.to_dict()["weights"],
            "n_steps": None if schedule is None else schedule.n_steps,
            "steps_per_epoch": self.steps_per_epoch,
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
        return [
            *derivation_of(self.rule, angles, times)[2:],
            "",
            *said,
            "",
            *schedule_and_limits([self.rule]),
        ]

    def _memory(self) -> list[str]:
        made = f"    turning = decayfree.Turning(optimizer, found, {self._memory_said()})"
        turning = ["In Python", _EXEMPT, made]
        if self.rule.optimizer == "Adam":
            turning.append("    # angles follow the root of the rate; under Adam with L2 its power 2/3")
        return ["Memory", *(f"  {line}" for line in self._memory_lines()), "", *turning, ""]

    def _memory_lines(self) -> list[str]:
        found, schedule = self.forgetting, self.schedule
        if found is None:
            return [
                "Under Adam with L2 every weight remembers for a time of its own: give --gradient-norm and",
                "one --fan-in to see that of such a weight. Turning gives all of them the same.",
            ]
        degrees = math.degrees(found.angle_rad)
        lines = [
            f"A step at the full rate turns weights by {found.angle_rad:.3g} rad ({degrees:.3g} degrees): "
            f"after {self._told(found.memory_steps)}",
            "of them the cosine of a direction with what it was is 1/e. That is the memory of Turning.",
        ]
        if schedule is None or found.whole is None or found.n_full_steps is None:
            return lines
        forget, is_scheduled = f"{schedule.n_steps:,} steps forget", found.n_full_steps < schedule.n_steps
        if is_scheduled:
            forget += f" as much as {found.n_full_steps:,.0f} at the full rate,"
        cosine = math.exp(-found.whole)
        lines.append(f"{forget} D = {found.whole:.3g}: first and last have a cosine of {cosine:.2g}.")
        if is_scheduled and found.mean_memory_steps is not None:
            lines.append(
                f"In the mean over the schedule the memory is {self._told(found.mean_memory_steps)}."
            )
        ratio = found.n_full_steps / found.time_constant_steps
        verdict = (
            "norms never get there, and angles under decay are set by where they began"
            if ratio < 1
            else "norms get there late in it"
            if ratio < 3
            else "norms are there for most of it"
        )
        times = f"The run is {ratio:.2g} times the {found.time_constant_steps:,.0f} steps"
        return [*lines, f"{times} in which norms approach equilibrium:", f"{verdict}."]

    def _epochs(self, n_steps: float | None) -> float | None:
        return None if n_steps is None or self.steps_per_epoch is None else n_steps / self.steps_per_epoch

    def _told(self, n_steps: float) -> str:
        epochs = self._epochs(n_steps)
        return f"{n_steps:,.0f} steps" + ("" if epochs is None else f", {epochs:.3g} epochs")

    def _at_fixed_norms(self) -> list[str]:
        lines = ["In Python, at these norms and with the same learning rate"]
        radii = [row["radius"] for row in self.rows]
        if len(radii) == 1 and radii[0] is not None:
            held = f'radius={radii[0]:.6g}, schedule="follow"'
            return [*lines, _EXEMPT, f"    wrs = decayfree.WeightRescaling(optimizer, found, {held})"]
        argument = ", gradient_norms=measured" if self.rule.needs_gradient_norm else ""
        made = f"    wrs = decayfree.drop_decay(optimizer, found{argument})  # before the scheduler is made"
        return [*lines, *([_MEASURE] if argument else []), made]

    def _memory_said(self) -> str:
        steps = None if self.forgetting is None else self.forgetting.memory_steps
        epochs = self._epochs(steps)
        if epochs is not None:
            return f"steps_per_epoch={self.steps_per_epoch}, memory_epochs={epochs:.6g}"
        memory = "..." if steps is None else f"{steps:.6g} / len(loader)"
        return f"steps_per_epoch=len(loader), memory_epochs={memory}"

    def _schedule_points(self) -> list[dict[str, float]]:
        """At some steps what the learning rate is multiplied by; none where no schedule is known."""
        schedule = self.schedule
        if schedule is None or (schedule.shape == "constant" and not schedule.n_warmup_steps):
            return []
        shares = array("d", schedule.at(torch.arange(schedule.n_steps)).tolist())
        fixed = equal_angle_schedule(
            lambda step: shares[step],
            time_constant_steps=self.time_constant_steps,
            exponent=self.rule.schedule_exponent,
        )
        return [
            {"step": step, "multiplier": shares[step], "multiplier_at_fixed_norm": fixed(step)}
            for step in dict.fromkeys(round(share * (schedule.n_steps - 1)) for share in _SHOWN)
        ]

    def _schedule_table(self) -> list[str]:
        if self.schedule is None:
            return []
        rows = [
            [f"{step:,.0f}", f"{multiplier:.4g}", f"{fixed:.4g}"]
            for step, multiplier, fixed in (point.values() for point in self._schedule_points())
        ]
        if not rows:
            return []
        table = aligned([["step", "lr times, with decay", "lr times, at the radius"], *rows])
        title = f"Equal angles from equilibrium on, {self.schedule.shape} schedule"
        return [title, *(f"  {line}" for line in table), ""]


def implied(
    optimizer: str,
    *,
    lr: float,
    weight_decay: float,
    betas: str | None,
    of_sgd: Mapping[str, float | bool | None],
    n_steps: int | None,
    steps_per_epoch: int | None,
    of_schedule: Mapping[str, Any],
    fan_ins: str | None,
    gradient_norm: float | None,
    find: Callable[[], Invariance] | None,
    faults: Sequence[str] = (),
) -> Implied:
    """Work out what can be without training.

    Args:
        optimizer: The name of its class, in any case.
        lr: The full rate.
        weight_decay: As the optimizer takes it.
        betas: As typed, ``0.9,0.999``.
        of_sgd: The settings of SGD; None or False for what was not typed.
        n_steps: Of the run.
        steps_per_epoch: That go once through the data.
        of_schedule: The settings of :class:`RateSchedule`, drops as typed; None for what was not.
        fan_ins: As typed, ``27,144``.
        gradient_norm: ‖g‖·‖w‖ of every block.
        find: Builds the model that was named, and searches it; None where none was.
        faults: What is known to be wrong already.

    Raises:
        InvalidInputError: If what is asked cannot be told, or a setting has no equilibrium. All faults at
            once, but for those of the model, which is built last.
    """
    faults = list(faults)
    schedule = _schedule(n_steps, of_schedule, faults)
    sizes = _numbers(fan_ins, "--fan-in", faults) if fan_ins is not None else ()
    if not all(1 <= size < 2**63 and size == int(size) for size in sizes):
        faults.append(f"--fan-in must be whole numbers of at least 1, got {fan_ins!r}")
    if fan_ins is not None and find is not None:
        faults.append("--fan-in and --model were both given: a model has its own fan-ins")
    rule = _rule(optimizer, lr, weight_decay, betas, of_sgd, faults)
    if rule is not None:
        faults += _faults_of_rule(rule, fan_ins, gradient_norm, has_model=find is not None)
    raise_all(faults_of(InvalidInputError, faults))
    assert rule is not None
    found = None if find is None else find()
    recipe = None if found is None else _recipe(rule, found, gradient_norm)
    rows = [] if found is not None else _rows(rule, [int(size) for size in sizes], gradient_norm)
    one_size = sizes[0] if len(sizes) == 1 else None
    forgetting = None
    if rule.optimizer != "Adam" or (one_size is not None and gradient_norm is not None):
        forgetting = Forgetting.of(rule, schedule, fan_in=one_size, gradient_norm=gradient_norm)
    return Implied(rule, forgetting, recipe, rows, gradient_norm, schedule, steps_per_epoch)


def _rule(
    optimizer: str,
    lr: float,
    weight_decay: float,
    betas: str | None,
    of_sgd: Mapping[str, float | bool | None],
    faults: list[str],
) -> DecayRule | None:
    row = row_called(optimizer)
    if row is None or row.equilibrium is None:
        faults += [_unknown(optimizer), *_told_by(equilibrium.sgd, lr, weight_decay)]
        return None
    settles = row.equilibrium
    is_sgd, kind = settles is equilibrium.sgd, row.classes.split()[0]
    given = {key: value for key, value in of_sgd.items() if value is not None and value is not False}
    faults += [f"--{key} is a setting of SGD, not of {kind}" for key in given if not is_sgd]
    if is_sgd and betas is not None:
        faults.append("--betas is no setting of SGD: give --momentum")
    settings = {name: parameter.default for name, parameter in signature(settles).parameters.items()}
    if betas is not None and not is_sgd:
        numbers = _numbers(betas, "--betas", faults)
        if len(numbers) == 2:
            settings["betas"] = numbers
        else:
            faults.append(f"--betas must be two numbers as in 0.9,0.999, got {betas!r}")
    settings |= {"lr": lr, "weight_decay": weight_decay, **(given if is_sgd else {})}
    return rule_of_group(settles, settings, decoupled="decoupled" in given or row.decay == "decoupled")


def _unknown(optimizer: str) -> str:
    row = row_called(optimizer)
    if row is None:
        known = [one for one in OPTIMIZERS if one.equilibrium is not None]
        names = [name.lower() for one in known for name in one.classes.split()]
        return f"{unknown_balance(repr(optimizer))}{closest(optimizer.lower(), names)}"
    said = unknown_balance(row.classes.split()[0], row.refused)
    turned = ": decayfree.Turning gives its directions the memory that you choose, without decay"
    return said + (turned if row.correlation is not None else "")


def _schedule(n_steps: int | None, of_schedule: Mapping[str, Any], faults: list[str]) -> RateSchedule | None:
    given = {key: value for key, value in of_schedule.items() if value is not None}
    if "drops" in given:
        given["drops"] = _numbers(given["drops"], "--drops", faults)
    if n_steps is None:
        faults += [f"--{_OPTIONS.get(key, key)} wants --steps, the length of the training" for key in given]
        return None
    try:
        return RateSchedule(**{"shape": "constant", **given}, n_steps=n_steps)
    except InvalidInputError as fault:
        faults.append(str(fault))
        return None


def _faults_of_rule(
    rule: DecayRule, fan_ins: str | None, gradient_norm: float | None, *, has_model: bool
) -> list[str]:
    faults = []
    if fan_ins is not None and rule.optimizer == "SGD":
        faults.append(
            "--fan-in plays no part under SGD: its norms follow from gradient norms, --gradient-norm"
        )
    if gradient_norm is not None and not rule.needs_gradient_norm:
        faults.append(
            f"--gradient-norm plays no part under {rule.optimizer}: its norms follow from the fan-in"
        )
    if has_model and rule.needs_gradient_norm and gradient_norm is None:
        faults.append(
            f"a table for a model under {name_of(rule)} needs gradient norms, which only your training "
            "tells: measure them in Python,\n"
            f"{_MEASURE}\n    print(decayfree.fixed_norm_recipe(optimizer, found, gradient_norms=measured))\n"
            "or give one for all, --gradient-norm G"
        )
    norm = 1.0 if gradient_norm is None else gradient_norm
    return faults + _told_by(rule.equilibrium, fan_in=1.0, gradient_norm=norm)


def _told_by(function: Callable[..., object], *args: float, **kwargs: float) -> list[str]:
    """What a function has against its arguments."""
    try:
        function(*args, **kwargs)
    except InvalidInputError as fault:
        return [str(fault)]
    return []


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
