"""What is the unit with a scale of its own, how long is it, and how is it scaled?

Norms, inner products and scaling of blocks of rows, with float32 inside. Does not know which weights have
such blocks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from decayfree.arguments.kinds import checked_where_it_fails
from decayfree.errors import InvalidInputError
from decayfree.shards import Labelled, Spread, is_sharded


class Run(NamedTuple):
    """Blocks of as many rows each that follow each other: one array of numbers where rows do in memory.

    Args:
        first_row: Of the first block.
        n_blocks: How many.
        size: Rows in each.
    """

    first_row: int
    n_blocks: int
    size: int


@dataclass(frozen=True)
class Blocks:
    """How the rows (output channels) of one weight are divided into blocks.

    Args:
        axis: The dimension along which the rows run: 0, or 1 for transposed convolutions.
        block_sizes: Rows in each block, in the order of the rows; no unit, their sum is the number of rows.
        groups: For ``axis=1``: dimension 0 is cut into so many equal parts that share nothing (a grouped
            transposed convolution). Row ``group * shape[1] + j`` is ``weight[group * shape[0] // groups :
            (group + 1) * shape[0] // groups, j]``.
        starts: First row of each block, ascending, where only some rows are held (queries and keys of a fused
            projection, and not its values); empty where the blocks follow each other and leave out no row.

    Raises:
        InvalidInputError: If ``axis`` is neither 0 nor 1, a block has no row, ``groups`` does not go with
            ``axis``, or blocks overlap.

    Example:
        >>> Blocks(axis=0, block_sizes=(2, 1)).n_rows
        3
        >>> Blocks(axis=0, block_sizes=(2, 1), starts=(1, 5)).rows
        (1, 2, 5)
    """

    axis: int
    block_sizes: tuple[int, ...]
    groups: int = 1
    starts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if (
            self.axis not in (0, 1)
            or min(self.block_sizes, default=0) < 1
            or self.groups < 1
            or (self.groups > 1 and self.axis == 0)
        ):
            raise InvalidInputError(
                "blocks want axis 0 or 1, at least one row a block, and groups only along axis 1; got "
                f"axis={self.axis}, block_sizes={self.block_sizes[:8]}, groups={self.groups}"
            )
        if self.starts and (
            len(self.starts) != self.n_blocks
            or min(self.starts) < 0
            or list(self.rows) != sorted(set(self.rows))
        ):
            raise InvalidInputError(
                "starts want one row for each block, ascending and without overlap; got "
                f"starts={self.starts[:8]} for block_sizes={self.block_sizes[:8]}"
            )

    @cached_property
    def n_rows(self) -> int:
        """Number of rows that are held: all of the weight's, unless there are ``starts``."""
        return sum(self.block_sizes)

    @property
    def is_partial(self) -> bool:
        """Whether some rows of the weight may be in no block."""
        return bool(self.starts)

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """The rows that are held, in the order of the blocks."""
        if not self.starts:
            return tuple(range(self.n_rows))
        blocks = zip(self.starts, self.block_sizes, strict=True)
        return tuple(row for start, size in blocks for row in range(start, start + size))

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return len(self.block_sizes)

    @cached_property
    def rows_are_blocks(self) -> bool:
        """Whether every block is a single row."""
        return self.n_rows == self.n_blocks

    @cached_property
    def uniform_size(self) -> int:
        """Rows in every block where all have as many, else 0."""
        return self.block_sizes[0] if len(set(self.block_sizes)) == 1 else 0

    @cached_property
    def of_bias(self) -> "Blocks":
        """The same blocks of a bias, which has one entry for each row."""
        return replace(self, axis=0, groups=1)

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """All blocks in the fewest runs, in their order.

        Example:
            >>> Blocks(axis=0, block_sizes=(2, 2, 1), starts=(0, 2, 9)).runs
            (Run(first_row=0, n_blocks=2, size=2), Run(first_row=9, n_blocks=1, size=1))
        """
        starts = self.starts or tuple(accumulate(self.block_sizes, initial=0))[:-1]
        runs: list[Run] = []
        for start, size in zip(starts, self.block_sizes, strict=True):
            last = runs[-1] if runs else Run(0, 0, 0)
            if last.size == size and last.first_row + last.n_blocks * size == start:
                runs[-1] = last._replace(n_blocks=last.n_blocks + 1)
            else:
                runs.append(Run(start, 1, size))
        return tuple(runs)

    @cached_property
    def block_of_row(self) -> tuple[int, ...]:
        """For each held row the index of its block."""
        return tuple(index for index, size in enumerate(self.block_sizes) for _ in range(size))


@dataclass(frozen=True)
class Part:
    """What of a model is scaled block by block: a weight, with its bias where they only work together.

    It also holds what belongs to the two: their gradients, or their values before a step.

    Args:
        weight: (*shape), floating.
        bias: (rows of the weight,). Entry i belongs to row i.
        blocks: How the rows are divided.

    Example:
        >>> part = Part(torch.tensor([[3.0], [8.0]]), torch.tensor([4.0, 6.0]), Blocks(0, (1, 1)))
        >>> part.norms(), part.dots(part)
        (tensor([ 5., 10.]), tensor([ 25., 100.]))
        >>> part.scale_(torch.tensor([2.0, 0.5]))
        >>> part.bias
        tensor([8., 3.])
    """

    weight: Tensor
    bias: Tensor | None
    blocks: Blocks

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The weight, and its bias where there is one."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    @property
    def is_sharded(self) -> bool:
        """Whether any of them is spread over several devices (a DTensor)."""
        return any(map(is_sharded, self.tensors))

    @property
    def fan_in(self) -> int:
        """Numbers of one row, with its entry of the bias."""
        n_rows = n_rows_of(self.weight.shape, self.blocks)
        return sum(tensor.numel() for tensor in self.tensors) // n_rows

    def each(self, function: Callable[[Tensor], Tensor]) -> "Part":
        """The same blocks of what ``function`` makes of the weight and of the bias."""
        return Part(function(self.weight), None if self.bias is None else function(self.bias), self.blocks)

    def norms(self) -> Tensor:
        """(n_blocks,): `block_norms`."""
        return block_norms(self.weight, self.blocks, self.bias)

    def dots(self, other: "Part") -> Tensor:
        """(n_blocks,): `block_dots`."""
        return block_dots(self.weight, other.weight, self.blocks, self.bias, other.bias)

    def scale_(self, factors: Tensor) -> None:
        """Multiply every block in place by its factor, (n_blocks,): `scale_blocks_`."""
        scale_blocks_(self.weight, factors, self.blocks, self.bias)

    def put_in_(self, values: "Part") -> None:
        """Write what ``values`` has in these blocks; of a weight that has other rows, those stay.

        Example:
            >>> blocks = Blocks(axis=0, block_sizes=(1,), starts=(1,))
            >>> part = Part(torch.tensor([[3.0], [4.0]]), None, blocks)
            >>> part.put_in_(Part(torch.zeros(2, 1), None, blocks))
            >>> part.weight.tolist()
            [[3.0], [0.0]]
        """
        if not self.blocks.is_partial:
            for own, new in zip(self.tensors, values.tensors, strict=True):
                own.copy_(new)
            return
        outside = self.each(torch.ones_like)
        outside.scale_(torch.zeros(self.blocks.n_blocks, device=self.weight.device))
        for own, new, is_outside in zip(self.tensors, values.tensors, outside.tensors, strict=True):
            own.copy_(torch.where(is_outside == 0, new, own))


@checked_where_it_fails
def block_norms(weight: Tensor, blocks: Blocks, bias: Tensor | None = None) -> Tensor:
    """L2 norm of every block.

    Args:
        weight: (*shape), floating.
        blocks: How the rows are divided.
        bias: (n_rows,). Entry i belongs to row i, where weight and bias only work together.

    Returns:
        (n_blocks,), float32 (float64 for a float64 weight), in units of ``weight``.

    Raises:
        InvalidInputError: If ``weight`` or ``bias`` do not have the rows that ``blocks`` speaks of.

    Example:
        >>> block_norms(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), Blocks(axis=0, block_sizes=(1, 1)))
        tensor([5., 2.])
    """
    if (part := Part(weight, bias, blocks)).is_sharded:
        return norms_of([part])[0]
    rows = _row_norms(_by_row(weight, blocks), blocks)
    if bias is not None:
        rows = torch.hypot(rows, _bias_rows(bias, rows).to(rows.dtype))
    return over_blocks(held_rows(rows, blocks), blocks, torch.linalg.vector_norm)


@checked_where_it_fails
def block_dots(
    a: Tensor, b: Tensor, blocks: Blocks, bias_a: Tensor | None = None, bias_b: Tensor | None = None
) -> Tensor:
    """Inner product of every block of ``a`` with the same block of ``b``.

    Args:
        a: (*shape), floating.
        b: (*shape), floating.
        blocks: How the rows are divided.
        bias_a: (n_rows,). Bias that belongs to ``a``.
        bias_b: (n_rows,). Bias that belongs to ``b``.

    Returns:
        (n_blocks,), float32 (float64 for float64 weights), in units of ``a`` times units of ``b``.

    Example:
        >>> one_row = Blocks(axis=0, block_sizes=(1,))
        >>> block_dots(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]), one_row)
        tensor([11.])
    """
    dtype = norm_dtype(a)
    if (part := Part(a, None if bias_b is None else bias_a, blocks)).is_sharded:
        spread = spread_of([part])
        return spread.everywhere(spread.dots(Part(b, bias_b, blocks).tensors)).to(dtype)
    product = _by_row(a, blocks).to(dtype) * _by_row(b, blocks).to(dtype)
    dims = _other_dims(product, blocks)
    # sum(dim=()) would sum over everything.
    rows = (product.sum(dim=dims) if dims else product).reshape(-1)
    if bias_a is not None and bias_b is not None:
        rows = rows + _bias_rows(bias_a, rows).to(dtype) * _bias_rows(bias_b, rows).to(dtype)
    return over_blocks(held_rows(rows, blocks), blocks)


@torch.no_grad()
@checked_where_it_fails
def scale_blocks_(weight: Tensor, factors: Tensor, blocks: Blocks, bias: Tensor | None = None) -> None:
    """Multiply every block in place by its own factor.

    Args:
        weight: (*shape), floating. Changed in place, whatever its memory format.
        factors: (n_blocks,), float32 or float64; no unit. Not rounded to the weight's precision: in bfloat16
            a factor within 0.4 % of 1 would become 1.
        blocks: How the rows are divided.
        bias: (n_rows,). Changed in place along with its rows.

    Raises:
        InvalidInputError: If shapes do not go together.

    Example:
        >>> w = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
        >>> scale_blocks_(w, torch.tensor([2.0, 0.5]), Blocks(axis=0, block_sizes=(1, 1)))
        >>> w
        tensor([[6., 8.],
                [0., 1.]])
    """
    if factors.shape != (blocks.n_blocks,):
        raise InvalidInputError(
            f"factors must have shape ({blocks.n_blocks},), one for each block, got {tuple(factors.shape)}"
        )
    row_factors = factors_of_rows(factors, blocks)
    if blocks.is_partial:  # the other rows are multiplied by exactly 1
        every_row = row_factors.new_ones(n_rows_of(weight.shape, blocks))
        row_factors = every_row.index_copy(0, _index(blocks, factors.device), row_factors)
    _scale_rows_(weight, row_factors, blocks, bias)


@torch.no_grad()
def scale_other_rows_(
    weight: Tensor, factor: float | Tensor, blocks: Blocks, bias: Tensor | None = None
) -> None:
    """Multiply in place the rows that are in no block; the others keep their bits.

    Args:
        weight: (*shape), floating. Changed in place.
        factor: A number or a tensor (); no unit.
        blocks: How the other rows are divided.
        bias: (rows of the weight,). Changed in place along with its rows.

    Example:
        >>> w = torch.tensor([[3.0], [4.0], [5.0]])
        >>> scale_other_rows_(w, 0.5, Blocks(axis=0, block_sizes=(1,), starts=(1,)))
        >>> w.flatten()
        tensor([1.5000, 4.0000, 2.5000])
    """
    if blocks.is_partial:
        _shape_by_row(weight, blocks)  # refuses what has other rows
        every = torch.as_tensor(factor, dtype=norm_dtype(weight), device=weight.device)
        every_row = every.repeat(n_rows_of(weight.shape, blocks))
        _scale_rows_(weight, every_row.index_fill_(0, _index(blocks, weight.device), 1.0), blocks, bias)


def held_rows(of_rows: Tensor, blocks: Blocks) -> Tensor:
    """Of one number for each row of a weight, (*, its rows), those of the rows that are held, (*, n_rows)."""
    return of_rows[..., _index(blocks, of_rows.device)] if blocks.is_partial else of_rows


def over_blocks(of_rows: Tensor, blocks: Blocks, reduce: Callable[..., Tensor] = torch.sum) -> Tensor:
    """One number for each block from one for each of its rows.

    Args:
        of_rows: (*, n_rows).
        blocks: How the rows are divided.
        reduce: Makes one number of many along ``dim``; without it, their sum.

    Returns:
        (*, n_blocks).

    Example:
        >>> over_blocks(torch.tensor([1.0, 2.0, 4.0]), Blocks(axis=0, block_sizes=(1, 2)))
        tensor([1., 6.])
    """
    if blocks.rows_are_blocks:
        return of_rows
    if blocks.uniform_size:
        return reduce(of_rows.unflatten(-1, (-1, blocks.uniform_size)), dim=-1)
    return torch.stack([reduce(part, dim=-1) for part in of_rows.split(blocks.block_sizes, dim=-1)], dim=-1)


def factors_of_rows(factors: Tensor, blocks: Blocks) -> Tensor:
    """Repeat each block's factor for all of its rows, without a copy that an accelerator waits for.

    Args:
        factors: (n_blocks,).
        blocks: How the rows are divided.

    Returns:
        (n_rows,).
    """
    if blocks.rows_are_blocks:
        return factors
    if blocks.uniform_size:
        return factors.repeat_interleave(blocks.uniform_size)
    parts = zip(factors.split(1), blocks.block_sizes, strict=True)
    return torch.cat([part.expand(size) for part, size in parts])


def norm_dtype(weight: Tensor) -> torch.dtype:
    """The precision of norms and factors of ``weight``: float64 for float64 weights, else float32."""
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def norms_of(parts: Sequence[Part]) -> list[Tensor]:
    """Norms of the blocks of several weights, (n_blocks,) each.

    Those of sharded ones are added up in one all-reduce a process group for all: every process has to ask.
    """
    sharded = [part for part in parts if part.is_sharded]
    if not sharded:
        return [part.norms() for part in parts]
    spread = spread_of(sharded)
    found = iter(spread.sums(spread.everywhere(spread.squares()).sqrt()))
    return [next(found).to(norm_dtype(one.weight)) if one.is_sharded else one.norms() for one in parts]


def spread_of(parts: Sequence[Part]) -> Spread:
    """Weights of which each process has a part; a label is a block, counted through all of them."""
    return Spread([_labelled(part) for part in parts], [part.blocks.n_blocks for part in parts])


def _labelled(part: Part, of_rows: Tensor | None = None) -> list[Labelled]:
    """The tensors of a weight with a label for each row: that given, (rows of the weight,), or its block."""
    shape, blocks = _shape_by_row(part.weight, part.blocks), part.blocks
    if of_rows is None:
        of_rows = torch.full((n_rows_of(part.weight.shape, blocks),), -1)
        of_rows[list(blocks.rows)] = torch.tensor(blocks.block_of_row)
    if blocks.groups > 1:
        in_groups = of_rows.view(blocks.groups, -1).repeat_interleave(shape[1], 0)
        members = [Labelled(part.weight, (0, 1), in_groups)]
    else:
        members = [Labelled(part.weight, (blocks.axis,), of_rows)]
    return (
        members if part.bias is None else [*members, Labelled(_bias_rows(part.bias, of_rows), (0,), of_rows)]
    )


def faults_of_shape(shape: Sequence[int], blocks: Blocks) -> str | None:
    """Say why a weight of this shape cannot have these blocks, or None where it can."""
    if len(shape) <= blocks.axis:
        return f"rows along dimension {blocks.axis} want more than {len(shape)} dimensions"
    if shape[0] % blocks.groups:
        return f"{blocks.groups} groups do not divide {shape[0]}"
    n_rows = n_rows_of(shape, blocks)
    if blocks.is_partial:
        last = blocks.rows[-1]
        return None if last < n_rows else f"the blocks reach row {last}, the weight has {n_rows} rows"
    return (
        None if n_rows == blocks.n_rows else f"the blocks have {blocks.n_rows} rows, the weight has {n_rows}"
    )


def _by_row(weight: Tensor, blocks: Blocks) -> Tensor:
    """A view of ``weight`` whose dimension 0 is the group if there are any."""
    shape = _shape_by_row(weight, blocks)
    return weight if blocks.groups == 1 else torch.unflatten(weight, 0, shape[:2])


def n_rows_of(shape: Sequence[int], blocks: Blocks) -> int:
    """Rows of a weight of this shape, in a block or not."""
    return shape[blocks.axis] * blocks.groups


def _scale_rows_(weight: Tensor, row_factors: Tensor, blocks: Blocks, bias: Tensor | None) -> None:
    """Multiply every row in place by its own factor, (rows of the weight,)."""
    shape = _shape_by_row(weight, blocks)
    if (part := Part(weight, bias, blocks)).is_sharded:
        Spread([_labelled(part, torch.arange(len(row_factors)))], [len(row_factors)]).scale_(row_factors)
        return
    bias_rows = None if bias is None else _bias_rows(bias, row_factors)
    spread = row_factors.reshape([size if dim in _row_dims(blocks) else 1 for dim, size in enumerate(shape)])
    _by_row(weight, blocks).mul_(spread)
    if bias_rows is not None:
        bias_rows.mul_(row_factors)


def _shape_by_row(weight: Tensor, blocks: Blocks) -> tuple[int, ...]:
    """The shape of ``weight`` with dimension 0 cut into groups, where there are groups."""
    fault = faults_of_shape(weight.shape, blocks)
    if fault:
        raise InvalidInputError(
            f"a weight of shape {tuple(weight.shape)} does not have these blocks: {fault}"
        )
    shape = tuple(weight.shape)
    return (blocks.groups, shape[0] // blocks.groups, *shape[1:]) if blocks.groups > 1 else shape


def _row_dims(blocks: Blocks) -> tuple[int, ...]:
    return (0, 2) if blocks.groups > 1 else (blocks.axis,)


def _other_dims(by_row: Tensor, blocks: Blocks) -> tuple[int, ...]:
    return tuple(dim for dim in range(by_row.ndim) if dim not in _row_dims(blocks))


def _row_norms(by_row: Tensor, blocks: Blocks) -> Tensor:
    dims, dtype = _other_dims(by_row, blocks), norm_dtype(by_row)
    if not dims:  # a row of one number: its norm is its magnitude
        return by_row.abs().to(dtype)
    norms: Tensor = torch.linalg.vector_norm(by_row, dim=dims, dtype=dtype)
    return norms.reshape(-1)


def _bias_rows(bias: Tensor, of_rows: Tensor) -> Tensor:
    if bias.shape != of_rows.shape:
        raise InvalidInputError(f"a bias of shape {tuple(bias.shape)} does not go with {len(of_rows)} rows")
    return bias


@lru_cache(maxsize=1024)
def _index(blocks: Blocks, device: torch.device) -> Tensor:
    return torch.tensor(blocks.rows, device=device)
