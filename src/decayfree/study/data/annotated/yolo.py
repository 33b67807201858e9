"""Boxes in YOLO's text files: a line a box with class, center and size, as shares of the image.

Trains on ``train`` and tests on ``test`` or, where it is not there, ``val``. An image without a file of
labels is an image of nothing, as in the tools of the format; how many there are is noted, and so are boxes
that come twice, which are taken once.
"""

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from decayfree.errors import InvalidInputError
from decayfree.study.data.annotated.listing import (
    Listing,
    Part,
    as_rows,
    images_in,
    lines_of,
    root_of,
    text_of,
)
from decayfree.study.data.decoding import raise_faults
from decayfree.study.data.folders import not_found

_PARTS = {"train": ("train",), "test": ("test", "val", "valid")}
_BEYOND = 1e-3
"""Shares may lie so far outside of the image by rounding."""
_LAYOUT = (
    "It takes images/PART and labels/PART (or PART/images and PART/labels) with the parts train and test, "
    "val or valid, and the names of the classes in data.yaml or, a line each, in classes.txt; name the "
    "folder above them as data_dir."
)


def find(data_dir: str | None) -> Listing:
    """List the images of both parts and their boxes, in shares of width and height.

    Raises:
        InvalidInputError: If folders are not there, or lines are no boxes or of no class.
    """
    root = root_of(data_dir, "A YOLO folder", _LAYOUT)
    names = _names(root)
    folders = {part: _folders(root, part) for part in _PARTS}
    read = {part: _part(*both, len(names)) for part, both in folders.items()}
    notes = tuple(note for part, (_, told) in read.items() for note in told)
    return Listing(read["train"][0], read["test"][0], names, len(names), in_shares=True, notes=notes)


def _names(root: Path) -> tuple[str, ...]:
    if (root / "data.yaml").is_file():
        path = root / "data.yaml"
        try:
            import yaml
        except ImportError:
            pass
        else:
            return _names_in(path, yaml)
    path = root / "classes.txt"
    if not path.is_file():
        raise not_found(
            "The classes of a YOLO folder",
            {root: "without classes.txt, and without data.yaml or PyYAML, which reads it"},
            _LAYOUT,
        )
    names = tuple(line for line in lines_of(path) if line)
    if not names:
        raise InvalidInputError(f"{path} names no class")
    return names


def _names_in(path: Path, yaml: Any) -> tuple[str, ...]:
    try:
        content = yaml.safe_load(text_of(path))
    except yaml.YAMLError as error:
        raise InvalidInputError(f"{path} is no YAML: {error}") from error
    found = content.get("names") if isinstance(content, dict) else None
    if isinstance(found, dict) and sorted(found, key=str) == sorted(range(len(found)), key=str):
        found = [found[number] for number in range(len(found))]
    if not isinstance(found, list) or not found or not all(isinstance(name, str) for name in found):
        raise InvalidInputError(
            f"{path}: names: expected a list of names, or one for each of 0, 1 and so on; got {found!r}"
        )
    return tuple(found)


def _folders(root: Path, part: str) -> tuple[Path, Path]:
    """The folder of images and that of labels."""
    looked = {}
    for name in _PARTS[part]:
        for images, labels in (
            (root / "images" / name, root / "labels" / name),
            (root / name / "images", root / name / "labels"),
        ):
            if images.is_dir() and labels.is_dir():
                return images, labels
            looked[images] = f"without {labels}" if images.is_dir() else "no such folder"
    raise not_found(f"The {part} part of a YOLO folder", looked, _LAYOUT)


def _part(images: Path, labels: Path, n_classes: int) -> tuple[Part, list[str]]:
    paths = images_in(images)
    rows: list[Tensor] = []
    faults: list[str] = []
    n_absent = n_twice = 0
    for path in paths:
        file = labels / f"{path.stem}.txt"
        if not file.is_file():
            n_absent += 1
            rows.append(as_rows([], 6))
            continue
        boxes, n_same = _boxes(file, n_classes, faults)
        rows.append(boxes)
        n_twice += n_same
    raise_faults("lines are no boxes of YOLO", faults)
    told = {"images without a file of labels are images of nothing": n_absent}
    told["boxes come twice and are taken once"] = n_twice
    notes = [f"{images}: {count} {what}." for what, count in told.items() if count]
    return Part([str(path) for path in paths], rows=rows), notes


def _boxes(file: Path, n_classes: int, faults: list[str]) -> tuple[Tensor, int]:
    """The boxes of an image, each once, and how many came again."""
    rows: dict[tuple[float, ...], None] = {}
    n_lines = 0
    for number, line in enumerate(lines_of(file), start=1):
        if not line:
            continue
        box = _box(line.split(), n_classes)
        if isinstance(box, str):
            faults.append(f"{file}:{number}: {box}")
            continue
        rows[box] = None
        n_lines += 1
    return as_rows(list(rows), 6), n_lines - len(rows)


def _box(words: list[str], n_classes: int) -> tuple[float, ...] | str:
    """x₁, y₁, x₂, y₂, class and 0, or what is wrong."""
    try:
        label, x, y, width, height = map(float, words)
    except ValueError:
        return f"expected a class and four numbers, got {' '.join(words)!r}"
    if label not in range(n_classes):
        return f"expected a class from 0 to {n_classes - 1}, got {words[0]}"
    if not all(-_BEYOND <= share <= 1 + _BEYOND for share in (x, y, width, height) if not math.isnan(share)):
        return f"expected shares of the image from 0 to 1, got {' '.join(words[1:])}"
    if math.isnan(x + y + width + height):
        return f"expected four numbers, got {' '.join(words[1:])}"
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2, label, 0.0)
