"""What happens to the weights of a subject while an optimizer trains it?

Trains a copy and hands out every step: weights before, gradients, weights after. Judges nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from decayfree.invariance.verdict import ScaleInvariantWeight
from decayfree.theory.subject import Subject, gradients_of

MakeOptimizer = Callable[..., Optimizer]
"""A class of ``torch.optim``, or what is called like one: ``make(param_groups, lr=..., **settings)``."""

Values = Mapping[str, Tensor]


@dataclass(frozen=True)
class Step:
    """One step of the scale-invariant weights and their biases, by parameter name, all float64.

    Args:
        number: From 0.
        before: Weights at the forward pass.
        gradients: Gradients of the loss there, without decay.
        after: Weights when the step and all its hooks are done.
    """

    number: int
    before: Values
    gradients: Values
    after: Values


@dataclass
class Training:
    """A copy of a subject with its optimizer: one group of scale-invariant weights, then one of the rest.

    Args:
        subject: The copy.
        optimizer: Of its parameters.
        before_step: Called with the step's number after the gradients are there, before the optimizer.
    """

    subject: Subject
    optimizer: Optimizer
    before_step: Callable[[int], None] = lambda number: None

    def steps(self, n_steps: int, *, first: int = 0, fixed: int | None = None) -> Iterator[Step]:
        """Train; ``fixed`` takes the loss of that step every time. Rows with a scale stay as they are."""
        return (step for (step,) in together([self], n_steps, first=first, fixed=fixed))

    def take(self, number: int, gradients: Values) -> Step:
        """One step with these gradients of all trainable parameters."""
        held = self.subject.held
        for name, parameter in self.subject.parameters.items():
            parameter.grad = gradients[name].clone() if name in gradients else None
        self.before_step(number)
        before = {name: parameter.detach().clone() for name, parameter in held.items()}
        self.optimizer.step()
        for name, is_scaled in self._scaled.items():
            held[name].data.copy_(torch.where(is_scaled, before[name], held[name].data))
        after = {name: parameter.detach().clone() for name, parameter in held.items()}
        return Step(number, before, {name: gradients[name] for name in held}, after)

    @cached_property
    def _scaled(self) -> dict[str, Tensor]:
        return _rows_with_a_scale(self.subject)


def together(
    trainings: Sequence[Training], n_steps: int, *, first: int = 0, fixed: int | None = None
) -> Iterator[tuple[Step, ...]]:
    """Trainings of copies of one subject side by side, step by step; arguments as for `Training.steps`."""
    subjects = [one.subject for one in trainings]
    for number in range(first, first + n_steps):
        gradients = gradients_of(subjects, number if fixed is None else fixed)
        yield tuple(one.take(number, own) for one, own in zip(trainings, gradients, strict=True))


def training(
    subject: Subject,
    make_optimizer: MakeOptimizer,
    *,
    lr: float,
    weight_decay: float | None = None,
    **settings: Any,
) -> Training:
    """A copy of ``subject`` with an optimizer.

    Args:
        subject: Left alone.
        make_optimizer: What makes the optimizer.
        lr: Learning rate of all parameters.
        weight_decay: Of the scale-invariant weights, where given; the rest gets none.
        settings: Further ones of the optimizer.
    """
    twin = subject.copy()
    held: dict[str, Any] = {"params": list(twin.held.values())}
    rest: dict[str, Any] = {"params": list(twin.rest.values())}
    if weight_decay is not None:
        held["weight_decay"], rest["weight_decay"] = weight_decay, 0.0
    if not twin.trains_rest:
        rest["lr"] = 0.0
    groups = [held, rest] if rest["params"] else [held]
    return Training(twin, make_optimizer(groups, lr=lr, **settings))


def _rows_with_a_scale(subject: Subject) -> dict[str, Tensor]:
    """Of weights (and their biases) of which only some rows are held: where the others are, by name."""
    others: dict[str, Tensor] = {}
    for weight in (one for one in subject.found if one.blocks.is_partial):
        part = weight.part(subject.parameters).each(torch.ones_like)
        part.scale_(torch.zeros(weight.blocks.n_blocks, dtype=torch.float64))
        others |= {name: mask > 0 for name, mask in zip(weight.names, part.tensors, strict=True)}
    return others


def norms(values: Values, weight: ScaleInvariantWeight) -> Tensor:
    """(n_blocks,). Norms of one weight's blocks among ``values``."""
    return weight.part(values).norms()


def dots(a: Values, b: Values, weight: ScaleInvariantWeight) -> Tensor:
    """(n_blocks,). Inner products of one weight's blocks in ``a`` and ``b``."""
    return weight.part(a).dots(weight.part(b))


def combined(*terms: tuple[float, Values]) -> Values:
    """Σ factor · values, by name."""
    return {
        name: torch.stack([factor * values[name] for factor, values in terms]).sum(0) for name in terms[0][1]
    }


def cosines(a: Values, b: Values, weight: ScaleInvariantWeight) -> Tensor:
    """(n_blocks,). |cos| between the blocks of ``a`` and ``b``; 0 where one is zero."""
    sizes = norms(a, weight) * norms(b, weight)
    return torch.where(sizes > 0, dots(a, b, weight).abs() / sizes, 0.0)


def direction_distances(a: Values, b: Values, weight: ScaleInvariantWeight) -> Tensor:
    """(n_blocks,). ‖u_a − u_b‖ between directions of blocks of ``a`` and ``b``; accurate for near ones."""
    directions = []
    for values in (a, b):
        unit = {name: values[name].clone() for name in weight.names}
        weight.part(unit).scale_(1 / norms(values, weight))
        directions.append(unit)
    return norms(combined((1.0, directions[0]), (-1.0, directions[1])), weight)


def largest(values: Iterator[float] | list[float]) -> float:
    """The largest of them; infinity if one is NaN, so that nothing passes unseen."""
    result = 0.0
    for value in values:
        result = max(result, value) if value == value else float("inf")
    return result
