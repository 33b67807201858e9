"""The networks of the studies, by name.

Does not decide how their weights are treated. A further network is one builder and one name in `ModelSpec`.
"""

import torch
from torch import Tensor, nn

from decayfree.study.data import N_CHANNELS
from decayfree.study.spec import ModelSpec


def build_model(spec: ModelSpec, *, n_classes: int, seed: int) -> nn.Module:
    """The network with its initial weights; the same for the same seed, whatever the method.

    Leaves the global random state as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VggBN(width=spec.width, n_stages=spec.n_stages, n_classes=n_classes)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


class VggBN(nn.Module):
    """VGG-style: stages of two 3×3 convolutions with BatchNorm and ReLU, pooled by 2, then one linear layer.

    Convolutions have no bias, since BatchNorm would remove it.

    References:
        Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014,
        arXiv 1409.1556.
    """

    def __init__(self, *, width: int, n_stages: int, n_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        n_in = N_CHANNELS
        for stage in range(n_stages):
            n_out = width * 2**stage
            for _ in range(2):
                layers += [nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
                n_in = n_out
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(n_in, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, height, width) to logits (n, n_classes)."""
        features: Tensor = self.features(images)
        logits: Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits
