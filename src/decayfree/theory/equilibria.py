"""Where does weight decay lead, on a real network?

To an angular update that each optimizer's closed form predicts, whatever the gradients are; and back to
another one after the learning rate falls, which a fixed norm does not do. Trains for some hundred steps at a
constant learning rate.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from decayfree import equilibrium
from decayfree.arguments.kinds import COUNT, checked
from decayfree.blocks import n_rows_of
from decayfree.equilibrium import Equilibrium
from decayfree.invariance.verdict import ScaleInvariantWeight
from decayfree.rescaling.weight_rescaling import WeightRescaling
from decayfree.theory.check import Check
from decayfree.theory.subject import Subject
from decayfree.theory.trajectory import MakeOptimizer, Step, Training, norms, together, training

_KOSSON = "Wan 2006.08419; Kosson 2305.17212"
_TOLERANCE = 0.05
_DROP_TURN = 0.02


@dataclass(frozen=True)
class DecayCase:
    """An optimizer with decay whose equilibrium is known in closed form.

    Args:
        name: As people call it.
        make: What makes the optimizer.
        settings: Its own.
        turn: ηλ.
        lr: Learning rate; None for one that turns the first step's blocks by a small angle.
        expected: The equilibrium of a block, from η, λ, its gradient norm at unit norm and its number of
            weights.
        decoupled: Whether the weights are decayed, and not the gradients, though the optimizer itself decays
            gradients.
    """

    name: str
    make: Callable[..., Optimizer]
    settings: dict[str, Any]
    turn: float
    lr: float | None
    expected: Callable[[float, float, float, float], Equilibrium]
    decoupled: bool = False

    @property
    def first_angle_rad(self) -> float:
        """By how much plain SGD may turn the first step's blocks, so that norms start near where they end."""
        return math.sqrt(2 * self.turn * (1 - self.settings.get("momentum", 0.0)))


def _sgd_rule(name: str, turn: float, **settings: Any) -> DecayCase:
    decoupled = settings.pop("decoupled", False)
    return DecayCase(
        name,
        torch.optim.SGD,
        settings,
        turn,
        None,
        lambda lr, decay, slope, size: equilibrium.sgd(lr, decay, decoupled=decoupled, **settings),
        decoupled,
    )


_BETAS = (0.9, 0.99)
RULES = (
    _sgd_rule("SGD", 5e-3),
    _sgd_rule("SGD, momentum 0.9", 1e-3, momentum=0.9),
    _sgd_rule("Nesterov 0.9", 1e-3, momentum=0.9, nesterov=True),
    _sgd_rule("Momentum 0.9, decoupled", 5e-3, momentum=0.9, decoupled=True),
    DecayCase(
        "AdamW",
        torch.optim.AdamW,
        {"betas": _BETAS},
        6e-3,
        1e-2,
        lambda lr, decay, slope, size: equilibrium.adamw(lr, decay, betas=_BETAS),
    ),
    DecayCase(
        "Adam with L2",
        torch.optim.Adam,
        {"betas": _BETAS},
        1e-4,
        1e-2,
        lambda lr, decay, slope, size: equilibrium.adam_l2(
            lr, decay, betas=_BETAS, gradient_norm=slope, fan_in=size
        ),
    ),
)


@checked(n_steps=COUNT, n_last=COUNT)
def equilibrium_angle(
    subject: Subject,
    rule: DecayCase,
    make_optimizer: MakeOptimizer | None = None,
    *,
    n_steps: int = 700,
    n_last: int = 300,
) -> Check:
    """At equilibrium the angular update is the closed form's: for SGD √(2ηλ), whatever the gradients.

    Under Adam with L2 it depends on the gradients' norm, which is measured. An error of a tenth in λ is about
    the least that this sees.

    References:
        Wan et al., "Spherical Motion Dynamics", 2021, arXiv 2006.08419; Kosson et al., "Rotational
        Equilibrium", 2024, arXiv 2305.17212.
    """
    (check,) = equilibrium_angles(subject, (rule,), make_optimizer, n_steps=n_steps, n_last=n_last)
    return check


def equilibrium_angles(
    subject: Subject,
    rules: Sequence[DecayCase] = RULES,
    make_optimizer: MakeOptimizer | None = None,
    *,
    n_steps: int = 700,
    n_last: int = 300,
) -> list[Check]:
    """`equilibrium_angle` of several rules, in trainings side by side."""
    runs = [_decayed(subject, rule, make_optimizer) for rule in rules]
    last = [steps for steps in together(runs, n_steps) if steps[0].number >= n_steps - n_last]
    return [
        _at_equilibrium(rule, run, steps, n_steps)
        for rule, run, *steps in zip(rules, runs, *last, strict=True)
    ]


def _decayed(subject: Subject, rule: DecayCase, make_optimizer: MakeOptimizer | None) -> Training:
    lr = rule.lr or subject.learning_rate(rule.first_angle_rad)
    decay = rule.turn / lr
    coupled = 0.0 if rule.decoupled else decay
    run = training(subject, make_optimizer or rule.make, lr=lr, weight_decay=coupled, **rule.settings)
    if rule.decoupled:
        held = [parameter.data for parameter in run.subject.held.values()]
        run.before_step = lambda number: torch._foreach_mul_(held, 1 - lr * decay)
    return run


