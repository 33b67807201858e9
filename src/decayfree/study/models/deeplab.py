"""DeepLabV3+ with BatchNorm in all of it: masks by convolutions of several rates, for small images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decayfree.study.models.residual_body import ResidualBody
from decayfree.study.models.resnet import convolution
from decayfree.study.models.sizes import Sizes

STRIDES, DILATIONS = (2, 2, 1, 1), (1, 1, 2, 2)
"""Of the body's stages, behind a stem that halves: their features have strides of 4, 8, 8 and 8 pixels."""
RATES = (1, 2, 3)
"""Dilations of the three 3×3 convolutions beside each other."""


class DeepLab(nn.Module):
    """A dilated ResNet-18, atrous spatial pyramid pooling at a stride of 8, and a decoder at a stride of 2.

    The pooling puts a 1×1 convolution, three 3×3 convolutions of different rates and the mean over the image
    beside each other. The decoder enlarges what is made of them, puts the stem's features beside, and
    ends with two 3×3 convolutions and a 1×1 convolution with bias, whose logits are enlarged to the image.

    Rates are the published 6, 12 and 18 of a map with 33 rows as shares of one with 4 to 8 rows, and the last
    stage is not dilated by 4: on the 4×4 features of 32 pixels the outer numbers of such kernels would see
    nothing but the border. The published decoder is at a stride of 4 and twice as wide. There is no dropout,
    and convolutions are not separable. Images have at least 32×32 pixels.

    References:
        Chen, Zhu, Papandreou, Schroff, Adam, "Encoder-Decoder with Atrous Separable Convolution for Semantic
        Image Segmentation", 2018, arXiv 1802.02611, Figure 2. Pooling: Chen, Papandreou, Schroff, Adam,
        "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017, arXiv 1706.05587, Section 3.3.
    """

    def __init__(self, sizes: Sizes, *, width: int = 64) -> None:
        """``width``: channels of the first stage."""
        super().__init__()
        width = sizes.scaled(width)
        n_pooled, n_beside, n_decoded = 4 * width, max(1, 3 * width // 4), 2 * width  # 256, 48 and 128
        self.backbone = ResidualBody(sizes.n_channels, width, strides=STRIDES, dilations=DILATIONS)
        self.pooling = PyramidPooling(self.backbone.widths[-1], n_pooled)
        self.beside = nn.Sequential(*convolution(width, n_beside, 1), nn.ReLU())
        self.decoder = nn.Sequential(
            *convolution(n_pooled + n_beside, n_decoded, 3),
            nn.ReLU(),
            *convolution(n_decoded, n_decoded, 3),
            nn.ReLU(),
        )
        self.classifier = nn.Conv2d(n_decoded, sizes.n_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, height, width) to logits (n, n_classes, height, width)."""
        finest, *_, coarsest = self.backbone(images)
        pooled = _enlarged(self.pooling(coarsest), finest)
        decoded = self.decoder(torch.cat([pooled, self.beside(finest)], dim=1))
        return _enlarged(self.classifier(decoded), images)


class PyramidPooling(nn.Module):
    """Features of each pixel from its surroundings at several rates and from the whole image."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        local = [convolution(n_in, n_out, 1), *(convolution(n_in, n_out, 3, 1, rate) for rate in RATES)]
        self.local = nn.ModuleList(nn.Sequential(*layers) for layers in local)
        self.of_image, self.norm_of_image = convolution(n_in, n_out, 1)
        self.merging = nn.Sequential(*convolution((len(local) + 1) * n_out, n_out, 1), nn.ReLU())

    def forward(self, features: Tensor) -> Tensor:
        """(n, n_in, h, w) to (n, n_out, h, w)."""
        # Spread over the pixels in front of the norm, whose statistics are then the same, and exist for a
        # batch of one image, too: a single number for each channel has none.
        of_image = self.of_image(features.mean(dim=(2, 3), keepdim=True))
        of_image = self.norm_of_image(of_image.expand(-1, -1, *features.shape[-2:]))
        beside = [*(branch(features) for branch in self.local), of_image]
        merged: Tensor = self.merging(F.relu(torch.cat(beside, dim=1)))
        return merged


def _enlarged(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, size=like.shape[-2:], mode="bilinear", align_corners=False)
