"""PASCAL VOC 2012 as published: palette masks for segmentation, XML files with boxes for detection.

Trains on what ``train.txt`` lists and tests on ``val.txt``, since the annotations of its test part are not
public. Boxes of objects that are marked difficult are ignored. Pictures are of flickr's users, under the
terms of each.

References:
    Everingham et al., "The Pascal Visual Object Classes Challenge: A Retrospective", 2015.
"""

import math
from pathlib import Path
from xml.etree import ElementTree

from torch import Tensor

from decayfree.errors import InvalidInputError
from decayfree.study.data.annotated.listing import (
    Listing,
    Part,
    as_rows,
    first_with,
    is_number,
    masked,
    names_in,
    root_of,
    text_of,
)
from decayfree.study.data.decoding import raise_faults
from decayfree.study.data.truth import IGNORED
from decayfree.study.run_settings import TaskName

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable"),
    *("dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_LAYOUT = (
    "It takes JPEGImages, ImageSets/Segmentation and SegmentationClass or, for boxes, ImageSets/Main and "
    "Annotations; name as data_dir the folder VOC2012 that has them, or one above it. It is at "
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/; torchvision.datasets.VOCSegmentation(root, "
    "image_set='train', download=True) fetches it."
)


def find(data_dir: str | None, task: TaskName) -> Listing:
    """List the images of ``train.txt`` and ``val.txt``, with their masks or boxes.

    Raises:
        InvalidInputError: If files are not there or are damaged, or an object is of no class.
    """
    root = root_of(data_dir, "PASCAL VOC", _LAYOUT)
    folders = [root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"]
    sets, marks = ("Segmentation", "SegmentationClass") if task == "segmentation" else ("Main", "Annotations")
    lists = [f"ImageSets/{sets}/{part}.txt" for part in ("train", "val")]
    folder = first_with(folders, ["JPEGImages", marks, *lists], "PASCAL VOC", _LAYOUT)
    if task == "segmentation":
        train, test = (_with_masks(folder, names_in(folder / path)) for path in lists)
        classes = ("background", *CLASSES)
        values = {number: number for number in range(len(classes))} | {255: IGNORED}
        return Listing(train, test, classes, len(classes), values=values)
    train, test = (_with_boxes(folder, names_in(folder / path)) for path in lists)
    return Listing(train, test, CLASSES, len(CLASSES))


def _with_masks(folder: Path, names: list[str]) -> Part:
    return masked(
        [folder / "JPEGImages" / f"{name}.jpg" for name in names],
        [folder / "SegmentationClass" / f"{name}.png" for name in names],
    )


def _with_boxes(folder: Path, names: list[str]) -> Part:
    rows, sizes, faults = [], [], []
    for name in names:
        path = folder / "Annotations" / f"{name}.xml"
        try:
            boxes, size = _read(path)
        except InvalidInputError as error:
            faults.append(str(error))
            continue
        rows.append(boxes)
        sizes.append(size)
    raise_faults("annotations of PASCAL VOC cannot be read", faults)
    paths = [str(folder / "JPEGImages" / f"{name}.jpg") for name in names]
    return Part(paths, rows=rows, sizes=sizes)


def _read(path: Path) -> tuple[Tensor, tuple[int, int]]:
    """Boxes and size of one image."""
    text = text_of(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InvalidInputError(f"{path}: defines entities, which no annotation does")
    try:
        tree = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InvalidInputError(f"{path}: {error}") from error
    rows = []
    for number, thing in enumerate(tree.iterfind("object"), start=1):
        name = (thing.findtext("name") or "").strip()
        if name not in CLASSES:
            raise InvalidInputError(f"{path}: object {number} is of no class of PASCAL VOC: {name!r}")
        corners = [thing.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        try:
            x1, y1, x2, y2 = (float(corner or "") for corner in corners)
        except ValueError:
            x1 = y1 = x2 = y2 = math.nan
        if not all(map(is_number, (x1, y1, x2, y2))):
            raise InvalidInputError(
                f"{path}: object {number}: expected xmin, ymin, xmax and ymax, got {corners}"
            )
        difficult = (thing.findtext("difficult") or "0").strip()
        if difficult not in ("0", "1"):
            raise InvalidInputError(f"{path}: object {number}: difficult: expected 0 or 1, got {difficult!r}")
        # Its pixels are counted from 1, and the last one belongs to the box.
        rows.append((x1 - 1, y1 - 1, x2, y2, CLASSES.index(name), difficult == "1"))
    sides = [(tree.findtext(f"size/{side}") or "0").strip() for side in ("width", "height")]
    width, height = (int(side) if side.isdecimal() else 0 for side in sides)
    return as_rows(rows, 6), (width, height)
