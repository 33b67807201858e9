"""How do the norms of weights without scale grow under each optimizer?

By identities that hold exactly, block by block and step by step: each norm is predicted from the gradients
alone and compared. Says nothing of where the growth ends (equilibria.py does).
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from decayfree.arguments.kinds import COUNT, checked
from decayfree.rescaling.weight_rescaling import WeightRescaling
from decayfree.theory.check import Check, difference, figure
from decayfree.theory.subject import Subject
from decayfree.theory.trajectory import (
    MakeOptimizer,
    Step,
    Training,
    Values,
    combined,
    cosines,
    dots,
    largest,
    norms,
    training,
)

_TOLERANCE = 1e-7
_PAPER = "2102.03497v1"
_MOMENTUM = 0.9


@checked(n_steps=COUNT)
def growth_of_sgd(
    subject: Subject,
    make_optimizer: MakeOptimizer = torch.optim.SGD,
    *,
    decayed: bool = False,
    n_steps: int = 100,
) -> Check:
    """‖w'‖² = (1−ηλ)²‖w‖² + η²‖g‖², λ = 0 unless ``decayed``."""
    lr = subject.learning_rate()
    decay = 0.2 / (n_steps * lr) if decayed else 0.0
    run = training(subject, make_optimizer, lr=lr, weight_decay=decay)

    def predicted(step: Step, memory: _Memory) -> Iterator[tuple[Any, Tensor, Tensor]]:
        for weight in run.subject.found:
            growth = (lr * norms(step.gradients, weight)).square()
            yield weight, (1 - lr * decay) ** 2 * norms(step.before, weight).square() + growth, growth

    law = "(1−ηλ)²‖w‖² + η²‖g‖²" if decayed else "‖w‖² + η²‖g‖²"
    name = "SGD with L2" if decayed else "SGD"
    return _compared(f"{name}: ‖w'‖² = {law}", _PAPER, run, predicted, n_steps, 0.0, decay)


@checked(n_steps=COUNT)
def growth_of_momentum(
    subject: Subject,
    make_optimizer: MakeOptimizer = torch.optim.SGD,
    *,
    decayed: bool = False,
    decoupled: bool = False,
    n_steps: int = 100,
) -> Check:
    """‖w'‖² = α²‖w‖² − 2ηα·a + η²‖v‖², a = ⟨w, v⟩ from norms of v: μ(αa₋ − η‖v₋‖²), and λ‖w‖² with L2."""
    lr = subject.learning_rate(0.01)
    decay = 0.2 / (n_steps * lr) if decayed or decoupled else 0.0
    coupled = 0.0 if decoupled else decay
    run = training(subject, make_optimizer, lr=lr, weight_decay=coupled, momentum=_MOMENTUM)
    alpha = 1 - lr * decay if decoupled else 1.0
    if decoupled:
        run.before_step = lambda number: torch._foreach_mul_(
            [p.data for p in run.subject.held.values()], alpha
        )
    alignment: dict[str, Tensor] = {}

    def predicted(step: Step, memory: _Memory) -> Iterator[tuple[Any, Tensor, Tensor]]:
        for weight in run.subject.found:
            square = norms(memory.weights, weight).square()
            buffer, before = norms(memory.buffer, weight), memory.norms_before.get(weight.name)
            last = alignment.get(weight.name, torch.zeros_like(square))
            inherited = 0.0 if before is None else _MOMENTUM * (alpha * last - lr * before.square())
            alignment[weight.name] = a = inherited + coupled * square
            memory.norms_before[weight.name] = buffer
            growth = (lr * buffer).square()
            yield weight, alpha**2 * square - 2 * lr * alpha * a + growth, growth

    name = "Momentum" + (", decoupled decay" if decoupled else " with L2" if decayed else "")
    law = "α²‖w‖² − 2ηα⟨w,v⟩ + η²‖v‖²" if decoupled else "‖w‖² − 2η⟨w,v⟩ + η²‖v‖²"
    return _compared(f"{name}: ‖w'‖² = {law}", "algebra", run, predicted, n_steps, _MOMENTUM, coupled, alpha)


@checked(n_steps=COUNT)
def growth_of_nesterov(
    subject: Subject, make_optimizer: MakeOptimizer = torch.optim.SGD, *, n_steps: int = 100
) -> Check:
    """‖w'‖² = ‖w‖² − 2ημa + η²‖d‖², d = g + μv, a = ⟨w, v⟩ = μ(a₋ − η⟨d₋, v₋⟩)."""
    lr = subject.learning_rate(0.01)
    run = training(subject, make_optimizer, lr=lr, momentum=_MOMENTUM, nesterov=True)
    alignment: dict[str, Tensor] = {}

    def predicted(step: Step, memory: _Memory) -> Iterator[tuple[Any, Tensor, Tensor]]:
        direction = combined((1.0, step.gradients), (_MOMENTUM, memory.buffer))
        for weight in run.subject.found:
            square = norms(step.before, weight).square()
            a = alignment.get(weight.name, torch.zeros_like(square))
            alignment[weight.name] = _MOMENTUM * (a - lr * dots(direction, memory.buffer, weight))
            growth = (lr * norms(direction, weight)).square()
            yield weight, square - 2 * lr * _MOMENTUM * a + growth, growth

    return _compared(
        "Nesterov: ‖w'‖² = ‖w‖² − 2ημ⟨w,v⟩ + η²‖d‖²", "algebra", run, predicted, n_steps, _MOMENTUM, 0.0
    )


