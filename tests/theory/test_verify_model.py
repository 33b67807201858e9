"""Statements on models of all kinds: none fails that should hold, and what does not apply says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decayfree import theory
from decayfree.errors import InvalidInputError

ADAM_LEAVES = "Adam's updates leave the span"


class SharedHead(nn.Module):
    """One convolution and BatchNorm that run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.norm(self.conv(y)).relu().mean((2, 3)) for y in (x, x.flip(0) ** 2)]
        return self.head(features[0] + features[1])


class FunctionalTwin(nn.Module):
    """A weight that is used once more, outside the module that owns it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(6, 12, bias=False), nn.LayerNorm(12)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.first(x))
        return F.layer_norm(F.linear(hidden, self.first.weight.t()), (6,))


class Complex(nn.Module):
    """Complex outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(self.body(x).tanh())


def layer_norm_first() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 24), nn.LayerNorm(24), nn.ReLU(), nn.Linear(24, 3))


def group_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.GroupNorm(2, 8),
        nn.GELU(),
        nn.Conv2d(8, 4, 3, groups=2),
        nn.BatchNorm2d(4),
    )


def transposed() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, bias=False), nn.BatchNorm2d(6), nn.Tanh()
    )


def dropped() -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 8), nn.BatchNorm1d(8)
    )


def images() -> Tensor:
    return torch.randn(6, 3, 8, 8)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "group norm": (group_norm, images),
    "transposed": (transposed, lambda: torch.randn(5, 4, 4, 4)),
    "layer norm first": (layer_norm_first, lambda: torch.randn(5, 12)),
    "shared head": (SharedHead, images),
    "functional twin": (FunctionalTwin, lambda: torch.randn(4, 6)),
    "complex": (Complex, lambda: torch.randn(16, 5)),
    "dropout": (dropped, lambda: torch.randn(6, 12)),
    "dead features": (layer_norm_first, lambda: torch.randn(5, 12) * (torch.arange(12) < 3)),
    "features of many sizes": (layer_norm_first, lambda: torch.randn(32, 12) * 10.0 ** -torch.arange(12)),
}


@pytest.mark.parametrize("name", MODELS)
def test_nothing_fails_that_should_hold(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    make, inputs = MODELS[name]
    checks = list(theory.verify_model(make(), inputs(), n_steps=4))
    assert [f"{check.statement}: {check.measured}" for check in checks if check.verdict == "fails"] == []
    assert sum(check.verdict == "holds" for check in checks) >= 12


def test_adam_is_not_said_to_leave_a_span_that_it_cannot_leave(seed: int) -> None:
    torch.manual_seed(seed)
    grey = torch.randn(8, 1, 8, 8).expand(-1, 3, -1, -1)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU())
    check = next(
        check for check in theory.verify_model(model, grey, n_steps=4) if check.statement == ADAM_LEAVES
    )
    assert check.verdict == "does not apply"
    assert "equal" in check.sentence


def test_a_model_without_scale_invariant_weights_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="has no scale-invariant weight to try statements on"):
        next(theory.verify_model(nn.Linear(3, 2), torch.randn(4, 3)))


def test_a_convolution_with_bias_has_the_law_of_eps_too(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 3))
    check = theory.euler_with_eps(theory.subject_of(model, images()))
    assert check.verdict == "holds"


def test_one_short_row_does_not_take_steps_of_a_turn() -> None:
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        model[0].weight[0] *= 1e-3  # its gradient is 1e3 times as large, its angle 1e6 times
    subject = theory.subject_of(model, torch.randn(32, 6))
    weight, gradient = subject.parameters["0.weight"].detach(), subject.copy().gradients(0)["0.weight"]
    angles = subject.learning_rate(0.03) * gradient.norm(dim=1) / weight.norm(dim=1)
    assert float(angles.max()) <= 0.3 * (1 + 1e-9)
    assert float(angles.median()) <= 0.03 * (1 + 1e-9)
