"""What is weight decay, if the weights have no scale?

A learning-rate schedule: a training with decay has the same directions as one without, at a fixed norm or at
a growing rate. Compares such pairs of trainings step by step.
"""

import math

import torch
from torch import Tensor

from decayfree.arguments.kinds import COUNT, checked
from decayfree.errors import listed
from decayfree.methods.exact_replay import ExactReplay
from decayfree.theory.check import Check, figure, not_applicable
from decayfree.theory.subject import Subject
from decayfree.theory.trajectory import (
    MakeOptimizer,
    Training,
    Values,
    direction_distances,
    largest,
    norms,
    together,
    training,
)

_TOLERANCE = 1e-8
_MOMENTUM = 0.9
_TURN = 2e-3

SCALING_STORY = (
    "The paper finds learning-rate scaling insufficient as an account of decay. Done exactly (per block, "
    "with the momentum factor r/r₋), it is decay: the two have equal directions. What is insufficient is a "
    "scaling that leaves momentum alone."
)


@checked(n_steps=COUNT)
def decay_is_a_replayed_norm(
    subject: Subject, make_optimizer: MakeOptimizer = torch.optim.SGD, *, n_steps: int = 200
) -> Check:
    """Training with decay turns as one at unit norm with step sizes and momentum factors from its norms."""
    statement, source = "Weight decay = a fixed norm with replayed step sizes", "algebra; cf. 1803.01814"
    if partial := [weight.name for weight in subject.found if weight.blocks.is_partial]:
        return not_applicable(
            statement,
            source,
            f"Only some rows of {listed(partial)} are scale-invariant; whole weights are replayed.",
        )
    lr = subject.learning_rate(0.01)
    decay = _TURN / lr
    run = training(subject, make_optimizer, lr=lr, weight_decay=decay, momentum=_MOMENTUM)
    _follow_cosine(run, lr, n_steps)
    weights_by_step, norms_by_step = [], []
    for step in run.steps(n_steps):
        weights_by_step.append(step.after)
        norms_by_step.append({weight.name: norms(step.before, weight) for weight in subject.found})
    replayed = {name: torch.stack([row[name] for row in norms_by_step]) for name in norms_by_step[0]}
    twins = [
        _replayed(subject, replayed, lr, decay, n_steps, is_exact=is_exact) for is_exact in (True, False)
    ]
    steps = list(zip(weights_by_step, together(twins, n_steps), strict=True))
    apart, without_factor = (
        largest([_apart(subject, weights, both[twin].after) for weights, both in steps]) for twin in (0, 1)
    )
    change = max(float((values / values[0] - 1).abs().max()) for values in replayed.values())
    return Check(
        statement,
        source,
        f"directions apart by {figure(apart)}",
        "0",
        apart,
        _TOLERANCE,
        f"Momentum 0.9, L2, cosine schedule, {n_steps} steps; norms in the run with decay change by up to "
        f"{change:.0%}. Without the momentum factor r/r₋ directions end up apart by "
        f"{figure(without_factor)}.",
        SCALING_STORY,
    )


@checked(n_steps=COUNT)
def decay_is_an_exponential_schedule(
    subject: Subject, make_optimizer: MakeOptimizer = torch.optim.SGD, *, n_steps: int = 200
) -> Check:
    """Momentum with L2 at constant η equals one without at η·α^(−2t−1), its buffer from −(1−α)/(ηα)·w₀.

    References:
        Li, Arora, "An Exponential Learning Rate Schedule for Deep Learning", 2020, arXiv 1910.07454, Theorem
        2.7.
    """
    lr = subject.learning_rate(0.01)
    alpha = larger_root(_MOMENTUM, _TURN)
    decayed = training(subject, make_optimizer, lr=lr, weight_decay=_TURN / lr, momentum=_MOMENTUM)
    free = training(subject, make_optimizer, lr=lr, momentum=_MOMENTUM)
    _start_buffers_(free, -(1 - alpha) / (lr * alpha))

    def grow(number: int) -> None:
        free.optimizer.param_groups[0]["lr"] = lr * alpha ** (-2 * number - 1)

    free.before_step = grow
    steps = together([decayed, free], n_steps)
    apart = largest([_apart(subject, one.after, other.after) for one, other in steps])
    return Check(
        "Weight decay = a learning rate that grows exponentially",
        "Li & Arora 1910.07454",
        f"directions apart by {figure(apart)}",
        "0",
        apart,
        _TOLERANCE,
        f"Momentum 0.9, L2, constant rate, {n_steps} steps; the rate without decay ends "
        f"{alpha ** (-2 * n_steps):.3g} times as high.",
        "Exact only with the momentum buffer started to match; "
        "from a buffer of zeros the first steps differ.",
    )


def larger_root(momentum: float, turn: float) -> float:
    """The larger root of x² − (1 + μ − ηλ)x + μ = 0; ``turn`` is ηλ."""
    half = (1 + momentum - turn) / 2
    return half + math.sqrt(half * half - momentum)


def _replayed(
    subject: Subject, replayed: dict[str, Tensor], lr: float, decay: float, n_steps: int, *, is_exact: bool
) -> Training:
    """A training at a fixed norm; not ``is_exact``: momentum keeps its coefficient."""
    twin = training(subject, torch.optim.SGD, lr=lr, momentum=_MOMENTUM)
    ExactReplay(decay).attach(twin.optimizer, twin.subject.found, replayed=replayed)
    _follow_cosine(twin, lr, n_steps)
    follow = twin.before_step

    def momentum_of(parameter: Tensor) -> Tensor:
        momentum: Tensor = twin.optimizer.state[parameter]["momentum_buffer"]
        return momentum

    def leave_momentum_alone(number: int) -> None:
        follow(number)
        for weight in twin.subject.found if number else ():
            factors = replayed[weight.name][number - 1] / replayed[weight.name][number]
            weight.part(twin.subject.parameters).each(momentum_of).scale_(factors)

    if not is_exact:
        twin.before_step = leave_momentum_alone
    return twin


def _follow_cosine(run: Training, lr: float, n_steps: int) -> None:
    def follow(number: int) -> None:
        rate = lr * 0.5 * (1 + math.cos(math.pi * number / n_steps))
        for group in run.optimizer.param_groups[: 2 if run.subject.trains_rest else 1]:
            group["lr"] = rate

    run.before_step = follow


def _start_buffers_(run: Training, factor: float) -> None:
    for name, parameter in run.subject.parameters.items():
        if name in run.subject.held:
            run.optimizer.state[parameter]["momentum_buffer"] = factor * parameter.detach().clone()
        elif parameter.requires_grad:
            run.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _apart(subject: Subject, a: Values, b: Values) -> float:
    """Largest distance between the directions of a block in ``a`` and in ``b``."""
    return largest([float(direction_distances(a, b, weight).max()) for weight in subject.found])
