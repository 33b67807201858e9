"""MCNN with BatchNorm: a map of how many items there are where, by columns for items of several sizes."""

import torch
from torch import Tensor, nn

from decayfree.study.models.resnet import convolution
from decayfree.study.models.sizes import Sizes

COLUMNS = ((8, (9, 7, 7, 7)), (10, (7, 5, 5, 5)), (12, (5, 3, 3, 3)))
"""Channels at the end of each column, and the sizes of its kernels."""
MULTIPLES = (2, 4, 2, 1)
"""Channels of a column's convolutions, as multiples of those at its end."""
N_HALVINGS = 2


class MCNN(nn.Module):
    """Three columns of four convolutions with large, middle and small kernels, and one 1×1 convolution.

    Max pooling follows the first two convolutions of each column. Every convolution of a column has a
    BatchNorm and a ReLU; the published network has no BatchNorm, and trains each column by itself first. The
    map has a quarter of the image's rows and columns, rounded down, and no ReLU at its end: the sum over it
    is the number of items.

    References:
        Zhang, Zhou, Chen, Gao, Ma, "Single-Image Crowd Counting via Multi-Column Convolutional Neural
        Network", CVPR 2016, Section 2.2 and Figure 3.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        widths = [sizes.scaled(n_out) for n_out, _ in COLUMNS]
        self.backbone = Columns(sizes.n_channels, widths)
        self.density = nn.Conv2d(sum(widths), 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, height, width) to items in each pixel of the map, (n, height // 4, width // 4)."""
        density: Tensor = self.density(self.backbone(images))
        return density.squeeze(1)


class Columns(nn.Module):
    """What all columns see, beside each other."""

    def __init__(self, n_in: int, widths: list[int]) -> None:
        super().__init__()
        self.columns = nn.ModuleList(
            _column(n_in, n_out, kernel_sizes)
            for n_out, (_, kernel_sizes) in zip(widths, COLUMNS, strict=True)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(n, n_in, height, width) to (n, sum of widths, height // 4, width // 4)."""
        return torch.cat([column(images) for column in self.columns], dim=1)


def _column(n_in: int, n_out: int, kernel_sizes: tuple[int, ...]) -> nn.Module:
    layers: list[nn.Module] = []
    for number, (multiple, size) in enumerate(zip(MULTIPLES, kernel_sizes, strict=True)):
        layers += [*convolution(n_in, multiple * n_out, size), nn.ReLU()]
        n_in = multiple * n_out
        if number < N_HALVINGS:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)
