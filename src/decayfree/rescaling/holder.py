"""How are many weights put back onto their norms in little more than one pass over memory?

Plans views of the weights once, then measures and scales piece by piece while a piece is in the cache. Knows
nothing of optimizers and models.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from decayfree.blocks import is_sharded, norm_dtype
from decayfree.rescaling.held import Held

# A piece is multiplied right after its norms were read, while it is in the cache; measured best between 2 and
# 4 MB: smaller ones pay for the number of operations, larger ones for reading memory twice.
_PIECE_BYTES = 3 << 20
_GROUP_BYTES = 3 << 20

# Norms this close to their target are left alone, bit for bit: it is the rounding of the norm itself.
ROUNDING = {torch.float64: 1e-13, torch.float32: 1e-6}

# How far a norm may be from its radius after a rescale, by rounding of the weights themselves.
ROUNDING_OF_WEIGHTS = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}

# Factors further than this from 1 take the careful way, in case a norm is zero, infinite or NaN.
_SAFE = 0.5


@dataclass
class _Group:
    """Weights, or a part of one, that lie in the cache together, with one look at their norms.

    Args:
        at: Their blocks, in the order of all blocks of the holder.
        rows: (kernels, fan-in) views with their norms and factors, (kernels, 1).
        others: Weights of any other layout, with their norms and factors, (n_blocks,).
    """

    at: slice
    rows: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    others: list[tuple[Held, Tensor, Tensor]] = field(default_factory=list)
    n_bytes: int = 0


class Holder:
    """Puts the blocks of weights of one device and one norm precision onto their targets.

    Args:
        held: The weights; all on one device and with norms of one precision.

    Attributes:
        norms: (n_blocks of all weights,). Norms as last measured, before scaling.
        factors: Likewise. Factors as last applied; 1 where a block was left alone.
        slices: Where each weight's blocks are among them, by name.
    """

    def __init__(self, held: Sequence[Held]) -> None:
        self.held = list(held)
        self.targets = torch.cat([one.targets for one in held])
        self.norms = torch.ones_like(self.targets)
        self.factors = torch.ones_like(self.targets)
        ends = torch.tensor([one.blocks.n_blocks for one in held]).cumsum(0).tolist()
        self.slices = {
            one.name: slice(end - one.blocks.n_blocks, end) for one, end in zip(held, ends, strict=True)
        }
        self._is_on_host = held[0].weight.device.type == "cpu"
        self._rounding = ROUNDING[self.norms.dtype]
        self._groups = list(self._grouped())
        # Backwards: the optimizer has just walked forwards, so that the last weights are still in the cache.
        self._plan = [
            (
                group,
                self._plain_rows(group),
                self.norms[group.at],
                self.targets[group.at],
                self.factors[group.at],
            )
            for group in reversed(self._groups)
        ]
        self._whole = [one.weight for one in held if not is_sharded(one.weight)]
        self._sharded = [one.weight for one in held if is_sharded(one.weight)]
        self._addresses = self._addresses_now()

    def is_current(self) -> bool:
        """Whether the planned views still look at the weights' own memory: ``.to()`` and friends move it."""
        return self._addresses_now() == self._addresses

    def _addresses_now(self) -> list[int]:
        return [weight.data_ptr() for weight in self._whole] + [
            _part(weight).data_ptr() for weight in self._sharded
        ]

    @torch.no_grad()
    def measure(self) -> Tensor:
        """Fill ``norms`` and return them."""
        for group in self._groups:
            _measure(group, self.norms.dtype)
        return self.norms

    @torch.no_grad()
    def scale_(self) -> None:
        """Multiply every block by its entry in ``factors``."""
        for group in self._groups:
            _scale_(group)

    @torch.no_grad()
    def hold_(self) -> float | Tensor:
        """Scale every block to its target.

        Blocks of norm zero, infinity or NaN are left alone, and those that are on their target already. On
        the CPU the other kernels of a weight (of 3 MB of it, if it is larger) with NaN or infinity are left
        alone too.

        Returns:
            Largest |factor − 1|, infinity where a norm was not finite. A number on the CPU; on other devices
            a tensor (), so that nothing waits for the device.
        """
        if not self._is_on_host:
            is_finite = torch.isfinite(self.measure())
            self.factors.copy_(self.careful_factors())
            self.scale_()
            return torch.where(is_finite, (self.factors - 1).abs(), float("inf")).max()
        # Written flat: at three microseconds an operation, calls and keywords would be a tenth of the whole.
        worst, rounding, norm_of, dtype = 0.0, self._rounding, torch.linalg.vector_norm, self.norms.dtype
        extremes = torch.empty(2, dtype=dtype)
        extremes_out = (extremes[0], extremes[1])
        for group, plain_rows, norms, targets, factors in self._plan:
            for rows, out, _ in plain_rows:
                norm_of(rows, 2, 1, True, out=out)
            if not plain_rows:
                _measure(group, dtype)
            torch.div(targets, norms, out=factors)
            torch.aminmax(factors, out=extremes_out)
            least, most = extremes.tolist()
            shrunk, grown = 1.0 - least, most - 1.0
            distance = shrunk if shrunk > grown else grown
            if not distance < _SAFE:
                distance = self._be_careful(group)
            elif distance <= rounding:
                factors.fill_(1.0)
                continue
            elif shrunk >= -rounding and grown >= -rounding:
                # A block on its target keeps its bits also where others moved: factors within rounding become
                # exactly 1.
                torch.add(F.hardshrink(factors.sub_(1.0), rounding), 1.0, out=factors)
            for rows, _, factor in plain_rows:
                rows.mul_(factor)
            if not plain_rows:
                _scale_(group)
            worst = max(worst, distance)
        return worst

    def careful_factors(self) -> Tensor:
        """Target over norm; 1 where either is 0, where a value is not finite, or where nothing is to do."""
        factors = self.targets / self.norms
        is_right = (self.norms - self.targets).abs() <= self._rounding * self.targets
        keep = (
            is_right
            | ~torch.isfinite(self.norms)
            | ~torch.isfinite(factors)
            | (factors == 0)
            | (self.norms == 0)
            | (self.targets == 0)
        )
        return torch.where(keep, 1.0, factors)

    def _plain_rows(self, group: _Group) -> list[tuple[Tensor, Tensor, Tensor]]:
        """The group's rows, if it has nothing else and their norms are in their own precision."""
        is_plain = not group.others and all(rows.dtype == self.norms.dtype for rows, _, _ in group.rows)
        return group.rows if is_plain else []

    def _be_careful(self, group: _Group) -> float:
        self.factors[group.at] = self.careful_factors()[group.at]
        for _, norms, factors in (*group.rows, *group.others):
            if not bool(torch.isfinite(norms).all()):
                factors.fill_(1.0)
        is_finite = bool(torch.isfinite(self.norms[group.at]).all())
        return float((self.factors[group.at] - 1).abs().max()) if is_finite else float("inf")

    def _grouped(self) -> Iterable[_Group]:
        group = _Group(slice(0, 0))
        for one in self.held:
            at, n_bytes = self.slices[one.name], one.weight.numel() * one.weight.element_size()
            rows = rows_in_memory(one)
            n_pieces = 1
            if rows is not None and self._is_on_host:
                n_pieces = min(len(rows), -(-n_bytes // _PIECE_BYTES))
            step = -(-(at.stop - at.start) // n_pieces)
            for start in range(at.start, at.stop, step):
                part = slice(start, min(start + step, at.stop))
                if group.n_bytes and group.n_bytes + n_bytes // n_pieces > _GROUP_BYTES:
                    yield group
                    group = _Group(slice(part.start, part.start))
                group.at = slice(group.at.start, part.stop)
                group.n_bytes += n_bytes // n_pieces
                norms, factors = self.norms[part], self.factors[part]
                if rows is None:
                    group.others.append((one, norms, factors))
                else:
                    piece = rows[part.start - at.start : part.stop - at.start]
                    group.rows.append((piece, norms[:, None], factors[:, None]))
        yield group


def holders_of(held: Iterable[Held]) -> list[Holder]:
    """One holder for each device and norm precision."""

    def kind(one: Held) -> tuple[str, str]:
        return str(one.weight.device), str(norm_dtype(one.weight))

    return [Holder(list(part)) for _, part in groupby(sorted(held, key=kind), key=kind)]


def _measure(group: _Group, dtype: torch.dtype) -> None:
    for rows, norms, _ in group.rows:
        torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=dtype, out=norms)
    for held, norms, _ in group.others:
        norms.copy_(held.each(Tensor.detach).norms())


def _scale_(group: _Group) -> None:
    for rows, _, factors in group.rows:
        rows.mul_(factors)
    for held, _, factors in group.others:
        held.scale_(factors)


def _part(weight: Tensor) -> Tensor:
    """What this device has of a sharded weight."""
    part: Tensor = weight.to_local()  # type: ignore[attr-defined]
    return part


def rows_in_memory(held: Held) -> Tensor | None:
    """A (kernels, fan-in) view, if each kernel is a block in one run of memory, in any order inside it."""
    weight = held.weight.detach()
    is_simple = held.bias is None and not held.blocks.axis and held.blocks.rows_are_blocks
    if not is_simple or type(weight) is not Tensor or not weight.numel():
        return None
    fan_in = weight.numel() // len(weight)
    dims = sorted(
        (stride, size) for size, stride in zip(weight.shape[1:], weight.stride()[1:], strict=True) if size > 1
    )
    expected = 1
    for stride, size in dims:
        if stride != expected:
            return None
        expected *= size
    if len(weight) > 1 and weight.stride(0) != fan_in:
        return None
    return weight.as_strided((len(weight), fan_in), (fan_in, 1))


def distance_of(norms: Tensor) -> float | Tensor:
    """As `Holder.hold_` returns it, where nothing was scaled: 0, or infinity where a norm is not finite."""
    distance = torch.where(torch.isfinite(norms).all(), 0.0, float("inf"))
    return float(distance) if norms.device.type == "cpu" else distance


def by_name(holder: Holder, *, of: Literal["norms", "factors"] = "norms") -> Iterator[tuple[str, Tensor]]:
    """A holder's norms or factors, weight by weight."""
    values = holder.norms if of == "norms" else holder.factors
    return ((one.name, values[holder.slices[one.name]]) for one in holder.held)


def not_finite(holder: Holder) -> list[str]:
    """The weights whose norms, as last measured, are not finite."""
    return [
        f"{one.name} {tuple(one.weight.shape)}"
        for one in holder.held
        if not bool(torch.isfinite(holder.norms[holder.slices[one.name]]).all())
    ]
