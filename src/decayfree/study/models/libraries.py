"""Models of torchvision, timm and segmentation-models-pytorch by their name, with random weights.

Never downloads, and imports the libraries only when asked for one of their models.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from decayfree.errors import InvalidInputError, MissingExtraError, closest

Factory = Callable[[], Any]
Made = tuple[Callable[..., Any], dict[str, Any]]
"""What builds a model, and with what."""


def library_factory(
    library: str,
    name: str,
    *,
    n_classes: int | None = None,
    image_size: tuple[int, int] | None = None,
    options: Mapping[str, Any] | None = None,
    args: Mapping[str, Any] | None = None,
) -> Factory:
    """A function that makes the model.

    Args:
        library: One of ``LIBRARIES``.
        name: What the model is called there.
        n_classes: Classes that it tells apart; the library's own number where None.
        image_size: Height and width in pixels, for models of timm that are made for images of one size;
            theirs where None.
        options: Further arguments of torchvision's builder, where it has them.
        args: Arguments that go before all these.

    Raises:
        InvalidInputError: If the library has no such model.
        MissingExtraError: If the library is not installed.
    """
    builder, arguments = LIBRARIES[library](name, n_classes, image_size, options or {})
    return lambda: builder(**{**arguments, **(args or {})})


def _torchvision_factory(
    name: str, n_classes: int | None, image_size: tuple[int, int] | None, options: Mapping[str, Any]
) -> Made:
    models = import_extra("torchvision.models")
    known = models.list_models()
    if name not in known:
        raise InvalidInputError(f"torchvision has no model {name!r}{closest(name, known)}")
    builder = models.get_model_builder(name)
    # Detection and segmentation models would fetch a trained backbone unless told not to.
    wanted = {"weights": None, "weights_backbone": None, **options}
    known_options = inspect.signature(builder).parameters
    arguments = {key: value for key, value in wanted.items() if key in known_options}
    if n_classes is not None:
        arguments["num_classes"] = n_classes
    return builder, arguments


def _timm_factory(
    name: str, n_classes: int | None, image_size: tuple[int, int] | None, options: Mapping[str, Any]
) -> Made:
    timm = import_extra("timm")
    if not timm.is_model(name):
        raise InvalidInputError(f"timm has no model {name!r}{closest(name, timm.list_models())}")
    arguments: dict[str, Any] = {}
    if n_classes is not None:
        arguments["num_classes"] = n_classes
    published = timm.models.get_pretrained_cfg(name)
    if image_size is not None and published is not None and published.fixed_input_size:
        arguments["img_size"] = image_size
    return partial(timm.create_model, name), {"pretrained": False, **arguments}


def _smp_factory(
    name: str, n_classes: int | None, image_size: tuple[int, int] | None, options: Mapping[str, Any]
) -> Made:
    """``Unet`` with the encoder that it has by default, ``Unet/resnet18`` with another."""
    smp = import_extra("segmentation_models_pytorch")
    architecture, _, encoder = name.partition("/")
    known = smp.MODEL_ARCHITECTURES_MAPPING
    if architecture.lower() not in known:
        names = [one.__name__ for one in known.values()]
        raise InvalidInputError(
            f"segmentation-models-pytorch has no {architecture!r}{closest(architecture, names)}"
        )
    arguments: dict[str, Any] = {"encoder_name": encoder} if encoder else {}
    if n_classes is not None:
        arguments["classes"] = n_classes
    return partial(smp.create_model, architecture), {"encoder_weights": None, **arguments}


LIBRARIES: dict[str, Callable[[str, int | None, tuple[int, int] | None, Mapping[str, Any]], Made]] = {
    "timm": _timm_factory,
    "torchvision": _torchvision_factory,
    "smp": _smp_factory,
}


def import_extra(name: str) -> Any:
    """A module of a package that an extra installs.

    Raises:
        MissingExtraError: If it cannot be imported, with the extra that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MissingExtraError(
            f"{package} cannot be imported ({error}): pip install 'decayfree[models]'"
        ) from error
    except (RuntimeError, OSError) as error:  # a build of torchvision that does not fit this torch
        raise MissingExtraError(f"{name} is installed but cannot be imported: {error}") from error
