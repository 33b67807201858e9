"""What the instruments say of one step: numbers to check by hand, then exact arithmetic on the same numbers.

How they are sampled while a model trains is test_recorder.py's question.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Sequence
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from decayfree.blocks import Blocks
from decayfree.dynamics import fused_rows
from decayfree.dynamics.measures import (
    angular_update_rad,
    distance_to_equilibrium,
    effective_learning_rate,
    motion,
    slope,
)
from decayfree.errors import InvalidInputError
from support import reference
from support.available import import_or_skip
from support.reference import BlockSpec

ONE = Blocks(0, (1,))
SPECS = {
    "kernels": (BlockSpec("w", (1,) * 6), (6, 3, 3, 3)),
    "groups of rows with a bias": (BlockSpec("w", (2, 3, 1), bias="b"), (6, 4, 3)),
    "equal groups of rows": (BlockSpec("w", (3, 3)), (6, 5)),
    "the whole weight with its bias": (BlockSpec("w", (6,), bias="b"), (6, 7)),
    "transposed": (BlockSpec("w", (1,) * 6, axis=1), (3, 6, 2, 2)),
    "transposed in groups": (BlockSpec("w", (2, 1, 3), axis=1, groups=2), (4, 3, 2, 2)),
    "some kernels": (BlockSpec("w", (1, 1, 1), starts=(1, 2, 5)), (7, 2, 3)),
    "heads of some rows with a bias": (BlockSpec("w", (2, 2), bias="b", starts=(0, 5)), (8, 3)),
    "some rows of a transposed one": (BlockSpec("w", (1, 2), bias="b", axis=1, starts=(0, 2)), (3, 5, 2)),
    "some rows in groups": (BlockSpec("w", (1, 2), axis=1, groups=2, starts=(1, 4)), (4, 3, 2, 2)),
}
every_layout = pytest.mark.parametrize(("spec", "shape"), SPECS.values(), ids=SPECS)


def row(*numbers: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor([numbers], dtype=dtype)


def blocks_of(spec: BlockSpec) -> Blocks:
    return Blocks(spec.axis, spec.sizes, spec.groups, spec.starts)


def random_weight(
    spec: BlockSpec, shape: tuple[int, ...], dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    n_rows = shape[spec.axis] * spec.groups
    return torch.randn(shape, dtype=dtype), torch.randn(n_rows, dtype=dtype) if spec.bias else None


def exact(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float]:
    """Angle, chord and relative update of two vectors of floats, from sums without any rounding."""
    w, v = [Fraction(x) for x in before], [Fraction(x) for x in after]
    ww, vv = sum(x * x for x in w), sum(x * x for x in v)
    wv, dd = (
        sum(x * y for x, y in zip(w, v, strict=True)),
        sum((y - x) ** 2 for x, y in zip(w, v, strict=True)),
    )
    angle = math.atan2(math.sqrt(ww * vv - wv * wv), wv)
    # |u - v|² = 2 - 2 cos, by way of the half angle, so that nothing cancels.
    return angle, 2 * math.sin(angle / 2), math.sqrt(dd / ww)


# ---------------------------------------------------------------------------------------------- closed form


def test_a_quarter_turn() -> None:
    before, after = row(1.0, 0.0), row(0.0, 7.0)
    assert angular_update_rad(before, after, ONE).tolist() == [math.pi / 2]
    assert motion(before, after, ONE).chord.item() == pytest.approx(math.sqrt(2), rel=1e-15)
    assert motion(before, after, ONE).relative.item() == pytest.approx(math.sqrt(50), rel=1e-15)


def test_an_about_face_is_pi_and_its_chord_the_diameter() -> None:
    assert angular_update_rad(row(3.0, -4.0), row(-6.0, 8.0), ONE).item() == math.pi
    assert motion(row(3.0, -4.0), row(-6.0, 8.0), ONE).chord.item() == 2.0


def test_growing_without_turning_is_no_angular_update() -> None:
    before, after = row(3.0, 4.0), row(6.0, 8.0)
    assert angular_update_rad(before, after, ONE).item() == 0.0
    assert motion(before, after, ONE).relative.item() == 1.0
    assert motion(before, after, ONE).radial.item() == 1.0


def test_no_step_is_no_update() -> None:
    weight = torch.randn(5, 3)
    blocks = Blocks(0, (1,) * 5)
    assert angular_update_rad(weight, weight, blocks).tolist() == [0.0] * 5
    assert motion(weight, weight, blocks).relative.tolist() == [0.0] * 5


def test_a_block_turns_as_a_whole() -> None:
    # Both rows turn by 90 degrees or not at all; the block goes from (1, 0, 1, 0) to (0, 1, 1, 0): 60
    # degrees.
    before, after = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert angular_update_rad(before, after, Blocks(0, (2,))).item() == pytest.approx(math.pi / 3, rel=1e-15)


def test_rows_that_grow_by_different_factors_turn_their_block() -> None:
    # (1, 1) to (1, 0) is 45 degrees, though no row turned.
    before, after = torch.tensor([[1.0], [1.0]]), torch.tensor([[1.0], [0.0]])
    assert angular_update_rad(before, after, Blocks(0, (2,))).item() == pytest.approx(math.pi / 4, rel=1e-15)


def test_the_bias_turns_with_its_row() -> None:
    # (3, 4 | 0) to (3, 4 | 5): 45 degrees.
    weight, bias = row(3.0, 4.0), torch.tensor([0.0])
    angle = angular_update_rad(weight, weight, ONE, bias, torch.tensor([5.0]))
    assert angle.item() == pytest.approx(math.pi / 4, rel=1e-15)


@pytest.mark.parametrize(("family", "expected"), [("sgd", 0.025), ("adam", 0.05), ("sign", 0.05)])
@pytest.mark.parametrize("rate", [0.1, torch.tensor(0.1, dtype=torch.float64)], ids=["float", "tensor"])
def test_the_effective_learning_rate_at_norm_two(family, expected, rate) -> None:
    rates = effective_learning_rate(torch.tensor([2.0, 0.0], dtype=torch.float64), rate, family)
    assert rates[0].item() == pytest.approx(expected, rel=1e-15)
    assert math.isnan(rates[1].item())


def test_half_of_a_gradient_at_sixty_degrees_is_radial() -> None:
    gradient = row(0.5, math.sqrt(0.75), dtype=torch.float64)
    assert slope(row(-2.0, 0.0, dtype=torch.float64), gradient, ONE).radial_share.item() == pytest.approx(
        0.5, rel=1e-15
    )


def test_the_gradient_at_unit_radius_does_not_depend_on_the_norm() -> None:
    # g(cw) = g(w)/c: at twice the norm the gradient is half as long.
    weight, gradient = row(3.0, 4.0), row(-4.0, 3.0)
    assert slope(weight, gradient, ONE).norm_at_unit_radius.item() == 25.0
    assert slope(2 * weight, gradient / 2, ONE).norm_at_unit_radius.item() == 25.0


def test_unit_radius_counts_per_row() -> None:
    # Four rows of norm 3: the block has norm 6, radius 3 per row; at radius 1 the gradient is three times as
    # long.
    weight, gradient = torch.full((4, 1), 3.0), torch.full((4, 1), 0.5)
    assert slope(weight, gradient, Blocks(0, (4,))).norm_at_unit_radius.item() == 3.0


def test_distance_to_equilibrium_is_a_share() -> None:
    distances = distance_to_equilibrium(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2.0, 2.0, 0.0]))
    assert distances[:2].tolist() == [-0.5, 0.0]
    assert math.isnan(distances[2].item())
    assert distance_to_equilibrium(torch.tensor([1.0, 3.0]), 2.0).tolist() == [-0.5, 0.5]
    assert distance_to_equilibrium(torch.tensor([1.0]), 0.0).isnan().all()


# ----------------------------------------------------------------------------------- against exact arithmetic


@pytest.mark.parametrize("radial", [0.0, -5e-5, 0.1, 1.0, 30.0, -0.99])
@pytest.mark.parametrize("tangential", [1e-7, 1e-5, 1e-2, 3.0])
def test_small_angles_survive_large_steps_along_the_block(
    radial: float, tangential: float, seed: int
) -> None:
    """Float32 weights; what is measured is the angle between the float32 numbers as they are."""
    n = 500
    before = torch.randn(3, n)
    aside = torch.randn(3, n, dtype=torch.float64)
    w = before.double()
    aside -= (aside * w).sum(1, keepdim=True) / w.square().sum(1, keepdim=True) * w
    aside *= tangential * w.norm(dim=1, keepdim=True) / aside.norm(dim=1, keepdim=True)
    after = ((1 + radial) * w + aside).float()
    blocks = Blocks(0, (1, 1, 1))
    moved = motion(before, after, blocks)
    measured = (values.tolist() for values in (moved.angle_rad, moved.chord, moved.relative))
    for angle, straight, relative, old, new in zip(*measured, before.tolist(), after.tolist(), strict=True):
        expected = exact(old, new)
        assert (angle, straight, relative) == pytest.approx(expected, rel=1e-7, abs=1e-14)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("radial", [0.0, -5e-5, 0.1, 30.0, -0.99])
def test_large_float32_weights_are_compared_in_float64(
    radial: float, compiled: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows long enough for float32 sums to be off by 1e-7, in a weight large enough for machine code."""
    if compiled:
        import_or_skip("numba")
    shape, blocks = (fused_rows.LEAST >> 13, 1 << 13), Blocks(0, (1,) * (fused_rows.LEAST >> 13))
    if not compiled:
        monkeypatch.setattr(fused_rows, "LEAST", sys.maxsize)
    before, gradient = torch.randn(shape), torch.randn(shape)
    after = ((1 + radial) * before.double() + 1e-7 * torch.randn(shape)).float()
    gradient -= (gradient * before).sum(1, keepdim=True) / before.square().sum(1, keepdim=True) * before
    moved, seen = motion(before, after, blocks), slope(before, gradient, blocks)
    for index in (0, len(before) - 1):
        w, v, g = (tensor[index].tolist() for tensor in (before, after, gradient))
        told = [values[index].item() for values in (moved.angle_rad, moved.chord, moved.relative)]
        assert told == pytest.approx(exact(w, v), rel=1e-7, abs=1e-14)
        # Products of float32 numbers have no rounding in float64.
        ww, vv, gg, wg = (math.fsum(map(operator.mul, *pair)) for pair in ((w, w), (v, v), (g, g), (w, g)))
        assert moved.norms[index].item() == pytest.approx(math.sqrt(ww), rel=1e-14)
        assert moved.norms_after[index].item() == pytest.approx(math.sqrt(vv), rel=1e-14)
        share = abs(wg) / math.sqrt(ww * gg)
        assert share < 1e-7
        assert seen.radial_share[index].item() == pytest.approx(share, abs=1e-15)


