"""Do our networks compute what torchvision's compute? With the same weights, they give the same logits.

The references are changed in two places only: a 3×3 stem without pooling and the strides of small images.
Skipped where torchvision does not import.
"""

import copy
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from decayfree.study.models import MODELS, Sizes
from support.available import import_or_skip

SIZES = Sizes(n_classes=10, image_size=(32, 32))


class OnTheMean(nn.Module):
    """Features and a linear layer on their mean over pixels."""

    def __init__(self, features: nn.Module, n_features: int) -> None:
        super().__init__()
        self.features = features
        self.classifier = nn.Linear(n_features, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).mean(dim=(2, 3)))


def vgg(models: ModuleType, name: str) -> nn.Module:
    features = models.get_model(name, weights=None).features
    for module in features:
        if isinstance(module, nn.Conv2d):
            module.bias = None
    return OnTheMean(features, 512)


def resnet(models: ModuleType, name: str) -> nn.Module:
    model = models.get_model(name, weights=None, num_classes=10)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return model


def densenet(models: ModuleType, name: str) -> nn.Module:
    model = models.DenseNet(growth_rate=12, block_config=(6, 6, 6), num_init_features=24, num_classes=10)
    model.features.conv0 = nn.Conv2d(3, 24, 3, padding=1, bias=False)
    for layer in ("norm0", "relu0", "pool0"):
        setattr(model.features, layer, nn.Identity())
    return model


def mobilenet(models: ModuleType, name: str) -> nn.Module:
    model = models.get_model(name, weights=None, num_classes=10, dropout=0.0)
    model.features[0][0].stride = (1, 1)
    model.features[2].conv[1][0].stride = (1, 1)
    return model


REFERENCES = {
    "vgg11-bn": (vgg, "vgg11_bn"),
    "vgg16-bn": (vgg, "vgg16_bn"),
    "resnet18": (resnet, "resnet18"),
    "resnet50": (resnet, "resnet50"),
    "densenet-bc-40-12": (densenet, "densenet121"),
    "mobilenetv2": (mobilenet, "mobilenet_v2"),
}


def take_weights_(model: nn.Module, reference: nn.Module) -> None:
    """Both hold their parameters in the order in which they are used."""
    with torch.no_grad():
        for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
            ours.copy_(theirs)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in ("vgg16-bn", "resnet50") else [])
        for name in REFERENCES
    ],
)
def test_equal_weights_give_the_logits_of_torchvisions_network(name, seed):
    models = import_or_skip("torchvision.models")
    make, their_name = REFERENCES[name]
    reference, ours = make(models, their_name).train(), MODELS[name](SIZES).train()
    take_weights_(ours, reference)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = copy.deepcopy(reference)(images)
        torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-5)
    assert float(expected.std(dim=0).min()) > 1e-3  # they do differ from image to image
