"""Which names are public, and on which page each stands.

Asks the package alone; nothing here knows of Sphinx.
"""

import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import decayfree

# Public, though they are no faces: what readers call of these files.
FILES = {
    "decayfree.blocks": ("Blocks", "Part", "block_norms", "block_dots"),
    "decayfree.equilibrium": (
        *("Equilibrium", "sgd", "adamw", "adam_l2", "lion"),
        *("correlation_time", "correlation_time_of_signs"),
    ),
    "decayfree.integrations.flax": ("find_invariant", "rescale"),
    "decayfree.integrations.lightning": (
        *("WeightRescalingCallback", "TurningCallback", "RecorderCallback", "found_in"),
    ),
    "decayfree.integrations.optax": ("hold_norms", "decay_mask", "TreeInvariance"),
    "decayfree.integrations.transformers": ("WeightRescalingCallback", "TurningCallback", "RecorderCallback"),
}


@dataclass(frozen=True)
class Name:
    """A public name where it is shown, and the full name under which its page is."""

    face: str
    name: str
    page: str
    thing: Any

    @property
    def kind(self) -> str:
        """What Sphinx calls it."""
        if inspect.isclass(self.thing):
            return "exception" if issubclass(self.thing, BaseException) else "class"
        return "function" if inspect.isroutine(self.thing) else "data"

    @property
    def summary(self) -> str:
        """The first sentence of its docstring; of a constant and of a type there is none."""
        text = inspect.getdoc(self.thing) if self.kind != "data" else None
        return " ".join((text or "").partition("\n\n")[0].split())


def names() -> Iterator[Name]:
    """Every public name of every face, in the order of the package; what is shown twice has one page."""
    pages: dict[tuple[str, int], str] = {}
    for face in faces():
        for name in FILES.get(face.__name__) or face.__all__:
            thing = getattr(face, name)
            full = f"{face.__name__}.{name}"
            yield Name(face.__name__, name, pages.setdefault((name, id(thing)), full), thing)


def faces() -> Iterator[ModuleType]:
    """The modules whose names are public."""
    yield decayfree
    for module in sorted(pkgutil.walk_packages(decayfree.__path__, "decayfree."), key=lambda one: one.name):
        if module.name in FILES or (module.ispkg and getattr(import_module(module.name), "__all__", None)):
            yield import_module(module.name)
