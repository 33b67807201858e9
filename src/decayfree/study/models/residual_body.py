"""The features of a residual network at all its stages, for networks that say something of each pixel.

Has no head, and no layer behind its last stage.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from decayfree.study.models.resnet import ResidualBlock, basic_body, convolution


class ResidualBody(nn.Module):
    """A 3×3 stem that halves, and stages of two residual blocks, each twice as wide as the one before.

    These are the stages of ResNet-18. The first block of each has a projection, also where it would not need
    one, so that a state fits whatever the strides.

    References:
        He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015, arXiv 1512.03385, Table 1.
        Dilations instead of strides: Yu, Koltun, Funkhouser, "Dilated Residual Networks", 2017, arXiv
        1705.09914, Section 2.
    """

    def __init__(
        self,
        n_in: int,
        width: int,
        *,
        strides: Sequence[int] = (2, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
    ) -> None:
        """``width``: channels of the stem and the first stage; ``strides``, ``dilations``: of each stage."""
        super().__init__()
        self.stem = nn.Sequential(*convolution(n_in, width, 3, 2), nn.ReLU())
        self.widths = [width * 2**stage for stage in range(len(strides))]
        self.stages = nn.ModuleList(
            nn.Sequential(
                ResidualBlock(basic_body(n_in, n_out, stride, dilation), _projection(n_in, n_out, stride)),
                ResidualBlock(basic_body(n_out, n_out, 1, dilation), nn.Identity()),
            )
            for n_in, n_out, stride, dilation in zip(
                (width, *self.widths), self.widths, strides, dilations, strict=False
            )
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """The features of the stem and of all stages, the finest first."""
        levels = [self.stem(images)]
        for stage in self.stages:
            levels.append(stage(levels[-1]))
        return levels


def _projection(n_in: int, n_out: int, stride: int) -> nn.Module:
    # The stride is not in the convolution. In torch 2.13 on a CPU with AVX-512, the gradients of 1×1 kernels
    # with stride 2 overwrite foreign memory for 4 or 8 channels, channels last, on 56×56, 64×64 or 128×128.
    return nn.Sequential(nn.MaxPool2d(1, stride), *convolution(n_in, n_out, 1))
