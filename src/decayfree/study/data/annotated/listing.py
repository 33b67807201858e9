"""What is in a folder of annotated images: files, and what is said of each.

Opens no picture. Each format has a file beside this one, which makes a `Listing`; faults are collected and
told at once.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from decayfree.errors import InvalidInputError
from decayfree.study.data.decoding import raise_faults
from decayfree.study.data.folders import not_found
from decayfree.study.disk import read_text

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_MOST_BYTES = 1 << 24
"""Of a file of annotations of one image, or a list of names."""
_LARGEST = 1e9
"""Of a coordinate, in pixels."""


@dataclass(frozen=True)
class Part:
    """The images of one part; as lists, since there may be very many."""

    paths: list[str]
    masks: list[str] = field(default_factory=list)
    """The file of each one's mask; empty where there are boxes or points."""
    rows: list[Tensor] = field(default_factory=list)
    """Of each, its boxes (n, 6) or points (n, 2) as `Truth` has them, float32; empty where there are masks.
    """
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """Width and height as the annotations have them; empty where they do not, 0 for one that is not told."""

    def __len__(self) -> int:
        return len(self.paths)

    def at(self, positions: list[int]) -> "Part":
        """The images at these positions, in this order."""
        return Part(
            [self.paths[i] for i in positions],
            [self.masks[i] for i in positions if self.masks],
            [self.rows[i] for i in positions if self.rows],
            [self.sizes[i] for i in positions if self.sizes],
        )


@dataclass(frozen=True)
class Listing:
    """A data set."""

    train: Part
    test: Part
    class_names: tuple[str, ...]
    n_classes: int
    values: Mapping[int, int] = field(default_factory=dict)
    """Value of a pixel of a mask -> its class, or `IGNORED`; other values are faults."""
    colors: Mapping[tuple[int, int, int], int] = field(default_factory=dict)
    """The same of masks that have colors."""
    in_shares: bool = False
    """Rows are shares of width and height; else pixels."""
    notes: tuple[str, ...] = ()


def first_with(folders: Sequence[Path], wanted: Sequence[str], title: str, layout: str) -> Path:
    """The first of these folders that has all these files or folders; an error that says the layout if none.

    Raises:
        InvalidInputError: If none has.
    """
    looked = {}
    for folder in folders:
        absent = [name for name in wanted if not (folder / name).exists()]
        if not absent:
            return folder
        looked[folder] = f"without {', '.join(absent)}" if folder.is_dir() else "no such folder"
    raise not_found(title, looked, layout)


def root_of(data_dir: str | None, title: str, layout: str) -> Path:
    """The folder that the spec names.

    Raises:
        InvalidInputError: If it names none.
    """
    if data_dir is None:
        raise InvalidInputError(f"{title} has no place of its own. {layout}")
    return Path(data_dir)


def images_in(folder: Path) -> list[Path]:
    """Sorted by name.

    Raises:
        InvalidInputError: If there is no such folder or no image in it, or two would have one annotation.
    """
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in EXTENSIONS)
    if not found:
        reason = "has no image" if folder.is_dir() else "is no folder"
        raise InvalidInputError(f"{folder} {reason} ({', '.join(EXTENSIONS)})")
    raise_faults(f"names have several images in {folder}", _repeated(path.stem for path in found))
    return found


def lines_of(path: Path) -> list[str]:
    """The lines of a small text file without spaces around them.

    Raises:
        InvalidInputError: If it cannot be read.
    """
    return [line.strip() for line in text_of(path).splitlines()]


def text_of(path: Path, *, at_most: int = _MOST_BYTES) -> str:
    """A text file.

    Raises:
        InvalidInputError: If it cannot be read, is larger than ``at_most`` bytes, or no UTF-8.
    """
    try:
        return read_text(path, at_most=at_most)
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{path} cannot be read: {error}") from error


def names_in(path: Path) -> list[str]:
    """The first word of each line that has one: the names of images.

    Raises:
        InvalidInputError: If it cannot be read, or names come twice.
    """
    names = [line.split()[0] for line in lines_of(path) if line]
    raise_faults(f"names come twice in {path}", _repeated(names))
    return names


def masked(images: Sequence[Path], masks: Sequence[Path]) -> Part:
    """Images and their masks.

    Raises:
        InvalidInputError: If masks are not there, all of them named at once.
    """
    absent = [f"{path}" for path in masks if not path.is_file()]
    raise_faults("masks are not there", absent)
    return Part([str(path) for path in images], masks=[str(path) for path in masks])


def is_number(value: object) -> bool:
    """Whether it is one that a place in a picture can have; neither NaN nor True is.

    Example:
        >>> is_number(-2.5), is_number(float("inf")), is_number(10**400), is_number(True), is_number("1")
        (True, False, False, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def as_rows(rows: Sequence[Sequence[float]], n_numbers: int) -> Tensor:
    """(n, n_numbers), float32, also of none."""
    return torch.tensor(rows, dtype=torch.float32).view(-1, n_numbers)


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
