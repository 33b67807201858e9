"""How are two tensors of one weight compared row by row, in float64 and without copies of the whole?

Sums of squares and products of the held rows, piece by piece, and their sums over blocks. Says nothing about
what they mean: measures.py does.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from decayfree.blocks import (
    Blocks,
    block_dots,
    faults_of_shape,
    held_rows,
    is_sharded,
    n_rows_of,
    over_blocks,
    scale_blocks_,
)
from decayfree.dynamics.fused_rows import fused_motion, fused_slope, runs_of
from decayfree.errors import InvalidInputError

# Copies in float64 are made of so many numbers of both tensors at a time: on the CPU 2 MB that stay in the
# cache (half as many numbers took a tenth longer, each operation being a few microseconds, and four times as
# many as well); elsewhere what is worth a kernel.
_PIECE_ON_CPU = 1 << 17
_PIECE = 1 << 21


def pairs_of(
    first: Tensor, second: Tensor, blocks: Blocks, bias_first: Tensor | None, bias_second: Tensor | None
) -> Sequence[tuple[Tensor, Tensor, Blocks]]:
    """The pairs of tensors that the blocks are in: weight with weight, and bias with bias if there is one."""
    fault = faults_of_shape(first.shape, blocks)
    if fault is None and first.shape != second.shape:
        fault = f"the other has shape {tuple(second.shape)}"
    if fault is None and (bias_first is None) != (bias_second is None):
        fault = "a bias came with one of the two only"
    biases = [bias for bias in (bias_first, bias_second) if bias is not None]
    # One entry for each row of the weight, held or not.
    n_rows = n_rows_of(first.shape, blocks) if fault is None else 0
    if fault is None and any(bias.shape != (n_rows,) for bias in biases):
        shapes = " and ".join(str(tuple(bias.shape)) for bias in biases)
        fault = f"biases must have shape ({n_rows},), got {shapes}"
    if fault:
        raise InvalidInputError(
            f"a weight of shape {tuple(first.shape)} cannot be compared in these blocks: {fault}"
        )
    pairs = [(first.detach(), second.detach(), blocks)]
    if bias_first is not None and bias_second is not None:
        pairs.append((bias_first.detach(), bias_second.detach(), Blocks(0, *_each_row(blocks))))
    return pairs


def row_motion(before: Tensor, after: Tensor, blocks: Blocks) -> tuple[Tensor, ...]:
    """For every held row ‖w‖², ⟨w, Δw⟩/‖w‖² (0 for a row of zeros), ‖Δw − that·w‖² and ‖w + Δw‖²."""
    if is_sharded(before):
        return _motion_of_shards(before, after, blocks)
    return fused_motion(before, after, blocks) or _in_pieces(before, after, blocks, _motion)


def row_slope(weight: Tensor, gradient: Tensor, blocks: Blocks) -> tuple[Tensor, ...]:
    """For every held row ‖w‖², ‖g‖² and ⟨w, g⟩."""
    if is_sharded(weight):
        rows = Blocks(blocks.axis, *_each_row(blocks))
        w, g = (tensor.to(widest(weight.device)) for tensor in (weight, gradient))
        return block_dots(w, w, rows), block_dots(g, g, rows), block_dots(w, g, rows)
    return fused_slope(weight, gradient, blocks) or _in_pieces(weight, gradient, blocks, _slope)


def pooled(of_rows: Sequence[Tensor], blocks: Blocks) -> Tensor:
    """Sum over the weight and its bias, then over the rows of each block."""
    return over_blocks(of_rows[0] if len(of_rows) == 1 else torch.stack(tuple(of_rows)).sum(dim=0), blocks)


def widest(device: torch.device) -> torch.dtype:
    """Float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def _in_pieces(
    first: Tensor, second: Tensor, blocks: Blocks, compare: Callable[[Tensor], Tensor]
) -> tuple[Tensor, ...]:
    """What ``compare`` makes of pairs of rows, (n_sums, n), for all rows that are held."""
    sums = torch.cat([compare(pair) for pair in _pieces(first, second, blocks)], dim=1).unbind()
    # Groups come with all of their rows.
    return tuple(held_rows(values, blocks) for values in sums) if blocks.groups > 1 else sums


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
    growth = (weight * change).sum(dim=1).div_(squares).masked_fill_(squares == 0, 0.0)
    change.addcmul_(weight, growth[:, None], value=-1)
    return torch.stack((squares, growth, torch.linalg.vector_norm(change, dim=1).square_(), squares_after))


def _slope(pair: Tensor) -> Tensor:
    squares, gradient_squares = torch.linalg.vector_norm(pair, dim=2).square_()
    return torch.stack((squares, gradient_squares, pair[0].mul_(pair[1]).sum(dim=1)))


def _rows_first(tensor: Tensor, blocks: Blocks) -> Tensor:
    """A view of a tensor with the rows along dimension 0; of one in groups with groups, then their rows."""
    if blocks.groups == 1:
        return tensor.movedim(blocks.axis, 0)
    return torch.unflatten(tensor, 0, (blocks.groups, -1)).movedim(2, 1)


def _motion_of_shards(before: Tensor, after: Tensor, blocks: Blocks) -> tuple[Tensor, ...]:
    """The same for tensors that are spread over devices, by what is known of blocks; copies the whole."""
    rows, weight = Blocks(blocks.axis, *_each_row(blocks)), before.to(widest(before.device), copy=True)
    after = after.to(weight.dtype)
    change, squares = after - weight, block_dots(weight, weight, rows)
    growth = torch.where(squares == 0, 0.0, block_dots(weight, change, rows) / squares)
    scale_blocks_(weight, growth, rows)
    change = change - weight
    return squares, growth, block_dots(change, change, rows), block_dots(after, after, rows)


def _each_row(blocks: Blocks) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    """Sizes, groups and starts of blocks of one row each for all rows that are held."""
    return (1,) * blocks.n_rows, blocks.groups, blocks.rows if blocks.is_partial else ()
