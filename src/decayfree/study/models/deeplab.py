"""DeepLabv3+ with BatchNorm: masks by dilated convolutions at several rates."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decayfree.study.models.resnet import ResidualBlock, convolution, projection
from decayfree.study.models.sizes import Sizes

RATES = (2, 4)
"""Dilations of the pyramid's 3×3 convolutions: a third of the published ones, as an image's sides are."""


class DeepLab(nn.Module):
    """A ResNet-18 whose last stage is dilated instead of strided, a pyramid of dilations, and a decoder.

    The backbone's stem and its second and third stage halve, so that the pyramid sees an eighth of the rows
    and columns. The decoder doubles what the pyramid says, puts a projection of the second stage beside it
    and enlarges its logits bilinearly. Mean pooling over the image has a BatchNorm too: batches in train mode
    have two images at least.

    References:
        Chen, Zhu, Papandreou, Schroff, Adam, "Encoder-Decoder with Atrous Separable Convolution for Semantic
        Image Segmentation", 2018, arXiv 1802.02611, Figure 2; its convolutions are not separable here.
    """

    def __init__(self, sizes: Sizes, *, width: int = 64) -> None:
        """``width``: channels of the first stage; the pyramid's are four times as many."""
        super().__init__()
        width = sizes.scaled(width)
        self.backbone = Dilated(sizes.n_channels, width)
        self.pyramid = Pyramid(8 * width, 4 * width)
        self.beside = nn.Sequential(*convolution(2 * width, width, 1), nn.ReLU())
        self.decoder = nn.Sequential(*convolution(5 * width, 4 * width, 3), nn.ReLU())
        self.classifier = nn.Conv2d(4 * width, sizes.n_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, height, width) to logits (n, n_classes, height, width)."""
        fine, coarse = self.backbone(images)
        both = [self.beside(fine), _enlarged(self.pyramid(coarse), fine)]
        return _enlarged(self.classifier(self.decoder(torch.cat(both, dim=1))), images)


class Dilated(nn.Module):
    """A stem and four stages of two residual blocks."""

    def __init__(self, n_in: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*convolution(n_in, width, 3, stride=2), nn.ReLU())
        self.fine = nn.Sequential(_stage(width, width, 1), _stage(width, 2 * width, 2))
        self.coarse = nn.Sequential(
            _stage(2 * width, 4 * width, 2), _stage(4 * width, 8 * width, 1, dilation=2)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(n, n_in, height, width) to a quarter of the size with 2·width channels, an eighth with 8·width."""
        fine = self.fine(self.stem(images))
        return fine, self.coarse(fine)


class Pyramid(nn.Module):
    """The same features by a 1×1 convolution, by dilated ones and by their mean, and one of all of them."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*kernels, nn.ReLU())
            for kernels in (convolution(n_in, n_out, 1), *(_dilated(n_in, n_out, rate) for rate in RATES))
        )
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), *convolution(n_in, n_out, 1), nn.ReLU())
        self.project = nn.Sequential(*convolution((2 + len(RATES)) * n_out, n_out, 1), nn.ReLU())

    def forward(self, features: Tensor) -> Tensor:
        """(n, n_in, h, w) to (n, n_out, h, w)."""
        said = [branch(features) for branch in self.branches]
        projected: Tensor = self.project(torch.cat([*said, self.whole(features).expand_as(said[0])], dim=1))
        return projected


def _stage(n_in: int, n_out: int, stride: int, *, dilation: int = 1) -> nn.Module:
    return nn.Sequential(
        ResidualBlock(_body(n_in, n_out, stride, dilation), projection(n_in, n_out, stride)),
        ResidualBlock(_body(n_out, n_out, 1, dilation), nn.Identity()),
    )


def _body(n_in: int, n_out: int, stride: int, dilation: int) -> nn.Module:
    return nn.Sequential(
        *_dilated(n_in, n_out, dilation, stride), nn.ReLU(), *_dilated(n_out, n_out, dilation)
    )


def _dilated(n_in: int, n_out: int, dilation: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    kernels = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
    return kernels, nn.BatchNorm2d(n_out)


def _enlarged(features: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(features, size=like.shape[-2:], mode="bilinear", align_corners=False)
