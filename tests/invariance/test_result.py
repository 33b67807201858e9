"""What a result says of the tensors of its model, and of other tensors of the same names."""

from __future__ import annotations

import copy

import torch
from torch import nn

from decayfree.blocks import Blocks, Part
from decayfree.invariance.discovery import find_invariant


def assert_is(part: Part, weight: torch.Tensor, bias: torch.Tensor | None, blocks: Blocks) -> None:
    assert part.weight is weight
    assert part.bias is bias
    assert part.blocks == blocks


def test_a_weight_comes_with_its_bias_where_the_two_only_work_together(seed: int) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2, bias=False), nn.BatchNorm1d(2))
    found = find_invariant(model, torch.randn(16, 3))
    twin = copy.deepcopy(model)
    assert list(found.parts()) == ["0.weight", "2.weight"]
    assert [weight.names for weight in found] == [("0.weight", "0.bias"), ("2.weight",)]
    for parts, owner in ((found.parts(), model), (found.parts(twin), twin)):
        assert_is(parts["0.weight"], owner[0].weight, owner[0].bias, Blocks(0, (4,)))
        assert_is(parts["2.weight"], owner[2].weight, None, Blocks(0, (1, 1)))
    values = {"0.weight": torch.ones(4, 3), "0.bias": torch.zeros(4)}
    assert_is(found["0.weight"].part(values), values["0.weight"], values["0.bias"], Blocks(0, (4,)))
