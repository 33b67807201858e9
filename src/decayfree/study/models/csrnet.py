"""CSRNet with BatchNorm: a map of how many items there are where."""

from torch import Tensor, nn

from decayfree.study.models.sizes import Sizes

FRONT = (1, 1, "halve", 2, 2, "halve", 4, 4, 4, "halve", 8, 8, 8)
BACK = (8, 8, 8, 4, 2, 1)
"""Channels of each 3×3 convolution, as multiples of the first one's 64."""
STRIDE = 8
"""Pixels of the image in a pixel of the map."""


class CSRNet(nn.Module):
    """The first ten convolutions of VGG-16, six more with dilation 2, and one 1×1 convolution to a map.

    Every 3×3 convolution has a BatchNorm and a ReLU, which the published network, CSRNet B, does not have
    and begins from trained weights instead. The map has an eighth of the image's rows and columns, rounded
    down, and no ReLU at its end: the sum over it is the number of items. Images have at least 16×16 pixels.

    References:
        Li, Zhang, Chen, "CSRNet: Dilated Convolutional Neural Networks for Understanding the Highly Congested
        Scenes", 2018, arXiv 1802.10062, Table 3.
    """

    def __init__(self, sizes: Sizes, *, width: int = 64) -> None:
        """``width``: published channels of the first convolution."""
        super().__init__()
        width = sizes.scaled(width)
        front: list[nn.Module] = []
        n_in = sizes.n_channels
        for step in FRONT:
            if isinstance(step, str):
                front.append(nn.MaxPool2d(2))
            else:
                front += _convolution(n_in, step * width, dilation=1)
                n_in = step * width
        back: list[nn.Module] = []
        for multiple in BACK:
            back += _convolution(n_in, multiple * width, dilation=2)
            n_in = multiple * width
        self.backbone = nn.Sequential(*front)
        self.back_end = nn.Sequential(*back)
        self.density = nn.Conv2d(n_in, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, height, width) to items in each pixel of the map, (n, height // 8, width // 8)."""
        density: Tensor = self.density(self.back_end(self.backbone(images)))
        return density.squeeze(1)


def _convolution(n_in: int, n_out: int, *, dilation: int) -> list[nn.Module]:
    kernels = nn.Conv2d(n_in, n_out, 3, padding=dilation, dilation=dilation, bias=False)
    return [kernels, nn.BatchNorm2d(n_out), nn.ReLU()]
