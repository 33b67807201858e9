"""Which rows of a weight have a scale of their own?

Cuts the rows where the running sum of their radial derivatives returns to zero in every probe. Arithmetic on
those sums; runs no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from decayfree.blocks import Blocks
from decayfree.invariance.radial import RadialDerivatives


@dataclass(frozen=True)
class Tolerance:
    """What counts as zero, as evidence and as movement in one precision.

    Args:
        zero: A sum of radial derivatives is zero up to this share of what it could have been.
        floor: ... or up to this much, in units of the outputs' norm.
        evidence: A row that could move the outputs by less than this, relative, says nothing.
        moved: A movement of the outputs from here on is one.
        confirm: Scaling all blocks found may move the outputs by at most this.
    """

    zero: float
    floor: float
    evidence: float
    moved: float
    confirm: float


TOLERANCES = {
    torch.float64: Tolerance(zero=1e-9, floor=1e-14, evidence=1e-10, moved=1e-5, confirm=1e-9),
    torch.float32: Tolerance(zero=1e-3, floor=1e-7, evidence=1e-5, moved=1e-4, confirm=1e-3),
}


@dataclass(frozen=True)
class Partition:
    """Blocks of a weight, and how sure they are.

    Args:
        blocks: The finest contiguous partition of the rows into blocks without a radial derivative.
        residual: Largest |radial derivative| of a block, as a share of what it could have been.
        n_silent_rows: Rows that got no gradient in any probe, so that nothing is known of them but what their
            neighbors say.
    """

    blocks: Blocks
    residual: float
    n_silent_rows: int

    @property
    def is_mostly_silent(self) -> bool:
        """Whether more than half of the rows got no gradient: too many to speak for."""
        return 2 * self.n_silent_rows > self.blocks.n_rows


def partition(
    axis: int, groups: int, probes: Sequence[RadialDerivatives], tolerance: Tolerance
) -> Partition | None:
    """Find the finest contiguous blocks of rows whose radial derivatives vanish in all probes.

    Args:
        axis: The dimension along which the rows run.
        groups: Groups along dimension 0, for ``axis=1``.
        probes: One entry a probe, of equal length.
        tolerance: What counts as zero.

    Returns:
        The partition, or None where the rows cannot be divided so: then not even all rows together are
        scale-invariant.
    """
    radial = torch.stack([probe.radial for probe in probes])  # (n_probes, n_rows)
    magnitude = torch.stack([probe.magnitude for probe in probes])
    is_silent = (magnitude <= tolerance.evidence).all(dim=0)
    n_silent = int(is_silent.sum())
    if n_silent == is_silent.numel() or not bool(_vanishes(radial.sum(1), magnitude.sum(1), tolerance).all()):
        return None
    sizes, n_left = _greedy_sizes(radial, magnitude, is_silent, tolerance)
    if n_left:
        return None
    if n_silent:
        sizes = _even_sizes(sizes, radial, magnitude, tolerance)
    return Partition(Blocks(axis, sizes, groups), _residual(radial, magnitude, sizes), n_silent)


def n_leading_rows(probes: Sequence[RadialDerivatives], tolerance: Tolerance) -> tuple[int, int]:
    """How many rows at the start do form blocks, and how many blocks they are, where not all rows do."""
    radial = torch.stack([probe.radial for probe in probes])
    magnitude = torch.stack([probe.magnitude for probe in probes])
    sizes, n_left = _greedy_sizes(radial, magnitude, (magnitude <= tolerance.evidence).all(dim=0), tolerance)
    return (sum(sizes), len(sizes)) if n_left else (0, 0)


def _greedy_sizes(
    radial: Tensor, magnitude: Tensor, is_silent: Tensor, tolerance: Tolerance
) -> tuple[tuple[int, ...], int]:
    """Block sizes by cutting as early as possible, and the number of rows left over at the end."""
    if bool(_vanishes(radial, magnitude, tolerance).all()) and not bool(is_silent.any()):
        return (1,) * radial.shape[1], 0
    sizes: list[int] = []
    n_open, n_open_heard = 0, 0
    sums, masses = [0.0] * radial.shape[0], [0.0] * radial.shape[0]
    for values, sizes_of_row, silent in zip(
        radial.T.tolist(), magnitude.T.tolist(), is_silent.tolist(), strict=True
    ):
        n_open, n_open_heard = n_open + 1, n_open_heard + (not silent)
        sums = [total + value for total, value in zip(sums, values, strict=True)]
        masses = [total + value for total, value in zip(masses, sizes_of_row, strict=True)]
        is_zero = all(
            abs(total) <= tolerance.zero * mass + tolerance.floor
            for total, mass in zip(sums, masses, strict=True)
        )
        if n_open_heard and is_zero:
            sizes.append(n_open)
            n_open, n_open_heard = 0, 0
            sums, masses = [0.0] * len(sums), [0.0] * len(masses)
    if n_open and not n_open_heard and sizes:  # only silent rows are left: they go with the block before
        sizes[-1] += n_open
        n_open = 0
    return tuple(sizes), n_open


def _even_sizes(
    sizes: tuple[int, ...], radial: Tensor, magnitude: Tensor, tolerance: Tolerance
) -> tuple[int, ...]:
    """Prefer blocks of equal size, if those vanish too, where silent rows hide the cuts beside them."""
    n_rows = radial.shape[1]
    for size in sorted(set(sizes)):
        if n_rows % size:
            continue
        parts, masses = (values.unflatten(1, (-1, size)).sum(-1) for values in (radial, magnitude))
        if bool(_vanishes(parts, masses, tolerance).all()):
            return (size,) * (n_rows // size)
    return sizes


def _vanishes(radial: Tensor, magnitude: Tensor, tolerance: Tolerance) -> Tensor:
    return radial.abs() <= tolerance.zero * magnitude + tolerance.floor


def _residual(radial: Tensor, magnitude: Tensor, sizes: tuple[int, ...]) -> float:
    block_of_row = torch.tensor([index for index, size in enumerate(sizes) for _ in range(size)])
    zeros = torch.zeros(radial.shape[0], len(sizes), dtype=radial.dtype)
    sums, masses = zeros.index_add(1, block_of_row, radial), zeros.index_add(1, block_of_row, magnitude)
    return float(torch.where(masses > 0, sums.abs() / masses, 0.0).max())
