"""How are many weights put back onto their norms in little more than one pass over memory?

Plans views of the weights once, then measures and scales piece by piece while a piece is in the cache. Knows nothing of optimizers and
models.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from decayfree.blocks import Blocks, block_norms, norm_dtype, scale_blocks_

# A piece is multiplied right after its norms were read, while it is in the cache; measured best between 2 and 4 MB: smaller ones pay for
# the number of operations, larger ones for reading memory twice.
_PIECE_BYTES = 4 << 20
_GROUP_BYTES = 2 << 20

# Norms this close to their target are left alone, bit for bit: it is the rounding of the norm itself.
_ROUNDING = {torch.float64: 1e-13, torch.float32: 1e-6}

# A norm further than this from its target takes the careful way, in case it is zero, infinite or NaN.
_SAFE = 0.5


@dataclass(frozen=True)
class Held:
    """One weight and the norms its blocks are held at.

    Args:
        name: Of the parameter.
        weight: The parameter.
        bias: Its bias, where they only work together.
        blocks: How its rows are divided.
        targets: (n_blocks,), in :func:`decayfree.blocks.norm_dtype` of the weight. Norm of each block; 0 where it is to be left alone.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    blocks: Blocks
    targets: Tensor


class Holder:
    """Puts the blocks of weights of one device and one norm precision onto their targets.

    Args:
        held: The weights; all on one device and with norms of one precision.

    Attributes:
        norms: (n_blocks of all weights,). Norms as last measured, before scaling.
        factors: Likewise. Factors as last applied; 1 where a block was left alone.
    """

    def __init__(self, held: Sequence[Held]) -> None:
        self.held = list(held)
        first = held[0].weight
        self.targets = torch.cat([one.targets for one in held])
        self.norms = torch.ones_like(self.targets)
        self.factors = torch.ones_like(self.targets)
        self._rounding = _ROUNDING[norm_dtype(first)]
        self._is_on_host = first.device.type == "cpu"
        ends = torch.tensor([one.blocks.n_blocks for one in held]).cumsum(0).tolist()
        self.slices = {
            one.name: slice(end - one.blocks.n_blocks, end) for one, end in zip(held, ends, strict=True)
        }
        self._keys = [_key(one) for one in held]
        self._groups = [_Group(pieces, self) for pieces in _grouped(self._pieces())]

    def is_current(self) -> bool:
        """Whether the planned views still look at the weights' own memory: ``.to()`` and friends move it."""
        return all(_key(one) == key for one, key in zip(self.held, self._keys, strict=True))

    @torch.no_grad()
    def measure(self) -> Tensor:
        """Fill ``norms`` and return them."""
        for group in self._groups:
            group.measure()
        return self.norms

    @torch.no_grad()
    def hold_(self) -> float | Tensor:
        """Scale every block to its target; blocks of norm zero, infinity or NaN and those that are there already are left alone.

        On the CPU the other kernels of a weight (of 4 MB of it, if it is larger) with NaN or infinity are left alone too.

        Returns:
            Largest relative distance from a target before; NaN where a norm was NaN. A number on the CPU. On other devices a tensor (),
            so that nothing waits for the device.
        """
        if self._is_on_host:
            return max_or_nan(group.hold_() for group in self._groups)
        distance = (
            ((self.measure() - self.targets).abs() / self.targets).nan_to_num(posinf=float("inf")).max()
        )
        self.factors.copy_(self.careful_factors(self.norms, self.targets))
        for group in self._groups:
            group.scale_()
        return distance

    def careful_factors(self, norms: Tensor, targets: Tensor) -> Tensor:
        """Target over norm; 1 where the norm has no direction (0), no value (NaN, infinity), no target (0), or is right already."""
        factors = targets / norms
        is_right = (norms - targets).abs() <= self._rounding * targets
        keep = is_right | ~torch.isfinite(norms) | ~torch.isfinite(factors) | (norms == 0) | (targets == 0)
        return torch.where(keep, 1.0, factors)

    def scale_(self) -> None:
        """Multiply every block by its entry in ``factors``."""
        for group in self._groups:
            group.scale_()

    def _pieces(self) -> Iterable["_Piece"]:
        for one in self.held:
            at = self.slices[one.name]
            norms, factors = self.norms[at], self.factors[at]
            rows = _rows_in_memory(one)
            if rows is None:
                yield _AnyWeight(one, norms, factors)
                continue
            step = (
                max(1, _PIECE_BYTES // max(1, rows.shape[1] * rows.element_size()))
                if self._is_on_host
                else len(rows)
            )
            n_pieces = -(-len(rows) // step)
            step = -(-len(rows) // n_pieces)
            offset = at.start
            for start in range(0, len(rows), step):
                part = slice(start, start + step)
                yield _Rows(
                    rows[part],
                    norms[part, None],
                    factors[part, None],
                    slice(offset + start, offset + min(start + step, len(rows))),
                )


class _Rows:
    """Some kernels of a weight whose rows lie one after the other in memory."""

    def __init__(self, rows: Tensor, norms: Tensor, factors: Tensor, at: slice) -> None:
        self.rows, self.norms, self.factors, self.at = rows, norms, factors, at
        self.n_bytes = rows.numel() * rows.element_size()

    def measure(self) -> None:
        torch.linalg.vector_norm(self.rows, dim=1, keepdim=True, dtype=self.norms.dtype, out=self.norms)

    def scale_(self) -> None:
        self.rows.mul_(self.factors)


class _AnyWeight:
    """A weight of any layout: transposed, with several rows a block, with its bias, in any memory format."""

    def __init__(self, held: Held, norms: Tensor, factors: Tensor) -> None:
        self.held, self.norms, self.factors = held, norms, factors
        self.at = slice(norms.storage_offset(), norms.storage_offset() + len(norms))
        self.n_bytes = held.weight.numel() * held.weight.element_size()

    def measure(self) -> None:
        self.norms.copy_(
            block_norms(
                self.held.weight.detach(),
                self.held.blocks,
                None if self.held.bias is None else self.held.bias.detach(),
            )
        )

    def scale_(self) -> None:
        scale_blocks_(self.held.weight, self.factors, self.held.blocks, self.held.bias)


_Piece = _Rows | _AnyWeight


class _Group:
    """Pieces that lie in the cache together, with one look at their norms."""

    def __init__(self, pieces: Sequence[_Piece], holder: Holder) -> None:
        at = slice(pieces[0].at.start, pieces[-1].at.stop)
        self._pieces = pieces
        self._holder = holder
        self._norms, self._factors, self._targets = holder.norms[at], holder.factors[at], holder.targets[at]
        self._least = float(self._targets.min()) if self._norms.device.type == "cpu" else 0.0

    def measure(self) -> None:
        for piece in self._pieces:
            piece.measure()

    def scale_(self) -> None:
        for piece in self._pieces:
            piece.scale_()

    def hold_(self) -> float:
        self.measure()
        distance = float(torch.dist(self._norms, self._targets, float("inf")))
        if distance <= self._holder._rounding * self._least:
            self._factors.fill_(1.0)
            return distance
        if distance < _SAFE * self._least:
            torch.div(self._targets, self._norms, out=self._factors)
        else:
            self._factors.copy_(self._holder.careful_factors(self._norms, self._targets))
            for piece in self._pieces:
                if not bool(torch.isfinite(piece.norms).all()):
                    piece.factors.fill_(1.0)  # the whole of it, also the kernels that are finite
        self.scale_()
        return distance / self._least if self._least else float("inf")


def holders_of(held: Iterable[Held]) -> list[Holder]:
    """One holder for each device and norm precision."""

    def kind(one: Held) -> tuple[str, str]:
        return str(one.weight.device), str(norm_dtype(one.weight))

    return [Holder(list(part)) for _, part in groupby(sorted(held, key=kind), key=kind)]


def max_or_nan(values: Iterable[float]) -> float:
    """The largest value; NaN where there is one."""
    listed = list(values)
    return (
        max((value for value in listed if value == value), default=0.0)
        if all(value == value for value in listed)
        else float("nan")
    )


def _grouped(pieces: Iterable[_Piece]) -> Iterable[list[_Piece]]:
    group: list[_Piece] = []
    for piece in pieces:
        if group and sum(member.n_bytes for member in group) + piece.n_bytes > _GROUP_BYTES:
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def _rows_in_memory(held: Held) -> Tensor | None:
    """A (n_rows, fan-in) view, where each kernel is a block of its own and lies in one run of memory, in whatever order inside it."""
    weight = held.weight.detach()
    if (
        held.bias is not None
        or held.blocks.axis
        or not held.blocks.rows_are_blocks
        or type(weight) is not Tensor
        or not weight.numel()
    ):
        return None
    fan_in = weight.numel() // len(weight)
    expected = 1
    for size, stride in sorted(
        (
            (size, stride)
            for size, stride in zip(weight.shape[1:], weight.stride()[1:], strict=True)
            if size > 1
        ),
        key=lambda pair: pair[1],
    ):
        if stride != expected:
            return None
        expected *= size
    if len(weight) > 1 and weight.stride(0) != fan_in:
        return None
    return weight.as_strided((len(weight), fan_in), (fan_in, 1))


def _key(held: Held) -> tuple[object, ...]:
    weight = held.weight
    return weight.data_ptr(), weight.stride(), weight.device, weight.dtype
