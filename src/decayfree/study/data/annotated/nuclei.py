"""Nuclei in fluorescence: stardist's test picture with a mask of 125 of them, in 16 tiles.

The picture is of the 2018 Data Science Bowl, which is in the public domain (CC0); stardist is under BSD-3.
Four tiles, the last column, are to test with.

References:
    Caicedo et al., "Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl", 2019.
"""

import torch

from decayfree.study.data.annotated.packaged import folder_of, grey
from decayfree.study.data.annotated.tiles import tiles
from decayfree.study.data.images import Images
from decayfree.study.run_settings import TaskName

CLASS_NAMES = ("nucleus",)
_SIDE = 512
_PICTURE, _MASK = "img2d.tif", "mask2d.tif"


def read(data_dir: str | None, *, size: int, task: TaskName) -> tuple[Images, Images]:
    """12 tiles to train on and 4 to test with, grey.

    Raises:
        InvalidInputError: If the files are not there or are others.
        MissingExtraError: If stardist is not installed.
    """
    folder = folder_of("stardist", "data/images", [_PICTURE, _MASK], "the nuclei", data_dir)
    picture, mask = (grey(folder / name, shape=(_SIDE, _SIDE)) for name in (_PICTURE, _MASK))
    _, objects = mask.unique(return_inverse=True)  # 0 stays 0, the others become 1, 2, ...
    pixels = picture.clamp(max=255).to(torch.uint8)  # of 16 bits, of which it uses 8
    return tiles(pixels, objects, grid=(4, 4), size=size, task=task)
