"""What `decayfree inspect` looks at: a model by its name, and random inputs by their shape.

It never downloads: models come with random weights. It does not look inside a model.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from decayfree.arguments.address import Address, Args, hint, looking_in
from decayfree.cli.options import FORMS
from decayfree.errors import InvalidInputError, closest, faults_of, raise_all

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_LIBRARIES = ("torchvision", "timm", "smp")
_MAX_NUMBERS, _MAX_DIMENSIONS = 1 << 28, 16


def build_named(name: str, *, seed: int = 0, args: Sequence[str] = ()) -> nn.Module:
    """Build a model in train mode with random weights; the global random state stays as it was.

    A file or a module in the current directory can be named, and the name of a ready model works too.

    Args:
        name: As `FORMS` says.
        seed: Seeds the weights.
        args: What it is built with, ``NAME=VALUE`` each, values as TOML has them.

    Raises:
        InvalidInputError: If there is no such model, or it cannot be built.
        MissingExtraError: If the package that holds it is not installed.
    """
    source, _, rest = name.partition(":")
    is_of_library = source in _LIBRARIES and bool(rest)
    address = Address.taken(name)
    if not is_of_library and not isinstance(address, Address):
        raise InvalidInputError(f"expected {FORMS}, got {name!r}{hint(name)}")
    meant = "" if is_of_library else closest(source, _LIBRARIES)
    if meant and find_spec(source) is None:
        raise InvalidInputError(f"there is no library {source!r}{meant}")
    _check_seed(seed)
    given = _typed(args)
    with torch.random.fork_rng(devices=[]), looking_in(None):
        torch.manual_seed(seed)  # a module may make models while it is imported
        if not is_of_library:
            ready = address.thing()
            torch.manual_seed(seed)  # whatever its import has drawn
            model = ready if isinstance(ready, nn.Module) and not given else _own(address, given)
        else:
            # Studies are heavy to import: only names of libraries wait for them.
            from decayfree.study.models.libraries import library_factory

            factory = library_factory(source, rest, args=given)
            torch.manual_seed(seed)
            model = _built(name, factory)
        return model.train()


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


def _own(address: Address, args: Mapping[str, Any]) -> nn.Module:
    model: nn.Module = address.call(args=args, gives=nn.Module, said="a torch.nn.Module")
    return model


def _built(name: str, factory: Callable[[], Any]) -> nn.Module:
    try:
        model: nn.Module = factory()
    except Exception as error:  # whatever a library raises, the model's name must be in the message
        raise InvalidInputError(f"{name} could not be built: {type(error).__name__}: {error}") from error
    return model


def _typed(args: Sequence[str]) -> dict[str, Any]:
    """Arguments by name; all that are none at once."""
    found: dict[str, Any] = {}
    faults = []
    for text in args:
        name, _, value = text.partition("=")
        try:
            given = tomllib.loads(f"value = {value}")
            if not name.isidentifier() or len(given) > 1:
                raise ValueError
            found |= Args.of({name: given["value"]}).to_dict()
        except ValueError:
            faults.append(
                f"--arg {text}: expected NAME=VALUE with a value as TOML has it: width=8, bias=false, "
                "'act=\"relu\"'"
            )
    raise_all(faults_of(InvalidInputError, faults))
    return found
