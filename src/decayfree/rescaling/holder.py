"""How are many weights put back onto their norms in little more than one pass over memory?

Plans views of the weights once, then measures and scales piece by piece while a piece is in the cache; on an
accelerator in few calls (batch.py). Knows nothing of optimizers and models.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, groupby, pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from decayfree.blocks import norm_dtype
from decayfree.errors import NonFiniteWeightError, faults_of, raise_all
from decayfree.rescaling.batch import Batch, batches_of
from decayfree.rescaling.held import Held
from decayfree.rescaling.radius import rows_norm
from decayfree.rescaling.runs import RunInMemory, runs_in_memory
from decayfree.rescaling.sharded import ShardedGroup, Shifts
from decayfree.shards import local_of

# A piece is multiplied right after its norms were read, while it is in the cache; measured best between 3 and
# 4 MB: smaller ones pay for the number of operations, larger ones for reading memory twice.
_PIECE_BYTES = 4 << 20

# The norm of a longer row is taken over parts of about the second length first: torch adds up a row in so few
# sums that their rounding shows (6e-7 of the norm of 50,000 numbers in float32, 1e-5 of a million; in two
# steps 6e-8). One step is faster.
_LONG_ROW, _PART_OF_IT = 1 << 16, 1 << 12

# Norms this close to their target are left alone, bit for bit: it is the rounding of the norm itself.
ROUNDING = {torch.float64: 1e-13, torch.float32: 1e-6}

# How far a norm may be from its radius after a rescale, by rounding of the weights themselves.
ROUNDING_OF_WEIGHTS = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}

# Factors further than this from 1 take the careful way, in case a norm is zero, infinite or NaN.
_SAFE = 0.5


class _Group:
    """Pieces of weights that lie in the cache together, with one look at their norms.

    Args:
        pieces: Runs of blocks, or weights of any other layout.
        targets: (blocks of all pieces,).
        norms: Likewise; to be filled.
        factors: Likewise.

    Attributes:
        measured: Matrices and the columns that the norms of their rows go to, one after the other.
        bias_norms: (blocks of all pieces,), what is added to the norms; None without a bias.
        scaled: Matrices, and the factors of their rows, (blocks, 1).
        others: Weights of any other layout, with their norms and factors, (blocks,).
    """

    def __init__(
        self, pieces: Sequence[RunInMemory | Held], targets: Tensor, norms: Tensor, factors: Tensor
    ) -> None:
        self.targets, self.norms, self.factors = targets, norms, factors
        self.measured: list[tuple[Tensor, Tensor]] = []
        self.scaled: tuple[list[Tensor], list[Tensor]] = ([], [])
        self.others: list[tuple[Held, Tensor, Tensor]] = []
        self.bias_norms: Tensor | None = None
        bias_norms, sizes = torch.zeros_like(norms), [piece.n_blocks for piece in pieces]
        self.pieces = list(
            zip(*(column.split(sizes) for column in (norms, factors, bias_norms)), strict=True)
        )
        for piece, (own_norms, own_factors, own_bias_norms) in zip(pieces, self.pieces, strict=True):
            if isinstance(piece, Held):
                self.others.append((piece, own_norms, own_factors))
                continue
            self.measured += _in_steps(piece, own_norms[:, None])
            for rows in piece.tensors:
                self.scaled[0].append(rows)
                self.scaled[1].append(own_factors[:, None])
            if piece.bias is not None:
                self.measured.append((piece.bias, own_bias_norms[:, None]))
                self.bias_norms = bias_norms

    def measure(self) -> None:
        """Fill the norms."""
        for rows, out in self.measured:
            torch.linalg.vector_norm(rows, 2, 1, True, dtype=out.dtype, out=out)
        if self.bias_norms is not None:
            torch.hypot(self.norms, self.bias_norms, out=self.norms)
        for one, norms, _ in self.others:
            norms.copy_(one.each(Tensor.detach).norms())

    def scale_(self, copy: object = None) -> None:
        """Multiply all blocks by their factors; there is no copy here."""
        if self.scaled[0]:
            torch._foreach_mul_(*self.scaled)
        for one, _, factors in self.others:
            one.scale_(factors)

    def be_careful(self, rounding: float, *, at_most: bool) -> float:
        """Choose factors where a norm may be anything; the largest |factor − 1|, or infinity."""
        self.factors.copy_(_factors(self.norms, self.targets, rounding, at_most=at_most))
        for norms, factors, _ in self.pieces:
            if not bool(torch.isfinite(norms).all()):
                factors.fill_(1.0)
        is_finite = bool(torch.isfinite(self.norms).all())
        return float((self.factors - 1).abs().max()) if is_finite else math.inf


class Holder:
    """Puts the blocks of weights of one device and one norm precision onto their targets.

    Args:
        held: The weights; all on one device and with norms of one precision.
        at_most: Leave blocks alone that are shorter than their target.
        in_few_calls: Whether calls cost more than passes over memory; by default where weights are not on
            the CPU.
        shifts: Biases that all processes have to know where they have to know the norms of sharded weights.

    Attributes:
        held: The weights, in an order of its own.
        targets: (n_blocks of all weights,). The norms that they are held at.
        norms: Likewise. Norms as last measured, before scaling.
        factors: Likewise. Factors as last applied; 1 where a block was left alone.
        slices: Where each weight's blocks are among them, by name.
        sharded: Those of the weights that are spread over processes, the last of ``held``.
    """

    def __init__(
        self,
        held: Sequence[Held],
        *,
        at_most: bool = False,
        in_few_calls: bool | None = None,
        shifts: Shifts | None = None,
    ) -> None:
        self.at_most = at_most
        is_on_host = held[0].weight.device.type == "cpu"
        self._in_few_calls = not is_on_host if in_few_calls is None else in_few_calls
        sharded = [one for one in held if one.is_sharded]
        planned = [(one, runs_in_memory(one)) for one in held if not one.is_sharded]
        if self._in_few_calls:  # equal blocks beside each other, and other layouts before all
            planned.sort(key=lambda pair: [run.lengths for run in pair[1] or ()])
        self.held = [*(one for one, _ in planned), *sharded]
        self.targets = torch.cat([one.targets for one in self.held])
        self.norms = torch.ones_like(self.targets)
        self.factors = torch.ones_like(self.targets)
        places = _places(one.n_blocks for one in self.held)
        self.slices = {one.name: at for one, at in zip(self.held, places, strict=True)}
        self._rounding = ROUNDING[self.norms.dtype]
        pieces: list[RunInMemory | Held] = []
        for one, runs in planned:
            pieces += runs or [one]
        self._groups = self._grouped(pieces)
        self.sharded: ShardedGroup | None = None
        if sharded:
            at = slice(self.slices[sharded[0].name].start, None)
            columns = self.targets[at], self.norms[at], self.factors[at]
            # Targets may be known when norms are.
            own = [replace(one, targets=self.targets[self.slices[one.name]]) for one in sharded]
            self.held[-len(own) :] = own
            self.sharded = ShardedGroup(own, *columns, shifts)
        # Backwards: the optimizer has just walked forwards, so that the last weights are still in the cache.
        self._plan = [
            (one, one.measured, one.bias_norms, one.others, one.norms, one.targets, one.factors)
            for one in reversed(self._groups)
            if isinstance(one, _Group)
        ]
        self._whole = [one.weight for one, _ in planned]
        self._shards = [tensor for one in sharded for tensor in one.tensors]
        self._addresses = self._addresses_now()

    def is_current(self) -> bool:
        """Whether the planned views still look at the weights' own memory: ``.to()`` and friends move it."""
        return self._addresses_now() == self._addresses

    def _addresses_now(self) -> list[int]:
        return [*map(Tensor.data_ptr, self._whole), *(local_of(one).data_ptr() for one in self._shards)]

    @torch.no_grad()
    def measure(self) -> Tensor:
        """Fill ``norms`` and return them: of a sharded weight those of all blocks, on every process."""
        for group in self._all_groups():
            group.measure()
        return self.norms

    @torch.no_grad()
    def scale_(self) -> None:
        """Multiply every block by its entry in ``factors``."""
        for group in self._all_groups():
            group.scale_()

    @torch.no_grad()
    def hold_(self, *, everywhere: bool = False) -> float | Tensor:
        """Scale every block to its target.

        Blocks of norm zero, infinity or NaN are left alone, and those that are on their target already. On
        the CPU the other blocks of a weight (of 3 MB of it, if it is larger) with NaN or infinity are left
        alone too.

        Returns:
            Largest |factor − 1|, infinity where a norm was not finite. A number on the CPU; on other devices
            a tensor (), so that nothing waits for the device.
        """
        if self._in_few_calls:
            distances = [self._hold_without_looking_(group) for group in self._groups]
            distances += [self._hold_shards_(self.sharded, everywhere)] if self.sharded else []
            return distances[0] if len(distances) == 1 else torch.stack(distances).max()
        # Written flat: at three microseconds an operation, calls and keywords would be a tenth of the whole.
        worst, rounding, norm_of, dtype = 0.0, self._rounding, torch.linalg.vector_norm, self.norms.dtype
        extremes = torch.empty(2, dtype=dtype)
        extremes_out = (extremes[0], extremes[1])
        for group, measured, bias_norms, others, norms, targets, factors in self._plan:
            for rows, out in measured:
                norm_of(rows, 2, 1, True, dtype=dtype, out=out)
            if bias_norms is not None:
                torch.hypot(norms, bias_norms, out=norms)
            for one, own_norms, _ in others:
                own_norms.copy_(one.each(Tensor.detach).norms())
            torch.div(targets, norms, out=factors)
            if self.at_most:
                factors.clamp_(max=1.0)
            torch.aminmax(factors, out=extremes_out)
            least, most = extremes.tolist()
            shrunk, grown = 1.0 - least, most - 1.0
            distance = shrunk if shrunk > grown else grown
            if not distance < _SAFE:
                distance = group.be_careful(rounding, at_most=self.at_most)
            elif distance <= rounding:
                factors.fill_(1.0)
                continue
            elif shrunk >= -rounding and grown >= -rounding:
                # A block on its target keeps its bits also where others moved: factors within rounding become
                # exactly 1.
                torch.add(F.hardshrink(factors.sub_(1.0), rounding), 1.0, out=factors)
            group.scale_()
            worst = max(worst, distance)
        return max(worst, float(self._hold_shards_(self.sharded, everywhere))) if self.sharded else worst

    def _hold_shards_(self, group: ShardedGroup, everywhere: bool) -> Tensor:
        group.measure() if everywhere else group.measure_here()
        return self._scale_without_looking_(group, None)

    def _hold_without_looking_(self, group: "_Group | Batch") -> Tensor:
        """The same for one group, on a device that the host does not wait for."""
        return self._scale_without_looking_(group, group.measure())

    def _scale_without_looking_(self, group: "_Group | Batch | ShardedGroup", copy: Any) -> Tensor:
        group.factors.copy_(_factors(group.norms, group.targets, self._rounding, at_most=self.at_most))
        group.scale_(copy)
        return torch.where(group.norms < math.inf, (group.factors - 1).abs_(), math.inf).max()

    def _all_groups(self) -> "Iterator[_Group | Batch | ShardedGroup]":
        yield from self._groups
        if self.sharded is not None:
            yield self.sharded

    def careful_factors(self) -> Tensor:
        """Target over norm; 1 where either is 0, where a value is not finite, or where nothing is to do."""
        return _factors(self.norms, self.targets, self._rounding, at_most=self.at_most)

    def _grouped(self, pieces: Sequence[RunInMemory | Held]) -> list["_Group | Batch"]:
        """All pieces in groups, in their order."""
        parts: list[Sequence[RunInMemory | Held]]
        if self._in_few_calls:
            others = [piece for piece in pieces if isinstance(piece, Held)]
            batches = batches_of(piece for piece in pieces if isinstance(piece, RunInMemory))
            parts = [*([others] if others else []), *batches]
        else:
            parts = list(_that_fit_the_cache(pieces))
        ends = (
            torch.tensor([0, *(sum(piece.n_blocks for piece in part) for part in parts)]).cumsum(0).tolist()
        )
        return [self._group(part, slice(*pair)) for part, pair in zip(parts, pairwise(ends), strict=True)]

    def _group(self, pieces: Sequence[RunInMemory | Held], at: slice) -> "_Group | Batch":
        columns = self.targets[at], self.norms[at], self.factors[at]
        runs = [piece for piece in pieces if isinstance(piece, RunInMemory)]
        is_batch = self._in_few_calls and len(runs) == len(pieces)
        return Batch(runs, *columns) if is_batch else _Group(pieces, *columns)


