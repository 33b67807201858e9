"""Which rows of a weight have a scale of their own?

Cuts the rows where the running sum of their radial derivatives returns to zero in every probe; where not all
rows lack a scale, takes those between two places at which the running sum is the same. Arithmetic on those
sums; runs no model.
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
        rounding: Of one operation, relative.
    """

    zero: float
    floor: float
    evidence: float
    moved: float
    confirm: float
    rounding: float


TOLERANCES = {
    torch.float64: Tolerance(
        zero=1e-9, floor=1e-14, evidence=1e-10, moved=1e-5, confirm=1e-9, rounding=2e-16
    ),
    torch.float32: Tolerance(zero=1e-3, floor=1e-7, evidence=1e-5, moved=1e-4, confirm=1e-3, rounding=1e-7),
}

# Scaling that does so much less than other changes do is next to nothing, as with an ε in the way.
CANCELLED = 1e-3


@dataclass(frozen=True)
class Partition:
    """Blocks of a weight, and how sure they are.

    Args:
        blocks: The finest contiguous blocks without a radial derivative, of all rows or of as many as can be.
        residual: Largest |radial derivative| of a block, as a share of what it could have been.
        n_silent_rows: Rows in them that got no gradient in any probe, so that nothing is known of them but
            what their neighbors say.
    """

    blocks: Blocks
    residual: float
    n_silent_rows: int

    @property
    def is_mostly_silent(self) -> bool:
        """Whether more than half of the rows got no gradient: too many to speak for."""
        return 2 * self.n_silent_rows > self.blocks.n_rows


# Sums that ought to be zero are a few times as large as the rounding of one operation, relative to the root
# of the sum of squares of their terms. By how much more a sum may miss zero, so that a running sum over
# thousands of rows does not pass for zero by chance: among n random ones about n / 10^11 do.
_ABOVE_ROUNDING = 1e4

# Rows that lack a scale while the others of their weight have one: such a share of those with a gradient at
# least, and at most so many by chance.
_LEAST_SHARE = 0.1
_BY_CHANCE = 1e-3


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
    rows = _Rows.of(probes, tolerance)
    n_silent = int((~rows.is_heard).sum())
    if n_silent == len(rows.is_heard) or not bool(
        _vanishes(rows.radial.sum(1), rows.magnitude.sum(1), tolerance).all()
    ):
        return None
    sizes = _finest_sizes(rows, tolerance)
    if n_silent:
        sizes = _even_sizes(sizes, rows, tolerance)
    starts = torch.tensor(sizes).cumsum(0) - torch.tensor(sizes)
    return Partition(Blocks(axis, sizes, groups), _residual(rows, starts.tolist(), sizes), n_silent)


def partial_partition(probes: Sequence[RadialDerivatives], tolerance: Tolerance) -> Partition | None:
    """Find as many rows along dimension 0 as can be in blocks without a radial derivative, where not all can.

    Args:
        probes: One entry a probe, of equal length.
        tolerance: What counts as zero.

    Returns:
        The blocks, with their ``starts``; None where they are less than a tenth of the rows, or where so few
        probes could have shown them by chance.
    """
    rows = _Rows.of(probes, tolerance)
    n_rows = len(rows.is_heard)
    allowed = _ABOVE_ROUNDING * tolerance.rounding
    if n_rows**2 * (2 * allowed) ** len(probes) > _BY_CHANCE:
        return None
    blocks = _most_rows(rows, *_links(rows, allowed, tolerance))
    n_heard = sum(int(rows.is_heard[start:end].sum()) for start, end in blocks)
    if n_heard < max(1, _LEAST_SHARE * int(rows.is_heard.sum())):
        return None
    starts, sizes = [start for start, _ in blocks], tuple(end - start for start, end in blocks)
    n_silent = sum(sizes) - n_heard
    return Partition(Blocks(0, sizes, starts=tuple(starts)), _residual(rows, starts, sizes), n_silent)


