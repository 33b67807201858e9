"""Residual networks with the activation after the sum, for small images.

Does not hold the pre-activation ones, whose weights are scale-invariant for other reasons: see
`preactivation`.
"""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from decayfree.study.models.sizes import PooledClassifier, Sizes

BOTTLENECK_EXPANSION = 4


class ResNet(PooledClassifier):
    """A 3×3 convolution, stages of residual blocks, and one linear layer on the mean over pixels.

    A stage is twice as wide as the one before, and its first block halves height and width. No pooling
    follows the stem, whose convolution takes every pixel: images are small. A bottleneck has its stride in
    the 3×3 convolution.

    ResNet-18, 34 and 50 have the stages and the projections of the published ImageNet networks. ResNet-20, 32
    and 56 are the published CIFAR networks: their shortcuts have no weights (option A), they take every other
    pixel and fill up with zero channels.

    References:
        He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015, arXiv 1512.03385, Table 1
        and Section 4.2. Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017,
        arXiv 1706.02677, Section 5.1, for the place of the stride.
    """

    def __init__(
        self,
        sizes: Sizes,
        *,
        width: int,
        depths: Sequence[int],
        block: Literal["basic", "bottleneck"] = "basic",
        shortcut: Literal["projection", "zeros"] = "projection",
    ) -> None:
        """``width``: published channels of the first stage; ``depths``: blocks of each stage."""
        super().__init__()
        width = sizes.scaled(width)
        expansion = BOTTLENECK_EXPANSION if block == "bottleneck" else 1
        body = _bottleneck if block == "bottleneck" else basic_body
        match = projection if shortcut == "projection" else ZeroFilled
        self.stem = nn.Sequential(*convolution(sizes.n_channels, width, 3), nn.ReLU())
        blocks: list[nn.Module] = []
        n_in = width
        for stage, depth in enumerate(depths):
            n_inner = width * 2**stage
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                n_out = n_inner * expansion
                is_same = n_in == n_out and stride == 1
                way_past = nn.Identity() if is_same else match(n_in, n_out, stride)
                blocks.append(ResidualBlock(body(n_in, n_inner, stride), way_past))
                n_in = n_out
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(n_in, sizes.n_classes)

    def features(self, images: Tensor) -> Tensor:
        features: Tensor = self.blocks(self.stem(images))
        return features


class ResidualBlock(nn.Module):
    """ReLU of the sum of a body and a shortcut."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, features: Tensor) -> Tensor:
        """(n, n_in, height, width) to (n, n_out, height/stride, width/stride)."""
        return F.relu(self.body(features) + self.shortcut(features))


class ZeroFilled(nn.Module):
    """A shortcut without weights: every ``stride``-th pixel, with channels of zeros behind the given ones."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.n_zeros = n_out - n_in
        self.stride = stride

    def forward(self, features: Tensor) -> Tensor:
        """(n, n_in, height, width) to (n, n_out, height/stride, width/stride)."""
        kept = features[:, :, :: self.stride, :: self.stride]
        return F.pad(kept, (0, 0, 0, 0, 0, self.n_zeros))


def basic_body(n_in: int, n_inner: int, stride: int, dilation: int = 1) -> nn.Module:
    """Two 3×3 convolutions with norms, the stride in the first."""
    first = convolution(n_in, n_inner, 3, stride, dilation)
    return nn.Sequential(*first, nn.ReLU(), *convolution(n_inner, n_inner, 3, 1, dilation))


def _bottleneck(n_in: int, n_inner: int, stride: int) -> nn.Module:
    return nn.Sequential(
        *convolution(n_in, n_inner, 1),
        nn.ReLU(),
        *convolution(n_inner, n_inner, 3, stride),
        nn.ReLU(),
        *convolution(n_inner, n_inner * BOTTLENECK_EXPANSION, 1),
    )


def projection(n_in: int, n_out: int, stride: int) -> nn.Module:
    """A shortcut by a 1×1 convolution with a norm."""
    return nn.Sequential(*convolution(n_in, n_out, 1, stride))


def convolution(
    n_in: int, n_out: int, size: int, stride: int = 1, dilation: int = 1
) -> tuple[nn.Module, nn.Module]:
    """A convolution without bias that keeps the size at stride 1, and a norm."""
    padding = size // 2 * dilation
    kernels = nn.Conv2d(n_in, n_out, size, stride=stride, padding=padding, dilation=dilation, bias=False)
    return kernels, nn.BatchNorm2d(n_out)
