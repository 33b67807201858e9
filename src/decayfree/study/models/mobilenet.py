"""MobileNetV2 for small images.

Does not round channels to multiples of 8 as the published network does at other widths: ours are far narrower
than that.
"""

from torch import Tensor, nn

from decayfree.study.models.sizes import PooledClassifier, Sizes

# Table 2: expansion t, channels c, repeats n, stride s; the second stage's stride is 1 here, not 2.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(PooledClassifier):
    """Inverted residuals: 1×1 to six times the channels, 3×3 on each channel, 1×1 back without an activation.

    The stem and the second stage take every pixel, so that images of 32×32 end as 4×4. A stride that would
    leave one pixel is left out, on images of 8×8 the last: on one pixel a 3×3 kernel of one channel is a
    number, and BatchNorm undoes it. The width factor multiplies the last convolution too, which the published
    network leaves at 1280. It has no dropout.

    References:
        Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018,
        arXiv 1801.04381, Tables 1 and 2.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        n_in, n_last = sizes.scaled(32), sizes.scaled(1280)
        n_pixels = min(sizes.image_size)
        layers = _convolution(sizes.n_channels, n_in, 3)
        for expansion, channels, n_blocks, stage_stride in STAGES:
            n_out = sizes.scaled(channels)
            for index in range(n_blocks):
                stride = stage_stride if index == 0 and n_pixels > 2 else 1
                n_pixels = -(-n_pixels // stride)
                layers.append(
                    InvertedResidual(n_in, n_out, stride=stride, expansion=expansion, is_added=index > 0)
                )
                n_in = n_out
        self.features = nn.Sequential(*layers, *_convolution(n_in, n_last, 1))
        self.classifier = nn.Linear(n_last, sizes.n_classes)


class InvertedResidual(nn.Module):
    """Wide inside, narrow outside; added to its input where ``is_added``."""

    def __init__(self, n_in: int, n_out: int, *, stride: int, expansion: int, is_added: bool) -> None:
        super().__init__()
        n_inner = n_in * expansion
        widened = _convolution(n_in, n_inner, 1) if expansion > 1 else []
        self.body = nn.Sequential(
            *widened,
            *_convolution(n_inner, n_inner, 3, stride=stride, groups=n_inner),
            *_convolution(n_inner, n_out, 1)[:2],
        )
        self.is_added = is_added

    def forward(self, features: Tensor) -> Tensor:
        """(n, n_in, height, width) to (n, n_out, height/stride, width/stride)."""
        narrow: Tensor = self.body(features)
        return features + narrow if self.is_added else narrow


def _convolution(n_in: int, n_out: int, size: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(n_in, n_out, size, stride=stride, padding=size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(n_out), nn.ReLU6()]