@dataclass(frozen=True)
class _Rows:
    """What all probes say of the rows.

    Args:
        radial: (n_probes, n_rows).
        magnitude: (n_probes, n_rows).
        squares: (n_probes, n_rows). Squares of what each radial derivative would be by chance.
        is_heard: (n_rows,). Whether a probe gave it a gradient.
    """

    radial: Tensor
    magnitude: Tensor
    squares: Tensor
    is_heard: Tensor

    @classmethod
    def of(cls, probes: Sequence[RadialDerivatives], tolerance: Tolerance) -> "_Rows":
        magnitude = torch.stack([probe.magnitude for probe in probes])
        return cls(
            torch.stack([probe.radial for probe in probes]),
            magnitude,
            magnitude.square() / probes[0].length,
            (magnitude > tolerance.evidence).any(dim=0),
        )


def _finest_sizes(rows: _Rows, tolerance: Tolerance) -> tuple[int, ...]:
    """Block sizes by cutting as early as possible; all rows together vanish."""
    if bool(_vanishes(rows.radial, rows.magnitude, tolerance).all()) and bool(rows.is_heard.all()):
        return (1,) * len(rows.is_heard)
    running = rows.radial.cumsum(1)
    noise = returns_within(running[:, -1:].abs(), rows.squares.sum(1, keepdim=True).sqrt(), tolerance)
    is_zero = _vanishes(running, rows.magnitude.cumsum(1), tolerance) & (running.abs() <= noise)
    n_heard = rows.is_heard.cumsum(0)
    n_heard_at = {int(n_heard[row]): row for row in is_zero.all(0).nonzero().flatten().flip(0).tolist()}
    ends = [row + 1 for count, row in sorted(n_heard_at.items()) if 0 < count < int(n_heard[-1])]
    starts = torch.tensor([0, *ends])
    sums, masses = (_sums_between(part, starts) for part in (rows.radial, rows.magnitude))
    if not bool(_vanishes(sums, masses, tolerance).all()):  # beside much longer rows it seemed so
        starts = _merged(starts, sums, masses, tolerance)
    return tuple(torch.diff(starts, append=torch.tensor([len(n_heard)])).tolist())


def returns_within(total: Tensor, spread: Tensor, tolerance: Tolerance) -> Tensor:
    """How far from zero a running sum may be where it returns to it.

    Args:
        total: |the sum of all rows|, which is zero but for rounding.
        spread: What the sum of all rows would be by chance.
        tolerance: What counts as zero.
    """
    return (0.1 * _ABOVE_ROUNDING) * torch.maximum(total, 10 * tolerance.rounding * spread) + tolerance.floor


def _merged(starts: Tensor, sums: Tensor, masses: Tensor, tolerance: Tolerance) -> Tensor:
    """The starts of blocks that vanish, from those of blocks of which some do not and go with the next."""
    kept, is_open = [], False
    total, mass = torch.zeros_like(sums[:, 0]), torch.zeros_like(masses[:, 0])
    for index, start in enumerate(starts.tolist()):
        if not is_open:
            kept.append(start)
            total, mass = torch.zeros_like(total), torch.zeros_like(mass)
        total, mass = total + sums[:, index], mass + masses[:, index]
        is_open = not bool(_vanishes(total, mass, tolerance).all())
    return torch.tensor(kept[:-1] if is_open and len(kept) > 1 else kept)


