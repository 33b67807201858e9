"""Points beside images, to count by: ``NAME.json``, a list of [x, y], or ``NAME.csv``, a line a point.

Trains on ``train`` and tests on ``test`` or, where it is not there, ``val``. Each image has such a file, that
of an image of nothing is empty: an image that nobody has counted on is a fault.
"""

import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor

from decayfree.errors import InvalidInputError
from decayfree.study.data.annotated.listing import (
    Listing,
    Part,
    as_rows,
    first_with,
    images_in,
    is_number,
    lines_of,
    root_of,
    text_of,
)
from decayfree.study.data.decoding import raise_faults

_LAYOUT = (
    "It takes train and test or val, with images and beside each NAME.json (a list of [x, y] in pixels) or "
    "NAME.csv (a line x,y for each point); name the folder above them as data_dir."
)


def find(data_dir: str | None) -> Listing:
    """List the images of both parts and their points.

    Raises:
        InvalidInputError: If files are not there, or hold something else than points.
    """
    root = root_of(data_dir, "A folder of points", _LAYOUT)
    test = "test" if (root / "test").is_dir() else "val"
    folder = first_with([root], ["train", test], "A folder of points", _LAYOUT)
    return Listing(_part(folder / "train"), _part(folder / test), ("point",), 1)


def _part(folder: Path) -> Part:
    paths = images_in(folder)
    rows, faults = [], []
    for path in paths:
        try:
            rows.append(_points(path))
        except InvalidInputError as error:
            faults.append(str(error))
    raise_faults("files of points cannot be read", faults)
    return Part([str(path) for path in paths], rows=rows)


def _points(image: Path) -> Tensor:
    as_json, as_csv = image.with_suffix(".json"), image.with_suffix(".csv")
    if as_json.is_file() == as_csv.is_file():
        which = "both" if as_json.is_file() else "neither"
        raise InvalidInputError(f"{image}: expected {as_json.name} or {as_csv.name} beside it, found {which}")
    return _in_json(as_json) if as_json.is_file() else _in_csv(as_csv)


def _in_json(path: Path) -> Tensor:
    try:
        points = json.loads(text_of(path))
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path} is no JSON: {error}") from error
    wrong = [place for place, point in enumerate(points) if not _is_point(point)] if _is_list(points) else [0]
    if wrong:
        raise InvalidInputError(f"{path}: expected a list of [x, y], got something else at place {wrong[0]}")
    return as_rows(points, 2)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_point(point: Any) -> bool:
    return _is_list(point) and len(point) == 2 and all(map(is_number, point))


def _in_csv(path: Path) -> Tensor:
    rows = []
    for number, line in enumerate(lines_of(path), start=1):
        if not line or (number == 1 and line.replace(" ", "").lower() == "x,y"):
            continue
        try:
            x, y = map(float, line.split(","))
        except ValueError:
            x = y = math.nan
        if not (is_number(x) and is_number(y)):
            raise InvalidInputError(f"{path}:{number}: expected x,y, got {line!r}")
        rows.append((x, y))
    return as_rows(rows, 2)
