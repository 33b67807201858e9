"""VGG networks with BatchNorm, for small images.

Does not have the three linear layers of the published networks: here global mean pooling and one linear layer
follow.
"""

from collections.abc import Sequence

from torch import nn

from decayfree.study.models.sizes import PooledClassifier, Sizes

MAX_WIDENING = 8


class VggBN(PooledClassifier):
    """Stages of 3×3 convolutions, BatchNorm and ReLU, pooled by 2; a linear layer on the mean over pixels.

    Convolutions have no bias, since BatchNorm would remove it. A stage is twice as wide as the one before, up
    to 8 times the first. A pooling that would leave no pixel is left out: the fifth on images of 28×28, the
    fourth and fifth on 8×8.

    References:
        Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014,
        arXiv 1409.1556, Table 1: columns A (11), B (13), D (16) and E (19).
    """

    def __init__(self, sizes: Sizes, *, depths: Sequence[int]) -> None:
        """``depths``: the number of convolutions of each stage."""
        super().__init__()
        layers: list[nn.Module] = []
        width = sizes.scaled(64)
        n_in, n_pixels = sizes.n_channels, min(sizes.image_size)
        for stage, depth in enumerate(depths):
            n_out = width * min(2**stage, MAX_WIDENING)
            for _ in range(depth):
                layers += [nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
                n_in = n_out
            # A stand-in, so that the layers have the same names on images of any size.
            layers.append(nn.MaxPool2d(2) if n_pixels > 1 else nn.Identity())
            n_pixels = max(1, n_pixels // 2)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(n_in, sizes.n_classes)
