"""ResNet-50 as in "Deep Residual Learning for Image Recognition" (He et al., 2015, arXiv 1512.03385).

The stride is on the 3x3 convolutions and the parameters are named as in torchvision, as is usual today. No
weights are loaded, and torchvision is not needed.
"""

from torch import Tensor, nn

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, stride of the first block
_EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions beside a shortcut."""

    def __init__(self, n_inputs: int, width: int, stride: int) -> None:
        super().__init__()
        n_outputs = width * _EXPANSION
        self.conv1 = nn.Conv2d(n_inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, n_outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(n_outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or n_inputs != n_outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(n_inputs, n_outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(n_outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Images in, (N, C, H, W), images out."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet50(nn.Module):
    """53 convolutions, 23.45 M weights in 26,560 kernels, each before a BatchNorm, and a linear layer.

    Other ``stages`` make a smaller one, to try things with.
    """

    def __init__(self, n_classes: int = 1000, stages: tuple[tuple[int, int, int], ...] = STAGES) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        n_inputs = 64
        self.n_stages = len(stages)
        for number, (width, n_blocks, stride) in enumerate(stages, start=1):
            blocks = []
            for index in range(n_blocks):
                blocks.append(Bottleneck(n_inputs, width, stride if index == 0 else 1))
                n_inputs = width * _EXPANSION
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(n_inputs, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) in, logits (N, n_classes) out."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for number in range(1, self.n_stages + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return self.fc(self.avgpool(x).flatten(1))


def convolutions(model: nn.Module) -> list[nn.Parameter]:
    """The weights of all convolutions, in the order of the model."""
    return [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
