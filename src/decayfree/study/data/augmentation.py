"""Training images moved about: mirror images, random crops and cut-out squares, a batch at a time.

Reads no files and keeps no state. What is done to a batch is a function of the seed and the step. The numbers
are drawn on the CPU, so that every device sees the same images.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from decayfree.arguments.address import Address, Args
from decayfree.errors import InvalidInputError
from decayfree.study.data.draws import generator_for
from decayfree.study.own import OWN, own
from decayfree.study.run_settings import DataSpec


def augmented(inputs: Tensor, spec: DataSpec, *, seed: int, step: int) -> Tensor:
    """Mirror, crop, cut out and what is the user's own, in this order, as far as the spec asks for it.

    Args:
        inputs: (n, n_channels, height, width), standardized, so that the mean color is 0; in any memory
            format, which is kept.
        spec: Its ``flip``, ``crop_padding``, ``cutout`` and ``augmentation`` are looked at.
        seed: The run's seed.
        step: The step that sees them.

    Returns:
        The shape of ``inputs``; ``inputs`` itself where nothing is asked for.
    """
    if spec.flip:
        inputs = flipped(inputs, seed=seed, step=step)
    return cropped_and_cut_out(inputs, spec, seed=seed, step=step)


def cropped_and_cut_out(inputs: Tensor, spec: DataSpec, *, seed: int, step: int) -> Tensor:
    """`augmented` for images that are mirrored already, which is cheaper while they are bytes."""
    if spec.crop_padding:
        inputs = cropped(inputs, padding=spec.crop_padding, seed=seed, step=step)
    if spec.cutout:
        inputs = cut_out(inputs, side=spec.cutout, seed=seed, step=step)
    if isinstance(spec.augmentation, Address):
        inputs = _changed(inputs, spec.augmentation, spec.augmentation_args, seed=seed, step=step)
    return inputs


def _changed(inputs: Tensor, address: Address, args: Args, *, seed: int, step: int) -> Tensor:
    """What the user's own makes of a batch."""
    generator = generator_for("augmentation", seed, step)
    made: Tensor = own("data.augmentation", address, inputs, generator, args=args)
    if (made.shape, made.dtype, made.device) != (inputs.shape, inputs.dtype, inputs.device):
        raise InvalidInputError(
            f"data.augmentation: {address}: expected {OWN['data.augmentation'].gives}, "
            f"{tuple(inputs.shape)} of {inputs.dtype} on {inputs.device}; got {tuple(made.shape)} of "
            f"{made.dtype} on {made.device}"
        )
    return made


def flipped(inputs: Tensor, *, seed: int, step: int) -> Tensor:
    """Mirror each image left to right with probability 1/2.

    Args:
        inputs: (n, n_channels, height, width), of any dtype.

    Returns:
        The shape of ``inputs``.
    """
    n_images = len(inputs)
    which = are_flipped(n_images, seed=seed, step=step).nonzero().squeeze(1)
    taken = torch.arange(n_images).index_copy_(0, which, torch.arange(n_images, n_images + len(which)))
    images = _channels_inside(inputs)
    # Whole images are copied from behind the others, which is several times as fast as to choose pixel by
    # pixel.
    both = torch.cat([images, images.index_select(0, which.to(inputs.device)).flip(2)])
    return _in_format_of(inputs, both.index_select(0, taken.to(inputs.device)))


def are_flipped(n_images: int, *, seed: int, step: int) -> Tensor:
    """(n_images,), bool: which `flipped` mirrors."""
    return torch.rand(n_images, generator=generator_for("flip", seed, step)) < 0.5


def cropped(inputs: Tensor, *, padding: int, seed: int, step: int) -> Tensor:
    """Pad each image with zeros and cut a part of its size out of it, all places being equally likely.

    Args:
        inputs: (n, n_channels, height, width).
        padding: Pixels on every side.

    Returns:
        The shape of ``inputs``.

    References:
        He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv 1512.03385, section 4.2.
    """
    n_images, n_channels, height, width = inputs.shape
    offsets = torch.randint(2 * padding + 1, (n_images, 2), generator=generator_for("crop", seed, step))
    padded = F.pad(_channels_inside(inputs), (0, 0, padding, padding, padding, padding))
    lines = torch.arange(n_images).view(-1, 1) * padded.shape[1] + offsets[:, :1] + torch.arange(height)
    # (n, height): the first pixel of each line, counted over all images.
    starts = lines * padded.shape[2] + offsets[:, 1:]
    # Lines are copied whole, from a view that has one for every pixel it may start at: three times as fast as
    # pixel by pixel.
    windows = padded.flatten().unfold(0, width * n_channels, n_channels)
    parts = windows.index_select(0, starts.flatten().to(inputs.device))
    return _in_format_of(inputs, parts.view(n_images, height, width, n_channels))


def cut_out(inputs: Tensor, *, side: int, seed: int, step: int) -> Tensor:
    """Set a square of each image to 0.

    Its center is any pixel with equal probability, so that a part of it may lie outside.

    Args:
        inputs: (n, n_channels, height, width).
        side: Of the square, in pixels. An even one reaches from its center ``side/2`` up and left,
            ``side/2 − 1`` down and right.

    Returns:
        The shape of ``inputs``, a copy.

    References:
        DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017,
        arXiv 1708.04552.
    """
    n_images, n_channels, height, width = inputs.shape
    generator = generator_for("cutout", seed, step)
    rows = _near(torch.randint(height, (n_images, 1), generator=generator), side, height).unsqueeze(2)
    columns = _near(torch.randint(width, (n_images, 1), generator=generator), side, width).unsqueeze(1)
    pixels = (torch.arange(n_images).view(-1, 1, 1) * height + rows) * width + columns
    filled = (
        _channels_inside(inputs).reshape(-1, n_channels).index_fill(0, pixels.flatten().to(inputs.device), 0)
    )
    return _in_format_of(inputs, filled.view(n_images, height, width, n_channels))


def _near(center: Tensor, side: int, size: int) -> Tensor:
    """(n, side), int64: the pixels of a line in the square; those outside are its last one inside."""
    return (center - side // 2 + torch.arange(side)).clamp_(0, size - 1)


def _channels_inside(inputs: Tensor) -> Tensor:
    """(n, height, width, n_channels): as channels_last lies in memory."""
    return inputs.permute(0, 2, 3, 1)


def _in_format_of(inputs: Tensor, images: Tensor) -> Tensor:
    """(n, height, width, n_channels) back to the shape and memory format of ``inputs``."""
    is_last = inputs.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if is_last else torch.contiguous_format
    return images.permute(0, 3, 1, 2).contiguous(memory_format=memory_format)
