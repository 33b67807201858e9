"""What does a row of a weight see?

Cuts the inputs of linear layers and convolutions into the vectors that their rows are multiplied with, a few
at a time. Sums nothing up.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from decayfree.errors import InvalidInputError
from decayfree.shards import whole

NUMBERS_AT_ONCE = 2**22
"""So many numbers of patches are held in memory at a time: 32 MiB in float64."""


@dataclass(frozen=True)
class RowLayout:
    """Where the rows of a weight are.

    Args:
        shape: Of the weight.
        axis: The dimension along which the rows (output channels) run: 0, or 1 for transposed convolutions.
        groups: Parts of the rows that see other inputs. Row ``i`` belongs to group
            ``i // (n_rows // groups)``.

    Example:
        >>> RowLayout((8, 2, 3, 3), axis=0, groups=2).n_features
        18
    """

    shape: tuple[int, ...]
    axis: int = 0
    groups: int = 1

    @property
    def n_rows(self) -> int:
        """Number of rows, all groups together."""
        return self.shape[0] if self.axis == 0 else self.groups * self.shape[1]

    @property
    def n_features(self) -> int:
        """Numbers in a row, d."""
        return prod(self.shape) // max(self.n_rows, 1)

    def rows(self, weight: Tensor) -> Tensor:
        """The rows of a weight, (groups, n_rows / groups, d): input channels outside, positions inside.

        Raises:
            InvalidInputError: If the weight has another shape.
        """
        if tuple(weight.shape) != self.shape:
            raise InvalidInputError(
                f"expected a weight, gradient or update of shape {self.shape}, got {tuple(weight.shape)}"
            )
        weight = whole(weight)
        if self.axis == 1:
            weight = weight.unflatten(0, (self.groups, -1)).transpose(1, 2)
        return weight.reshape(self.groups, self.n_rows // self.groups, self.n_features)

    def weight(self, rows: Tensor) -> Tensor:
        """The weight of these rows, (*shape): the inverse of :meth:`rows`."""
        if self.axis == 1:
            rows = rows.unflatten(2, (self.shape[0] // self.groups, -1)).transpose(1, 2)
        return rows.reshape(self.shape)


def patches_of(
    module: nn.Module, inputs: Tensor, output: Tensor, *, numbers_at_once: int = NUMBERS_AT_ONCE
) -> Iterator[Tensor]:
    """Cut a layer's input into the vectors that its rows are multiplied with, one for each output position.

    For a convolution these are the patches of the padded input. For a transposed convolution the patch of an
    output position holds the inputs that reach it, each at its place in the kernel, and zeros elsewhere; the
    gradient of a row is a sum of patches there too.

    Args:
        module: A linear layer or convolution.
        inputs: What it was called with.
        output: What it returned; only its spatial size is used.
        numbers_at_once: The largest number of elements of a chunk, where one line of output positions does
            not need more.

    Yields:
        (groups, n_patches, d), float64; d in the order of :meth:`RowLayout.rows`. It may share memory with
        ``inputs``.
    """
    if isinstance(module, nn.Linear):
        for part in inputs.reshape(-1, inputs.shape[-1]).split(max(1, numbers_at_once // inputs.shape[-1])):
            yield part.double()[None]
        return
    assert isinstance(module, _ConvNd)
    n_dims = len(module.kernel_size)
    images = inputs if inputs.ndim == n_dims + 2 else inputs[None]
    sizes = tuple(output.shape[-n_dims:])
    numbers_a_line = module.in_channels * prod(module.kernel_size) * prod(sizes[1:])
    images_at_once = max(1, numbers_at_once // (numbers_a_line * sizes[0]))
    lines_at_once = max(1, numbers_at_once // numbers_a_line)
    for part in images.split(images_at_once):
        for windows in _windows(module, part.double(), sizes).split(lines_at_once, dim=1):
            n_patches = prod(windows.shape[: n_dims + 1])
            # Channels come before kernel positions, and groups are runs of channels.
            yield windows.reshape(n_patches, module.groups, -1).transpose(0, 1)


def _windows(module: _ConvNd, images: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """A view of the padded images, (n_images, *positions, channels, *kernel_size)."""
    if not module.transposed:
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        return _unfolded(F.pad(images, _padding(module), mode=mode), module, module.stride)
    # Input i reaches output o = i·stride − padding + k·dilation through position k of the kernel: with zeros
    # put between the inputs, output o sees a window in which k runs backwards. So everything is turned
    # around; the order of the outputs does not matter.
    spread = _spread(images, module.stride)
    padding: list[int] = []
    for dim in reversed(range(len(sizes))):
        reach = module.dilation[dim] * (module.kernel_size[dim] - 1)
        left = reach - int(module.padding[dim])
        padding += [left, sizes[dim] + reach - left - spread.shape[2 + dim]]  # negative ones cut off
    turned = F.pad(spread, padding).flip(tuple(range(2, images.ndim)))
    return _unfolded(turned, module, (1,) * len(sizes))


def _spread(images: Tensor, stride: tuple[int, ...]) -> Tensor:
    """The images with ``stride − 1`` zeros between neighbors."""
    for dim, step in enumerate(stride, start=2):
        size = images.shape[dim]
        zeros = images.new_zeros(*images.shape[:dim], (size - 1) * step + 1, *images.shape[dim + 1 :])
        index = torch.arange(size, device=images.device) * step
        images = zeros.index_copy_(dim, index, images)
    return images


def _unfolded(images: Tensor, module: _ConvNd, stride: tuple[int, ...]) -> Tensor:
    """Every window of the images, without copying."""
    windows = images
    for dim, (size, step, dilation) in enumerate(
        zip(module.kernel_size, stride, module.dilation, strict=True), start=2
    ):
        windows = windows.unfold(dim, dilation * (size - 1) + 1, step)[..., ::dilation]
    return windows.movedim(1, 1 + len(stride))


def _padding(module: _ConvNd) -> list[int]:
    """As F.pad takes it: both sides of the last dimension first."""
    padding: list[int] = []
    for dim in reversed(range(len(module.kernel_size))):
        if module.padding == "valid":
            padding += [0, 0]
        elif module.padding == "same":  # the odd one goes to the right
            reach = module.dilation[dim] * (module.kernel_size[dim] - 1)
            padding += [reach // 2, reach - reach // 2]
        else:
            padding += [int(module.padding[dim])] * 2
    return padding
