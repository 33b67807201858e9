"""Optimizers and losses that break laws on purpose: what the checks are worth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from decayfree.theory import Subject

SGD = torch.optim.SGD


class Stretching(SGD):
    """Grows the first group's weights by a tenth of a percent in every step."""

    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.mul_(1.001)
        return result


class Noisy(SGD):
    """Adds noise to every step."""

    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.add_(1e-4 * torch.randn_like(parameter))
        return result


class Idle(SGD):
    """Does not move."""

    def step(self, closure: Any = None) -> Any:
        return None


class TrustRatio(SGD):
    """Steps as long as the weight is, as LARS does: they feel what lies outside the span."""

    def step(self, closure: Any = None) -> Any:
        for parameter in self.param_groups[0]["params"]:
            parameter.grad.mul_(parameter.detach().norm())
        return super().step(closure)


class Drifting(SGD):
    """Shrinks the weights more and more after the hooks of all others."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.n_steps = 0
        self.register_step_post_hook(lambda *_: self._shrink())

    @torch.no_grad()
    def _shrink(self) -> None:
        self.n_steps += 1
        for parameter in self.param_groups[0]["params"]:
            parameter.mul_(math.exp(-1e-3 * self.n_steps))


def dampened(*args: Any, **kwargs: Any) -> SGD:
    """Momentum whose gradients count a tenth less."""
    return SGD(*args, **{"momentum": 0.9, **kwargs, "dampening": 0.1, "nesterov": False})


def doubling_decay(make: Callable[..., torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """Twice the decay that is asked for."""

    def made(groups: list[dict[str, Any]], **kwargs: Any) -> torch.optim.Optimizer:
        groups[0]["weight_decay"] = 2 * groups[0]["weight_decay"]
        return make(groups, **kwargs)

    return made


def without_decay(groups: list[dict[str, Any]], **kwargs: Any) -> SGD:
    """SGD that forgets its decay."""
    for group in groups:
        group["weight_decay"] = 0.0
    return SGD(groups, **kwargs)


def with_a_scale(subject: Subject) -> Subject:
    """The subject with a loss that does see how long weights are."""

    def loss(model: nn.Module, step: int) -> Tensor:
        own = subject.loss(model, step)
        return own + 1e-4 * sum(
            p.square().sum() for name, p in model.named_parameters() if name in subject.held
        )

    return replace(subject, loss=loss, notes={})
