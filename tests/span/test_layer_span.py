"""One layer's span, with numbers to check by hand; then the functions for the patches of one convolution."""

import math

import pytest
import torch
from torch import nn

from decayfree.errors import InvalidInputError, MismatchError
from decayfree.span.layer_span import LayerSpan, principal_angles_rad
from decayfree.span.patches import RowLayout
from support.reference import BlockSpec, row_of
from support.span_by_hand import watch

F64 = torch.float64


def span_of(moments, shape, axis=0, groups=1, mean=None):
    """A span with these second moments, (groups, d, d)."""
    moments = torch.as_tensor(moments, dtype=F64)
    mean = torch.zeros(moments.shape[:2], dtype=F64) if mean is None else torch.as_tensor(mean, dtype=F64)
    return LayerSpan("weight", RowLayout(shape, axis, groups), moments, mean)


def flat(*variances):
    """One group whose inputs vary along the axes."""
    return torch.diag(torch.tensor(variances, dtype=F64))[None]


def subspace(directions):
    """One group whose inputs span these columns, evenly."""
    return (directions @ directions.T)[None]


def close(found, expected, rtol=1e-14, atol=1e-15):
    torch.testing.assert_close(
        found, torch.as_tensor(expected, dtype=F64), rtol=rtol, atol=atol, equal_nan=True
    )


def test_a_3_4_5_row_is_split_into_3_and_4():
    span = span_of(flat(2.0, 0.0), (3, 2))
    weight = torch.tensor([[3.0, 4.0], [5.0, 0.0], [0.0, -5.0]])
    close(span.in_span(weight), [[3.0, 0.0], [5.0, 0.0], [0.0, 0.0]])
    close(span.off_span(weight), [[0.0, 4.0], [0.0, 0.0], [0.0, -5.0]])
    close(span.off_span_share(weight), [0.8, 0.0, 1.0])


def test_energy_follows_the_spectrum():
    span = span_of(flat(1.0, 4.0, 0.0), (1, 3))
    close(span.spectrum(), [[4.0, 1.0, 0.0]])
    close(span.energy(torch.tensor([[2.0, 1.0, 2.0]])), [[1 / 9, 4 / 9, 4 / 9]])


def test_a_direction_across_the_axes():
    span = span_of([[[1.0, -1.0], [-1.0, 1.0]]], (1, 2))
    close(span.in_span(torch.tensor([[1.0, 0.0]])), [[0.5, -0.5]])
    close(span.off_span_share(torch.tensor([[1.0, 0.0]])), [math.sqrt(0.5)])


def test_each_group_has_a_span_of_its_own():
    span = span_of(torch.cat([flat(1.0, 0.0), flat(0.0, 1.0)]), (4, 2), groups=2)
    weight = torch.tensor([[3.0, 4.0]]).expand(4, 2)
    close(span.off_span(weight), [[0.0, 4.0], [0.0, 4.0], [3.0, 0.0], [3.0, 0.0]])
    close(span.off_span_share(weight), [0.8, 0.8, 0.6, 0.6])
    assert torch.equal(span.rank(), torch.tensor([1, 1]))


