"""How are two tensors of one weight compared row by row, in float64 and without copies of the whole?

Sums of squares and products of rows, piece by piece, and their sums over blocks. Says nothing about what they
mean: measures.py does.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from decayfree.blocks import Blocks, block_dots, faults_of_shape, is_sharded, over_blocks, scale_blocks_
from decayfree.errors import InvalidInputError

# Copies in float64 are made of so many numbers at a time, three of them at once. On the CPU twice as many
# take a tenth less time, but peak memory then grew by a little more than one copy of the weights; elsewhere
# it is what is worth a kernel.
_PIECE_ON_CPU = 1 << 15
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
    if fault is None and any(bias.shape != (blocks.n_rows,) for bias in biases):
        shapes = " and ".join(str(tuple(bias.shape)) for bias in biases)
        fault = f"biases must have shape ({blocks.n_rows},), got {shapes}"
    if fault:
        raise InvalidInputError(
            f"a weight of shape {tuple(first.shape)} cannot be compared in these blocks: {fault}"
        )
    pairs = [(first, second, blocks)]
    if bias_first is not None and bias_second is not None:
        pairs.append((bias_first, bias_second, Blocks(0, (1,) * blocks.n_rows)))
    return pairs


def row_motion(before: Tensor, after: Tensor, blocks: Blocks) -> tuple[Tensor, Tensor, Tensor]:
    """For every row ‖w‖², ⟨w, Δw⟩/‖w‖² (0 for a row of zeros) and ‖Δw − that·w‖²."""
    if not _has_matrix(before, blocks):
        return _row_motion_of_others(before, after, blocks)
    results = []
    for weight, change in _matrices(before, after, blocks):
        change -= weight
        squares = torch.linalg.vector_norm(weight, dim=1).square_()
        growth = (weight * change).sum(dim=1).div_(squares).masked_fill_(squares == 0, 0.0)
        change -= weight.mul_(growth[:, None])
        results.append((squares, growth, torch.linalg.vector_norm(change, dim=1).square_()))
    squares, growth, aside = (torch.cat(values) for values in zip(*results, strict=True))
    return squares, growth, aside


def row_slope(weight: Tensor, gradient: Tensor, blocks: Blocks) -> tuple[Tensor, Tensor, Tensor]:
    """For every row ‖w‖², ‖g‖² and ⟨w, g⟩."""
    if not _has_matrix(weight, blocks):
        rows, w, g = _each_row(blocks), weight.to(widest(weight.device)), gradient.to(widest(weight.device))
        return block_dots(w, w, rows), block_dots(g, g, rows), block_dots(w, g, rows)
    results = []
    for w, g in _matrices(weight, gradient, blocks):
        squares, gradient_squares = (torch.linalg.vector_norm(one, dim=1).square_() for one in (w, g))
        results.append((squares, gradient_squares, w.mul_(g).sum(dim=1)))
    squares, gradient_squares, dots = (torch.cat(values) for values in zip(*results, strict=True))
    return squares, gradient_squares, dots


def pooled(of_rows: Sequence[Tensor], blocks: Blocks) -> Tensor:
    """Sum over the weight and its bias, then over the rows of each block."""
    return over_blocks(of_rows[0] if len(of_rows) == 1 else torch.stack(tuple(of_rows)).sum(dim=0), blocks)


def widest(device: torch.device) -> torch.dtype:
    """Float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def _has_matrix(tensor: Tensor, blocks: Blocks) -> bool:
    """Whether the rows of a tensor can be taken as those of a matrix, some at a time."""
    return not is_sharded(tensor) and blocks.groups == 1 and tensor.numel() > 0


def _matrices(first: Tensor, second: Tensor, blocks: Blocks) -> Iterator[tuple[Tensor, Tensor]]:
    """Copies of a few rows at a time of both tensors, (n_rows of them, numbers in a row)."""
    dtype = widest(first.device)
    tensors = [tensor.detach().movedim(blocks.axis, 0) for tensor in (first, second)]
    size = _PIECE_ON_CPU if first.device.type == "cpu" else _PIECE
    step = max(1, size * blocks.n_rows // first.numel())
    for start in range(0, blocks.n_rows, step):
        end = min(start + step, blocks.n_rows)
        one, other = (rows[start:end].to(dtype, copy=True).reshape(end - start, -1) for rows in tensors)
        yield one, other


def _row_motion_of_others(before: Tensor, after: Tensor, blocks: Blocks) -> tuple[Tensor, Tensor, Tensor]:
    """The same for tensors that are sharded or in groups, by what is known of blocks; copies the whole."""
    rows, weight = _each_row(blocks), before.detach().to(widest(before.device), copy=True)
    change = after.detach().to(weight.dtype) - weight
    squares = block_dots(weight, weight, rows)
    growth = torch.where(squares == 0, 0.0, block_dots(weight, change, rows) / squares)
    scale_blocks_(weight, growth, rows)
    change = change - weight
    return squares, growth, block_dots(change, change, rows)


def _each_row(blocks: Blocks) -> Blocks:
    """Every row as a block of its own."""
    return Blocks(blocks.axis, (1,) * blocks.n_rows, blocks.groups)
