"""Where data is looked for, and what is said where it is not.

Reads no data and downloads nothing.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from decayfree.errors import InvalidInputError


def cache_dir(name: str) -> Path:
    """The user's own folder for the data of this name: under ``XDG_CACHE_HOME`` or ``~/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "decayfree" / name


def folder_with(
    names: Sequence[str],
    folders: Iterable[Path],
    title: str,
    cure: str,
    *,
    has: Callable[[Path, str], object] = lambda folder, name: (folder / name).is_file(),
) -> Path:
    """The first of these folders that has all these files; `not_found` is raised where none has."""
    looked = {}
    for folder in folders:
        absent = [name for name in names if not has(folder, name)]
        if not absent:
            return folder
        looked[folder] = f"without {', '.join(absent)}" if folder.is_dir() else "no such folder"
    raise not_found(title, looked, cure)


def not_found(title: str, looked: Mapping[Path, str], cure: str) -> InvalidInputError:
    """The error for data that is nowhere: what is not right with each folder, and how to get the data."""
    lines = "\n  ".join(f"{folder}: {reason}" for folder, reason in looked.items())
    return InvalidInputError(f"{title} was not found. Looked in\n  {lines}\n{cure}")
