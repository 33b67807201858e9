"""Weight decay on random gradients in float64, to hold the closed forms of equilibrium against.

Written from the optimizers' update rules and never from decayfree. The gradient of every step is a new normal
vector made tangent to the weight, of norm G/‖w‖, as the gradient of a scale-invariant weight is. Symbols: w
weights, g gradients, v and m momentum buffers, s the second moment, η the learning rate, λ the weight decay,
μ the momentum coefficient. No test is here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

Update = Callable[[Tensor, Tensor], Tensor]  # (weights, gradients) -> weights after one step
Rate = Callable[[int], float]  # step -> learning rate


@dataclass(frozen=True)
class Measured:
    """Root mean squares over rows, and over the steps that count."""

    chord: float
    norm: float
    chords: Tensor  # (n_steps,), of every step from the first on
    norms: Tensor  # (n_steps,), after every step

    @property
    def angle_rad(self) -> float:
        return 2 * math.asin(self.chord / 2)


def simulate(
    update: Update,
    *,
    start_norm: float,
    gradient_norm: float = 1.0,
    n_weights: int = 2048,
    n_rows: int = 4,
    n_before: int,
    n_measured: int,
    is_norm_fixed: bool = False,
    seed: int = 0,
) -> Measured:
    """Take ``n_before`` steps that do not count and ``n_measured`` that do."""
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(n_rows, n_weights, dtype=torch.float64, generator=generator)

    w = normal()
    w *= start_norm / norm_of(w)
    chords, norms = [], []
    for _ in range(n_before + n_measured):
        u = w / norm_of(w)
        g = normal()
        g -= (g * u).sum(dim=1, keepdim=True) * u
        g *= gradient_norm / norm_of(g) / norm_of(w)
        w = update(w, g)
        if is_norm_fixed:
            w *= start_norm / norm_of(w)
        chords.append((w / norm_of(w) - u).square().sum(dim=1).mean())
        norms.append(w.square().sum(dim=1).mean())
    return Measured(
        chord=float(torch.stack(chords[n_before:]).mean().sqrt()),
        norm=float(torch.stack(norms[n_before:]).mean().sqrt()),
        chords=torch.stack(chords).sqrt(),
        norms=torch.stack(norms).sqrt(),
    )


def sgd(
    rate: float | Rate,
    weight_decay: float,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    decoupled: bool = False,
) -> Update:
    v: Tensor | float = 0.0
    steps = count()

    def update(w: Tensor, g: Tensor) -> Tensor:
        nonlocal v
        lr = rate_at(rate, next(steps))
        if decoupled:
            w = w - lr * weight_decay * w
        else:
            g = g + weight_decay * w
        v = momentum * v + g
        return w - lr * (g + momentum * v if nesterov else v)

    return update


def adam(
    rate: float | Rate, weight_decay: float, *, betas: tuple[float, float] = (0.9, 0.999), decoupled: bool
) -> Update:
    m: Tensor | float = 0.0
    s: Tensor | float = 0.0
    steps = count()

    def update(w: Tensor, g: Tensor) -> Tensor:
        nonlocal m, s
        step = next(steps)
        lr = rate_at(rate, step)
        if decoupled:
            w = w - lr * weight_decay * w
        else:
            g = g + weight_decay * w
        m = betas[0] * m + (1 - betas[0]) * g
        s = betas[1] * s + (1 - betas[1]) * g.square()
        unbiased = s / (1 - betas[1] ** (step + 1))
        return w - lr * m / (1 - betas[0] ** (step + 1)) / unbiased.sqrt()

    return update


def lion(lr: float, weight_decay: float, *, betas: tuple[float, float]) -> Update:
    m: Tensor | float = 0.0

    def update(w: Tensor, g: Tensor) -> Tensor:
        nonlocal m
        step = (betas[0] * m + (1 - betas[0]) * g).sign()
        m = betas[1] * m + (1 - betas[1]) * g
        return w - lr * weight_decay * w - lr * step

    return update


def norm_of(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return norms


def rate_at(rate: float | Rate, step: int) -> float:
    return rate if isinstance(rate, float) else rate(step)
