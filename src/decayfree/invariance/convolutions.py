"""How are large convolutions computed in float64 on the host without waiting for them?

PyTorch has fast ones for lower precisions only: of depthwise ones it goes through all channels one by one,
and others it unfolds into a matrix that no cache holds. Kernels are gone through here instead, number by
number. The same sums, in another order.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

# From so large depthwise kernels and maps on; PyTorch is as fast with kernels of 25 numbers, and maps of 14².
_LEAST_KERNEL, _LEAST_MAP = 49, 28 * 28
# From so many numbers of a sample unfolded on, 8 MiB; PyTorch is as fast with half of it. Not with larger
# kernels, which mostly see a map whole, and not where sums leave the cache, 2 MiB.
_LEAST_UNFOLDED, _MOST_SUMS, _MOST_NUMBERS = 2**20, 2**18, 9

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
    is_plain = _is_plain(values, weight, stride, dilation, transposed)
    if is_plain and _is_large_depthwise(values, weight, groups):
        result = _depthwise(values, weight, padding)
    elif is_plain and _is_large(values, weight, groups):
        result = _dense(values, weight, padding)
    else:
        found: Tensor = _convolution(
            values, weight, bias, stride, padding, dilation, transposed, output_padding, groups
        )
        return found
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
    def of_pytorch(wanted: Sequence[bool]) -> tuple[Tensor | None, ...]:
        found: tuple[Tensor | None, ...] = _convolution_backward(
            *(slope, values, weight, bias_sizes, stride, padding, dilation, transposed, output_padding),
            *(groups, wanted),
        )
        return found

    if not _is_plain(values, weight, stride, dilation, transposed):
        return of_pytorch(wanted)
    if _is_large_depthwise(values, weight, groups):
        around = [size - 1 - width for size, width in zip(weight.shape[2:], padding, strict=True)]
        return (
            _depthwise(slope, weight.flip(2, 3), around) if wanted[0] else None,
            _of_depthwise_weight(slope, values, weight, padding) if wanted[1] else None,
            slope.sum((0, 2, 3)) if wanted[2] else None,
        )
    if wanted[1] and _is_large(values, weight, groups):
        of_values, _, of_bias = of_pytorch([wanted[0], False, wanted[2]])
        return of_values, _of_dense_weight(slope, values, weight, padding), of_bias
    return of_pytorch(wanted)


# What is computed otherwise, for decayfree.forward.Surroundings.
IN_FLOAT64: Mapping[Any, Callable[..., Any]] = {_convolution: _forward, _convolution_backward: _backward}


def _is_plain(
    values: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int], transposed: bool
) -> bool:
    return (
        weight.ndim == values.ndim == 4
        and weight.dtype == torch.float64
        and weight.device.type == values.device.type == "cpu"
        and not transposed
        and {*stride, *dilation} == {1}
    )


def _is_large_depthwise(values: Tensor, weight: Tensor, groups: int) -> bool:
    return (
        len(weight) == groups == values.shape[1] > 1
        and weight[0].numel() >= _LEAST_KERNEL
        and values[0, 0].numel() >= _LEAST_MAP
    )


def _is_large(values: Tensor, weight: Tensor, groups: int) -> bool:
    n_numbers, n_places = weight.shape[2:].numel(), values[0, 0].numel()
    fits = values[0].numel() * n_numbers >= _LEAST_UNFOLDED and len(weight) * n_places <= _MOST_SUMS
    return groups == 1 and 1 < n_numbers <= _MOST_NUMBERS and fits


def _dense(values: Tensor, weight: Tensor, padding: Sequence[int]) -> Tensor:
    """One matrix product for each number of a kernel: of a flat map, shifted, all channels at once."""
    (height, width), (padded, wide) = weight.shape[2:], _flat(values, padding)
    shape = values.shape[2] + 2 * padding[0] - height + 1, wide - width + 1
    result = values.new_empty(len(values), len(weight), *shape)
    sums, kernels = values.new_empty(len(weight), shape[0] * wide), weight.permute(2, 3, 0, 1).contiguous()
    for found, sample in zip(result, padded, strict=True):
        sums.zero_()
        for row, column in product(range(height), range(width)):
            sums.addmm_(kernels[row, column], _moved(sample, row * wide + column, sums))
        found.copy_(sums.unflatten(1, (shape[0], wide))[..., : shape[1]])
    return result


def _of_dense_weight(slope: Tensor, values: Tensor, weight: Tensor, padding: Sequence[int]) -> Tensor:
    padded, wide = _flat(values, padding)
    slopes = pad(slope, (0, wide - slope.shape[3])).flatten(2)
    found = weight.new_zeros(*weight.shape[2:], *weight.shape[:2])
    for one, sample in zip(slopes, padded, strict=True):
        for row, column in product(*map(range, weight.shape[2:])):
            found[row, column].addmm_(one, _moved(sample, row * wide + column, one).t())
    return found.permute(2, 3, 0, 1).contiguous()


def _flat(values: Tensor, padding: Sequence[int]) -> tuple[Tensor, int]:
    """Padded maps in one row each, and how wide they are; with a row more, so that shifts stay inside."""
    padded = pad(values, (padding[1], padding[1], padding[0], padding[0] + 1))
    return padded.flatten(2), padded.shape[3]


def _moved(sample: Tensor, by: int, like: Tensor) -> Tensor:
    return sample[:, by : by + like.shape[1]]


def _depthwise(values: Tensor, weight: Tensor, padding: Sequence[int]) -> Tensor:
    padded, (height, width) = _padded(values, padding), weight.shape[2:]
    shape = padded.shape[2] - height + 1, padded.shape[3] - width + 1
    result = values.new_zeros(*values.shape[:2], *shape)
    for sums, sample in zip(result, padded, strict=True):  # one sample stays in the cache
        for row, column in product(range(height), range(width)):
            moved = sample[:, row : row + shape[0], column : column + shape[1]]
            sums.addcmul_(moved, weight[:, :, row, column, None])
    return result


def _of_depthwise_weight(slope: Tensor, values: Tensor, weight: Tensor, padding: Sequence[int]) -> Tensor:
    padded, found, (height, width) = _padded(values, padding), torch.zeros_like(weight), slope.shape[2:]
    for slopes, sample in zip(slope, padded, strict=True):
        for row, column in product(*map(range, weight.shape[2:])):
            moved = sample[:, row : row + height, column : column + width]
            found[:, 0, row, column] += (moved * slopes).sum((1, 2))
    return found


def _padded(values: Tensor, padding: Sequence[int]) -> Tensor:
    return pad(values, (padding[1], padding[1], padding[0], padding[0]))
