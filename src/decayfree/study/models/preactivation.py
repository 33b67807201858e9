"""Residual networks whose blocks begin with BatchNorm and ReLU: pre-activation and Wide ResNets.

Does not hold those with the activation after the sum: see `resnet`.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from decayfree.study.models.sizes import PooledClassifier, Sizes


class PreActivationResNet(PooledClassifier):
    """A 3×3 convolution, stages of pre-activation blocks, BatchNorm, ReLU, mean over pixels, a linear layer.

    A stage is twice as wide as the one before, and its first block halves height and width. Where a block
    changes the number of channels, its shortcut is a 1×1 convolution of the activated input, without a
    normalization; elsewhere it is the input itself.

    A Wide ResNet of depth d and factor k is this with (d - 4)/6 blocks in each of three stages that are 16k,
    32k and 64k wide behind a stem of 16. It has no dropout.

    Second convolutions and projections go into the sum as they are, so that none of them is scale-invariant
    by itself: only all that a stage adds up is, together. The stem belongs to the sum of the first stage,
    unless the first block has a projection.

    References:
        He, Zhang, Ren, Sun, "Identity Mappings in Deep Residual Networks", 2016, arXiv 1603.05027, Figure
        4(e). Zagoruyko, Komodakis, "Wide Residual Networks", 2016, arXiv 1605.07146, Table 1.
    """

    def __init__(self, sizes: Sizes, *, width: int, depths: Sequence[int], widening: int = 1) -> None:
        """``width``: published channels of the stem; ``depths``: blocks of each stage."""
        super().__init__()
        n_in = sizes.scaled(width)
        first = n_in * widening
        self.stem = nn.Conv2d(sizes.n_channels, n_in, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        for stage, depth in enumerate(depths):
            n_out = first * 2**stage
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(PreActivationBlock(n_in, n_out, stride))
                n_in = n_out
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(n_in)
        self.classifier = nn.Linear(n_in, sizes.n_classes)

    def features(self, images: Tensor) -> Tensor:
        return F.relu(self.norm(self.blocks(self.stem(images))))


class PreActivationBlock(nn.Module):
    """Two 3×3 convolutions, each behind BatchNorm and ReLU, added to the input or to a projection of it."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(n_in)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        is_same = n_in == n_out and stride == 1
        self.projection = None if is_same else nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """(n, n_in, height, width) to (n, n_out, height/stride, width/stride)."""
        activated = F.relu(self.norm1(features))
        shortcut = features if self.projection is None else self.projection(activated)
        inner = F.relu(self.norm2(self.conv1(activated)))
        total: Tensor = self.conv2(inner) + shortcut
        return total