def _even_sizes(sizes: tuple[int, ...], rows: _Rows, tolerance: Tolerance) -> tuple[int, ...]:
    """Prefer blocks of equal size, if those vanish too, where silent rows hide the cuts beside them."""
    n_rows = len(rows.is_heard)
    for size in sorted(set(sizes)):
        if n_rows % size:
            continue
        parts, masses = (values.unflatten(1, (-1, size)).sum(-1) for values in (rows.radial, rows.magnitude))
        if bool(_vanishes(parts, masses, tolerance).all()):
            return (size,) * (n_rows // size)
    return sizes


def _links(rows: _Rows, allowed: float, tolerance: Tolerance) -> tuple[Tensor, Tensor]:
    """(starts, ends), (n_links,) each: rows between two places where the running sums are the same.

    Single rows, and for each place the last one before it with the same sums.
    """
    running, masses, squares = (
        torch.nn.functional.pad(part.cumsum(1), (1, 0))
        for part in (rows.radial, rows.magnitude, rows.squares)
    )
    n_heard = torch.nn.functional.pad(rows.is_heard.cumsum(0), (1, 0))
    noise = allowed * squares[:, -1:].sqrt()
    # The same sums fall into one cell of a grid, or of the grid moved by half a cell.
    place = (running / (4 * noise).clamp(min=tolerance.floor)).mul(
        torch.arange(1, len(running) + 1).rsqrt().unsqueeze(1)
    )
    place = place.sum(0) / len(running)
    pairs = [torch.stack([torch.arange(len(place) - 1), torch.arange(1, len(place))])]
    for cells in (place.floor(), (place + 0.5).floor()):
        order = cells.argsort(stable=True)
        is_same = cells[order[1:]] == cells[order[:-1]]
        pairs.append(torch.stack([order[:-1][is_same], order[1:][is_same]]))
    starts, ends = torch.cat(pairs, 1).unique(dim=1)
    sums, mass, spread = (part[:, ends] - part[:, starts] for part in (running, masses, squares))
    is_zero = (sums.abs() <= noise + tolerance.floor) & _vanishes(sums, mass, tolerance)
    # A block that hardly moves the outputs would vanish by chance.
    is_loud = (spread.clamp(min=0).sqrt() * 1e-6 > tolerance.floor).any(0)
    chosen = is_zero.all(0) & is_loud & (n_heard[ends] > n_heard[starts])
    return starts[chosen], ends[chosen]


def _most_rows(rows: _Rows, starts: Tensor, ends: Tensor) -> list[tuple[int, int]]:
    """Links that do not overlap: with as many rows with a gradient as can be, then in as many blocks."""
    n_rows = len(rows.is_heard)
    n_heard = [0, *rows.is_heard.cumsum(0).tolist()]
    links_to: dict[int, list[int]] = {}
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        links_to.setdefault(end, []).append(start)
    # By the row before which a choice ends: (rows with a gradient, blocks), and its last link.
    best, last = [(0, 0)], [-1]
    for end in range(1, n_rows + 1):
        score, link = best[-1], -1
        for start in links_to.get(end, ()):
            heard, n_blocks = best[start]
            one = (heard + n_heard[end] - n_heard[start], n_blocks + 1)
            if one > score:
                score, link = one, start
        best.append(score)
        last.append(link)
    blocks, end = [], n_rows
    while end:
        if last[end] >= 0:
            blocks.append((last[end], end))
        end = last[end] if last[end] >= 0 else end - 1
    return blocks[::-1]


def _vanishes(radial: Tensor, magnitude: Tensor, tolerance: Tolerance) -> Tensor:
    return radial.abs() <= tolerance.zero * magnitude + tolerance.floor


def _sums_between(of_rows: Tensor, starts: Tensor) -> Tensor:
    """(n_probes, n_blocks) from (n_probes, n_rows), where each block ends before the next start."""
    block_of_row = torch.zeros(of_rows.shape[1], dtype=torch.long)
    block_of_row[starts[1:]] = 1
    zeros = torch.zeros(len(of_rows), len(starts), dtype=of_rows.dtype)
    return zeros.index_add(1, block_of_row.cumsum(0), of_rows)


def _residual(rows: _Rows, starts: Sequence[int], sizes: Sequence[int]) -> float:
    """Largest |radial derivative| of a block as a share of what it could have been."""
    held = torch.cat([torch.arange(start, start + size) for start, size in zip(starts, sizes, strict=True)])
    first = torch.tensor(sizes).cumsum(0) - torch.tensor(sizes)
    sums, masses = (_sums_between(part[:, held], first) for part in (rows.radial, rows.magnitude))
    return float(torch.where(masses > 0, sums.abs() / masses, 0.0).max())
