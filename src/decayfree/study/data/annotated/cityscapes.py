"""Cityscapes with its fine annotations: 19 classes, of the 34 ids in ``*_gtFine_labelIds.png``.

Trains on ``train`` and tests on ``val``, since the annotations of its test part are not public. The other ids
are ignored, as in its benchmark. Its licence is for research, and does not let the images be passed on.

References:
    Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", 2016, arXiv 1604.01685.
"""

from pathlib import Path

from decayfree.errors import InvalidInputError
from decayfree.study.data.annotated.listing import Listing, Part, first_with, masked, root_of
from decayfree.study.data.truth import IGNORED

_IDS = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
"""Name -> id in the files; the class is the place here, which is the official train id."""
_N_IDS = 34
_IMAGE, _MASK = "_leftImg8bit.png", "_gtFine_labelIds.png"
_LAYOUT = (
    f"It takes leftImg8bit/PART/CITY/NAME{_IMAGE} and gtFine/PART/CITY/NAME{_MASK} with the parts train and "
    "val; name the folder above them as data_dir. It is at https://www.cityscapes-dataset.com."
)


def find(data_dir: str | None) -> Listing:
    """List the images of ``train`` and ``val`` and their masks.

    Raises:
        InvalidInputError: If files are not there.
    """
    root = root_of(data_dir, "Cityscapes", _LAYOUT)
    wanted = [f"{kind}/{part}" for kind in ("leftImg8bit", "gtFine") for part in ("train", "val")]
    folder = first_with([root], wanted, "Cityscapes", _LAYOUT)
    # 255 is what the license plates of id -1 are where a byte has to hold it.
    values = dict.fromkeys((*range(_N_IDS), 255), IGNORED)
    values |= {number: place for place, number in enumerate(_IDS.values())}
    train, test = (_part(folder, part) for part in ("train", "val"))
    return Listing(train, test, tuple(_IDS), len(_IDS), values=values)


def _part(folder: Path, part: str) -> Part:
    images = sorted((folder / "leftImg8bit" / part).glob(f"*/*{_IMAGE}"))
    if not images:
        raise InvalidInputError(f"{folder / 'leftImg8bit' / part} has no CITY/NAME{_IMAGE}")
    masks = [
        folder / "gtFine" / part / path.parent.name / path.name.replace(_IMAGE, _MASK) for path in images
    ]
    return masked(images, masks)
