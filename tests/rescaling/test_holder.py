"""Blocks of every kind, in every layout, put on their targets by each way there is, against the reference.

The three ways: piece by piece on the CPU, in few calls as on an accelerator, and in one pass by numba.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from decayfree.blocks import Blocks
from decayfree.rescaling import batch
from decayfree.rescaling import holder as holding
from decayfree.rescaling.fused_holder import FusedHolder, fused_holders_of
from decayfree.rescaling.held import Held
from decayfree.rescaling.holder import Holder, holders_of
from decayfree.rescaling.runs import runs_in_memory
from support import bounds, reference
from support.reference import BlockSpec
from support.unchanged import bits

HOW: dict[str, Callable[[Sequence[Held]], list[Holder]]] = {
    "piece by piece": holders_of,
    "in few calls": lambda held: [Holder(held, in_few_calls=True)],
    "fused": fused_holders_of,
}
# Shape, blocks, and whether they lie in runs of memory as made.
KINDS = {
    "kernels": ((6, 3, 3, 3), BlockSpec("w", (1,) * 6), True),
    "groups": ((6, 4, 3, 3), BlockSpec("w", (2, 2, 2)), True),
    "heads of a part of the rows": ((12, 5), BlockSpec("w", (2,) * 4, starts=(0, 2, 4, 6)), True),
    "two runs of heads": ((12, 5), BlockSpec("w", (3, 3, 1), starts=(1, 4, 11)), True),
    "uneven": ((6, 5), BlockSpec("w", (1, 3, 2)), True),
    "whole": ((6, 5), BlockSpec("w", (6,)), True),
    "vector": ((6,), BlockSpec("w", (6,)), True),
    "transposed": ((4, 6, 2, 2), BlockSpec("w", (1,) * 6, axis=1), False),
    "transposed, depthwise": ((6, 1, 2, 2), BlockSpec("w", (1,) * 6, axis=1, groups=6), True),
    "transposed, whole": ((4, 6, 2, 2), BlockSpec("w", (12,), axis=1, groups=2), True),
    "transposed, some rows": ((4, 6, 2, 2), BlockSpec("w", (2, 1), axis=1, starts=(1, 5)), False),
}
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": Tensor.clone,
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t.clone(),
    "reversed": lambda t: t.permute(*reversed(range(t.ndim))).contiguous().permute(*reversed(range(t.ndim))),
    "strided": lambda t: torch.stack([t, t], dim=-1)[..., 0],
}
TOLERANCE = {
    torch.float64: 1e-13,
    torch.float32: 1e-6,
    torch.bfloat16: bounds.BFLOAT16,
    torch.float16: 2.0**-11,
}


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def held(weight: Tensor, spec: BlockSpec, bias: Tensor | None = None, targets: Any = None) -> Held:
    blocks = Blocks(spec.axis, spec.sizes, spec.groups, spec.starts)
    precision = torch.float64 if weight.dtype == torch.float64 else torch.float32
    wanted = torch.linspace(0.5, 2.0, blocks.n_blocks) if targets is None else torch.tensor(targets)
    return Held(weight, bias, blocks, spec.weight, wanted.to(precision))


def test_the_norm_of_a_long_block_is_as_exact_as_that_of_a_short_one() -> None:
    weight = random(64, 8192, dtype=torch.float32)  # 1e-5 off where torch adds it up at once
    one = holders_of([held(weight, BlockSpec("w", (64,)))])[0]
    assert one.measure().item() == pytest.approx(float(weight.double().norm()), rel=2e-7)


def rows_of(weight: Tensor, spec: BlockSpec) -> int:
    return weight.shape[spec.axis] * spec.groups


def hold(how: str, *held: Held) -> float:
    return max(float(holder.hold_()) for holder in HOW[how](held))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", HOW)
def test_every_block_is_put_on_its_target_and_the_other_rows_keep_their_bits(
    how: str, kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "_LONG_ROW", 20)
    monkeypatch.setattr(holding, "_PART_OF_IT", 12)
    shape, spec, _ = KINDS[kind]
    inside = {row for block in reference.blocks_of(spec) for row in block}
    for layout, with_bias in product(LAYOUTS.values(), (False, True)):
        weight = layout(random(*shape, dtype=dtype))
        biases = [random(rows_of(weight, spec), dtype=dtype, seed=1)] if with_bias else []
        one = held(weight, spec, *biases)
        before, strides = [tensor.clone() for tensor in one.tensors], weight.stride()
        expected = [tensor.double().clone() for tensor in one.tensors]
        norms = reference.norms_of(weight, spec, *biases)
        factors = reference.rescale(expected[0], one.targets.tolist(), spec, *expected[1:])

        (holder,) = HOW[how]([one])
        distance = float(holder.hold_())

        exact = TOLERANCE[one.targets.dtype]
        for tensor, right in zip(one.tensors, expected, strict=True):
            step = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps  # between the smallest numbers
            torch.testing.assert_close(tensor.double(), right, rtol=TOLERANCE[dtype], atol=step)
        assert holder.norms.tolist() == pytest.approx(norms, rel=exact)
        assert holder.factors.tolist() == pytest.approx(factors, rel=exact)
        assert distance == pytest.approx(max(abs(factor - 1) for factor in factors), rel=exact)
        assert weight.stride() == strides
        for row in {*range(rows_of(weight, spec))} - inside:
            assert torch.equal(*(reference.row_of(one, row, spec) for one in (weight, before[0])))
            assert all(bias[row] == was[row] for bias, was in zip(biases, before[1:], strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_in_runs_of_memory_are_fused(kind: str) -> None:
    shape, spec, is_in_memory = KINDS[kind]
    weight = random(*shape)
    bias = random(rows_of(weight, spec))
    for one in (held(weight, spec), held(weight, spec, bias)):
        assert [isinstance(holder, FusedHolder) for holder in fused_holders_of([one])] == [is_in_memory]


@pytest.mark.parametrize(
    ("weight", "spec", "is_in_memory"),
    [
        (LAYOUTS["channels_last"](random(6, 4, 3, 3)), BlockSpec("w", (2, 2, 2)), True),
        (LAYOUTS["reversed"](random(6, 5)), BlockSpec("w", (6,)), True),
        (LAYOUTS["reversed"](random(6, 5)), BlockSpec("w", (3, 3)), False),
        (LAYOUTS["reversed"](random(6, 5)), BlockSpec("w", (5,), starts=(0,)), False),
        (LAYOUTS["reversed"](random(4, 6)), BlockSpec("w", (1,) * 6, axis=1), True),
        (LAYOUTS["strided"](random(6, 5)), BlockSpec("w", (1,) * 6), False),
        (random(8, 5)[1:7], BlockSpec("w", (1,) * 6), True),
        (random(6, 8)[:, 1:6], BlockSpec("w", (1,) * 6), False),
    ],
)
def test_runs_of_memory_are_told_by_strides(weight: Tensor, spec: BlockSpec, is_in_memory: bool) -> None:
    assert (runs_in_memory(held(weight, spec)) is not None) == is_in_memory


def test_a_bias_that_is_not_in_one_run_of_memory_keeps_its_weight_from_being_fused() -> None:
    weight, spec = random(6, 5), BlockSpec("w", (6,))
    for bias in (random(12)[::2], random(6, dtype=torch.float32)):
        assert runs_in_memory(held(weight, spec, bias)) is None


# ---------------------------------------------------------------------------------------------- left alone


@pytest.mark.parametrize("how", HOW)
def test_blocks_that_cannot_be_scaled_or_need_not_be_keep_their_bits(how: str) -> None:
    weight = random(12, 5, dtype=torch.float32)
    weight[0:2] = 0.0
    weight[2, 3] = math.nan
    weight[4, 1] = math.inf
    spec = BlockSpec("w", (2,) * 5, starts=(0, 2, 4, 6, 8))
    on_target = float(weight[6:8].double().norm())
    before = weight.clone()
    one = held(weight, spec, targets=[1.0, 1.0, 1.0, on_target, 0.0])
    (holder,) = HOW[how]([one])
    assert float(holder.hold_()) == math.inf
    assert bits(weight) == bits(before)
    assert holder.factors.tolist() == [1.0] * 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("how", HOW)
def test_a_block_on_its_target_keeps_its_bits_beside_one_that_moves(how: str, dtype: torch.dtype) -> None:
    weight = random(4, 3, 5, dtype=dtype)
    spec, targets = BlockSpec("w", (2, 2)), [1.0, float(weight[2:].double().norm())]
    before = weight.clone()
    assert hold(how, held(weight, spec, targets=targets)) > 0.1
    assert bits(weight[2:]) == bits(before[2:])
    assert not torch.equal(weight[:2], before[:2])


def test_in_few_calls_blocks_beside_one_that_is_not_finite_are_held() -> None:
    weights = [random(3, 4, dtype=torch.float32, seed=seed) for seed in range(3)]
    weights[1][2, 0] = math.nan
    assert hold("in few calls", *(held(one, BlockSpec("w", (1,) * 3), targets=[1.0] * 3) for one in weights))
    norms = torch.stack([weight.norm(dim=1) for weight in weights])
    assert norms.isnan().nonzero().tolist() == [[1, 2]]
    assert norms[~norms.isnan()].tolist() == pytest.approx([1.0] * 8)


# ---------------------------------------------------------------------------------------------- together


def many() -> list[Held]:
    """Weights of several lengths, with and without bias, one of them in no run of memory."""
    made = [
        (random(6, 4, dtype=torch.float32), BlockSpec("a", (1,) * 6), None),
        (random(8, 5, dtype=torch.bfloat16), BlockSpec("b", (2, 2), starts=(0, 4)), None),
        (random(6, 4, dtype=torch.float32, seed=2), BlockSpec("c", (1,) * 6), None),
        (random(4, 6, dtype=torch.float32), BlockSpec("d", (1,) * 6, axis=1), None),
        (random(4, 4, dtype=torch.float32), BlockSpec("e", (4,)), random(4, dtype=torch.float32)),
        (random(4, 4, dtype=torch.float32, seed=3), BlockSpec("f", (4,)), random(4, dtype=torch.float32)),
        (random(9, 4, dtype=torch.float32), BlockSpec("g", (4, 1), starts=(2, 8)), None),
    ]
    return [held(weight, spec, bias) for weight, spec, bias in made]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("most", [1, 30, 1 << 20])
def test_many_weights_together_are_held_as_each_alone(
    how: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "_MOST_NUMBERS", most)
    monkeypatch.setattr(holding, "_PIECE_BYTES", 4 * most)
    together, alone = many(), many()
    holders = HOW[how](together)
    for one in holders:
        one.hold_()
    factors = {held.name: one.factors[one.slices[held.name]] for one in holders for held in one.held}
    for one, twin in zip(together, alone, strict=True):
        (own,) = holders_of([twin])
        own.hold_()
        torch.testing.assert_close(factors[one.name], own.factors)
        for tensor, other in zip(one.tensors, twin.tensors, strict=True):
            torch.testing.assert_close(tensor, other)


@pytest.mark.parametrize("how", HOW)
def test_measuring_and_scaling_are_two_steps(how: str) -> None:
    together = many()
    before = [[tensor.double().clone() for tensor in one.tensors] for one in together]
    for one in HOW[how](together):
        one.measure()
        one.factors.copy_(one.careful_factors())
        one.scale_()
    for one, (weight, *bias) in zip(together, before, strict=True):
        spec = BlockSpec(one.name, one.blocks.block_sizes, axis=one.blocks.axis, starts=one.blocks.starts)
        reference.rescale(weight, one.targets.tolist(), spec, *bias)
        torch.testing.assert_close(one.weight.double(), weight, rtol=TOLERANCE[one.weight.dtype], atol=0)


def test_large_weights_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_LARGE", 20)
    together, alone = many(), many()
    with Calls() as calls:
        Holder(together, in_few_calls=True).hold_()
    assert calls.largest_new < 100
    for one, twin in zip(together, alone, strict=True):
        holders_of([twin])[0].hold_()
        torch.testing.assert_close(one.weight, twin.weight)


# ----------------------------------------------------------------------------------------- how many calls


class Calls(TorchDispatchMode):
    """Counts what torch is asked for: on an accelerator a call each, but for views."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0
        self.largest_new = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n += 1
        result = func(*args, **kwargs or {})
        if "empty" in func.name():
            self.largest_new = max(self.largest_new, result.numel())
        return result


