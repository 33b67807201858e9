"""What scenes are drawn of: items and photographs, of which each part has its own.

Draws nothing. Items are Fashion-MNIST's, or scikit-learn's digits where its files are not there; the ground
is the two photographs that come with scikit-learn, China by danielbuechele and a flower by vultilion, both
under CC BY 2.0.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from decayfree.errors import InvalidInputError, extra_needed
from decayfree.study.data import digits, fashion_mnist

PartName = Literal["train", "validation", "test"]
NO_CLASS = -1
"""Of items that cover others and are none of those to be found."""

_GARMENTS = (
    *("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag"),
    "ankle boot",
)
_N_TO_TRAIN = 50_000
"""Of Fashion-MNIST's 60,000 training images; the others are for scenes to validate on."""


@dataclass(frozen=True)
class Pool:
    """Items and ground of one part."""

    items: Tensor
    """(n, side, side), uint8."""
    labels: Tensor
    """(n,), int64; `NO_CLASS` for what is not to be found."""
    ground: Tensor
    """(2, 427, width, n_channels), uint8: a piece of each photograph, in color or grey."""
    threshold: int
    """Pixels of an item that are brighter belong to it; through the others one sees what is behind."""
    has_mirror_images: bool = True
    """Whether a mirrored item is of its class as well."""


@lru_cache(maxsize=2)
def garments(data_dir: str | None) -> tuple[dict[PartName, Pool], tuple[str, ...], tuple[str, ...]]:
    """Each part's pool, the names of the ten classes, and notes on where the items come from.

    Args:
        data_dir: Fashion-MNIST's folder; by default where it is looked for, and digits if it is not there.

    Raises:
        InvalidInputError: If ``data_dir`` has no Fashion-MNIST, or its files are damaged.
        MissingExtraError: If scikit-learn or Pillow is not installed.
    """
    grounds = photographs()
    try:
        folder = fashion_mnist.locate(data_dir)
    except InvalidInputError:
        if data_dir is not None:
            raise
        pools = _of_digits(grounds)
        note = "The items are scikit-learn's digits, since Fashion-MNIST was not found."
        return pools, tuple(f"digit {number}" for number in range(digits.N_CLASSES)), (note,)
    arrays = fashion_mnist.read(folder)
    of_training = slice(0, _N_TO_TRAIN), slice(_N_TO_TRAIN, None)
    cut: list[tuple[PartName, str, slice]] = [
        ("train", "train", of_training[0]),
        ("validation", "train", of_training[1]),
        ("test", "test", slice(None)),
    ]
    pools = {
        part: Pool(
            arrays[f"{file}_images"][which],
            arrays[f"{file}_labels"][which].long(),
            grounds[part],
            threshold=24,
        )
        for part, file, which in cut
    }
    return pools, _GARMENTS, ()


def photographs() -> dict[PartName, Tensor]:
    """(2, 427, width, 3), uint8: of each part, its columns of the two photographs.

    Raises:
        MissingExtraError: If scikit-learn or Pillow is not installed.
    """
    with extra_needed("study", "scenes lie on scikit-learn's photographs, read by Pillow; {} is missing"):
        from PIL import Image

        spec = find_spec("sklearn")
        if spec is None or spec.origin is None:
            raise ImportError(name="sklearn")
    folder = Path(spec.origin).parent / "datasets" / "images"
    pictures = []
    for name in ("china.jpg", "flower.jpg"):
        with Image.open(folder / name) as opened:
            pixels = bytearray(opened.convert("RGB").tobytes())
            pictures.append(torch.frombuffer(pixels, dtype=torch.uint8).view(opened.height, opened.width, 3))
    both = torch.stack(pictures)
    return {"train": both[:, :, :384], "validation": both[:, :, 384:512], "test": both[:, :, 512:]}


def _of_digits(grounds: dict[PartName, Tensor]) -> dict[PartName, Pool]:
    """Values from 0 to 16 become bytes."""
    every = digits.read()
    pixels = (every.pixels.to(torch.int64) * 255 // 16).to(torch.uint8)
    cut: dict[PartName, slice] = {
        "train": slice(0, 1200),
        "validation": slice(1200, 1500),
        "test": slice(1500, None),
    }
    return {
        part: Pool(pixels[which], every.classes[which], grounds[part], threshold=64, has_mirror_images=False)
        for part, which in cut.items()
    }
