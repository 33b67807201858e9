"""CIFAR-10 and CIFAR-100 from the files of their authors' archive, in torchvision's layout.

Downloads nothing. The files are pickles, and a pickle may run anything when it is read: these are read by a
reader that knows numpy's arrays and refuses whatever else a file asks for.
"""

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decayfree.errors import InvalidInputError
from decayfree.study.data.folders import cache_dir, folder_with
from decayfree.study.data.images import Images
from decayfree.study.disk import read_bytes

_SIDE = 32
_MOST_BYTES = 1 << 28
"""Of one file; the largest, that of CIFAR-100, has 50,000 images of 3,072."""


@dataclass(frozen=True)
class Edition:
    """One of the two data sets."""

    name: str
    title: str
    n_classes: int
    folder: str
    """What the archive unpacks to."""
    train: tuple[str, ...]
    test: str
    label_key: str
    address: str


CIFAR10 = Edition(
    name="cifar10",
    title="CIFAR-10",
    n_classes=10,
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
    label_key="labels",
    address="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
CIFAR100 = Edition(
    name="cifar100",
    title="CIFAR-100",
    n_classes=100,
    folder="cifar-100-python",
    train=("train",),
    test="test",
    label_key="fine_labels",
    address="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
)


def read(edition: Edition, data_dir: str | None) -> tuple[Images, Images]:
    """All training and all test images, in the order of the files, which is mixed: 32×32, in color.

    Args:
        edition: `CIFAR10` or `CIFAR100`.
        data_dir: The folder that the archive was unpacked in, or what it unpacked to; by default in the
            user's cache folder.

    Raises:
        InvalidInputError: If a file is not there, or is not a batch of images.
    """
    folder = locate(edition, data_dir)
    parts = [read_batch(folder / name, edition) for name in edition.train]
    train = Images(torch.cat([part.pixels for part in parts]), torch.cat([part.classes for part in parts]))
    return train, read_batch(folder / edition.test, edition)


def locate(edition: Edition, data_dir: str | None) -> Path:
    """The folder with the batches.

    Raises:
        InvalidInputError: If they are nowhere; says where it looked and how to get them.
    """
    root = cache_dir(edition.name) if data_dir is None else Path(data_dir)
    return folder_with(
        (*edition.train, edition.test),
        (root / edition.folder, root),
        edition.title,
        f"Unpack {edition.address} in {root}, or name as data_dir another folder that it was unpacked in; "
        f"torchvision.datasets.{edition.name.upper()}({str(root)!r}, download=True) "
        "does both and checks what it got.",
    )


def read_batch(path: Path, edition: Edition) -> Images:
    """One file: a pickled table with ``data``, (n, 3072), red, green, then blue pixels of each, and labels.

    Raises:
        InvalidInputError: If the file is something else, or is cut off, or asks for anything but arrays.
    """
    try:
        # From memory, so that no length in the file asks for more than the file has.
        table = _ArraysOnly(io.BytesIO(read_bytes(path, at_most=_MOST_BYTES)), encoding="latin1").load()
        table = {key.decode() if isinstance(key, bytes) else key: value for key, value in table.items()}
        pixels, labels = torch.from_numpy(table["data"]), torch.tensor(table[edition.label_key])
    except _RefusedError as error:
        raise InvalidInputError(
            f"{path} is a pickle that asks for {error}, which a batch of {edition.title} has no use for; "
            "nothing of it was run. Get the file anew from its authors."
        ) from None
    except Exception as error:  # a damaged pickle may raise anything
        raise InvalidInputError(
            f"{path} is not a batch of {edition.title}, or it is cut off: {type(error).__name__}: {error}"
        ) from error
    _check(path, edition, pixels, labels)
    # In memory red, green and blue of a pixel lie together, as networks in channels_last are fed them.
    images = pixels.view(-1, 3, _SIDE, _SIDE).contiguous(memory_format=torch.channels_last)
    return Images(images, labels)


def _check(path: Path, edition: Edition, pixels: Tensor, labels: Tensor) -> None:
    n_values = 3 * _SIDE * _SIDE
    if pixels.dtype != torch.uint8 or pixels.ndim != 2 or pixels.shape[1] != n_values:
        raise InvalidInputError(
            f"{path}: expected images of {n_values} bytes, got {tuple(pixels.shape)} of {pixels.dtype}"
        )
    if labels.shape != pixels.shape[:1] or labels.dtype != torch.int64:
        raise InvalidInputError(
            f"{path}: expected a label for each of {len(pixels)} images, got {labels.numel()}"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < edition.n_classes:
        raise InvalidInputError(
            f"{path}: expected labels from 0 to {edition.n_classes - 1}, "
            f"got some from {int(labels.min())} to {int(labels.max())}"
        )


class _RefusedError(pickle.UnpicklingError):
    """A pickle asks for something that is not an array; the text says for what."""


class _ArraysOnly(pickle._Unpickler):
    """Reads lists, tables, texts, numbers and numpy's arrays, under numpy's old and new names.

    The reader in Python: that in C makes room for as many objects as a number in the file says. Arrays are
    made empty, as pickles of numpy make them, and filled with what the file holds.
    """

    def find_class(self, module_name: str, global_name: str) -> Any:
        name = f"{module_name.replace('numpy._core', 'numpy.core')}.{global_name}"
        if name == "numpy.dtype":
            return _numpy().dtype
        if name == "numpy.ndarray":
            return _ARRAY
        if name == "numpy.core.multiarray._reconstruct":
            return _empty
        raise _RefusedError(f"{module_name}.{global_name}")


_ARRAY = object()
"""Stands for the class of arrays, which a pickle can only name: a call could ask for any size."""


def _empty(kind: object, shape: object, code: object) -> Any:
    if kind is not _ARRAY or shape != (0,):
        raise _RefusedError(f"an array of shape {shape}")
    return _numpy().empty(0, dtype="u1")


def _numpy() -> Any:
    import numpy

    return numpy
