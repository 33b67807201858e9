"""The networks of the studies, by name; one file for each family.

Does not decide how their weights are treated, nor on which device or in which memory format they lie. A
further network is one file, one entry in ``MODELS`` and its name in ``run_settings``.
"""

import copy
from functools import partial

import torch
from torch import Tensor, nn

from decayfree.errors import InvalidInputError, raise_all
from decayfree.forward import Surroundings
from decayfree.study.models.densenet import DenseNetBC
from decayfree.study.models.libraries import library_factory
from decayfree.study.models.mlp import MlpBN
from decayfree.study.models.mobilenet import MobileNetV2
from decayfree.study.models.preactivation import PreActivationResNet
from decayfree.study.models.resnet import ResNet
from decayfree.study.models.sizes import Builder, Sizes
from decayfree.study.models.vgg import VggBN
from decayfree.study.run_settings import ModelSpec

MODELS: dict[str, Builder] = {
    "vgg4-bn": partial(VggBN, depths=(2, 2)),
    "vgg6-bn": partial(VggBN, depths=(2, 2, 2)),
    "vgg11-bn": partial(VggBN, depths=(1, 1, 2, 2, 2)),
    "vgg13-bn": partial(VggBN, depths=(2, 2, 2, 2, 2)),
    "vgg16-bn": partial(VggBN, depths=(2, 2, 3, 3, 3)),
    "vgg19-bn": partial(VggBN, depths=(2, 2, 4, 4, 4)),
    "resnet18": partial(ResNet, width=64, depths=(2, 2, 2, 2)),
    "resnet34": partial(ResNet, width=64, depths=(3, 4, 6, 3)),
    "resnet50": partial(ResNet, width=64, depths=(3, 4, 6, 3), block="bottleneck"),
    "resnet20": partial(ResNet, width=16, depths=(3, 3, 3), shortcut="zeros"),
    "resnet32": partial(ResNet, width=16, depths=(5, 5, 5), shortcut="zeros"),
    "resnet56": partial(ResNet, width=16, depths=(9, 9, 9), shortcut="zeros"),
    "preact-resnet18": partial(PreActivationResNet, width=64, depths=(2, 2, 2, 2)),
    "preact-resnet20": partial(PreActivationResNet, width=16, depths=(3, 3, 3)),
    "wrn-16-4": partial(PreActivationResNet, width=16, widening=4, depths=(2, 2, 2)),
    "wrn-28-10": partial(PreActivationResNet, width=16, widening=10, depths=(4, 4, 4)),
    "densenet-bc-40-12": partial(DenseNetBC, growth=12, depth=40),
    "densenet-bc-100-12": partial(DenseNetBC, growth=12, depth=100),
    "mobilenetv2": MobileNetV2,
    "mlp-bn": MlpBN,
}
"""Our own networks; all begin with torch's default weights: norms of kernels and rows are near 1/√3."""


def build_model(
    spec: ModelSpec, *, n_classes: int, image_size: tuple[int, int], n_channels: int = 3, seed: int
) -> nn.Module:
    """The network in train mode with its initial weights; the same for the same seed, whatever the method.

    Leaves the global random state as it was.

    Args:
        spec: Which network, and how wide.
        n_classes: Number of logits.
        image_size: Height and width of the images, in pixels.
        n_channels: Channels of the images.
        seed: Seeds the weights.

    Raises:
        InvalidInputError: If there is no such network, or it does not make logits of such images.
        MissingExtraError: If the library that holds it is not installed.
    """
    raise_all([(InvalidInputError, fault) for fault in spec.faults()])
    sizes = Sizes(
        n_classes=n_classes, image_size=image_size, n_channels=n_channels, width_factor=spec.width_factor
    )
    with Surroundings(seed):
        model = MODELS[spec.name](sizes) if spec.name in MODELS else _library_model(spec.name, sizes, seed)
    return model.train()


def _library_model(full_name: str, sizes: Sizes, seed: int) -> nn.Module:
    library, _, name = full_name.partition(":")
    if sizes.n_channels != 3:
        raise InvalidInputError(f"{full_name} takes images of 3 channels, got {sizes.n_channels}")
    factory = library_factory(library, name, n_classes=sizes.n_classes, image_size=sizes.image_size)
    try:
        with Surroundings(seed):  # whatever the library's import has drawn
            model: nn.Module = factory()
            logits = _outputs(model, sizes)
    except Exception as error:  # whatever a library raises, the model's name must be in the message
        height, width = sizes.image_size
        raise InvalidInputError(
            f"{full_name} cannot be trained on images of {height}×{width} pixels: "
            f"{type(error).__name__}: {error}"
        ) from error
    expected = (2, sizes.n_classes)
    if not isinstance(logits, Tensor) or logits.shape != expected:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InvalidInputError(
            f"{full_name} is no classifier: expected logits of shape {expected}, got {got}"
        )
    return model


@torch.no_grad()
def _outputs(model: nn.Module, sizes: Sizes) -> object:
    """What a copy of the model makes of two images in train mode; the model itself stays as it was."""
    return copy.deepcopy(model).train()(torch.zeros(2, sizes.n_channels, *sizes.image_size))