def holders_of(held: Iterable[Held], shifts: Shifts | None = None, *, at_most: bool = False) -> list[Holder]:
    """One holder for each device and norm precision."""

    def kind(one: Held) -> tuple[str, str]:
        return str(one.weight.device), str(norm_dtype(one.weight))

    parts = groupby(sorted(held, key=kind), key=kind)
    return [Holder(list(part), shifts=shifts, at_most=at_most) for _, part in parts]


def _places(sizes: Iterable[int]) -> Iterator[slice]:
    """Where parts of these sizes lie, one after the other."""
    return (slice(*pair) for pair in pairwise(accumulate(sizes, initial=0)))


def _factors(norms: Tensor, targets: Tensor, rounding: float, *, at_most: bool) -> Tensor:
    """Target over norm; 1 where there is nothing to do or it cannot be done."""
    factors = targets / norms
    moves = ((factors - 1).abs_() > rounding) & (factors > 0) & (factors < (1.0 if at_most else math.inf))
    return torch.where(moves, factors, 1.0)


def _in_steps(run: RunInMemory, norms: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Matrices and the norms of their rows, one after the other: of parts of blocks, then of blocks."""
    length, n_rows = run.rows.shape[1], run.n_rows
    wanted = range(-(-length // _PART_OF_IT), n_rows + 1)
    n_parts = next((n for n in wanted if n_rows % n == 0), n_rows) if length > _LONG_ROW else 1
    if n_parts == 1:
        return [(run.rows, norms)]
    of_parts = norms.new_empty(run.n_blocks * n_parts, 1)
    return [(run.rows.view(len(of_parts), -1), of_parts), (of_parts.view(run.n_blocks, n_parts), norms)]


def _that_fit_the_cache(pieces: Iterable[RunInMemory | Held]) -> Iterator[list[RunInMemory | Held]]:
    """The same pieces, cut where they are large, and together where they are small."""
    group: list[RunInMemory | Held] = []
    n_bytes = 0
    for piece in pieces:
        parts = [piece] if isinstance(piece, Held) else piece.pieces(-(-piece.n_bytes // _PIECE_BYTES))
        for part in parts:
            if group and n_bytes + part.n_bytes > _PIECE_BYTES:
                yield group
                group, n_bytes = [], 0
            group.append(part)
            n_bytes += part.n_bytes
    if group:
        yield group


def distance_of(norms: Tensor) -> float | Tensor:
    """As `Holder.hold_` returns it, where nothing was scaled: 0, or infinity where a norm is not finite."""
    distance = torch.where(torch.isfinite(norms).all(), 0.0, float("inf"))
    return float(distance) if norms.device.type == "cpu" else distance


def by_name(holder: Holder, *, of: Literal["norms", "factors"] = "norms") -> Iterator[tuple[str, Tensor]]:
    """A holder's norms or factors, weight by weight."""
    values = holder.norms if of == "norms" else holder.factors
    return ((one.name, values[holder.slices[one.name]]) for one in holder.held)


def radii_measured(radii: Mapping[str, Tensor], holders: Iterable[Holder]) -> dict[str, Tensor]:
    """The radii by name, for NaN those that blocks had when they were measured."""
    now = {
        one.name: holder.norms[holder.slices[one.name]] / rows_norm(one.blocks, one.weight)
        for holder in holders
        for one in holder.held
    }
    return {name: torch.where(own.isnan(), now[name], own) for name, own in radii.items()}


def raise_not_finite(holders: Iterable[Holder], *, about: str) -> None:
    """Raise an error with the weights whose norms, as last measured, are not finite, if there are any."""
    names = [
        f"{one.name} {tuple(one.weight.shape)}"
        for holder in holders
        for one in holder.held
        if not bool(torch.isfinite(holder.norms[holder.slices[one.name]]).all())
    ]
    raise_all(faults_of(NonFiniteWeightError, names), about=about)
