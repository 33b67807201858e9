"""How are two tensors of one weight compared row by row, in float64 and without copies of the whole?

Sums of squares and products of the held rows, piece by piece, and their sums over blocks. Says nothing about
what they mean: measures.py does.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from decayfree.blocks import (
    Blocks,
    Part,
    factors_of_rows,
    faults_of_shape,
    held_rows,
    n_rows_of,
    over_blocks,
    spread_of,
)
from decayfree.dynamics.fused_rows import fused_motion, fused_slope, fused_slope_and_copy, runs_of
from decayfree.errors import InvalidInputError
from decayfree.shards import Spread, add_up_

# Copies in float64 are made of so many numbers of both tensors at a time: on the CPU 2 MB that stay in the
# cache (half as many numbers took a tenth longer, each operation being a few microseconds, and four times as
# many as well); elsewhere what is worth a kernel.
_PIECE_ON_CPU = 1 << 17
_PIECE = 1 << 21


def block_motion(before: Part, after: Part) -> Tensor:
    """Of every block ‖w‖², ⟨w, Δw⟩, the square of what Δw has aside of w, and ‖w + Δw‖²: (4, n_blocks).

    Raises:
        InvalidInputError: If shapes do not go together.
    """
    return added_up([motion_here(before, after)])[0]


def block_slope(weight: Part, gradient: Part) -> Tensor:
    """Of every block ‖w‖², ‖g‖², ⟨w, g⟩ and how many rows it has: (4, n_blocks).

    Raises:
        InvalidInputError: If shapes do not go together.
    """
    return added_up([slope_here(weight, gradient)])[0]


class Sums(NamedTuple):
    """Sums over blocks; of a weight that is spread over processes, over what this one has of them.

    Args:
        here: (n_sums, n_blocks).
        spread: Of the weight; None where it is whole.
        finish: Makes of sums over the whole what was asked for.
    """

    here: Tensor
    spread: Spread | None = None
    finish: Callable[[Tensor], Tensor] = lambda sums: sums


def added_up(several: Sequence[Sums]) -> list[Tensor]:
    """What each was asked for, with one all-reduce a process group for all of them together."""
    add_up_([(one.spread, one.here) for one in several if one.spread is not None], everywhere=True)
    return [one.finish(one.here) for one in several]


def motion_here(before: Part, after: Part) -> Sums:
    """What `block_motion` is made of."""
    pairs = list(_pairs(before, after))
    if before.is_sharded:
        return _motion_of_shards(before, after)
    blocks = before.blocks
    of_rows = [_row_motion(*pair) for pair in pairs]
    sums = over_blocks(_with_bias(of_rows), blocks)
    if len(of_rows) == 1 and blocks.rows_are_blocks:
        return Sums(sums)
    # Rows that do not grow as their block does turn it. Sums of squares alone, as one pools variances:
    # nothing cancels, so that a small part aside survives a large one along.
    growth = factors_of_rows(sums[1] / sums[0], blocks)
    turned = [(_growth(squares, along) - growth).square() * squares for squares, along, _, _ in of_rows]
    sums[2] += over_blocks(_with_bias(turned), blocks)
    return Sums(sums)


def slope_here(weight: Part, gradient: Part) -> Sums:
    """What `block_slope` is made of."""
    pairs = list(_pairs(weight, gradient))
    if weight.is_sharded:
        return _slope_of_shards(weight, gradient)
    return _slope_of(_with_bias([_row_slope(*pair) for pair in pairs]), weight.blocks)


def slope_and_copy_here(weight: Part, gradient: Part) -> tuple[Sums, Part | None]:
    """`slope_here`, and a copy of the weight's held rows where one pass over memory makes both."""
    if not weight.is_sharded and weight.bias is None:
        ((first, second, blocks),) = _pairs(weight, gradient)
        if (made := fused_slope_and_copy(first, second, blocks)) is not None:
            sums, copy = made
            return _slope_of(sums, blocks), Part(copy, None, blocks)
    return slope_here(weight, gradient), None


