"""The 5,000 handwritten digits that come with OpenCV's samples: 20×20 grey pixels in one picture.

Splits nothing. The picture has 50 rows of 100 digits; each class has five rows.
"""

from pathlib import Path

import torch

from decayfree.errors import InvalidInputError, extra_needed
from decayfree.study.data.draws import generator_for
from decayfree.study.data.folders import cache_dir, folder_with
from decayfree.study.data.images import Images

DEBIAN_DIR = Path("/usr/share/doc/opencv-doc/examples/data")
FILE = "digits.png"
N_CLASSES = 10
_SIDE, _N_ROWS, _N_COLUMNS = 20, 50, 100


def locate(data_dir: str | None = None) -> Path:
    """The picture ``digits.png``.

    Args:
        data_dir: The folder to look in; by default a cache folder of the user, then Debian's.

    Raises:
        InvalidInputError: If it is nowhere; says where it looked and how to get it.
    """
    folders = [cache_dir("opencv-digits"), DEBIAN_DIR] if data_dir is None else [Path(data_dir)]
    cure = (
        "Install Debian's package opencv-doc, or name a folder with digits.png of OpenCV's samples "
        "(samples/data in its sources) with --data-dir (data_dir in a spec)."
    )
    return folder_with([FILE], folders, "The digits of OpenCV", cure) / FILE


def read(path: Path) -> Images:
    """All of them, in a mixed order that is the same for all seeds.

    Raises:
        InvalidInputError: If the picture is not that of the digits.
        MissingExtraError: If Pillow is not installed.
    """
    with extra_needed("study", "images are decoded with Pillow, which is not installed"):
        from PIL import Image
    wanted = _SIDE * _N_COLUMNS, _SIDE * _N_ROWS
    try:
        with Image.open(path) as opened:  # which reads no pixel yet
            size, pixels = opened.size, opened.convert("L").tobytes() if opened.size == wanted else b""
    except Exception as error:  # a damaged file may raise anything
        raise InvalidInputError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if size != wanted:
        raise InvalidInputError(
            f"{path}: expected a picture of {wanted[0]:,}×{wanted[1]:,} pixels, 5,000 digits of 20×20; got "
            f"{size[0]:,}×{size[1]:,}"
        )
    picture = torch.frombuffer(bytearray(pixels), dtype=torch.uint8)
    tiles = picture.view(_N_ROWS, _SIDE, _N_COLUMNS, _SIDE).transpose(1, 2).reshape(-1, _SIDE, _SIDE)
    labels = torch.arange(len(tiles)) // (len(tiles) // N_CLASSES)
    order = torch.randperm(len(tiles), generator=generator_for("split"))
    return Images(tiles[order], labels[order])
