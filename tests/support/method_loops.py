"""Small runs in float64 for tests of methods: once as the library trains them, once by hand.

The loop by hand takes its updates from `reference` and from equations that a test writes down; it never
imports decayfree's methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decayfree import find_invariant
from decayfree.methods import AttachedMethod, Method
from decayfree.study.optimizers import build_optimizer
from decayfree.study.run_settings import OptimizerSpec
from support import reference

N_STEPS = 50
FIRST = "0.weight"
"""The scale-invariant weight of the model, (5, 6), a block a row."""
Batch = tuple[Tensor, Tensor]
Treat = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""The first weight after a step, from itself, its gradient, what the optimizer would add, and the number of
the step from 0.
"""


def small_model(seed: int) -> nn.Sequential:
    """A layer without scale, and one with; the normalization's ε is so small that it has no effect."""
    torch.manual_seed(seed)
    layers = [nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)]
    model = nn.Sequential(*layers).double()
    model[1].eps = 1e-30
    return model


def small_batches(seed: int, n_steps: int = N_STEPS) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(16, 6, generator=generator, dtype=torch.float64),
            torch.randint(3, (16,), generator=generator),
        )
        for _ in range(n_steps)
    ]


@dataclass
class Run:
    """What a run of the library leaves."""

    optimizer: torch.optim.Optimizer
    attached: AttachedMethod
    weights: list[Tensor]  # the first layer's, as the method keeps it: before each step, and after the last
    last_gradient: Tensor


def train(
    model: nn.Module,
    method: Method,
    batches: Sequence[Batch],
    spec: OptimizerSpec,
    *,
    lr: float,
    rest_weight_decay: float = 0.0,
    schedule: Callable[[int], float] = lambda step: 1.0,
) -> Run:
    """As a study trains: parametrize, group, optimize, attach, step."""
    found = method.prepare(model, find_invariant(model, batches[0][0]))
    groups = method.param_groups(model, found, rest_weight_decay=rest_weight_decay)
    optimizer = build_optimizer(spec, groups, learning_rate=lr, method=method)
    attached = method.attach(optimizer, found)
    weight = model.get_parameter(found[0].name)
    weights = [weight.detach().clone()]
    for step, (inputs, labels) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = lr * schedule(step)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        weights.append(weight.detach().clone())
    assert weight.grad is not None
    return Run(optimizer, attached, weights, weight.grad)


def by_hand(
    model: nn.Module,
    batches: Sequence[Batch],
    rule: reference.Rule,
    treat: Treat,
    *,
    forward: Callable[[nn.Module, Tensor], Tensor] = lambda model, inputs: model(inputs),
    schedule: Callable[[int], float] = lambda step: 1.0,
    update: Callable[[reference.Rule, Tensor, Tensor, reference.Moments], Tensor] = reference.optimizer_step,
) -> list[Tensor]:
    """The first weight before each step and after the last; all others take the optimizer's own steps."""
    parameters = dict(model.named_parameters())
    moments = {
        name: reference.Moments(torch.zeros_like(p), torch.zeros_like(p)) for name, p in parameters.items()
    }
    learning_rate = rule.lr
    weights = [parameters[FIRST].detach().clone()]
    for step, (inputs, labels) in enumerate(batches):
        rule.lr = learning_rate * schedule(step)
        gradients = torch.autograd.grad(
            F.cross_entropy(forward(model, inputs), labels), list(parameters.values())
        )
        with torch.no_grad():
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
                added = update(rule, torch.zeros_like(parameter), gradient, moments[name])
                if name == FIRST:
                    parameter.copy_(treat(parameter.clone(), gradient, added, step))
                else:
                    parameter.add_(added)
        weights.append(parameters[FIRST].detach().clone())
    rule.lr = learning_rate
    return weights


def row_norms(weight: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight, dim=1, keepdim=True)


def normed(weight: Tensor) -> Tensor:
    return weight / row_norms(weight)


def lion_step(rule: reference.Rule, w: Tensor, g: Tensor, moments: reference.Moments) -> Tensor:
    """Lion (Chen et al. 2023, 2302.06675, algorithm 2) without decay."""
    beta1, beta2 = rule.betas
    step = torch.sign(beta1 * moments.first + (1 - beta1) * g)
    moments.first = beta2 * moments.first + (1 - beta2) * g
    return w - rule.lr * step


def assert_same(ours: Sequence[Tensor], theirs: Sequence[Tensor], rtol: float = 1e-9) -> None:
    """Every step of two trajectories."""
    assert len(ours) == len(theirs)
    torch.testing.assert_close(torch.stack(list(ours)), torch.stack(list(theirs)), rtol=rtol, atol=1e-11)


def assert_same_rest(model: nn.Module, other: nn.Module) -> None:
    """All but the first layer, whose parameters may be called otherwise."""
    for ours, theirs in zip(model[1:].parameters(), other[1:].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
