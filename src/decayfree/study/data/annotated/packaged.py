"""Pictures that come inside Python packages, read from their files without importing them.

Knows no picture. A folder of the user's may stand for that of the package.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from decayfree.errors import InvalidInputError, extra_needed
from decayfree.study.data.folders import folder_with


def folder_of(package: str, inside: str, files: list[str], title: str, data_dir: str | None) -> Path:
    """The folder with these files: ``data_dir``, or ``inside`` of an installed package.

    Raises:
        InvalidInputError: If ``data_dir`` has not all of them.
        MissingExtraError: If the package is not installed.
    """
    if data_dir is not None:
        cure = f"Leave data_dir out to read them from {package}, or name a folder that has them."
        return folder_with(files, [Path(data_dir)], title, cure)
    with extra_needed("real", f"{title} come inside {package}, which is not installed"):
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise ImportError(name=package)
    return folder_with(
        files,
        [Path(spec.origin).parent / inside],
        title,
        f"This version of {package} has them not: pip install 'decayfree[real]', or name a folder that has "
        "them as data_dir.",
    )


def grey(path: Path, *, shape: tuple[int, int]) -> Tensor:
    """(height, width), int64: the numbers of a picture of one channel.

    Raises:
        InvalidInputError: If it is no such picture of this height and width.
        MissingExtraError: If Pillow or numpy is not installed.
    """
    with extra_needed("study", "pictures are read with Pillow and numpy; {} is not installed"):
        import numpy as np
        from PIL import Image
    try:
        with Image.open(path) as opened:  # which reads no pixel yet
            size = opened.height, opened.width
            values = np.array(opened).astype("int64") if size == shape else np.zeros(0)
    except Exception as error:  # a damaged file may raise anything
        raise InvalidInputError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if values.shape != shape:
        raise InvalidInputError(
            f"{path}: expected one channel of {shape[0]}×{shape[1]} numbers, got a picture of "
            f"{size[0]}×{size[1]}"
        )
    return torch.from_numpy(values)
