"""Which ways to treat norms are there?

A method is one file of this folder, named as the method is, and its fields are its settings: a new one is a
file that is dropped in, with no entry anywhere. Loads no method before it is asked for.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path

from decayfree.methods.method import Method

_FOLDER = __name__.rpartition(".")[0]
_DEFINES_A_METHOD = re.compile(r"^class \w+\(Method\):$", re.MULTILINE)
# The order in which messages list them, simple ones first; whatever is not here follows by its name.
_FIRST = (
    *("none", "weight_decay", "learning_rate_scaling", "exact_replay", "wrs", "turning", "projection"),
    *("weight_standardization", "weight_normalization", "hyperball", "rotational_equilibrium"),
)


class _Methods(Mapping[str, type[Method]]):
    """The class of every method by its name.

    Names are those of the files, so that to know them, or to ask for one method, loads no other.
    """

    def __getitem__(self, name: str) -> type[Method]:
        if name not in self:
            raise KeyError(name)
        module = import_module(f"{_FOLDER}.{name}")
        return next(
            kind
            for kind in vars(module).values()
            if isinstance(kind, type)
            and issubclass(kind, Method)
            and kind.__module__ == module.__name__
            and kind.name == name
        )

    def __iter__(self) -> Iterator[str]:
        return iter(_names(tuple(sys.modules[_FOLDER].__path__)))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in list(iter(self))

    def __repr__(self) -> str:
        return f"METHODS({', '.join(self)})"


@lru_cache
def _names(folders: tuple[str, ...]) -> tuple[str, ...]:
    names = {
        path.stem
        for folder in folders
        for path in Path(folder).glob("*.py")
        if _DEFINES_A_METHOD.search(path.read_text(encoding="utf-8"))
    }
    return tuple(name for name in _FIRST if name in names) + tuple(sorted(names - set(_FIRST)))


METHODS: Mapping[str, type[Method]] = _Methods()
