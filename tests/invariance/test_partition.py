"""Are rows cut where they were made to be cut? Radial derivatives by construction, without a model.

A block of several rows gets random derivatives that add up to nothing but rounding, a block of one row
rounding alone, and a free row a random derivative. So the right cuts are known before anybody looks.
"""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from decayfree.blocks import Blocks
from decayfree.invariance.evidence import Evidence
from decayfree.invariance.partition import TOLERANCES, partial_partition, partition
from decayfree.invariance.radial import RadialDerivatives, along_columns, along_rows, column_sums

EXACT = TOLERANCES[torch.float64]
ROW_LENGTH = 100

# Rows by their parts: ("block", 4) has no scale, ("free", 3) are three rows that have one each, ("silent", 1)
# got no gradient.
Layout = Sequence[tuple[str, int]]
PARTS = st.tuples(st.sampled_from(["block", "block", "free"]), st.integers(1, 9))
LAYOUTS = st.lists(PARTS, min_size=1, max_size=30)


def made(
    layout: Layout, n_probes: int, seed: int, spread: float = 1.0, length: int = ROW_LENGTH
) -> list[RadialDerivatives]:
    """Probes of such rows; gradients are up to 10^spread times larger or smaller from block to block."""
    generator = torch.Generator().manual_seed(seed)
    return [one_probe(layout, generator, spread, length) for _ in range(n_probes)]


def one_probe(layout: Layout, generator: torch.Generator, spread: float, length: int) -> RadialDerivatives:
    radial, sizes = [], []
    for kind, n_rows in layout:
        size = 10 ** (spread * (2 * float(torch.rand((), generator=generator)) - 1))
        rows = normal(n_rows, generator) * size / length**0.5
        noise = 1e-15 * size * normal(n_rows, generator) / length**0.5
        if kind == "block":
            rows = rows - rows.mean() + noise if n_rows > 1 else noise
        radial.append(torch.zeros(n_rows, dtype=torch.float64) if kind == "silent" else rows)
        sizes.append(torch.full((n_rows,), 0.0 if kind == "silent" else size, dtype=torch.float64))
    ones = torch.ones(sum(n for _, n in layout), dtype=torch.float64)
    return RadialDerivatives(torch.cat(radial), ones, torch.cat(sizes), length)


def normal(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, generator=generator, dtype=torch.float64)


def blocks_in(layout: Layout) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(sizes, starts) of the blocks."""
    sizes, starts, row = [], [], 0
    for kind, n_rows in layout:
        if kind == "block":
            sizes.append(n_rows)
            starts.append(row)
        row += n_rows
    return tuple(sizes), tuple(starts)


@settings(max_examples=300)
@given(LAYOUTS, st.integers(1, 3), st.integers(0, 2**32))
def test_blocks_are_found_wherever_they_lie(layout: Layout, n_probes: int, seed: int) -> None:
    probes, (sizes, starts) = made(layout, n_probes, seed), blocks_in(layout)
    n_rows = len(probes[0].radial)
    whole = partition(0, 1, probes, EXACT)
    assert (whole and whole.blocks) == (Blocks(0, sizes) if sum(sizes) == n_rows else None)
    some = partial_partition(probes, EXACT)
    if 10 * sum(sizes) >= n_rows:
        assert some is not None
        assert some.blocks == Blocks(0, sizes, starts=starts)
        assert some.residual < 1e-14
    else:
        assert some is None


@settings(max_examples=100)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(0, 2**32))
def test_blocks_of_very_different_gradients_are_cut_apart(sizes: list[int], seed: int) -> None:
    probes = made([("block", size) for size in sizes], 1, seed, spread=5.0)
    found = partition(0, 1, probes, EXACT)
    assert found is not None
    assert found.blocks == Blocks(0, tuple(sizes))


@settings(max_examples=60)
@given(st.integers(200, 3000), st.integers(0, 2**32))
def test_rows_with_scales_of_their_own_make_no_blocks_by_chance(n_rows: int, seed: int) -> None:
    probes = made([("free", n_rows)], 1, seed)
    assert partition(0, 1, probes, EXACT) is None
    assert partial_partition(probes, EXACT) is None


@settings(max_examples=30)
@given(st.integers(2000, 8000), st.integers(0, 2**32))
def test_a_wide_block_is_not_cut_by_chance(n_rows: int, seed: int) -> None:
    """At 10^-9 of what it could be, a running sum over thousands of long rows is zero every other time."""
    found = partition(0, 1, made([("block", n_rows)], 1, seed, length=1_000_000), EXACT)
    assert found is not None
    assert found.blocks.block_sizes == (n_rows,)


@settings(max_examples=100)
@given(st.lists(PARTS, min_size=2, max_size=12), st.integers(0, 2**32))
def test_silent_rows_go_with_nobody_at_the_end_of_a_block(layout: Layout, seed: int) -> None:
    silent = [part for one in layout for part in (one, ("silent", 2))]
    sizes, starts = blocks_in(silent)
    found = partial_partition(made(silent, 1, seed), EXACT)
    if 10 * sum(sizes) >= sum(n_rows for _, n_rows in layout):
        assert found is not None
        assert (found.blocks, found.n_silent_rows) == (Blocks(0, sizes, starts=starts), 0)


def test_rows_with_small_gradients_are_not_held_beside_those_with_large_ones() -> None:
    """Beside sums of a million, a millionth is rounding; beside what it could have been itself, it is not."""
    (loud,), (quiet,) = made([("block", 8), ("free", 1)], 1, seed=0), made([("free", 20)], 1, seed=1)
    probe = RadialDerivatives(
        torch.cat([1e6 * loud.radial, 1e-6 * quiet.radial]),
        torch.ones(29, dtype=torch.float64),
        torch.cat([1e6 * loud.gradient_sizes, 1e-1 * quiet.gradient_sizes]),
        ROW_LENGTH,
    )
    found = partial_partition([probe], EXACT)
    assert found is not None
    assert found.blocks == Blocks(0, (8,), starts=(0,))


def test_silent_rows_inside_a_block_belong_to_it() -> None:
    (probe,) = made([("block", 6), ("free", 2)], 1, seed=0)
    radial, sizes = probe.radial.clone(), probe.gradient_sizes.clone()
    radial[0] += radial[2]
    radial[2] = sizes[2] = 0
    found = partial_partition([RadialDerivatives(radial, probe.sizes, sizes, ROW_LENGTH)], EXACT)
    assert found is not None
    assert (found.blocks, found.n_silent_rows) == (Blocks(0, (6,), starts=(0,)), 1)


def test_fewer_than_a_tenth_of_the_rows_are_not_held() -> None:
    assert partial_partition(made([("free", 37), ("block", 4)], 1, seed=0), EXACT) is None
    assert partial_partition(made([("free", 36), ("block", 4)], 1, seed=0), EXACT) is not None


def test_one_probe_in_float32_is_no_evidence() -> None:
    single = TOLERANCES[torch.float32]
    layout = [("block", 16), ("free", 16)]
    assert partial_partition(made(layout, 1, seed=0), single) is None
    assert partial_partition(made(layout, 3, seed=0), single) is not None


def test_a_cut_must_be_there_in_every_probe() -> None:
    ((first,), (second,)) = made([("block", 4), ("block", 4)], 1, 0), made([("block", 8)], 1, 1)
    found = partition(0, 1, [first, second], EXACT)
    assert found is not None
    assert found.blocks.block_sizes == (8,)
    assert partial_partition([first, *made([("free", 8)], 1, 2)], EXACT) is None


# Evidence: what several probes say together, from weights and gradients.


def gradient_of(weight: Tensor, radial: Tensor, generator: torch.Generator) -> Tensor:
    """A random gradient of such rows along dimension 0 whose ⟨w_i, g_i⟩ are ``radial``."""
    rows = weight.flatten(1)
    gradient = torch.randn(rows.shape, generator=generator, dtype=torch.float64)
    excess = (rows * gradient).sum(1) - radial
    return (gradient - rows * (excess / rows.square().sum(1)).unsqueeze(1)).reshape(weight.shape)


def test_rows_that_a_bend_left_alone_in_one_probe_are_not_held(seed: int) -> None:
    """Below ReLU6's bend all kernels have no scale, beyond it some: growth is bent, not some rows held."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 5, dtype=torch.float64, generator=generator)
    radial = torch.zeros(6, dtype=torch.float64)
    below = gradient_of(weight, radial, generator)
    radial[:2] = 1.0
    beyond = gradient_of(weight, radial, generator)
    evidence = Evidence(EXACT).with_probe(weight, beyond, None, None)
    held = evidence.conclusion().partition
    assert held is not None
    assert held.blocks == Blocks(0, (1,) * 4, starts=(2, 3, 4, 5))
    assert evidence.with_probe(weight, below, None, None).conclusion().partition is None


