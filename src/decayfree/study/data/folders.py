"""Where data is looked for, and what is said where it is not.

Reads no data and downloads nothing.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from decayfree.errors import InvalidInputError


def cache_dir(name: str) -> Path:
    """The user's own folder for the data of this name: under ``XDG_CACHE_HOME`` or ``~/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "decayfree" / name


def not_found(title: str, looked: Mapping[Path, str], cure: str) -> InvalidInputError:
    """The error for data that is nowhere.

    Args:
        title: What the data is called.
        looked: Folder -> what is not right with it.
        cure: How to get the data, a sentence.
    """
    lines = "\n  ".join(f"{folder}: {reason}" for folder, reason in looked.items())
    return InvalidInputError(f"{title} was not found. Looked in\n  {lines}\n{cure}")


def missing(folder: Path, names: list[str]) -> str:
    """What is not right with a folder: that it is not there, or that it is without these files."""
    return f"without {', '.join(names)}" if folder.is_dir() else "no such folder"
