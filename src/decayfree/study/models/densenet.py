"""Densely connected networks with bottlenecks and compression (DenseNet-BC), for small images.

Does not save memory by computing concatenations twice, and has no dropout.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decayfree.study.models.sizes import PooledClassifier, Sizes

BOTTLENECK_WIDENING = 4


class DenseNetBC(PooledClassifier):
    """Three stages of layers that see all before them, channels and pixels halved between, a linear layer.

    A layer is BatchNorm, ReLU and a 1×1 convolution to four times the growth rate, then BatchNorm, ReLU and a
    3×3 convolution to the growth rate. The stem is a 3×3 convolution to twice the growth rate. DenseNet-BC of
    depth L has (L - 4)/6 layers in a stage. The width factor multiplies the growth rate, and with it every
    layer. Images have at least 4×4 pixels.

    References:
        Huang, Liu, van der Maaten, Weinberger, "Densely Connected Convolutional Networks", 2016, arXiv
        1608.06993, Section 3.
    """

    def __init__(self, sizes: Sizes, *, growth: int, depth: int, n_stages: int = 3) -> None:
        """``growth``: the published growth rate; ``depth``: the published depth, L."""
        super().__init__()
        growth = sizes.scaled(growth)
        n_in = 2 * growth
        layers: list[nn.Module] = [nn.Conv2d(sizes.n_channels, n_in, 3, padding=1, bias=False)]
        for stage in range(n_stages):
            if stage > 0:
                layers.append(_transition(n_in, n_in // 2))
                n_in //= 2
            for _ in range((depth - 4) // 6):
                layers.append(DenseLayer(n_in, growth))
                n_in += growth
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(n_in), nn.ReLU())
        self.classifier = nn.Linear(n_in, sizes.n_classes)


class DenseLayer(nn.Module):
    """Its input, and behind it ``growth`` new channels that are made of all of it."""

    def __init__(self, n_in: int, growth: int) -> None:
        super().__init__()
        n_inner = BOTTLENECK_WIDENING * growth
        self.norm1 = nn.BatchNorm2d(n_in)
        self.conv1 = nn.Conv2d(n_in, n_inner, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_inner)
        self.conv2 = nn.Conv2d(n_inner, growth, 3, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """(n, n_in, height, width) to (n, n_in + growth, height, width)."""
        inner = self.conv1(F.relu(self.norm1(features)))
        return torch.cat([features, self.conv2(F.relu(self.norm2(inner)))], dim=1)


def _transition(n_in: int, n_out: int) -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm2d(n_in), nn.ReLU(), nn.Conv2d(n_in, n_out, 1, bias=False), nn.AvgPool2d(2)
    )
