"""U-Net with BatchNorm, for masks of any number of classes."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decayfree.study.models.resnet import convolution
from decayfree.study.models.sizes import Sizes

N_HALVINGS = 4


class UNet(nn.Module):
    """An encoder that halves height and width four times, and a decoder that doubles them as often.

    A stage is two 3×3 convolutions with BatchNorm and ReLU; max pooling halves, a transposed 2×2 convolution
    with BatchNorm and ReLU doubles, and the encoder's features of the same size are put beside. The last
    layer is a 1×1 convolution with bias. The published network has no BatchNorm and loses a border in every
    convolution; this one keeps the size. Images have at least 32×32 pixels.

    References:
        Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", 2015,
        arXiv 1505.04597, Figure 1. BatchNorm as in its three-dimensional sequel: Çiçek et al., 2016, arXiv
        1606.06650, Section 2.
    """

    def __init__(self, sizes: Sizes, *, width: int = 64) -> None:
        """``width``: published channels of the first stage."""
        super().__init__()
        widths = [sizes.scaled(width) * 2**stage for stage in range(N_HALVINGS + 1)]
        self.encoder = Encoder(sizes.n_channels, widths)
        self.decoder = nn.ModuleList(Doubling(2 * n_out, n_out) for n_out in reversed(widths[:-1]))
        self.classifier = nn.Conv2d(widths[0], sizes.n_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, height, width) to logits (n, n_classes, height, width)."""
        *finer, features = self.encoder(images)
        for doubling, beside in zip(self.decoder, reversed(finer), strict=True):
            features = doubling(features, beside)
        logits: Tensor = self.classifier(features)
        return logits


class Encoder(nn.Module):
    """Stages with pooling between."""

    def __init__(self, n_in: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            _stage(n_in, n_out) for n_in, n_out in zip((n_in, *widths), widths, strict=False)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """The features of all stages, the finest first."""
        features = [self.stages[0](images)]
        for stage in list(self.stages)[1:]:
            features.append(stage(F.max_pool2d(features[-1], 2)))
        return features


class Doubling(nn.Module):
    """Twice as many rows and columns, the finer features beside them, and a stage."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(n_in, n_out, 2, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(n_out)
        self.stage = _stage(2 * n_out, n_out)

    def forward(self, features: Tensor, beside: Tensor) -> Tensor:
        """(n, n_in, h, w) and (n, n_out, about 2h, about 2w) to the size of the latter."""
        doubled = F.relu(self.norm(self.up(features)))
        # Pooling drops the last row or column of an odd size.
        missing = (beside.shape[3] - doubled.shape[3], beside.shape[2] - doubled.shape[2])
        doubled = F.pad(doubled, (0, missing[0], 0, missing[1]))
        out: Tensor = self.stage(torch.cat([beside, doubled], dim=1))
        return out


def _stage(n_in: int, n_out: int) -> nn.Module:
    return nn.Sequential(*convolution(n_in, n_out, 3), nn.ReLU(), *convolution(n_out, n_out, 3), nn.ReLU())
