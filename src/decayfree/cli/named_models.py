"""What `decayfree inspect` looks at: a model by its name, and random inputs by their shape.

It never downloads: models come with random weights. It does not look inside a model.
"""

import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from decayfree.cli.options import FORMS
from decayfree.errors import InvalidInputError, closest

Factory = Callable[[], Any]
_MAX_NUMBERS, _MAX_DIMENSIONS = 1 << 28, 16


def build_named(name: str, *, seed: int = 0) -> nn.Module:
    """Build a model in train mode with random weights; the global random state stays as it was.

    A factory is called without arguments; a module that lies in the current directory can be imported, and
    the name of a ready model works too.

    Raises:
        InvalidInputError: If there is no such model, or it cannot be built.
        MissingExtraError: If the package that holds it is not installed.
    """
    source, separator, rest = name.partition(":")
    if not (separator and source and rest):
        raise InvalidInputError(f"expected {FORMS}, got {name!r}")
    _check_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # a module may make models while it is imported
        factory = _factory(source, rest)
        torch.manual_seed(seed)  # whatever its import has drawn
        return _built(name, factory).train()


def random_input(shape: str, *, n_tokens: int | None = None, seed: int = 0) -> Tensor:
    """A random input of a shape that is written as text, ``4,3,64,64``: standard normal numbers, float32.

    For models that take tokens, whole numbers from 0 to below ``n_tokens``, int64. The global random state
    stays as it was.

    Raises:
        InvalidInputError: If the text is no shape.
    """
    try:
        sizes = [int(size) for size in shape.split(",")]
    except ValueError:
        sizes = [0]
    if min(sizes) < 1:
        raise InvalidInputError(f"expected a shape such as 4,3,64,64, got {shape!r}")
    if math.prod(sizes) > _MAX_NUMBERS or len(sizes) > _MAX_DIMENSIONS:
        raise InvalidInputError(
            f"expected a shape of at most {_MAX_NUMBERS:,} numbers in {_MAX_DIMENSIONS} dimensions, "
            f"got {shape!r}"
        )
    if n_tokens is not None and not 1 <= n_tokens < 2**63:
        raise InvalidInputError(f"tokens must be a whole number from 1 to below 2^63, got {n_tokens}")
    _check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    if n_tokens is not None:
        return torch.randint(n_tokens, sizes, generator=generator)
    return torch.randn(sizes, generator=generator)


def _check_seed(seed: int) -> None:
    if not -(2**63) <= seed < 2**63:
        raise InvalidInputError(f"seed must be a whole number of 64 bits, got {seed}")


def _factory(source: str, rest: str) -> Factory:
    # Studies are heavy to import: only names of libraries wait for them.
    if source not in ("torchvision", "timm"):
        return _factory_in_module(source, rest)
    from decayfree.study.models.libraries import library_factory

    return library_factory(source, rest)


def _factory_in_module(module_name: str, attribute: str) -> Factory:
    module = _import_from_here(module_name)
    known = [key for key in vars(module) if not key.startswith("_")]
    if not hasattr(module, attribute):
        raise InvalidInputError(f"{module_name} has no {attribute!r}{closest(attribute, known)}")
    factory: Factory | nn.Module = getattr(module, attribute)
    if isinstance(factory, nn.Module):
        return lambda: factory
    if not callable(factory):
        raise InvalidInputError(
            f"{module_name}:{attribute} is neither a model nor a function that returns one, but {factory!r}"
        )
    return factory


def _built(name: str, factory: Factory) -> nn.Module:
    try:
        model = factory()
    except Exception as error:  # whatever a factory raises, its name must be in the message
        raise InvalidInputError(f"{name} could not be built: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise InvalidInputError(f"{name} returned {type(model).__name__}, expected a torch.nn.Module")
    return model


def _import_from_here(name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        hint = "" if error.name != name else f" (looked in {here} and where Python's packages are)"
        raise InvalidInputError(f"no module named {error.name!r}{hint}; models are named {FORMS}") from error
    except Exception as error:  # whatever a module raises while it is imported
        raise InvalidInputError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error
