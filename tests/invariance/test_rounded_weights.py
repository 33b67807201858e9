"""Weights that are rounded to int8 on the way, with a gradient that passes straight through.

It is a percent beside the derivative. The reference is scaling itself, in float64 and without an ε.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decayfree import find_invariant


class Rounded(nn.Module):
    """A linear layer whose rows are rounded to multiples of a 127th of their largest number, or of a step."""

    def __init__(self, norm: nn.Module, *, bias: bool = False, step: float | None = None) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 8, bias=bias)
        self.norm, self.step = norm, step
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.fc.weight
        step = self.step or weight.detach().abs().amax(1, keepdim=True) / 127
        rounded = weight + ((weight / step).round() * step - weight).detach()
        return self.head(self.norm(F.linear(x, rounded, self.fc.bias)).tanh())


NORMS = {
    "LayerNorm": lambda: nn.LayerNorm(8, eps=0.0),
    "RMSNorm": lambda: nn.RMSNorm(8, eps=1e-300),
    "GroupNorm": lambda: nn.GroupNorm(2, 8, eps=0.0),
    "none": nn.Identity,
}


def moves_when_scaled(model: Rounded, x: Tensor) -> float:
    """By how much scaling weight and bias as a whole moves the outputs at most, relative."""
    moves, before = 0.0, model(x)
    for factor in (0.37, 0.5, 1.01, 2.9, 64.0):
        with torch.no_grad():
            for parameter in model.fc.parameters():
                parameter.mul_(factor)
            moves = max(moves, float((model(x) - before).norm() / before.norm()))
            for parameter in model.fc.parameters():
                parameter.div_(factor)
    return moves


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_scaling_decides_where_the_gradient_is_a_percent_beside(norm: str, bias: bool, seed: int) -> None:
    model, x = Rounded(NORMS[norm](), bias=bias).double(), torch.randn(7, 12).double()
    model.norm.requires_grad_(False)
    is_free = moves_when_scaled(model, x) < 1e-12
    assert is_free == (norm != "none")
    found = find_invariant(model, x)
    assert found.verdicts["fc.weight"].verdict == ("invariant" if is_free else "not_invariant")
    if is_free:
        assert found["fc.weight"].bias == ("fc.bias" if bias else None)
        assert "its gradient is not the derivative" in found.verdicts["fc.weight"].reason


def test_a_step_that_does_not_scale_with_the_weight_gives_it_a_scale(seed: int) -> None:
    model, x = Rounded(NORMS["LayerNorm"](), step=0.01).double(), torch.randn(7, 12).double()
    assert moves_when_scaled(model, x) > 1e-3
    assert find_invariant(model, x).verdicts["fc.weight"].verdict == "not_invariant"
