"""How are the rows of two large tensors on the CPU compared in one pass over memory?

Row by row in machine code that numba compiles, where it is installed: a second look at a row meets it in the
cache. Everything else is compared as row_sums.py does it, with the same result up to rounding.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from decayfree.blocks import Blocks

# Below so many numbers in a weight nothing is gained that compiling for a second would be worth.
LEAST = 1 << 16


def fused_motion(before: Tensor, after: Tensor, blocks: Blocks) -> Tensor | None:
    """As `row_sums.block_motion`, row by row; nothing where that is not for machine code."""
    return _fused(_motion, before, after, blocks=blocks, n_sums=4)


def fused_slope(weight: Tensor, gradient: Tensor, blocks: Blocks) -> Tensor | None:
    """As `row_sums.block_slope`, row by row; nothing where that is not for machine code."""
    return _fused(_slope, weight, gradient, blocks=blocks, n_sums=3)


def fused_slope_and_copy(weight: Tensor, gradient: Tensor, blocks: Blocks) -> tuple[Tensor, Tensor] | None:
    """The same and a copy of the weight's held rows, in one pass; its other rows are undefined."""
    if not _is_meant(weight, gradient, blocks):
        return None
    copy = torch.empty_like(weight)
    sums = _fused(_slope, weight, gradient, copy, blocks=blocks, n_sums=3)
    return None if sums is None else (sums, copy)


def runs_of(blocks: Blocks) -> list[slice]:
    """The rows that are held, in as few slices as there can be.

    Example:
        >>> runs_of(Blocks(0, (2, 1, 3), starts=(0, 2, 7)))
        [slice(0, 3, None), slice(7, 10, None)]
    """
    runs = [slice(0, 0 if blocks.is_partial else blocks.n_rows)]
    for start, size in zip(blocks.starts, blocks.block_sizes, strict=False):
        if start == runs[-1].stop:
            runs[-1] = slice(runs[-1].start, start + size)
        else:
            runs.append(slice(start, start + size))
    return [run for run in runs if run.stop > run.start]


def _fused(
    loop: Callable[..., None], first: Tensor, second: Tensor, *others: Tensor, blocks: Blocks, n_sums: int
) -> Tensor | None:
    """What ``loop`` makes of every held row, (n_sums, n_rows)."""
    matrices = _in_memory(first, second, *others) if _is_meant(first, second, blocks) else []
    compiled = _compiled(loop) if matrices else None
    if compiled is None:
        return None
    sums = torch.empty(blocks.n_rows, n_sums, dtype=torch.float64)
    arrays, filled, n_done = [matrix.numpy() for matrix in matrices], sums.numpy(), 0
    for run in runs_of(blocks):
        n = run.stop - run.start
        compiled(filled[n_done : n_done + n], *(array[run] for array in arrays))
        n_done += n
    return sums.t()


def _is_meant(first: Tensor, second: Tensor, blocks: Blocks) -> bool:
    return (
        type(first) is type(second) is Tensor
        and first.device.type == "cpu"
        and first.dtype == second.dtype in (torch.float32, torch.float64)
        and first.numel() >= LEAST
        and blocks.axis == 0
    )


def _in_memory(*tensors: Tensor) -> list[Tensor]:
    """All as (rows, numbers in a row), in the order of memory; nothing where they lie in different ones."""
    order = sorted(range(1, tensors[0].ndim), key=tensors[0].stride, reverse=True)
    turned = [tensor.permute(0, *order) for tensor in tensors]
    return (
        [tensor.view(len(tensor), -1) for tensor in turned] if all(map(Tensor.is_contiguous, turned)) else []
    )


@cache
def _compiled(loop: Callable[..., None]) -> Callable[..., None] | None:
    """The loop in machine code, made for each precision when first called with it; None without numba."""
    try:
        import numba
    except ImportError:
        return None
    # Sums may be reordered, which vector instructions need; NaN and infinity keep their meaning.
    compiled: Callable[..., None] = numba.njit(fastmath={"reassoc", "contract"}, nogil=True)(loop)
    return compiled


def _motion(sums: Any, before: Any, after: Any) -> None:
    n_rows, row_size = before.shape
    for row in range(n_rows):
        squares = along = squares_after = changes = 0.0
        for column in range(row_size):
            # Times 1.0 to be in float64: numba's float() would leave a float32 as it is.
            old, new = 1.0 * before[row, column], 1.0 * after[row, column]
            squares += old * old
            along += old * (new - old)
            changes += (new - old) * (new - old)
            squares_after += new * new
        growth = along / squares if squares != 0.0 else 0.0
        aside = changes - growth * along
        if not aside > 1e-4 * changes:  # most cancels: from the differences themselves
            aside = 0.0
            for column in range(row_size):
                old, new = 1.0 * before[row, column], 1.0 * after[row, column]
                rest = (new - old) - growth * old
                aside += rest * rest
        sums[row, 0], sums[row, 1], sums[row, 2], sums[row, 3] = squares, along, aside, squares_after


def _slope(sums: Any, weight: Any, gradient: Any, copy: Any = None) -> None:
    n_rows, row_size = weight.shape
    for row in range(n_rows):
        squares = gradient_squares = dots = 0.0
        for column in range(row_size):
            w, g = 1.0 * weight[row, column], 1.0 * gradient[row, column]
            squares += w * w
            gradient_squares += g * g
            dots += w * g
        if copy is not None:
            for column in range(row_size):
                copy[row, column] = weight[row, column]
        sums[row, 0], sums[row, 1], sums[row, 2] = squares, gradient_squares, dots
