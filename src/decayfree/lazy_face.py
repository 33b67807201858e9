"""How does a folder show its public names without loading its rooms?

By the module's `__getattr__` (PEP 562): a room is imported when one of its names is asked for. The names
stand a second time under ``TYPE_CHECKING``, for type checkers and editors; tests/test_architecture.py holds
the two together.
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_face(package: str, rooms: Mapping[str, str]) -> Callable[[str], Any]:
    """A ``__getattr__`` for a package.

    Args:
        package: Its ``__name__``.
        rooms: Module -> the public names in it, divided by spaces; where there are none, the module itself is
            the name. Modules are below the package, or have their whole path where that begins with
            ``decayfree.``.
    """
    room_of = {name: room for room, names in rooms.items() for name in names.split() or [room]}

    def get(name: str) -> Any:
        if name not in room_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        room = room_of[name]
        module = import_module(room if room.startswith("decayfree.") else f"{package}.{room}")
        value = module if name == room else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    return get
