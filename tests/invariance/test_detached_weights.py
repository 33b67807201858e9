"""Weights before a normalization that no gradient reaches, though the outputs follow them smoothly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from decayfree import find_invariant


class Stopped(nn.Module):
    """The first layers without their gradients."""

    def __init__(self, kind: str, norm: nn.Module) -> None:
        super().__init__()
        self.kind = kind
        self.first = nn.Sequential(nn.Linear(5, 6, bias=False), norm, nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "checkpoint":
            return self.head(checkpoint(self.first, x, use_reentrant=True))
        seen = self.first(x)
        return self.head(seen.argmax(1, keepdim=True) + 0 * seen if self.kind == "choice" else seen.detach())


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm])
@pytest.mark.parametrize("kind", ["checkpoint", "detached", "choice"])
def test_a_weight_that_no_gradient_reaches_is_no_choice_where_turning_it_shows(
    kind: str, norm: type[nn.Module], seed: int
) -> None:
    verdict = find_invariant(Stopped(kind, norm(6)), torch.randn(9, 5)).verdicts["first.0.weight"]
    assert (verdict.verdict, verdict.left_out) == ("invariant", "no gradient")
    assert ("only by a choice" in verdict.reason) == (kind == "choice")
    assert ("use_reentrant=False" in verdict.reason) == (kind != "choice")
