"""How are large depthwise convolutions computed in float64 on the host without waiting for them?

PyTorch has fast ones for lower precisions only, and goes through all channels one by one. Kernels are gone
through here instead, number by number. The same sums, in another order.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

# From so large kernels and maps on; PyTorch is as fast with kernels of 25 numbers, and with maps of 14².
_LEAST_KERNEL, _LEAST_MAP = 49, 28 * 28

_convolution = torch.ops.aten.convolution.default
_convolution_backward = torch.ops.aten.convolution_backward.default


def _forward(
    values: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    if not _is_large(values, weight, stride, dilation, transposed, groups):
        found: Tensor = _convolution(
            values, weight, bias, stride, padding, dilation, transposed, output_padding, groups
        )
        return found
    result = _depthwise(values, weight, padding)
    return result if bias is None else result.add_(bias[:, None, None])


def _backward(
    slope: Tensor,
    values: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    if not _is_large(values, weight, stride, dilation, transposed, groups):
        found: tuple[Tensor | None, ...] = _convolution_backward(
            *(slope, values, weight, bias_sizes, stride, padding, dilation, transposed, output_padding),
            *(groups, wanted),
        )
        return found
    around = [size - 1 - width for size, width in zip(weight.shape[2:], padding, strict=True)]
    return (
        _depthwise(slope, weight.flip(2, 3), around) if wanted[0] else None,
        _of_weight(slope, values, weight, padding) if wanted[1] else None,
        slope.sum((0, 2, 3)) if wanted[2] else None,
    )


# What is computed otherwise, for decayfree.forward.Surroundings.
DEPTHWISE: Mapping[Any, Callable[..., Any]] = {_convolution: _forward, _convolution_backward: _backward}


def _is_large(
    values: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    groups: int,
) -> bool:
    return (
        weight.ndim == values.ndim == 4
        and weight.dtype == torch.float64
        and weight.device.type == values.device.type == "cpu"
        and len(weight) == groups == values.shape[1] > 1
        and not transposed
        and {*stride, *dilation} == {1}
        and weight[0].numel() >= _LEAST_KERNEL
        and values[0, 0].numel() >= _LEAST_MAP
    )


def _depthwise(values: Tensor, weight: Tensor, padding: Sequence[int]) -> Tensor:
    padded, (height, width) = _padded(values, padding), weight.shape[2:]
    shape = padded.shape[2] - height + 1, padded.shape[3] - width + 1
    result = values.new_zeros(*values.shape[:2], *shape)
    for sums, sample in zip(result, padded, strict=True):  # one sample stays in the cache
        for row, column in product(range(height), range(width)):
            moved = sample[:, row : row + shape[0], column : column + shape[1]]
            sums.addcmul_(moved, weight[:, :, row, column, None])
    return result


def _of_weight(slope: Tensor, values: Tensor, weight: Tensor, padding: Sequence[int]) -> Tensor:
    padded, found, (height, width) = _padded(values, padding), torch.zeros_like(weight), slope.shape[2:]
    for slopes, sample in zip(slope, padded, strict=True):
        for row, column in product(*map(range, weight.shape[2:])):
            moved = sample[:, row : row + height, column : column + width]
            found[:, 0, row, column] += (moved * slopes).sum((1, 2))
    return found


def _padded(values: Tensor, padding: Sequence[int]) -> Tensor:
    return pad(values, (padding[1], padding[1], padding[0], padding[0]))
