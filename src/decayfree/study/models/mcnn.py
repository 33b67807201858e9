"""The multi-column network with BatchNorm: a map of how many items there are, seen at three scales."""

import torch
from torch import Tensor, nn

from decayfree.study.models.resnet import convolution
from decayfree.study.models.sizes import Sizes

COLUMNS = ((9, 7, (16, 32, 16, 8)), (7, 5, (20, 40, 20, 10)), (5, 3, (24, 48, 24, 12)))
"""Size of the first kernels, of the others, and channels, for large, middle and small items."""


class MCNN(nn.Module):
    """Three columns of four convolutions side by side, and a 1×1 convolution of all they give to a map.

    Every convolution of a column has a BatchNorm and a ReLU, where the published network has a ReLU. Pooling
    halves twice: the map has a quarter of the image's rows and columns, rounded down.

    References:
        Zhang, Zhou, Chen, Gao, Ma, "Single-Image Crowd Counting via Multi-Column Convolutional Neural
        Network", CVPR 2016, Figure 2.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.backbone = nn.ModuleList(
            _column(sizes.n_channels, first, other, [sizes.scaled(width) for width in widths])
            for first, other, widths in COLUMNS
        )
        self.density = nn.Conv2d(sum(sizes.scaled(widths[-1]) for _, _, widths in COLUMNS), 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, height, width) to items in each pixel of the map, (n, height // 4, width // 4)."""
        density: Tensor = self.density(torch.cat([column(images) for column in self.backbone], dim=1))
        return density.squeeze(1)


def _column(n_in: int, first: int, other: int, widths: list[int]) -> nn.Module:
    layers: list[nn.Module] = []
    for number, n_out in enumerate(widths):
        layers += [*convolution(n_in, n_out, other if number else first), nn.ReLU()]
        if number < 2:
            layers.append(nn.MaxPool2d(2))
        n_in = n_out
    return nn.Sequential(*layers)
