"""The points of crowds in MATLAB files, as ShanghaiTech and UCF-QNRF have them.

Knows no folders; there is a file for each set beside this one.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decayfree.errors import InvalidInputError, extra_needed
from decayfree.study.data.annotated.listing import Part
from decayfree.study.data.decoding import raise_faults
from decayfree.study.data.matlab import check_size

_MOST_BYTES = 1 << 24
"""Of one file, packed or unpacked; one of 12,000 points has 200,000."""


def part(images: Sequence[Path], files: Sequence[Path], points_in: Callable[[dict[str, Any]], Any]) -> Part:
    """Images and the points of each, taken out of what its file holds.

    Raises:
        InvalidInputError: If files are not there or hold something else, all of them named at once.
        MissingExtraError: If scipy is not installed.
    """
    rows, faults = [], []
    for file in files:
        try:
            rows.append(_read(file, points_in))
        except InvalidInputError as error:
            faults.append(str(error))
    raise_faults("files of points cannot be read", faults)
    return Part([str(path) for path in images], rows=rows)


def _read(path: Path, points_in: Callable[[dict[str, Any]], Any]) -> Tensor:
    with extra_needed("study", "crowds come with MATLAB's files, which scipy reads, and it is not installed"):
        from scipy.io import loadmat
    try:
        check_size(path, at_most=_MOST_BYTES)
        points = torch.from_numpy(points_in(loadmat(path)).astype("float32"))
    except Exception as error:  # a damaged file may raise anything
        raise InvalidInputError(f"{path}: {type(error).__name__}: {error}") from error
    if points.numel() == 0:
        return torch.zeros(0, 2)
    if points.ndim != 2 or points.shape[1] != 2 or not points.isfinite().all():
        raise InvalidInputError(f"{path}: expected points (n, 2), got {tuple(points.shape)} or no numbers")
    return points