@pytest.mark.parametrize(
    ("shape", "axis", "groups"),
    [((6, 2, 3), 0, 2), ((6, 4), 0, 1), ((4, 3, 3, 2), 1, 2), ((3, 4, 2), 1, 1), ((4, 1, 3), 0, 4)],
)
def test_rows_are_output_channels_in_their_order(seed, shape, axis, groups):
    layout, weight = RowLayout(shape, axis, groups), torch.randn(shape)
    rows = layout.rows(weight)
    assert rows.shape == (groups, layout.n_rows // groups, layout.n_features)
    assert torch.equal(layout.weight(rows), weight)
    spec = BlockSpec("", sizes=(), axis=axis, groups=groups)
    for number, row in enumerate(rows.flatten(0, 1)):
        assert torch.equal(row, row_of(weight, number, spec).flatten())


def test_parts_keep_shape_and_the_order_of_rows(seed):
    layer = nn.ConvTranspose2d(4, 6, 2, groups=2).double()
    images = torch.randn(5, 4, 3, 3, dtype=F64)
    images[:, 1] = images[:, 0]  # group 0 sees two equal channels, group 1 does not
    span = watch(layer, [images], centered=False)["weight"]
    assert torch.equal(span.rank(), torch.tensor([4, 8]))
    weight = torch.randn_like(layer.weight)
    off = span.off_span(weight)
    assert off.shape == weight.shape
    difference = (weight[0] - weight[1]) / 2
    close(off[:2], torch.stack([difference, -difference]), atol=1e-13)
    assert off[2:].abs().max() < 1e-13
    close(span.in_span(weight) + off, weight, atol=1e-14)
    assert ((span.off_span_share(weight) > 0.1) == torch.tensor([True] * 3 + [False] * 3)).all()


def test_parts_are_projections(seed):
    basis = torch.linalg.qr(torch.randn(9, 4, dtype=F64)).Q
    span = span_of(subspace(basis), (5, 9))
    weight = torch.randn(5, 9, dtype=F64)
    inside, off = span.in_span(weight), span.off_span(weight)
    close(inside, weight @ basis @ basis.T, atol=1e-14)
    close(inside + off, weight, atol=1e-14)
    close(span.in_span(inside), inside, atol=1e-14)
    close(span.energy(weight).sum(dim=1), torch.ones(5), rtol=1e-14)
    norms = torch.linalg.vector_norm(off, dim=1) / torch.linalg.vector_norm(weight, dim=1)
    close(span.off_span_share(weight), norms, rtol=1e-13)


def test_a_small_off_span_part_keeps_its_digits():
    span = span_of(flat(1.0, 0.0), (1, 2))
    assert span.off_span_share(torch.tensor([[1.0, 1e-30]], dtype=F64)).item() == pytest.approx(1e-30)
    assert span.in_span(torch.tensor([[1e-30, 1.0]], dtype=F64))[0, 0].item() == pytest.approx(1e-30)


def test_a_row_of_zeros_has_neither_share_nor_energy():
    span = span_of(flat(1.0, 0.0), (2, 2))
    weight = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    close(span.off_span_share(weight), [math.nan, 1.0])
    assert span.energy(weight)[0].isnan().all()
    assert not span.off_span(weight).isnan().any()


def test_the_tolerance_is_a_share_of_the_largest_variance_of_the_group():
    span = span_of(torch.cat([flat(4.0, 4e-3, 0.0), flat(4e6, 4e-3, 1.0)]), (2, 3), groups=2)
    assert span.rank(1e-4).tolist() == [2, 1]
    assert span.rank(1e-2).tolist() == [1, 1]
    assert span.rank(0.0).tolist() == [2, 3]
    assert span.rank().tolist() == [2, 3]
    weight = torch.ones(2, 3)
    close(span.off_span_share(weight, 1e-4), [math.sqrt(1 / 3), math.sqrt(2 / 3)])


@pytest.mark.parametrize("tolerance", [-1e-9, 1.0, math.nan, math.inf, "1e-3"])
def test_a_tolerance_that_is_no_share_is_refused(tolerance):
    span = span_of(flat(1.0), (1, 1))
    for method in (span.off_span, span.in_span, span.off_span_share):
        with pytest.raises(InvalidInputError, match="tolerance must be a number from 0 to below 1"):
            method(torch.ones(1, 1), tolerance)
    with pytest.raises(InvalidInputError, match="tolerance must be"):
        span.rank(tolerance)


@pytest.mark.parametrize("value", [5.0, 0.1, 1e6 / 3])
def test_constant_inputs_span_nothing_once_they_are_centered(value):
    batches = [torch.full((number, 3), value, dtype=F64) for number in (7, 30, 1)]
    for centered in (True, "overall"):
        assert watch(nn.Linear(3, 1).double(), batches, centered=centered)["weight"].rank() == 0
    assert watch(nn.Linear(3, 1).double(), batches, centered=False)["weight"].rank() == 1


def test_a_weight_of_another_shape_is_refused():
    with pytest.raises(InvalidInputError, match=r"update of shape \(1, 2\), got \(2, 1\)"):
        span_of(flat(1.0, 0.0), (1, 2)).off_span(torch.ones(2, 1))


def test_parameters_and_low_precision_come_out_as_float64(seed):
    span = span_of(flat(1.0, 0.0), (1, 2))
    for weight in (nn.Parameter(torch.ones(1, 2)), torch.ones(1, 2, dtype=torch.bfloat16)):
        for found in (
            span.off_span(weight),
            span.in_span(weight),
            span.off_span_share(weight),
            span.energy(weight),
        ):
            assert found.dtype == F64
            assert not found.requires_grad


def test_printing_says_rank_and_where_it_comes_from():
    assert repr(span_of(flat(1.0, 0.0), (3, 2))) == (
        "LayerSpan(weight (3, 2): rank 1 of 2, 1 samples in 1 batches, around each batch's mean)"
    )
    span = span_of(torch.cat([flat(1.0, 0.0), flat(1.0, 1.0)]), (4, 2), groups=2)
    assert "rank 1 to 2 of 2 in each of 2 groups" in repr(span)


ANGLES = [0.0, 1e-12, 1e-9, 1e-5, 0.3, math.pi / 4, 1.2, math.pi / 2 - 1e-9, math.pi / 2]


def test_principal_angles_are_accurate_at_both_ends(seed):
    n = len(ANGLES)
    basis = torch.linalg.qr(torch.randn(2 * n, 2 * n, dtype=F64)).Q
    angles = torch.tensor(ANGLES, dtype=F64)
    turned = basis[:, :n] * angles.cos() + basis[:, n:] * angles.sin()
    turned = turned @ torch.linalg.qr(torch.randn(n, n, dtype=F64)).Q
    a, b = span_of(subspace(basis[:, :n]), (1, 2 * n)), span_of(subspace(turned), (1, 2 * n))
    for found in (principal_angles_rad(a, b), principal_angles_rad(b, a)):
        torch.testing.assert_close(found[0], angles, rtol=1e-13, atol=2e-14)


def test_a_span_inside_another_has_no_angle_to_it():
    a, b = span_of(flat(1.0, 1.0, 0.0), (1, 3)), span_of(flat(1.0, 0.0, 0.0), (1, 3))
    close(principal_angles_rad(a, b), [[0.0]])
    close(principal_angles_rad(b, a), [[0.0]])
    close(principal_angles_rad(a, span_of(flat(0.0, 1.0, 1.0), (1, 3))), [[0.0, math.pi / 2]])


def test_groups_with_fewer_dimensions_are_filled_with_nan():
    a = span_of(torch.cat([flat(1.0, 1.0), flat(1.0, 0.0)]), (2, 2), groups=2)
    b = span_of(torch.cat([flat(1.0, 1.0), flat(0.0, 1.0)]), (2, 2), groups=2)
    close(principal_angles_rad(a, b), [[0.0, 0.0], [math.pi / 2, math.nan]])
    nothing = span_of(flat(0.0, 0.0), (1, 2))
    assert principal_angles_rad(nothing, nothing).shape == (1, 0)


def test_spans_in_different_spaces_have_no_angles():
    with pytest.raises(MismatchError, match="weight has 1 groups of 2 features, weight has 1 of 3"):
        principal_angles_rad(span_of(flat(1.0, 0.0), (1, 2)), span_of(flat(1.0, 0.0, 0.0), (1, 3)))


def test_inputs_most_of_whose_channels_are_dead_have_a_span() -> None:
    """LAPACK's divide and conquer does not converge on one of them (MKL), as on some of trainings."""
    alive = torch.arange(4, 576, 9)
    for seed in range(22, 26):
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(200, 64, generator=generator, dtype=torch.float64).relu() + 0.3
        moment = torch.zeros(576, 576, dtype=torch.float64)
        moment[alive[:, None], alive] = inputs.T @ inputs / 200
        span = span_of(moment[None], (3, 576))
        assert span.rank().tolist() == [64]
        directions, variances = span.directions[0], span.spectrum()[0]
        again = (directions * variances) @ directions.T
        torch.testing.assert_close(again, moment, rtol=0, atol=1e-13 * float(moment.max()) * 64)
        assert variances.diff().max() <= 0
        weight = torch.randn(3, 576, generator=generator, dtype=torch.float64)
        dead = torch.ones(576, dtype=torch.bool).index_fill(0, alive, value=False)
        torch.testing.assert_close(span.off_span(weight), weight * dead, rtol=0, atol=1e-12)
