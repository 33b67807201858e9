"""Where a weight lives: the span of the patches that a convolution sees, and the share of a kernel off it.

Covers 2-D convolutions without groups that a normalization follows, whose gradients lie in the span of the centered
patches; it does not say what an off-span part does to a model.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from decayfree.errors import InvalidInputError

_IMAGES_AT_ONCE = 128


@torch.no_grad()
def patch_second_moment(
    images: Tensor,
    *,
    kernel_size: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> Tensor:
    """Centered second moment of the patches of zero-padded images, all positions of all images together.

    Args:
        images: (n_images, n_channels, height, width), floating: the convolution's input.
        kernel_size: Height and width of a patch, in pixels.
        stride: As the convolution's.
        padding: As the convolution's, zeros.
        dilation: As the convolution's.

    Returns:
        (d, d), float64, with d = n_channels·height·width of a kernel, in the order of a flattened kernel; in
        squared units of ``images``.

    Raises:
        InvalidInputError: If ``images`` are not four-dimensional or hold no patch.

    References:
        Liu, Cui, Wan, Mao, Chan, "The Implicit Biases of Stochastic Gradient Descent on Deep Neural Networks
        with Batch Normalization", 2021, arXiv 2102.03497v1: updates stay in the span of the input features.

    Example:
        Two patches of two pixels, (0, 0) and (2, 0): they differ along the first pixel only.

        >>> images = torch.tensor([[[[0.0, 0.0]]], [[[2.0, 0.0]]]])
        >>> patch_second_moment(images, kernel_size=(1, 2))
        tensor([[1., 0.],
                [0., 0.]], dtype=torch.float64)
    """
    if images.ndim != 4 or len(images) == 0:
        raise InvalidInputError(
            f"images must have shape (n_images, n_channels, height, width), got {tuple(images.shape)}"
        )

    def patches(part: Tensor) -> Tensor:  # (n_patches, d)
        columns = F.unfold(part.double(), kernel_size, dilation=dilation, padding=padding, stride=stride)
        rows: Tensor = columns.transpose(1, 2).flatten(0, 1)
        return rows

    parts = torch.split(images, _IMAGES_AT_ONCE)
    n_patches = sum(len(patches(part)) for part in parts)
    mean = torch.stack([patches(part).sum(dim=0) for part in parts]).sum(dim=0) / n_patches
    moments = [centered.T @ centered for centered in (patches(part) - mean for part in parts)]
    return torch.stack(moments).sum(dim=0) / n_patches


def off_span_projector(second_moment: Tensor, *, tolerance: float = 1e-10) -> Tensor:
    """Projector onto the directions in which the patches do not vary.

    Args:
        second_moment: (d, d), symmetric, as from `patch_second_moment`.
        tolerance: A direction is off the span if the patches' variance along it is at most this share of the
            largest variance; no unit.

    Returns:
        (d, d), float64. Q, with Q² = Q = Qᵀ; its trace is the number of off-span directions.

    Example:
        >>> off_span_projector(torch.diag(torch.tensor([4.0, 0.0])))
        tensor([[0., 0.],
                [0., 1.]], dtype=torch.float64)
    """
    variances, directions = torch.linalg.eigh(second_moment.double())
    off = directions[:, variances <= tolerance * variances[-1].clamp_min(0)]
    projector: Tensor = off @ off.T
    return projector


@torch.no_grad()
def off_span_share(weight: Tensor, projector: Tensor) -> Tensor:
    """Share of each row that lies off the span, ‖Qw‖/‖w‖.

    Args:
        weight: (n_rows, *shape), floating, with d numbers in a row.
        projector: (d, d), as from `off_span_projector`.

    Returns:
        (n_rows,), float64; no unit, from 0 to 1. NaN for a row of zeros, which has no direction.

    Raises:
        InvalidInputError: If a row has not d numbers.

    Example:
        >>> off_span_share(torch.tensor([[3.0, 4.0]]), torch.diag(torch.tensor([0.0, 1.0])))
        tensor([0.8000], dtype=torch.float64)
    """
    rows = weight.double().flatten(1)
    if projector.shape != (rows.shape[1], rows.shape[1]):
        raise InvalidInputError(
            f"a weight of shape {tuple(weight.shape)} has {rows.shape[1]} numbers in a row, "
            f"but the projector has shape {tuple(projector.shape)}"
        )
    off = rows @ projector.double()
    share: Tensor = torch.linalg.vector_norm(off, dim=1) / torch.linalg.vector_norm(rows, dim=1)
    return share