def test_rows_that_cancel_by_chance_do_move(seed: int) -> None:
    """0.6 and −0.59 together are small by chance; 0.6 and −0.599999 would be one time in a million."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(2, 5, dtype=torch.float64, generator=generator)
    by_chance = 1e-4 * gradient_of(weight, torch.tensor([0.6, -0.59], dtype=torch.float64), generator)
    assert Evidence(EXACT).with_probe(weight, by_chance, None, None).conclusion().moves > 5e-5
    cancelled = gradient_of(weight, torch.tensor([0.6, -0.599999], dtype=torch.float64), generator)
    conclusion = Evidence(EXACT).with_probe(weight, cancelled, None, None).conclusion()
    assert conclusion.moves == pytest.approx(1e-6, rel=1e-3)


# Sums along columns share their terms.


@pytest.mark.parametrize("shape", [(12, 5), (12, 5, 3), (7, 4), (1, 6), (30, 2, 2, 2)], ids=str)
def test_sums_along_columns_are_those_of_every_number_of_groups(shape: tuple[int, ...], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight, gradient = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    sums = dict(column_sums(weight, gradient))
    n_groups = [n for n in range(shape[0], 0, -1) if shape[0] % n == 0]
    assert list(sums) == (n_groups if len(shape) > 2 else n_groups[1:])
    for groups, found in sums.items():
        for group, (values, gradients) in enumerate(
            zip(weight.chunk(groups), gradient.chunk(groups), strict=True)
        ):
            for column in range(shape[1]):
                one = (values[:, column] * gradients[:, column]).sum()
                assert torch.allclose(found[group, column], one, rtol=1e-12, atol=1e-14)
        rows = along_columns(weight, gradient, groups)
        assert torch.allclose(rows.radial, found.flatten(), rtol=1e-12, atol=1e-14)
        first = weight.chunk(groups)[0][:, 0]
        assert torch.allclose(rows.sizes[0], torch.linalg.vector_norm(first))
        assert rows.length == first.numel()


def test_sums_along_rows_are_inner_products() -> None:
    weight, gradient = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[2.0, 1.0], [0.0, 7.0]])
    rows = along_rows(weight, gradient)
    assert rows.radial.tolist() == [10.0, 0.0]
    assert rows.sizes.tolist() == [5.0, 1.0]
    assert rows.magnitude[1] == 7.0