@checked(n_steps=COUNT)
def growth_under_rescaling(
    subject: Subject,
    make_optimizer: MakeOptimizer = torch.optim.SGD,
    *,
    momentum: float = 0.0,
    n_steps: int = 100,
) -> Check:
    """What a rescale takes away, from gradients: r̃² = R² − 2ηa + η²‖v‖², a = (R·μ/r̃₋)(a₋ − η‖v₋‖²)."""
    lr = subject.learning_rate(0.01 if momentum else 0.03)
    settings = {"momentum": momentum} if momentum else {}
    run = training(subject, make_optimizer, lr=lr, **settings)
    rescaling = WeightRescaling(run.optimizer, run.subject.found)
    memory = _Memory()
    alignment: dict[str, Tensor] = {}
    stretched: dict[str, Tensor] = {}
    residuals, angles = [], []
    for step in run.steps(n_steps):
        memory.update(step, momentum, 0.0, step.before)
        factors = rescaling.factors
        for weight in run.subject.found:
            radius = norms(step.before, weight)
            buffer = norms(memory.buffer, weight)
            last = memory.norms_before.get(weight.name)
            if last is None:
                a = torch.zeros_like(radius)
            else:
                a = radius * momentum / stretched[weight.name] * (alignment[weight.name] - lr * last.square())
            alignment[weight.name], memory.norms_before[weight.name] = a, buffer
            growth = (lr * buffer).square()
            predicted = radius.square() - 2 * lr * a + growth
            stretched[weight.name] = radius / factors[weight.name]
            residuals.append(_share(stretched[weight.name].square(), predicted, growth, radius))
            angles.append(float((lr * buffer / radius).median()))
    name = "WRS with momentum" if momentum else "WRS with SGD"
    return _of_growth(
        f"{name}: a step stretches to r̃² = R²{' − 2ηa' if momentum else ''} + "
        f"η²‖{'v' if momentum else 'g'}‖²",
        "algebra",
        residuals,
        f"Every block of every weight at {n_steps} steps; a step moves the median block by "
        f"{sum(angles) / len(angles):.2g} of its radius.",
    )


@checked(n_steps=COUNT)
def adam_is_not_orthogonal(
    subject: Subject, make_optimizer: Callable[..., Optimizer] = torch.optim.Adam, *, n_steps: int = 20
) -> Check:
    """Adam's update leans on the weight, so no identity of this kind holds; fails where it does not lean."""
    run = training(subject, make_optimizer, lr=1e-3)
    leans = []
    for step in run.steps(n_steps):
        update = combined((1.0, step.after), (-1.0, step.before))
        leans += [
            float(cosines(step.before, update, weight).median())
            for weight in run.subject.found
            if norms(update, weight).any()
        ]
    lean = sum(leans) / len(leans) if leans else 0.0
    return difference(
        "Adam: its update is not orthogonal to the weight, so no such identity",
        "algebra",
        f"|cos(w, Δw)| = {lean:.2g}",
        lean,
        f"Mean over {n_steps} steps of the median block; growth of norms under Adam has a part of first "
        "order in the learning rate.",
    )


class _Memory:
    """A momentum buffer of our own, from the gradients alone: the optimizer's is not trusted."""

    def __init__(self) -> None:
        self.buffer: Values = {}
        self.weights: Values = {}
        self.norms_before: dict[str, Tensor] = {}

    def update(self, step: Step, momentum: float, decay: float, weights: Values) -> None:
        self.weights = weights
        gradients = combined((1.0, step.gradients), (decay, weights)) if decay else step.gradients
        self.buffer = combined((momentum, self.buffer), (1.0, gradients)) if self.buffer else gradients


Predict = Callable[[Step, _Memory], Iterator[tuple[Any, Tensor, Tensor]]]


def _compared(
    statement: str,
    source: str,
    run: Training,
    predicted: Predict,
    n_steps: int,
    momentum: float,
    decay: float,
    alpha: float = 1.0,
) -> Check:
    memory, residuals, total = _Memory(), [], 0.0
    first: dict[str, Tensor] = {}
    for step in run.steps(n_steps):
        weights = combined((1 / alpha, step.before)) if alpha != 1.0 else step.before
        memory.update(step, momentum, decay, weights)
        for weight, square, growth in predicted(step, memory):
            measured = norms(step.after, weight)
            residuals.append(_share(measured.square(), square, growth, norms(weights, weight)))
            first.setdefault(weight.name, norms(weights, weight))
            total = max(total, float((measured / first[weight.name] - 1).abs().max()))
    return _of_growth(
        statement,
        source,
        residuals,
        f"Every block at {n_steps} steps, predicted from the gradients; "
        f"the largest change of a norm on the way is {total:.1%}.",
    )


def _of_growth(statement: str, source: str, residuals: list[float], sentence: str) -> Check:
    apart = largest(residuals)
    measured = f"apart by {figure(apart)} of the growth"
    return Check(statement, source, measured, "0", apart, _TOLERANCE, sentence)


def _share(measured: Tensor, predicted: Tensor, growth: Tensor, norm: Tensor) -> float:
    """|measured − predicted| as a share of the growth of ‖w‖², at least 1e-6 of it: rounding would show."""
    return float(((measured - predicted).abs() / growth.maximum(1e-6 * norm.square())).max())
