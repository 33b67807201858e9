"""The networks of the studies, by name; one file for each family.

Does not decide how their weights are treated, nor on which device or in which memory format they lie. A
further network is one file, one entry in a table here and its name in ``run_settings``.
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from decayfree.arguments.address import Address
from decayfree.errors import DecayFreeError, InvalidInputError, raise_all
from decayfree.forward import Surroundings
from decayfree.study.models.backbone import begin_
from decayfree.study.models.csrnet import CSRNet
from decayfree.study.models.deeplab import DeepLab
from decayfree.study.models.densenet import DenseNetBC
from decayfree.study.models.fcos import FCOS
from decayfree.study.models.libraries import Factory, library_factory
from decayfree.study.models.mcnn import MCNN
from decayfree.study.models.mlp import MlpBN
from decayfree.study.models.mobilenet import MobileNetV2
from decayfree.study.models.preactivation import PreActivationResNet
from decayfree.study.models.resnet import ResNet
from decayfree.study.models.sizes import Builder, Sizes
from decayfree.study.models.ttfnet import TTFNet
from decayfree.study.models.unet import UNet
from decayfree.study.models.vgg import VggBN
from decayfree.study.own import own
from decayfree.study.run_settings import ModelSpec, library_of

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
"""Our own classifiers; all begin with torch's default weights: norms of kernels and rows are near 1/√3."""
SEGMENTERS: dict[str, Builder] = {"unet-bn": UNet, "deeplab-bn": DeepLab}
DETECTORS: dict[str, Builder] = {"fcos-bn": FCOS, "ttfnet-bn": TTFNet}
COUNTERS: dict[str, Builder] = {"csrnet-bn": CSRNet, "mcnn-bn": MCNN}
"""Those of the other tasks."""


def build_model(
    spec: ModelSpec, *, n_classes: int, image_size: tuple[int, int], n_channels: int = 3, seed: int
) -> nn.Module:
    """A classifier in train mode with its initial weights; the same for the same seed, whatever the method.

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
    if spec.name not in MODELS:

        def try_out(model: nn.Module, images: Tensor) -> None:
            check_logits(spec.name, "classifier", (2, n_classes), model(images))

        return library_model(spec, sizes, seed, n_classes=n_classes, trial=try_out).train()
    with Surroundings(seed):
        return MODELS[spec.name](sizes).train()


def build_with_backbone(
    spec: ModelSpec,
    sizes: Sizes,
    seed: int,
    *,
    ours: Mapping[str, Builder],
    of_library: Callable[[], nn.Module] | None = None,
) -> nn.Module:
    """A network of another task in train mode; its backbone is loaded and frozen where the spec says so.

    Args:
        spec: Which network, how wide, and how its backbone begins.
        sizes: What it is built for.
        seed: Seeds the weights.
        ours: Our own networks of the task, by name.
        of_library: Makes a library's network, or the user's own; None where the task has none.

    Raises:
        InvalidInputError: If there is no such network, or the backbone cannot begin so.
    """
    raise_all([(InvalidInputError, fault) for fault in spec.faults()])
    if spec.name in ours:
        with Surroundings(seed):
            model = ours[spec.name](sizes)
    elif ":" in spec.name and of_library is not None:
        model = of_library()
    else:
        raise InvalidInputError(
            f"model.name: {spec.name} is no network of this task, as {' and '.join(ours)} are"
        )
    return begin_(model, spec).train()


def library_model(
    spec: ModelSpec,
    sizes: Sizes,
    seed: int,
    *,
    n_classes: int,
    trial: Callable[[nn.Module, Tensor], object],
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A model of a library by its name in studies, or the user's own, tried on two images.

    Args:
        spec: ``timm:NAME`` and the like, or an address, and with which arguments.
        sizes: Of the images.
        seed: Seeds the weights.
        n_classes: As many as the library is to be told.
        trial: Called with a copy of the model in train mode and two images, without gradients; raises where
            the model is none that the task can train.
        options: Further arguments of the library's builder, where it has them.

    Raises:
        InvalidInputError: If there is no such model, or the trial raises: with what it said.
        MissingExtraError: If the library is not installed.
    """
    full_name = spec.name
    if sizes.n_channels != 3:
        raise InvalidInputError(f"{full_name} takes images of 3 channels, got {sizes.n_channels}")
    if isinstance(full_name, Address):
        also = {"n_classes": n_classes, "image_size": sizes.image_size}
        factory: Factory = partial(own, "model.name", full_name, args=spec.args, also=also)
    else:
        with Surroundings(seed):
            factory = library_factory(
                library_of(full_name),
                full_name.partition(":")[2],
                n_classes=n_classes,
                image_size=sizes.image_size,
                options=options,
                args=spec.args.to_dict(),
            )
    images = torch.zeros(2, sizes.n_channels, *sizes.image_size)
    try:
        with Surroundings(seed):  # whatever the library's import has drawn
            model: nn.Module = factory()
            with torch.no_grad():
                trial(copy.deepcopy(model).train(), images)
    except DecayFreeError:
        raise
    except Exception as error:  # whatever a library raises, the model's name must be in the message
        height, width = sizes.image_size
        raise InvalidInputError(
            f"{full_name} cannot be trained on images of {height}×{width} pixels: "
            f"{type(error).__name__}: {error}"
        ) from error
    return model


def check_logits(full_name: str, kind: str, expected: tuple[int, ...], logits: object) -> None:
    """Raise an `InvalidInputError` where a network of some kind does not make logits of that shape."""
    if not isinstance(logits, Tensor) or logits.shape != expected:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InvalidInputError(f"{full_name} is no {kind}: expected logits of shape {expected}, got {got}")
