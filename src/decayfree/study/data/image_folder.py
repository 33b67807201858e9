"""Images and their classes in a folder with one folder for each class: ImageNet, Tiny ImageNet, one's own.

Opens no image. Classes are numbered and images ordered as torchvision's ImageFolder does it.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from decayfree.errors import InvalidInputError
from decayfree.study.data.folders import not_found
from decayfree.study.disk import read_text

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Other files are passed over, as torchvision does."""
_ANNOTATIONS = "val_annotations.txt"
_MOST_BYTES = 1 << 26
"""Of that; Tiny ImageNet's has 0.3 million."""
_LAYOUT = (
    "It takes a folder train and a folder val or test with one folder of images for each class, "
    "or val as Tiny ImageNet has it, with images and val_annotations.txt; name the folder above them as "
    "data_dir. ImageNet is at https://www.image-net.org/download.php, Tiny ImageNet at "
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip."
)


@dataclass(frozen=True)
class Part:
    """The images of one part; as lists, since there may be millions."""

    paths: list[str]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.paths)

    def at(self, positions: list[int]) -> "Part":
        """The images at these positions, in this order."""
        return Part([self.paths[i] for i in positions], [self.labels[i] for i in positions])


@dataclass(frozen=True)
class Tree:
    """What is in the folder."""

    classes: tuple[str, ...]
    """Sorted; a class's number is its place here."""
    train: Part
    test: Part


def find(data_dir: str | None) -> Tree:
    """List the images of ``train``, and of ``test`` or, where it is missing or has no class folders, ``val``.

    Raises:
        InvalidInputError: If a part is not there, a class has no image, or the test part has classes that
            ``train`` has not.
    """
    if data_dir is None:
        raise InvalidInputError(f"an image folder has no place of its own. {_LAYOUT}")
    root = Path(data_dir)
    classes = _folders_in(root / "train")
    if not classes:
        raise not_found("A folder with images", {root / "train": _fault(root / "train")}, _LAYOUT)
    train = _listed(root / "train", classes)
    folder = _test_folder(root, classes)
    test = _annotated(folder, classes) if (folder / _ANNOTATIONS).is_file() else _listed(folder, classes)
    return Tree(tuple(classes), train, test)


def _test_folder(root: Path, classes: list[str]) -> Path:
    for folder in (root / "test", root / "val"):
        if set(_folders_in(folder)) & set(classes) or (folder / _ANNOTATIONS).is_file():
            return folder
    looked = {folder: _fault(folder) for folder in (root / "test", root / "val")}
    raise not_found("The test part of a folder with images", looked, _LAYOUT)


def _fault(folder: Path) -> str:
    return "without folders of classes" if folder.is_dir() else "no such folder"


def _folders_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()) if folder.is_dir() else []


def _listed(folder: Path, classes: list[str]) -> Part:
    """The images of a folder of classes; those of the test part may be some of the classes only."""
    present = _folders_in(folder)
    strange = sorted(set(present) - set(classes))
    if strange:
        raise InvalidInputError(f"{folder} has classes that train has not: {', '.join(strange)}")
    paths: list[str] = []
    labels: list[int] = []
    empty = []
    for label, name in enumerate(classes):
        found = _images_below(folder / name) if name in present else []
        if name in present and not found:
            empty.append(name)
        paths += found
        labels += [label] * len(found)
    if empty:
        raise InvalidInputError(
            f"{folder} has classes without an image ({', '.join(EXTENSIONS)}): {', '.join(empty)}"
        )
    return Part(paths, labels)


def _images_below(folder: Path) -> list[str]:
    """Of the folder and the folders in it, in torchvision's order."""
    return [
        os.path.join(parent, name)  # noqa: PTH118, a million Path objects are slow
        for parent, names in sorted(_walked(folder))
        for name in sorted(names)
        if name.lower().endswith(EXTENSIONS)
    ]


def _walked(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder below, and the files in it; not again one that a link inside it leads back to."""
    above: dict[str, frozenset[tuple[int, int]]] = {str(folder): frozenset()}
    for parent, below, names in os.walk(folder, followlinks=True):
        status = os.stat(parent)  # noqa: PTH116
        own = (status.st_dev, status.st_ino)
        if own in above[parent]:
            below.clear()
            continue
        above |= {os.path.join(parent, name): above[parent] | {own} for name in below}  # noqa: PTH118
        yield parent, names


def _annotated(folder: Path, classes: list[str]) -> Part:
    """Tiny ImageNet's val: a line an image with its name, class and a box; the images lie in ``images``."""
    path = folder / _ANNOTATIONS
    number = {name: label for label, name in enumerate(classes)}
    paths, labels, faults = [], [], []
    try:
        text = read_text(path, at_most=_MOST_BYTES)
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{path} cannot be read: {error}") from error
    for index, line in enumerate(text.splitlines(), start=1):
        name, _, rest = line.partition("\t")
        label = number.get(rest.partition("\t")[0])
        if label is None:
            faults.append(str(index))
            continue
        paths.append(str(folder / "images" / name))
        labels.append(label)
    if faults:
        raise InvalidInputError(f"{path} names no class of train in the lines {', '.join(faults)}")
    return Part(paths, labels)