def resnet50_shapes() -> list[tuple[int, int, int, int]]:
    """Of its 53 convolutions."""
    shapes, n_in = [(64, 3, 7, 7)], 64
    for width, n_blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for index in range(n_blocks):
            shapes += [(width, n_in, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            shapes += [(4 * width, n_in, 1, 1)] if index == 0 else []
            n_in = 4 * width
    return shapes


def test_a_resnet50_is_held_in_at_most_60_calls(seed: int) -> None:
    shapes = resnet50_shapes()
    assert (len(shapes), sum(math.prod(shape) for shape in shapes)) == (53, 23_454_912)
    weights = [torch.randn(shape) for shape in shapes]
    held_here = [
        held(weight, BlockSpec(f"{index}", (1,) * len(weight)), targets=[1.0] * len(weight))
        for index, weight in enumerate(weights)
    ]
    holder = Holder(held_here, in_few_calls=True)
    with Calls() as calls:
        holder.hold_()
    assert calls.n <= 60
    for weight in weights:
        norms = weight.flatten(1).double().norm(dim=1)
        assert (norms - 1).abs().max() < 1e-6


@pytest.mark.parametrize("how", HOW)
def test_autograd_knows_what_was_written_and_that_nothing_else_was(how: str) -> None:
    layer, other = nn.Linear(4, 4), nn.Linear(4, 4)
    spec = BlockSpec("w", (4,))
    tensors = [*layer.parameters(), *other.parameters()]
    on_target = float(torch.cat([one.detach().flatten().double() for one in other.parameters()]).norm())
    versions = [one._version for one in tensors]
    hold(
        how,
        held(layer.weight, spec, layer.bias, targets=[1.0]),
        held(other.weight, spec, other.bias, targets=[on_target]),
    )
    grown = [one._version > before for one, before in zip(tensors, versions, strict=True)]
    assert grown[:2] == [True, True]
    assert how != "fused" or grown[2:] == [False, False]
