"""COCO-Stuff: the images of COCO 2017 with a mask of 171 classes of things and stuff each.

Trains on ``train2017`` and tests on ``val2017``. A pixel of the masks is the class's number minus 1, of which
11 are not used; 255 is what is not labelled. Annotations are under CC BY 4.0, images of flickr's users.

References:
    Caesar, Uijlings and Ferrari, "COCO-Stuff: Thing and Stuff Classes in Context", 2018, arXiv 1612.03716.
"""

import re

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
from decayfree.study.data.truth import IGNORED

_N_NUMBERS = 182
_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
_NAMES = "labels.txt"
_LAYOUT = (
    "It takes images/train2017 and images/val2017, and masks of the same names as PNG files in "
    "annotations/train2017 and annotations/val2017 (or stuffthingmaps for annotations), and where it is "
    f"there the names in {_NAMES}; name the folder above them as data_dir. It is at "
    "https://github.com/nightrome/cocostuff, stuffthingmaps_trainval2017.zip."
)


def find(data_dir: str | None) -> Listing:
    """List the images of ``train2017`` and ``val2017`` and their masks.

    Raises:
        InvalidInputError: If files are not there, or ``labels.txt`` has not the names of all classes.
    """
    root = root_of(data_dir, "COCO-Stuff", _LAYOUT)
    masks = "stuffthingmaps" if (root / "stuffthingmaps").is_dir() else "annotations"
    parts = ("train2017", "val2017")
    wanted = [f"{kind}/{part}" for kind in ("images", masks) for part in parts]
    folder = first_with([root], wanted, "COCO-Stuff", _LAYOUT)
    used = [number for number in range(1, _N_NUMBERS + 1) if number not in _UNUSED]
    values = {number - 1: place for place, number in enumerate(used)} | {255: IGNORED}
    names: tuple[str, ...] = ()
    if (folder / _NAMES).is_file():
        path = folder / _NAMES
        found = [re.fullmatch(r"(\d+): (.+)", line) for line in lines_of(path)]
        by_number = {int(each[1]): each[2] for each in found if each}
        absent = [str(number) for number in used if number not in by_number]
        if absent:
            raise InvalidInputError(f"{path} has no line NUMBER: NAME for {', '.join(absent)}")
        names = tuple(by_number[number] for number in used)

    def part(name: str) -> Part:
        images = images_in(folder / "images" / name)
        return masked(images, [folder / masks / name / f"{path.stem}.png" for path in images])

    return Listing(part(parts[0]), part(parts[1]), names, len(used), values=values)