@pytest.mark.parametrize("beyond", [1e-7, 1e-4, 0.1])
def test_angles_near_pi(beyond: float, seed: int) -> None:
    before = torch.randn(1, 50, dtype=torch.float64)
    after = (-1.7 * before + beyond * torch.randn(1, 50, dtype=torch.float64)).float().double()
    angle, straight, _ = exact(before[0].tolist(), after[0].tolist())
    assert math.pi - angle > beyond / 2
    assert math.pi - angular_update_rad(before, after, ONE).item() == pytest.approx(math.pi - angle, rel=1e-7)
    assert motion(before, after, ONE).chord.item() == pytest.approx(straight, rel=1e-14)


@every_layout
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_layout_of_blocks(
    spec: BlockSpec, shape: tuple[int, ...], dtype: torch.dtype, seed: int
) -> None:
    before, bias_before = random_weight(spec, shape, dtype)
    after, bias_after = (
        (1.3 * t + 0.2 * torch.randn_like(t)) if t is not None else None for t in (before, bias_before)
    )
    blocks = blocks_of(spec)
    arguments = (before, after, blocks, bias_before, bias_after)
    numbers = (reference.numbers_of(before, spec, bias_before), reference.numbers_of(after, spec, bias_after))
    expected = [exact(old, new) for old, new in zip(*numbers, strict=True)]
    moved = motion(*arguments)
    assert angular_update_rad(*arguments).tolist() == moved.angle_rad.tolist()
    for index, measured in enumerate((moved.angle_rad, moved.chord, moved.relative)):
        assert measured.tolist() == pytest.approx([values[index] for values in expected], rel=1e-12)
    norms = (reference.norms_of(before, spec, bias_before), reference.norms_of(after, spec, bias_after))
    assert moved.norms.tolist() == pytest.approx(norms[0], rel=1e-12)
    assert moved.norms_after.tolist() == pytest.approx(norms[1], rel=1e-12)