def widest(device: torch.device) -> torch.dtype:
    """Float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def _pairs(first: Part, second: Part) -> Iterator[tuple[Tensor, Tensor, Blocks]]:
    """The pairs of tensors that the blocks are in: weight with weight, and bias with bias if there is one."""
    blocks, shape = first.blocks, first.weight.shape
    fault = faults_of_shape(shape, blocks)
    if fault is None and shape != second.weight.shape:
        fault = f"the other has shape {tuple(second.weight.shape)}"
    if fault is None and (first.bias is None) != (second.bias is None):
        fault = "a bias came with one of the two only"
    biases = [part.bias for part in (first, second) if part.bias is not None]
    # One entry for each row of the weight, held or not.
    n_rows = n_rows_of(shape, blocks) if fault is None else 0
    if fault is None and any(bias.shape != (n_rows,) for bias in biases):
        shapes = " and ".join(str(tuple(bias.shape)) for bias in biases)
        fault = f"biases must have shape ({n_rows},), got {shapes}"
    if fault:
        raise InvalidInputError(
            f"a weight of shape {tuple(shape)} cannot be compared in these blocks: {fault}"
        )
    yield first.weight.detach(), second.weight.detach(), blocks
    if biases:
        old, new = biases
        yield old.detach(), new.detach(), Blocks(0, *_each_row(blocks))


def _row_motion(before: Tensor, after: Tensor, blocks: Blocks) -> Tensor:
    """As `block_motion`, of every held row: (4, n_rows)."""
    sums = fused_motion(before, after, blocks)
    return _in_pieces(before, after, blocks, _motion) if sums is None else sums


def _row_slope(weight: Tensor, gradient: Tensor, blocks: Blocks) -> Tensor:
    """‖w‖², ‖g‖² and ⟨w, g⟩ of every held row: (3, n_rows)."""
    sums = fused_slope(weight, gradient, blocks)
    return _in_pieces(weight, gradient, blocks, _slope) if sums is None else sums


def _slope_of(of_rows: Tensor, blocks: Blocks) -> Sums:
    """From (3, n_rows) and a row of ones, for the number of rows."""
    return Sums(over_blocks(torch.nn.functional.pad(of_rows, (0, 0, 0, 1), value=1.0), blocks))


def _with_bias(of_rows: Sequence[Tensor]) -> Tensor:
    """The sum over a weight and its bias, if there is one."""
    return of_rows[0] if len(of_rows) == 1 else torch.stack(tuple(of_rows)).sum(dim=0)


def _growth(squares: Tensor, along: Tensor) -> Tensor:
    """⟨w, Δw⟩/‖w‖², and 0 for a row of zeros: all that it became is aside."""
    return (along / squares).masked_fill_(squares == 0, 0.0)


def _in_pieces(first: Tensor, second: Tensor, blocks: Blocks, compare: Callable[[Tensor], Tensor]) -> Tensor:
    """What ``compare`` makes of pairs of rows, (n_sums, n), for all rows that are held."""
    sums = torch.cat([compare(pair) for pair in _pieces(first, second, blocks)], dim=1)
    # Groups come with all of their rows.
    return held_rows(sums, blocks) if blocks.groups > 1 else sums


def _pieces(first: Tensor, second: Tensor, blocks: Blocks) -> Iterator[Tensor]:
    """Some rows at a time of both tensors, (2, n_rows of them, numbers in a row); their memory is reused."""
    views = [_rows_first(tensor, blocks) for tensor in (first, second)]
    n_units, *shape = views[0].shape
    rows_in_a_unit = shape[0] if blocks.groups > 1 else 1
    row_size = first.numel() // (n_units * rows_in_a_unit)
    size = _PIECE_ON_CPU if first.device.type == "cpu" else _PIECE
    step = min(n_units, max(1, size // max(1, rows_in_a_unit * row_size)))
    buffer = first.new_empty((2, step, *shape), dtype=widest(first.device))
    for run in [slice(0, n_units)] if blocks.groups > 1 else runs_of(blocks):
        for start in range(run.start, run.stop, step):
            n = min(step, run.stop - start)
            piece = buffer if n == step else buffer[:, :n]
            for copy, view in zip(piece.unbind(), views, strict=True):
                copy.copy_(view[start : start + n])
            yield piece.view(2, n * rows_in_a_unit, row_size)


def _motion(pair: Tensor) -> Tensor:
    squares, squares_after = torch.linalg.vector_norm(pair, dim=2).square_()
    weight, change = pair
    change -= weight
    along = (weight * change).sum(dim=1)
    change.addcmul_(weight, _growth(squares, along)[:, None], value=-1)
    return torch.stack((squares, along, torch.linalg.vector_norm(change, dim=1).square_(), squares_after))


def _slope(pair: Tensor) -> Tensor:
    squares, gradient_squares = torch.linalg.vector_norm(pair, dim=2).square_()
    return torch.stack((squares, gradient_squares, pair[0].mul_(pair[1]).sum(dim=1)))


def _rows_first(tensor: Tensor, blocks: Blocks) -> Tensor:
    """A view of a tensor with the rows along dimension 0; of one in groups with groups, then their rows."""
    if blocks.groups == 1:
        return tensor.movedim(blocks.axis, 0)
    return torch.unflatten(tensor, 0, (blocks.groups, -1)).movedim(2, 1)


def _motion_of_shards(before: Part, after: Part) -> Sums:
    """As of whole weights, from the rows or parts of rows that this process has.

    What has grown as its block has here is turned by nothing; what blocks here have grown as the whole has
    is left to the end: Σ a²/s − (Σ a)²/Σ s, a being ⟨w, Δw⟩ and s ‖w‖². For a block that is whole on one
    process that is 0; else angles below 1e-8 times the growth are rounding.
    """
    spread = spread_of([before])
    of_rows = [_of_each_row(_row_motion, *pair) for pair in spread.rows(after.tensors)]
    sums = spread.add(of_rows)
    growth = spread.to_rows(_growth(sums[0], sums[1]), none=0.0)
    turned = [
        (_growth(squares, along) - of_block).square() * squares
        for (squares, along, _, _), of_block in zip(of_rows, growth, strict=True)
    ]
    sums[2] += spread.add(turned)
    return Sums(torch.cat([sums, (_growth(sums[0], sums[1]) * sums[1])[None]]), spread, _pooled)


def _pooled(sums: Tensor) -> Tensor:
    squares, along, aside, squares_after, pooled = sums
    apart = (pooled - _growth(squares, along) * along).clamp(min=0.0)
    return torch.stack((squares, along, aside + apart, squares_after))


def _slope_of_shards(weight: Part, gradient: Part) -> Sums:
    spread = spread_of([weight])
    sums = spread.add([_of_each_row(_row_slope, *pair) for pair in spread.rows(gradient.tensors)])
    n_rows = sums.new_tensor(weight.blocks.block_sizes)[None]
    return Sums(sums, spread, lambda of_whole: torch.cat([of_whole, n_rows]))


def _of_each_row(compare: Callable[..., Tensor], first: Tensor, second: Tensor) -> Tensor:
    """As ``compare`` of two matrices with a row for each one; nothing where this process has none."""
    if not first.numel():
        n_sums = len(compare(first.new_ones(1, 1), second.new_ones(1, 1), Blocks(0, (1,))))
        return first.new_zeros(n_sums, len(first), dtype=widest(first.device))
    return compare(first, second, Blocks(0, (1,) * len(first)))


def _each_row(blocks: Blocks) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    """Sizes, groups and starts of blocks of one row each for all rows that are held."""
    return (1,) * blocks.n_rows, blocks.groups, blocks.rows if blocks.is_partial else ()
