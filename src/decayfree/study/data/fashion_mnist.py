"""Fashion-MNIST from its four idx files: where they are looked for, how they are read and fetched.

Downloads nothing unless asked to; 60,000 training and 10,000 test images of 28×28 grey pixels.
"""

import gzip
import hashlib
import math
import urllib.request
import zlib
from pathlib import Path

import torch
from torch import Tensor

from decayfree.errors import InvalidInputError
from decayfree.study.data.folders import cache_dir, folder_with
from decayfree.study.disk import replacing

DEBIAN_DIR = Path("/usr/share/datasets/fashion-mnist")
ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
"""The authors' public address; see https://github.com/zalandoresearch/fashion-mnist."""

N_CLASSES = 10
_MOST_BYTES = 1 << 27
"""Of one file, unpacked; the largest has 60,000 images of 784."""
_NAME = "fashion-mnist"
_FILES = {
    "train_images": ("train-images-idx3-ubyte", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
    "train_labels": ("train-labels-idx1-ubyte", "25c81989df183df01b3e8a0aad5dffbe"),
    "test_images": ("t10k-images-idx3-ubyte", "bef4ecab320f06d8554ea6380940ec79"),
    "test_labels": ("t10k-labels-idx1-ubyte", "bb300cfdad3c16e7a12a480ee83cd310"),
}
"""Part -> name of its idx file, MD5 of the published .gz of it."""


def locate(data_dir: str | None = None, *, download: bool = False) -> Path:
    """The folder that holds the four files, plain or gzipped.

    Args:
        data_dir: The folder to look in; by default a cache folder of the user, then Debian's.
        download: Fetch the files from the authors' address if they are nowhere, into ``data_dir`` or the
            cache.

    Raises:
        InvalidInputError: If they are nowhere; says where it looked and how to get them.
    """
    folders = [cache_dir(_NAME), DEBIAN_DIR] if data_dir is None else [Path(data_dir)]
    cure = (
        "Install Debian's package dataset-fashion-mnist, name a folder with the four idx files (plain or "
        ".gz) with --data-dir (data_dir in a spec), or allow decayfree demo to download "
        "the 30 MB with --download."
    )
    try:
        return folder_with([name for name, _ in _FILES.values()], folders, "Fashion-MNIST", cure, has=_find)
    except InvalidInputError:
        if not download:
            raise
    return fetch(folders[0])


def fetch(folder: Path, *, address: str = ADDRESS) -> Path:
    """Download what is missing of the four files into ``folder`` and check it.

    Raises:
        InvalidInputError: If a file cannot be had, or is not the published one; nothing is kept of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, md5 in _FILES.values():
        if _find(folder, name):
            continue
        url = f"{address}{name}.gz"
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                content = response.read()
        except OSError as error:
            raise InvalidInputError(f"Fashion-MNIST: {url} could not be downloaded ({error})") from error
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != md5:
            raise InvalidInputError(
                f"Fashion-MNIST: {url} has MD5 {found}, expected {md5}; it was not kept, try again"
            )
        with replacing(folder / f"{name}.gz") as file:
            file.write(content)
    return folder


def read(folder: Path) -> dict[str, Tensor]:
    """The four arrays: images (n, 28, 28) and labels (n,), uint8.

    Raises:
        InvalidInputError: If a file is missing or not an idx file of bytes, or images and labels differ in
            number.
    """
    arrays = {}
    for part, (name, _) in _FILES.items():
        path = _find(folder, name)
        if path is None:
            raise InvalidInputError(f"Fashion-MNIST: there is no {name} or {name}.gz in {folder}")
        arrays[part] = read_idx(path)
    for part in ("train", "test"):
        n_images, n_labels = len(arrays[f"{part}_images"]), len(arrays[f"{part}_labels"])
        if n_images != n_labels:
            raise InvalidInputError(f"Fashion-MNIST in {folder}: {n_images} {part} images, {n_labels} labels")
        shapes = tuple(arrays[f"{part}_images"].shape[1:]), tuple(arrays[f"{part}_labels"].shape[1:])
        if shapes != ((28, 28), ()) or bool((arrays[f"{part}_labels"] >= N_CLASSES).any()):
            raise InvalidInputError(
                f"Fashion-MNIST in {folder}: expected {part} images of 28×28 pixels and labels from 0 to 9, "
                f"got images of {shapes[0]} and labels of {shapes[1]} up to "
                f"{int(arrays[f'{part}_labels'].max())}"
            )
    return arrays


def read_idx(path: Path) -> Tensor:
    """An array of bytes from an idx file: two zero bytes, type 8, number of dimensions, sizes, values.

    Returns:
        uint8, with the file's dimensions.

    Raises:
        InvalidInputError: If the file is not such a file.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInputError(f"{path} cannot be read: {error}") from error
    if len(content) > _MOST_BYTES:
        raise InvalidInputError(f"{path} holds more than {_MOST_BYTES:,} bytes, which Fashion-MNIST has not")
    n_dims = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    header = 4 + 4 * n_dims
    sizes = [int.from_bytes(content[start : start + 4], "big") for start in range(4, header, 4)]
    if n_dims == 0 or len(content) != header + math.prod(sizes):
        raise InvalidInputError(f"{path} is not an idx file of bytes, or it is cut off")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header).view(sizes)


def _find(folder: Path, name: str) -> Path | None:
    """The file itself, gzipped or plain; torchvision's FashionMNIST keeps them in a folder of its own."""
    for base in (folder, folder / "FashionMNIST" / "raw"):
        for path in (base / f"{name}.gz", base / name):
            if path.is_file():
                return path
    return None
