"""24 Greek coins from Pompeii: scikit-image's picture, with objects that we segment, in 12 tiles.

Pixels darker than 30 are ground and brighter than 150 a coin; the others go to one of them by a watershed of
Sobel's gradient, as in scikit-image's tutorial; holes are filled and specks removed. The picture is the
Brooklyn Museum's, without known restrictions. Three tiles, the last column, are to test with.

References:
    van der Walt et al., "scikit-image: image processing in Python", 2014, section on region-based
    segmentation.
"""

from pathlib import Path

import torch
from torch import Tensor

from decayfree.errors import InvalidInputError, extra_needed
from decayfree.study.data.annotated.packaged import folder_of, grey
from decayfree.study.data.annotated.tiles import tiles
from decayfree.study.data.images import Images
from decayfree.study.run_settings import TaskName

CLASS_NAMES = ("coin",)
N_COINS = 24
_FILE, _SHAPE = "coins.png", (303, 384)


def read(data_dir: str | None, *, size: int, task: TaskName) -> tuple[Images, Images]:
    """9 tiles to train on and 3 to test with, grey.

    Raises:
        InvalidInputError: If the picture is not there, or not that of 24 coins.
        MissingExtraError: If scikit-image or scipy is not installed.
    """
    path = folder_of("skimage", "data", [_FILE], "the coins", data_dir) / _FILE
    picture = grey(path, shape=_SHAPE)
    objects = segmented(picture, path)
    return tiles(picture.to(torch.uint8), objects, grid=(3, 4), size=size, task=task)


def segmented(picture: Tensor, path: Path) -> Tensor:
    """(height, width), int64: 0 for ground, and 1 to 24.

    Raises:
        InvalidInputError: If there are not 24.
        MissingExtraError: If scipy is not installed.
    """
    with extra_needed("study", "the coins are segmented with scipy, which is not installed"):
        from scipy import ndimage
    values = picture.double().numpy()
    gradient = torch.from_numpy(ndimage.sobel(values, 0)).hypot(torch.from_numpy(ndimage.sobel(values, 1)))
    height = (gradient / gradient.max().clamp(min=1) * 255).to(torch.uint8).numpy()
    markers = ((picture < 30) + 2 * (picture > 150)).to(torch.int16).numpy()
    is_coin = ndimage.binary_fill_holes(ndimage.watershed_ift(height, markers) == 2)
    objects, n_objects = ndimage.label(ndimage.binary_opening(is_coin, iterations=2))
    if n_objects != N_COINS:
        raise InvalidInputError(f"{path}: expected a picture of {N_COINS} coins, found {n_objects}")
    return torch.from_numpy(objects).long()