@every_layout
def test_gradients_in_every_layout_of_blocks(spec: BlockSpec, shape: tuple[int, ...], seed: int) -> None:
    weight, bias = random_weight(spec, shape, torch.float32)
    gradient, bias_gradient = random_weight(spec, shape, torch.float32)
    arguments = (weight, gradient, blocks_of(spec), bias, bias_gradient)
    norms = reference.norms_of(weight, spec, bias)
    slopes = reference.norms_of(gradient, spec, bias_gradient)
    dots = reference.dots_of(weight, gradient, spec, bias, bias_gradient)
    shares = [abs(dot) / norm / size for dot, norm, size in zip(dots, norms, slopes, strict=True)]
    assert slope(*arguments).radial_share.tolist() == pytest.approx(shares, rel=1e-12)
    at_one = [g * w / math.sqrt(n) for g, w, n in zip(slopes, norms, spec.sizes, strict=True)]
    assert slope(*arguments).norm_at_unit_radius.tolist() == pytest.approx(at_one, rel=1e-12)


def test_a_weight_is_compared_in_pieces_as_in_one(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = torch.randn(7, 5, 3), torch.randn(7, 5, 3)
    some = Blocks(0, (1, 3, 1), starts=(0, 2, 6))
    for blocks in (Blocks(0, (1,) * 7), Blocks(0, (3, 4)), Blocks(1, (2, 3)), some):
        whole = motion(before, after, blocks)
        monkeypatch.setattr("decayfree.dynamics.row_sums._PIECE_ON_CPU", 31)
        pieces = motion(before, after, blocks)
        monkeypatch.undo()
        assert pieces.angle_rad.tolist() == pytest.approx(whole.angle_rad.tolist(), rel=1e-14)
        assert pieces.radial.tolist() == pytest.approx(whole.radial.tolist(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("starts", [(), (0, 1, 4, 6)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_machine_code_compares_as_all_others_do(
    memory_format: torch.memory_format,
    starts: tuple[int, ...],
    dtype: torch.dtype,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import_or_skip("numba")
    blocks = Blocks(0, (1, 1, 1, 1) if starts else (3, 1, 4), starts=starts)
    before, after = (torch.randn(8, 3, 5, 5).to(dtype, memory_format=memory_format) for _ in range(2))
    before[0] = after[6] = 0.0
    before[4] = math.nan
    compared: list[Tensor] = []
    in_memory = fused_rows._in_memory

    def noted(*pair: Tensor) -> list[Tensor]:
        compared.extend(in_memory(*pair))
        return compared[-2:]

    monkeypatch.setattr(fused_rows, "_in_memory", noted)
    expected = motion(before, after, blocks), slope(before, after, blocks)
    assert not compared
    monkeypatch.setattr(fused_rows, "LEAST", before.numel())
    measured = motion(before, after, blocks), slope(before, after, blocks)
    assert [tuple(matrix.shape) for matrix in compared] == [(8, 75)] * 4
    for mine, others in zip(measured, expected, strict=True):
        for name, values in vars(others).items():
            found = getattr(mine, name).tolist()
            assert found == pytest.approx(values.tolist(), rel=1e-13, nan_ok=True), name
    assert measured[0].norms_after.tolist().count(0.0) == (1 if starts else 0)


def test_without_numba_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr(fused_rows, "LEAST", 1)
    fused_rows._compiled.cache_clear()
    assert fused_rows.fused_slope(row(3.0, 4.0), row(0.0, -2.0), ONE) is None
    assert slope(row(3.0, 4.0), row(0.0, -2.0), ONE).radial_share.item() == 0.8
    fused_rows._compiled.cache_clear()


def test_memory_formats_and_inputs_do_not_matter_and_stay(seed: int) -> None:
    before, after = torch.randn(4, 3, 3, 3), torch.randn(4, 3, 3, 3)
    blocks = Blocks(0, (1,) * 4)
    expected = angular_update_rad(before, after, blocks)
    turned = before.to(memory_format=torch.channels_last), after.clone().requires_grad_()
    copies = before.clone(), after.clone()
    measured = angular_update_rad(*turned, blocks)
    assert not measured.requires_grad
    assert measured.tolist() == pytest.approx(expected.tolist(), rel=1e-14)
    assert torch.equal(turned[0], copies[0])
    assert torch.equal(turned[1], copies[1])


# ---------------------------------------------------------------------------------------------- zeros and NaN


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_blocks_without_direction_give_nan_and_leave_the_others_alone(bad: float) -> None:
    weight = torch.tensor([[3.0, 4.0], [1.0, 2.0]])
    other = torch.tensor([[4.0, 4.0], [2.0, 2.0]])
    broken = weight.clone()
    broken[0] = bad
    blocks = Blocks(0, (1, 1))
    for instrument, name in (
        (motion, "angle_rad"),
        (motion, "chord"),
        (motion, "relative"),
        (slope, "radial_share"),
    ):
        values = getattr(instrument(broken, other, blocks), name)
        assert math.isnan(values[0].item()), name
        assert values[1] == getattr(instrument(weight, other, blocks), name)[1]
    assert slope(broken, other, blocks).norm_at_unit_radius[1] > 0
    if bad == 0.0:
        assert math.isnan(slope(broken, other, blocks).norm_at_unit_radius[0].item())


def test_a_block_that_vanishes_has_no_angle_but_a_relative_update() -> None:
    before = torch.randn(3, 50)
    after = torch.zeros(3, 50)
    for blocks in (Blocks(0, (1, 1, 1)), Blocks(0, (3,))):
        assert angular_update_rad(before, after, blocks).isnan().all()
        assert motion(before, after, blocks).relative.tolist() == pytest.approx([1.0] * blocks.n_blocks)


@pytest.mark.parametrize("blocks", [Blocks(0, (2,)), Blocks(1, (2,), groups=2)])
def test_a_row_of_zeros_in_a_block_counts_where_it_went(blocks: Blocks) -> None:
    # (3, 0) to (3, 4), the second row having been zero: 4/3 of its norm aside.
    before, after = torch.tensor([[3.0], [0.0]]), torch.tensor([[3.0], [4.0]])
    assert angular_update_rad(before, after, blocks).item() == pytest.approx(math.atan2(4, 3), rel=1e-15)


def test_a_zero_gradient_has_no_radial_share() -> None:
    assert math.isnan(slope(row(3.0, 4.0), row(0.0, 0.0), ONE).radial_share.item())
    assert slope(row(3.0, 4.0), row(0.0, 0.0), ONE).norm_at_unit_radius.item() == 0.0


# ---------------------------------------------------------------------------------------------- messages


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r'family must be "sgd", "adam" or "sign", got \'lars\''):
        effective_learning_rate(torch.ones(1), 0.1, "lars")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(2, 3), torch.ones(2, 4), Blocks(0, (1, 1))), r"the other has shape \(2, 4\)"),
        ((torch.ones(2, 3), torch.ones(2, 3), Blocks(0, (1,))), r"the blocks have 1 rows, the weight has 2"),
        (
            (torch.ones(1, 3), torch.ones(1, 3), ONE, torch.ones(1), None),
            r"a bias came with one of the two only",
        ),
        (
            (torch.ones(1, 3), torch.ones(1, 3), ONE, torch.ones(1), torch.ones(2)),
            r"biases must have shape \(1,\), got \(1,\) and \(2,\)",
        ),
    ],
)
@pytest.mark.parametrize("function", [angular_update_rad, slope])
def test_tensors_that_do_not_go_together_are_refused(function, arguments, message) -> None:
    with pytest.raises(InvalidInputError, match=message):
        function(*arguments)
