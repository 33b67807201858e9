"""Street View House Numbers, the cropped digits, from their authors' MATLAB files as torchvision keeps them.

Downloads nothing. The extra training images are not read. Neighbors in the files come from the same house, so
that `load` mixes them.
"""

import math
from pathlib import Path

import torch

from decayfree.errors import InvalidInputError, extra_needed
from decayfree.study.data.folders import cache_dir, folder_with
from decayfree.study.data.images import Images
from decayfree.study.data.matlab import check_size

_MOST_BYTES = 1 << 28
"""Of one file, packed or unpacked; that to train on has 73,257 images of 3,072."""
_NUMBERS = {"uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "single", "double"}
ADDRESS = "http://ufldl.stanford.edu/housenumbers/"
N_CLASSES = 10
_TRAIN, _TEST = "train_32x32.mat", "test_32x32.mat"


def read(data_dir: str | None) -> tuple[Images, Images]:
    """All training and all test images, in the order of the files: 32×32, in color.

    Args:
        data_dir: The folder with the two files; by default one in the user's cache folder.

    Raises:
        InvalidInputError: If a file is not there, or is not as published.
        MissingExtraError: If scipy, which reads MATLAB's files, is not installed.
    """
    folder = locate(data_dir)
    return read_part(folder / _TRAIN), read_part(folder / _TEST)


def locate(data_dir: str | None) -> Path:
    """The folder with the two files.

    Raises:
        InvalidInputError: If they are not there; says where it looked and how to get them.
    """
    folder = cache_dir("svhn") if data_dir is None else Path(data_dir)
    return folder_with(
        (_TRAIN, _TEST),
        (folder,),
        "SVHN",
        f"Put {ADDRESS}{_TRAIN} and {_TEST} from the same place there, or name as data_dir another folder "
        f"that has them; torchvision.datasets.SVHN({str(folder)!r}, split=..., download=True) with 'train' "
        "and with 'test' does so and checks what it got.",
    )


def read_part(path: Path) -> Images:
    """One file: ``X``, (32, 32, 3, n), and ``y``, (n, 1), in which 10 is the digit 0.

    Raises:
        InvalidInputError: If the file is something else, or is cut off.
        MissingExtraError: If scipy is not installed.
    """
    with extra_needed("study", "SVHN comes in MATLAB's files, which scipy reads, and it is not installed"):
        from scipy.io import loadmat, whosmat
    try:
        check_size(path, at_most=_MOST_BYTES)
        listed = {name: (shape, kind) for name, shape, kind in whosmat(path)}
        if {listed[name][1] for name in ("X", "y")} - _NUMBERS or math.prod(listed["X"][0]) > _MOST_BYTES:
            raise ValueError(f"it holds {listed}")
        content = loadmat(path, variable_names=("X", "y"))
        pixels = torch.from_numpy(content["X"])
        labels = torch.from_numpy(content["y"].astype("int64")).flatten()
    except Exception as error:  # a damaged file may raise anything
        raise InvalidInputError(
            f"{path} is not a file of SVHN, or it is cut off: {type(error).__name__}: {error}"
        ) from error
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[:3] != (32, 32, 3):
        raise InvalidInputError(
            f"{path}: expected bytes of shape (32, 32, 3, n), got {tuple(pixels.shape)} of {pixels.dtype}"
        )
    if len(labels) != pixels.shape[3] or not ((labels >= 1) & (labels <= N_CLASSES)).all():
        raise InvalidInputError(
            f"{path}: expected a label from 1 to 10 for each of {pixels.shape[3]} images, got {len(labels)} "
            f"labels of values {sorted(set(labels.tolist()))}"
        )
    images = pixels.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    return Images(images, labels % N_CLASSES)