def _at_equilibrium(rule: DecayCase, run: Training, last: Sequence[Step], n_steps: int) -> Check:
    n_last, lr = len(last), run.optimizer.param_groups[0]["lr"]
    decay = rule.turn / lr
    chords = torch.stack([_square_chords(run, step) for step in last]).mean(0)
    slopes = torch.stack([_Moment.of(run, step).slopes for step in last]).mean(0).sqrt()
    moves = slopes > 0
    sizes = torch.cat([_sizes(run, weight) for weight in run.subject.found])
    expected_squares = [
        rule.expected(lr, decay, slope, size).chord ** 2
        for slope, size in zip(slopes[moves].tolist(), sizes[moves].tolist(), strict=True)
    ]
    measured = float(chords[moves].mean().sqrt())
    expected = math.sqrt(sum(expected_squares) / max(len(expected_squares), 1))
    residual = abs(measured / expected - 1) if expected else math.nan
    return Check(
        f"{rule.name}: decay turns blocks by a fixed angle at equilibrium",
        _KOSSON,
        f"{measured:.4f} rad",
        f"{expected:.4f} rad",
        residual,
        _TOLERANCE,
        f"ηλ = {rule.turn:g}; root mean square over all blocks in the last {n_last} of {n_steps} steps; "
        f"apart by {residual:.1%}.",
    )


@checked(n_before=COUNT, n_after=COUNT, n_window=COUNT)
def rates_after_a_drop(
    subject: Subject,
    make_optimizer: MakeOptimizer = torch.optim.SGD,
    *,
    rescaled: bool = False,
    n_before: int = 300,
    n_after: int = 700,
    n_window: int = 100,
) -> Check:
    """The ELR falls to 0.100 with the learning rate; decay brings it back to √0.1 = 0.316, a fixed norm not.

    Its way back is measured at equal gradient norms at unit radius: η/‖w‖² times the ratio of ‖g‖‖w‖ after
    and before.
    """
    lr = subject.learning_rate(_DROP_TURN**0.5)
    run = training(subject, make_optimizer, lr=lr, weight_decay=0.0 if rescaled else _DROP_TURN / lr)
    if rescaled:
        WeightRescaling(run.optimizer, run.subject.found)
    for group in run.optimizer.param_groups[1:]:
        group["lr"] = 0.0
    before = [_Moment.of(run, step) for step in run.steps(n_before) if step.number >= n_before - n_window]
    held = run.optimizer.param_groups[0]
    held["lr"] = lr / 10
    end = n_before + n_after
    steps = run.steps(n_after, first=n_before)
    first, *after = (
        _Moment.of(run, step) for step in steps if step.number in (n_before, *range(end - n_window, end))
    )
    drop = held["lr"] / lr
    at_once = drop * _growth(before[-1:], [first])
    later = drop * _growth(before, after)
    slope = _slope(after) / _slope(before)
    expected = 0.1 if rescaled else 0.1**0.5
    measured = later if rescaled else later * slope
    residual = max(abs(at_once / 0.1 - 1), abs(measured / expected - 1))
    at_equal_slopes = (
        ""
        if rescaled
        else f" It is {later:.3f} as it stands: gradients at unit radius changed by {slope - 1:+.0%}."
    )
    return Check(
        f"Under {'WRS' if rescaled else 'decay'}, learning rate ÷ 10: ELR "
        f"{'stays down' if rescaled else 'comes back by itself, to 1/√10 of what it was'}",
        "2006.08419; algebra",
        f"{at_once:.3f}, later {measured:.3f}",
        f"0.100, later {expected:.3f}",
        residual,
        1e-6 if rescaled else _TOLERANCE,
        f"The last {n_window} of {n_after} steps beside the last {n_window} before "
        f"the drop.{at_equal_slopes}",
        ""
        if rescaled
        else (
            "Gains, biases and the head are kept as they are: where gradients at unit radius "
            "change, so does the ELR."
        ),
    )


@dataclass(frozen=True)
class _Moment:
    """Squared norms and squared gradient norms at unit radius of all blocks at one step, (n_blocks,)."""

    squares: Tensor
    slopes: Tensor

    @staticmethod
    def of(run: Training, step: Step) -> "_Moment":
        found = run.subject.found
        squares = torch.cat([norms(step.before, weight) for weight in found]).square()
        return _Moment(
            squares, torch.cat([norms(step.gradients, weight) for weight in found]).square() * squares
        )


def _growth(before: list[_Moment], after: list[_Moment]) -> float:
    """By what 1/‖w‖² grew, geometric mean over blocks."""
    old, new = (torch.stack([moment.squares for moment in part]).log().mean(0) for part in (before, after))
    return float(torch.exp((old - new).mean()))


def _slope(moments: list[_Moment]) -> float:
    """Root mean square of ‖g‖‖w‖, geometric mean over blocks that have a gradient."""
    slopes = torch.stack([moment.slopes for moment in moments]).mean(0)
    return float(torch.exp(slopes[slopes > 0].log().mean() / 2))


def _square_chords(run: Training, step: Step) -> Tensor:
    """(n_blocks of all weights,). ‖u' − u‖², u the direction."""
    squares = []
    for weight in run.subject.found:
        old, new = norms(step.before, weight), norms(step.after, weight)
        update = {name: step.after[name] - step.before[name] for name in step.after}
        squares.append((norms(update, weight).square() - (new - old).square()) / (old * new))
    return torch.cat(squares)


def _sizes(run: Training, weight: ScaleInvariantWeight) -> Tensor:
    """(n_blocks,). How many numbers a block has, its bias included."""
    rows = torch.tensor(weight.blocks.block_sizes, dtype=torch.float64)
    shape, blocks = run.subject.parameters[weight.name].shape, weight.blocks
    return rows * (shape.numel() / n_rows_of(shape, blocks) + (weight.bias is not None))
