"""How does a folder show its public names without loading its rooms?

By the module's `__getattr__` (PEP 562): a room is imported when one of its names is asked for. Which names
there are, and where, is read from the imports under ``TYPE_CHECKING``, as type checkers and editors do.
They are written ``from room import name as name``, which marks a name as public.
"""

import ast
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import Any

from decayfree.errors import closest, extra_needed


def lazy_face(package: str, *, submodules: str = "", extra: str = "") -> Callable[[str], Any]:
    """A ``__getattr__`` for a package, which knows its ``__all__`` as well.

    Args:
        package: Its ``__name__``.
        submodules: Modules below it that are loaded when they are asked for, divided by spaces. They are no
            part of ``__all__``.
        extra: What installs numpy, where the rooms need it: its absence is said before one is imported.
    """

    @cache
    def room_of() -> dict[str, str]:
        """Public name -> the module that has it."""
        tree = ast.parse(files(package).joinpath("__init__.py").read_text(encoding="utf-8"))
        blocks = [node for node in tree.body if isinstance(node, ast.If)]
        imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
        return {alias.name: str(node.module) for node in imports for alias in node.names}

    def get(name: str) -> Any:
        if name in submodules.split():
            return import_module(f"{package}.{name}")
        if name == "__all__":
            value: Any = list(room_of())
        elif name in room_of():
            if extra:
                with extra_needed(extra, f"{package} needs {{}}, which is not installed"):
                    import_module("numpy")
            value = getattr(import_module(room_of()[name]), name)
        else:
            meant = "" if name.startswith("_") else closest(name, room_of())
            raise AttributeError(f"module {package!r} has no attribute {name!r}{meant}")
        setattr(sys.modules[package], name, value)
        return value

    return get
