"""How long is a direction remembered, under weight decay in balance and under angles that are set?

On random gradients that do not remember each other, which is what the law speaks of; those of a network do,
so that it is a clock there and no measurement. Trains no network.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from decayfree import equilibrium
from decayfree.arguments.kinds import COUNT, SEED, checked
from decayfree.equilibrium import Equilibrium
from decayfree.invariance.discovery import find_invariant
from decayfree.invariance.result import Invariance
from decayfree.rescaling.turning import Turning
from decayfree.theory.check import Check, equality

_SOURCE = "Wang 2405.13698; Kosson 2305.17212"
_N_ROWS, _N_WEIGHTS = 32, 256
_N_BEFORE = 100  # steps after which momentum and second moments are there
# Rows scatter by 2 % together; what momentum still holds at the end has not turned yet, 3 % more.
_TOLERANCE = 0.08


@dataclass(frozen=True)
class ForgettingCase:
    """A recipe with decay, the norm where it settles, and what it forgets in a step.

    Args:
        name: As people call it.
        make: What makes the optimizer.
        settings: Its own, decay among them.
        balance: Where decay settles.
        forgetting: D of a step in balance.
    """

    name: str
    make: Callable[..., Optimizer]
    settings: dict[str, Any]
    balance: Equilibrium
    forgetting: float


_ETA, _LAMBDA = 0.1, 0.008
CASES = (
    ForgettingCase(
        "SGD",
        SGD,
        {"lr": _ETA, "weight_decay": _LAMBDA},
        equilibrium.sgd(_ETA, _LAMBDA, gradient_norm=1.0),
        _ETA * _LAMBDA,
    ),
    ForgettingCase(
        "SGD with momentum 0.9",
        SGD,
        {"lr": _ETA, "weight_decay": _LAMBDA / 10, "momentum": 0.9},
        equilibrium.sgd(_ETA, _LAMBDA / 10, momentum=0.9, gradient_norm=1.0),
        _ETA * _LAMBDA / 10 / (1 - 0.9),
    ),
    ForgettingCase(
        "AdamW",
        AdamW,
        {"lr": _ETA / 10, "weight_decay": 10 * _LAMBDA},
        equilibrium.adamw(_ETA / 10, 10 * _LAMBDA, fan_in=_N_WEIGHTS),
        _ETA * _LAMBDA,
    ),
)


@checked(n_steps=COUNT, seed=SEED)
def law_of_forgetting(case: ForgettingCase, *, n_steps: int = 400, seed: int = 0) -> Check:
    """E cos∠(u₀, u_T) = e^(−D), D = Σ ηλ/(1−μ) under SGD with L2 in balance, and Σ ηλ under AdamW.

    Args:
        case: One of `CASES`.
        n_steps: T.
        seed: Of weights and gradients.
    """
    forgotten = _forgotten_under_decay(case, n_steps, seed)
    expected = case.forgetting * n_steps
    return Check(
        f"{case.name} with decay forgets at the rate of its coefficient: E cos = e^(−D)",
        _SOURCE,
        f"D = {forgotten:.3f}",
        f"D = {expected:.3f}",
        abs(forgotten / expected - 1),
        _TOLERANCE,
        f"{_N_ROWS} blocks of {_N_WEIGHTS} weights at the norm of balance, {n_steps} steps of independent "
        "gradients",
    )


@checked(n_steps=COUNT, seed=SEED)
def matched_recipes_forget_alike(case: ForgettingCase, *, n_steps: int = 400, seed: int = 0) -> Check:
    """Without decay, at angles that are set, as much is forgotten as under the decay that they are set by.

    Args:
        case: One of `CASES`.
        n_steps: Of both.
        seed: Of both.
    """
    decayed = _forgotten_under_decay(case, n_steps, seed)
    settings = {**case.settings, "weight_decay": 0.0}
    weight, found = _rows(seed)
    optimizer = case.make([weight], **settings)
    memory = 1 / case.forgetting
    Turning(optimizer, found, steps_per_epoch=1, memory_epochs=memory)
    turned = _forgotten(weight, optimizer, n_steps, seed)
    return Check(
        f"{case.name} at angles that are set forgets as much as with the decay that they match",
        _SOURCE,
        f"D = {turned:.3f}",
        f"D = {decayed:.3f}",
        abs(turned / decayed - 1),
        _TOLERANCE,
        f"a memory of {memory:,.0f} steps at a fixed norm, beside {n_steps} steps of decay in balance",
    )


@checked(n_steps=COUNT, seed=SEED)
def turning_ignores_norm_and_rate(*, n_steps: int = 100, seed: int = 0) -> Check:
    """Directions are the same at another norm, another learning rate and another size of gradients.

    Args:
        n_steps: Of both trainings.
        seed: Of both.
    """
    ends = []
    for radius, rate, size in ((1.0, 0.1, 1.0), (30.0, 2.0, 1e-3)):
        weight, found = _rows(seed)
        optimizer = SGD([weight], lr=rate, momentum=0.9)
        Turning(optimizer, found, steps_per_epoch=10, memory_epochs=20.0, radius=radius)
        generator = torch.Generator().manual_seed(seed + 1)
        for _ in range(n_steps):
            weight.grad = size * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            optimizer.step()
        ends.append(nn.functional.normalize(weight.detach(), dim=1))
    return equality(
        "Where weights turn to depends on no norm, no learning rate and no size of gradients",
        _SOURCE,
        float((ends[0] - ends[1]).norm() / ends[0].norm()),
        1e-9,
        f"norms 30 times, rates 20 times and gradients a thousandth as large, {n_steps} steps",
    )


def forgetting(*, seed: int = 0) -> Iterator[Check]:
    """All of these, one after the other."""
    for check in (law_of_forgetting, matched_recipes_forget_alike):
        for case in CASES:
            yield check(case, seed=seed)
    yield turning_ignores_norm_and_rate(seed=seed)


def _forgotten_under_decay(case: ForgettingCase, n_steps: int, seed: int) -> float:
    weight, _ = _rows(seed)
    with torch.no_grad():
        weight.mul_(case.balance.norm or 1.0)
    return _forgotten(weight, case.make([weight], **case.settings), n_steps, seed)


def _rows(seed: int) -> tuple[nn.Parameter, Invariance]:
    """Rows of norm 1 that have no scale."""
    linear = nn.utils.skip_init(nn.Linear, _N_WEIGHTS, _N_ROWS, bias=False)
    model = nn.Sequential(linear, nn.BatchNorm1d(_N_ROWS)).double()
    generator = torch.Generator().manual_seed(seed)
    weight: nn.Parameter = linear.weight
    with torch.no_grad():
        weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))
        weight.div_(weight.norm(dim=1, keepdim=True))
    inputs = torch.randn(8, _N_WEIGHTS, generator=generator, dtype=torch.float64)
    return weight, find_invariant(model, inputs)


def _forgotten(weight: nn.Parameter, optimizer: Optimizer, n_steps: int, seed: int) -> float:
    """−log of the mean cosine after ``n_steps``."""
    generator = torch.Generator().manual_seed(seed + 1)
    start: Tensor = weight.detach().clone()
    for step in range(_N_BEFORE + n_steps):
        if step == _N_BEFORE:
            start = weight.detach().clone()
        gradient = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        squares = weight.detach().square().sum(1, keepdim=True)
        gradient -= (gradient * weight.detach()).sum(1, keepdim=True) / squares * weight.detach()
        # Of norm 1 at unit norm.
        weight.grad = gradient / gradient.norm(dim=1, keepdim=True) / squares.sqrt()
        optimizer.step()
    return -math.log(float(torch.cosine_similarity(start, weight.detach(), dim=1).mean()))
