"""Models of torchvision and timm by their name, with random weights.

Never downloads, and imports the libraries only when asked for one of their models.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from decayfree.errors import InvalidInputError, MissingExtraError, closest

Factory = Callable[[], Any]


def library_factory(
    library: str, name: str, *, n_classes: int | None = None, image_size: tuple[int, int] | None = None
) -> Factory:
    """A function that makes the model.

    Args:
        library: One of ``LIBRARIES``.
        name: What the model is called there.
        n_classes: Classes that it tells apart; the library's own number where None.
        image_size: Height and width in pixels, for models of timm that are made for images of one size;
            theirs where None.

    Raises:
        InvalidInputError: If the library has no such model.
        MissingExtraError: If the library is not installed.
    """
    return LIBRARIES[library](name, n_classes, image_size)


def _torchvision_factory(name: str, n_classes: int | None, image_size: tuple[int, int] | None) -> Factory:
    models = _import_extra("torchvision.models")
    known = models.list_models()
    if name not in known:
        raise InvalidInputError(f"torchvision has no model {name!r}{closest(name, known)}")
    builder = models.get_model_builder(name)
    # Detection and segmentation models would fetch a trained backbone unless told not to.
    options: dict[str, Any] = {
        key: None for key in ("weights", "weights_backbone") if key in inspect.signature(builder).parameters
    }
    if n_classes is not None:
        options["num_classes"] = n_classes
    return lambda: builder(**options)


def _timm_factory(name: str, n_classes: int | None, image_size: tuple[int, int] | None) -> Factory:
    timm = _import_extra("timm")
    if not timm.is_model(name):
        raise InvalidInputError(f"timm has no model {name!r}{closest(name, timm.list_models())}")
    options: dict[str, Any] = {}
    if n_classes is not None:
        options["num_classes"] = n_classes
    published = timm.models.get_pretrained_cfg(name)
    if image_size is not None and published is not None and published.fixed_input_size:
        options["img_size"] = image_size
    return lambda: timm.create_model(name, pretrained=False, **options)


LIBRARIES: dict[str, Callable[[str, int | None, tuple[int, int] | None], Factory]] = {
    "torchvision": _torchvision_factory,
    "timm": _timm_factory,
}


def _import_extra(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MissingExtraError(
            f"{package} cannot be imported ({error}): pip install 'decayfree[models]'"
        ) from error
    except (RuntimeError, OSError) as error:  # a build of torchvision that does not fit this torch
        raise MissingExtraError(f"{name} is installed but cannot be imported: {error}") from error
