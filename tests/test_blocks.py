"""Norms, inner products and scaling of blocks: numbers to check by hand, then a slow reference.

How often and to what norm blocks are rescaled is test_weight_rescaling.py's question.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from decayfree.blocks import (
    Blocks,
    Part,
    block_dots,
    block_norms,
    factors_of_rows,
    over_blocks,
    scale_blocks_,
)
from decayfree.errors import InvalidInputError
from support import reference
from support.reference import BlockSpec


def blocks_of(spec: BlockSpec) -> Blocks:
    return Blocks(spec.axis, spec.sizes, spec.groups)


# ---------------------------------------------------------------------------------------------- closed form


def test_a_three_four_five_triangle_has_norm_five() -> None:
    weight = torch.tensor([[3.0, 4.0], [6.0, 8.0], [0.0, 0.0]])
    assert block_norms(weight, Blocks(0, (1, 1, 1))).tolist() == [5.0, 10.0, 0.0]


def test_a_block_of_two_rows_has_one_norm() -> None:
    weight = torch.tensor([[3.0, 0.0], [0.0, 4.0], [5.0, 12.0]])
    assert block_norms(weight, Blocks(0, (2, 1))).tolist() == [5.0, 13.0]


def test_the_whole_weight_can_be_one_block() -> None:
    weight = torch.tensor([[1.0, 2.0], [4.0, 10.0]])  # 1 + 4 + 16 + 100 = 121
    assert block_norms(weight, Blocks(0, (2,))).tolist() == [11.0]


def test_the_bias_counts_with_its_rows() -> None:
    weight = torch.tensor([[3.0, 0.0], [0.0, 12.0], [0.0, 8.0]])
    bias = torch.tensor([4.0, 0.0, 6.0])  # 9 + 16 + 144 = 169; 64 + 36 = 100
    assert block_norms(weight, Blocks(0, (2, 1)), bias).tolist() == [13.0, 10.0]


def test_along_axis_one_a_row_is_a_column() -> None:
    weight = torch.tensor([[3.0, 5.0], [4.0, 12.0]])
    assert block_norms(weight, Blocks(1, (1, 1))).tolist() == [5.0, 13.0]


def test_along_axis_one_groups_split_dimension_zero() -> None:
    # Two groups of two inputs, one output channel each: the rows are weight[:2, 0] and weight[2:, 0].
    weight = torch.tensor([[3.0], [4.0], [5.0], [12.0]])
    blocks = Blocks(1, (1, 1), groups=2)
    assert block_norms(weight, blocks).tolist() == [5.0, 13.0]
    scale_blocks_(weight, torch.tensor([2.0, 0.5]), blocks)
    assert weight.flatten().tolist() == [6.0, 8.0, 2.5, 6.0]


def test_the_inner_product_of_matching_blocks() -> None:
    a = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    b = torch.tensor([[5.0, 6.0], [7.0, 8.0]])
    assert block_dots(a, b, Blocks(0, (1, 1))).tolist() == [17.0, 53.0]
    assert block_dots(a, b, Blocks(0, (2,))).tolist() == [70.0]
    assert block_dots(a, b, Blocks(1, (1, 1))).tolist() == [26.0, 44.0]
    bias_a, bias_b = torch.tensor([1.0, 10.0]), torch.tensor([3.0, 1.0])
    assert block_dots(a, b, Blocks(0, (1, 1)), bias_a, bias_b).tolist() == [20.0, 63.0]


def test_a_part_is_its_weight_and_bias_in_blocks() -> None:
    part = Part(torch.tensor([[3.0, 0.0], [0.0, 12.0]]), torch.tensor([4.0, 5.0]), Blocks(0, (1, 1)))
    twice = part.each(lambda tensor: 2 * tensor)
    assert part.norms().tolist() == [5.0, 13.0]
    assert part.dots(twice).tolist() == [50.0, 338.0]
    twice.scale_(torch.tensor([0.5, 2.0]))
    assert [tensor.tolist() for tensor in twice.tensors] == [[[3.0, 0.0], [0.0, 48.0]], [4.0, 20.0]]
    assert part.norms().tolist() == [5.0, 13.0]


def test_a_part_without_a_bias_is_its_weight() -> None:
    part = Part(torch.tensor([[3.0, 4.0]]), None, Blocks(0, (1,)))
    assert part.each(torch.neg).tensors[0].tolist() == [[-3.0, -4.0]]
    assert len(part.each(torch.neg).tensors) == 1
    assert part.dots(part).tolist() == [25.0]


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 2), (4,), (1, 3)])
def test_rows_are_summed_to_blocks_and_blocks_are_spread_over_rows(sizes: tuple[int, ...]) -> None:
    blocks, rows = Blocks(0, sizes), torch.tensor([1.0, 2.0, 4.0, 8.0])
    owners = torch.tensor(blocks.block_of_row)
    assert over_blocks(rows, blocks).tolist() == [float(rows[owners == i].sum()) for i in range(len(sizes))]
    assert over_blocks(rows, blocks, torch.amax).tolist() == [
        float(rows[owners == i].max()) for i in range(len(sizes))
    ]
    assert factors_of_rows(rows[: len(sizes)], blocks).tolist() == rows[owners].tolist()


def test_powers_of_two_scale_exactly_and_back(seed: int) -> None:
    weight = torch.randn(4, 3, 3, 3)
    bias = torch.randn(4)
    before = weight.clone(), bias.clone()
    blocks = Blocks(0, (1, 2, 1))
    scale_blocks_(weight, torch.tensor([2.0, 0.25, 8.0]), blocks, bias)
    per_row = torch.tensor([2.0, 0.25, 0.25, 8.0])
    assert torch.equal(weight, before[0] * per_row.view(4, 1, 1, 1))
    assert torch.equal(bias, before[1] * per_row)
    scale_blocks_(weight, torch.tensor([0.5, 4.0, 0.125]), blocks, bias)
    assert torch.equal(weight, before[0])
    assert torch.equal(bias, before[1])


def test_a_factor_of_one_changes_no_bit(seed: int) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        weight = torch.randn(5, 7).to(dtype)
        before = weight.clone()
        scale_blocks_(weight, torch.ones(5), Blocks(0, (1,) * 5))
        assert torch.equal(weight, before)


def test_blocks_count_their_rows() -> None:
    blocks = Blocks(0, (2, 3, 1))
    assert (blocks.n_rows, blocks.n_blocks) == (6, 3)


def test_blocks_are_compared_by_value() -> None:
    assert Blocks(0, (1, 2)) == Blocks(0, (1, 2)) != Blocks(1, (1, 2))


# ---------------------------------------------------------------------------------------------- reference

SPECS = {
    "kernels": ((6, 3, 3, 3), BlockSpec("w", (1,) * 6)),
    "groups of kernels": ((6, 3, 3, 3), BlockSpec("w", (2, 2, 2))),
    "uneven blocks": ((6, 5), BlockSpec("w", (1, 3, 2))),
    "whole": ((6, 5), BlockSpec("w", (6,))),
    "vector": ((6,), BlockSpec("w", (6,))),
    "one dimension, three blocks": ((6,), BlockSpec("w", (2, 3, 1))),
    "transposed": ((4, 6, 2, 2), BlockSpec("w", (1,) * 6, axis=1)),
    "transposed, blocks of rows": ((4, 6, 2, 2), BlockSpec("w", (3, 1, 2), axis=1)),
    "transposed, two groups": ((4, 3, 2, 2), BlockSpec("w", (1,) * 6, axis=1, groups=2)),
    "transposed, blocks across groups": ((4, 3, 2, 2), BlockSpec("w", (2, 2, 2), axis=1, groups=2)),
    "one-dimensional kernels": ((6, 4, 5), BlockSpec("w", (1,) * 6)),
    "three-dimensional kernels": ((6, 2, 2, 3, 2), BlockSpec("w", (1,) * 6)),
}
LAYOUTS = ("contiguous", "channels_last", "transposed", "strided", "expanded_storage_offset")
# Relative to the norm; a few rounding errors of the precision that the result has.
TOLERANCE = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 1e-6, torch.float16: 1e-6}


def laid_out(values: Tensor, layout: str) -> Tensor:
    """The same numbers with other strides."""
    if layout == "channels_last":
        if values.ndim == 4:
            return values.clone().contiguous(memory_format=torch.channels_last)
        return values.clone()
    if layout == "transposed":
        reversed_dims = tuple(range(values.ndim - 1, -1, -1))
        return values.permute(reversed_dims).contiguous().permute(reversed_dims)
    if layout == "strided":
        wide = torch.full((*values.shape, 2), 7.0, dtype=values.dtype)
        wide[..., 0] = values
        return wide[..., 0]
    if layout == "expanded_storage_offset":
        flat = torch.full((values.numel() + 3,), 7.0, dtype=values.dtype)
        view = flat[3:].view(values.shape)
        return view.copy_(values)
    return values.clone()


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", SPECS)
def test_norms_dots_and_scaling_agree_with_the_reference(
    kind: str, dtype: torch.dtype, layout: str, with_bias: bool, seed: int
) -> None:
    shape, spec = SPECS[kind]
    n_rows = sum(spec.sizes)
    weight, other = (laid_out(torch.randn(shape).to(dtype), layout) for _ in range(2))
    bias, other_bias = (torch.randn(n_rows).to(dtype) if with_bias else None for _ in range(2))
    exact = torch.float64 if dtype == torch.float64 else torch.float32

    norms = block_norms(weight, blocks_of(spec), bias)
    expected = torch.tensor(reference.norms_of(weight, spec, bias), dtype=torch.float64)
    assert norms.dtype == exact
    assert norms.shape == (len(spec.sizes),)
    torch.testing.assert_close(norms.double(), expected, rtol=TOLERANCE[dtype], atol=0)

    dots = block_dots(weight, other, blocks_of(spec), bias, other_bias)
    products = torch.tensor(reference.dots_of(weight, other, spec, bias, other_bias), dtype=torch.float64)
    sizes = expected * torch.tensor(reference.norms_of(other, spec, other_bias), dtype=torch.float64)
    assert dots.dtype == exact
    assert ((dots.double() - products).abs() <= TOLERANCE[dtype] * sizes).all()

    before, strides, address = weight.double(), weight.stride(), weight.data_ptr()
    bias_before = None if bias is None else bias.double()
    factors = torch.rand(len(spec.sizes), dtype=exact) + 0.5
    scale_blocks_(weight, factors, blocks_of(spec), bias)
    reference.scale(before, factors.tolist(), spec, bias_before)
    # The product is formed in float32 (float64) and rounded once.
    torch.testing.assert_close(weight.double(), before, rtol=torch.finfo(dtype).eps, atol=0)
    if bias is not None and bias_before is not None:
        torch.testing.assert_close(bias.double(), bias_before, rtol=torch.finfo(dtype).eps, atol=0)
    assert weight.stride() == strides
    assert weight.data_ptr() == address


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scaling_reaches_the_real_storage_and_nothing_else(layout: str, seed: int) -> None:
    weight = laid_out(torch.randn(4, 3, 2, 2), layout)
    whole = torch.empty(0).set_(weight.untyped_storage())
    before = whole.clone()
    scale_blocks_(weight, torch.full((4,), 2.0), Blocks(0, (1,) * 4))
    inside = torch.zeros_like(whole, dtype=torch.bool)
    inside.as_strided(weight.shape, weight.stride(), weight.storage_offset()).fill_(True)
    assert torch.equal(whole[inside], 2 * before[inside])
    assert torch.equal(whole[~inside], before[~inside])


def test_a_parameter_is_scaled_without_autograd(seed: int) -> None:
    weight = torch.nn.Parameter(torch.randn(3, 4))
    before, version = weight.detach().clone(), weight._version
    scale_blocks_(weight, torch.full((3,), 2.0), Blocks(0, (1, 1, 1)))
    assert weight.is_leaf
    assert weight.requires_grad
    assert weight._version > version  # autograd notices when a saved weight was changed
    assert torch.equal(weight.detach(), 2 * before)


# ---------------------------------------------------------------------------------------------- low precision


def test_a_factor_that_bfloat16_cannot_hold_is_not_lost() -> None:
    # 1.003 rounds to 1 in bfloat16, so a weight times a bfloat16 factor would not move. In float32 the
    # product moves every weight for which the next representable number is nearer: mantissas from 1.303 on
    # (0.003 m > 2⁻⁸).
    weight = torch.tensor([[1.0, 1.25, 1.5, 1.75, 1.9921875]], dtype=torch.bfloat16)
    assert torch.tensor(1.003).bfloat16() == 1
    scale_blocks_(weight, torch.tensor([1.003]), Blocks(0, (1,)))
    assert weight.float().tolist() == [[1.0, 1.25, 1.5078125, 1.7578125, 2.0]]


def test_a_product_is_rounded_once(seed: int) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        weight = torch.randn(16, 64).to(dtype)
        factors = torch.rand(16) + 0.5
        expected = (weight.float() * factors[:, None]).to(dtype)
        scale_blocks_(weight, factors, Blocks(0, (1,) * 16))
        assert torch.equal(weight, expected)


def test_half_precision_norms_neither_overflow_nor_vanish() -> None:
    large = torch.full((1, 4), 300.0, dtype=torch.float16)  # 300² = 90,000 is infinity in float16
    assert block_norms(large, Blocks(0, (1,))).tolist() == [600.0]
    assert block_dots(large, large, Blocks(0, (1,))).tolist() == [360_000.0]
    small = torch.full((1, 4), 2.0**-14, dtype=torch.float16)  # its square is zero in float16
    assert block_norms(small, Blocks(0, (1,))).tolist() == [2.0**-13]


def test_a_half_precision_bias_does_not_overflow_either() -> None:
    weight = torch.full((1, 3), 300.0, dtype=torch.float16)
    bias = torch.tensor([300.0], dtype=torch.float16)
    assert block_norms(weight, Blocks(0, (1,)), bias).tolist() == [600.0]


def test_many_small_half_precision_numbers_add_up() -> None:
    # 2¹⁴ numbers of 2⁻⁷ have norm 2⁷ · 2⁻⁷ = 1; a bfloat16 sum of squares would stop growing at 2⁸ of them.
    weight = torch.full((1, 2**14), 2.0**-7, dtype=torch.bfloat16)
    assert block_norms(weight, Blocks(0, (1,))).tolist() == [1.0]


def test_a_double_precision_weight_is_not_rounded_to_single() -> None:
    weight = torch.tensor([[1.0 + 2.0**-40]], dtype=torch.float64)
    assert block_norms(weight, Blocks(0, (1,))).item() == 1.0 + 2.0**-40
    scale_blocks_(weight, torch.tensor([2.0], dtype=torch.float64), Blocks(0, (1,)))
    assert weight.item() == 2.0 + 2.0**-39


def test_a_large_float32_weight_does_not_overflow() -> None:
    weight = torch.tensor([[3.0e18, 4.0e18]])
    torch.testing.assert_close(block_norms(weight, Blocks(0, (1,))), torch.tensor([5.0e18]))


# ---------------------------------------------------------------------------------------------- messages


def test_blocks_that_do_not_fit_their_axis_are_refused() -> None:
    for axis, sizes, groups in (
        (2, (1,), 1),
        (-1, (1,), 1),
        (0, (1, 0), 1),
        (0, (), 1),
        (0, (1, 1), 2),
        (1, (1, 1), 0),
    ):
        with pytest.raises(
            InvalidInputError, match="axis 0 or 1, at least one row a block, and groups only along axis 1"
        ):
            Blocks(axis, sizes, groups)


def test_a_weight_with_other_rows_is_refused_unchanged() -> None:
    weight = torch.ones(3, 2)
    for blocks, reason in (
        (Blocks(0, (1, 1)), "the blocks have 2 rows, the weight has 3"),
        (Blocks(1, (1,)), "the blocks have 1 rows, the weight has 2"),
        (Blocks(1, (1,) * 4, groups=2), "2 groups do not divide 3"),
    ):
        with pytest.raises(InvalidInputError, match=reason):
            block_norms(weight, blocks)
        with pytest.raises(InvalidInputError, match=reason):
            scale_blocks_(weight, torch.full((blocks.n_blocks,), 2.0), blocks)
    with pytest.raises(InvalidInputError, match="rows along dimension 1 want more than 1 dimensions"):
        block_norms(torch.ones(2), Blocks(1, (1, 1)))
    assert torch.equal(weight, torch.ones(3, 2))


def test_factors_of_another_number_of_blocks_are_refused() -> None:
    weight = torch.ones(3, 2)
    with pytest.raises(
        InvalidInputError, match=r"factors must have shape \(2,\), one for each block, got \(3,\)"
    ):
        scale_blocks_(weight, torch.full((3,), 2.0), Blocks(0, (2, 1)))
    assert torch.equal(weight, torch.ones(3, 2))


def test_a_bias_of_another_length_is_refused_before_the_weight_is_scaled() -> None:
    weight, bias = torch.ones(3, 2), torch.ones(2)
    with pytest.raises(InvalidInputError, match="bias"):
        block_norms(weight, Blocks(0, (1, 1, 1)), bias)
    with pytest.raises(InvalidInputError, match="bias"):
        scale_blocks_(weight, torch.full((3,), 2.0), Blocks(0, (1, 1, 1)), bias)
    assert torch.equal(weight, torch.ones(3, 2))
    assert torch.equal(bias, torch.ones(2))


def test_rows_outside_the_blocks_are_neither_measured_nor_scaled() -> None:
    weight = torch.tensor([[3.0, 4.0], [100.0, 100.0], [6.0, 8.0], [24.0, 0.0]])
    bias = torch.tensor([12.0, 100.0, 0.0, 0.0])
    blocks = Blocks(axis=0, block_sizes=(1, 2), starts=(0, 2))
    assert block_norms(weight, blocks, bias).tolist() == [13.0, 26.0]
    assert block_dots(weight, weight, blocks).tolist() == [25.0, 676.0]
    scale_blocks_(weight, torch.tensor([2.0, 0.5]), blocks, bias)
    assert weight.tolist() == [[6.0, 8.0], [100.0, 100.0], [3.0, 4.0], [12.0, 0.0]]
    assert bias.tolist() == [24.0, 100.0, 0.0, 0.0]


def test_rows_outside_the_blocks_are_left_alone_along_axis_one_too() -> None:
    weight = torch.arange(1.0, 9.0).reshape(4, 2)  # two groups of two: rows are columns within a group
    scale_blocks_(weight, torch.tensor([10.0]), Blocks(axis=1, block_sizes=(1,), groups=2, starts=(2,)))
    assert weight.tolist() == [[1.0, 2.0], [3.0, 4.0], [50.0, 6.0], [70.0, 8.0]]


@pytest.mark.parametrize("starts", [(0,), (1, 0), (0, 1), (-1, 3)])
def test_blocks_that_overlap_or_have_no_start_are_refused(starts: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match="starts want one row for each block"):
        Blocks(axis=0, block_sizes=(2, 1), starts=starts)


def test_blocks_beyond_the_last_row_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="the blocks reach row 4, the weight has 4 rows"):
        block_norms(torch.ones(4, 2), Blocks(axis=0, block_sizes=(1,), starts=(4,)))


@pytest.mark.parametrize("wrong", [None, "a", 5, [1.0], object()], ids=lambda wrong: type(wrong).__name__)
def test_arguments_of_another_kind_are_told(wrong):
    weight, blocks = torch.ones(2, 3), Blocks(0, (1, 1))
    for call, name in (
        (lambda: block_norms(wrong, blocks), "weight"),
        (lambda: block_norms(weight, wrong), "blocks"),
        (lambda: block_dots(weight, wrong, blocks), "b"),
        (lambda: scale_blocks_(weight, wrong, blocks), "factors"),
    ):
        with pytest.raises(InvalidInputError, match=f"^{name} must be a "):
            call()
    assert weight.equal(torch.ones(2, 3))
