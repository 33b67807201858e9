"""Are the rows that lack a scale found where the others of their weight have one, wherever they lie?"""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decayfree import find_invariant
from support.claims import at_random, movement_of_found
from support.oracle import Bench, generic_copy, scale_rows_

N_HEADS, SIZE = 2, 4
WIDTH = N_HEADS * SIZE
# The rows of a fused projection in the order in which they lie: (part, head).
LAYOUTS = {
    "".join(order): [(part, head) for part in order for head in range(N_HEADS)]
    for order in itertools.permutations("qkv")
}
LAYOUTS["head by head"] = [(part, head) for head in range(N_HEADS) for part in "qkv"]


class NormedAttention(nn.Module):
    """Attention whose query and key are normalized head by head, from one weight in a layout of choice."""

    def __init__(self, layout: list[tuple[str, int]], *, bias: bool) -> None:
        super().__init__()
        self.layout = layout
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=bias)
        self.q_norm, self.k_norm = nn.LayerNorm(SIZE), nn.RMSNorm(SIZE)
        self.out = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        parts = dict(zip(self.layout, self.qkv(x).split(SIZE, dim=-1), strict=True))
        query, key, value = (
            torch.stack([parts[part, head] for head in range(N_HEADS)], dim=1) for part in "qkv"
        )
        mixed = F.scaled_dot_product_attention(self.q_norm(query), self.k_norm(key), value)
        return self.out(mixed.transpose(1, 2).flatten(2))


class ThirdUnderBatchNorm(nn.Module):
    """A convolution of whose nine channels three go to a BatchNorm and six to the outputs as they are."""

    def __init__(self, rows: list[int]) -> None:
        super().__init__()
        self.rows, self.others = rows, [row for row in range(9) if row not in rows]
        self.conv, self.norm = nn.Conv2d(3, 9, 3, bias=False), nn.BatchNorm2d(len(rows))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return torch.cat([self.norm(x[:, self.rows]).relu(), x[:, self.others].tanh()], dim=1).mean((2, 3))


def movement_of_the_other_rows(model: nn.Module, inputs: Tensor, name: str, held: tuple[int, ...]) -> float:
    """The least among all rows that are not held, each doubled by itself."""
    bench, n_rows = Bench(generic_copy(model), inputs), len(model.get_parameter(name))

    def movement_of(row: int) -> float:
        factors = torch.ones(n_rows)
        factors[row] = 2.0
        return bench.movement_after(lambda copy: scale_rows_(copy.get_parameter(name), factors))

    return min(movement_of(row) for row in range(n_rows) if row not in held)


@pytest.mark.parametrize("bias", [False, True], ids=["without bias", "with bias"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
def test_queries_and_keys_are_held_and_values_are_not(
    layout: list[tuple[str, int]], bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    model, inputs = NormedAttention(layout, bias=bias), torch.randn(3, 5, WIDTH)
    found = find_invariant(model, inputs)
    weight = found["qkv.weight"]
    starts = tuple(SIZE * place for place, (part, _) in enumerate(layout) if part != "v")
    assert (weight.starts, weight.block_sizes) == (starts, (SIZE,) * (2 * N_HEADS))
    assert weight.bias == ("qkv.bias" if bias else None)
    generator = torch.Generator().manual_seed(seed)
    assert movement_of_found(Bench(generic_copy(model), inputs), found, at_random(generator)) < 1e-9
    assert movement_of_the_other_rows(model, inputs, "qkv.weight", weight.blocks.rows) > 1e-6


@pytest.mark.parametrize("rows", [[0, 1, 2], [3, 4, 5], [6, 7, 8], [1, 4, 7]], ids=str)
def test_kernels_of_which_a_third_is_normalized_are_held_by_their_rows(rows: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    model, inputs = ThirdUnderBatchNorm(rows), torch.randn(4, 3, 7, 7)
    weight = find_invariant(model, inputs)["conv.weight"]
    assert (weight.blocks.rows, weight.block_sizes) == (tuple(rows), (1, 1, 1))
    (layer,) = weight.norm_layers
    assert (layer.name, layer.channels, layer.blocks) == ("norm", (0, 1, 2), (0, 1, 2))
    assert movement_of_the_other_rows(model, inputs, "conv.weight", weight.blocks.rows) > 1e-6


def test_no_row_of_a_plain_network_is_held() -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        layers = [layer for _ in range(3) for layer in (nn.Linear(24, 24), nn.Tanh())]
        found = find_invariant(nn.Sequential(*layers, nn.Linear(24, 3)), torch.randn(6, 24))
        assert {verdict.verdict for verdict in found.verdicts.values()} == {"not_invariant"}
