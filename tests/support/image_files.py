"""Small data sets in the formats of the large ones; CIFAR's batches as its authors' Python 2 pickled them.

Nothing of the package is used here.
"""

from pathlib import Path

import numpy as np


def color_images(n_images: int, *, height: int = 32, width: int = 32, seed: int = 0) -> np.ndarray:
    """(n, 3, height, width), uint8, every value possible."""
    shape = (n_images, 3, height, width)
    return np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8)


def python2_pickle(images: np.ndarray, labels: list[int], label_key: str) -> bytes:
    """A batch by opcodes: protocol 2, byte strings for keys, the array under the names of old numpy."""
    n_images = len(images)
    raw = images.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + b"(K\x01"
        + b"J" + n_images.to_bytes(4, "little") + b"M\x00\x0c\x86"
        + b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + b"\x89T" + len(raw).to_bytes(4, "little") + raw
        + b"tb"
    )  # fmt: skip
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return (
        b"\x80\x02}(" + _key("data") + array + _key(label_key) + listed + _key("batch_label") + b"U\x03oneu."
    )


def write_cifar10(folder: Path, *, n_per_batch: int = 4) -> None:
    """Five batches to train on and one to test with, below ``folder``, with labels from 0 to 9."""
    folder = folder / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for seed, name in enumerate(names):
        labels = [(seed + index) % 10 for index in range(n_per_batch)]
        (folder / name).write_bytes(python2_pickle(color_images(n_per_batch, seed=seed), labels, "labels"))


def write_cifar100(folder: Path, *, n_train: int = 6, n_test: int = 3) -> None:
    """One file to train on and one to test with, below ``folder``; the last training label is 99."""
    folder = folder / "cifar-100-python"
    folder.mkdir(parents=True)
    for seed, (name, n_images) in enumerate((("train", n_train), ("test", n_test))):
        labels = [99 - index for index in reversed(range(n_images))]
        content = python2_pickle(color_images(n_images, seed=seed), labels, "fine_labels")
        (folder / name).write_bytes(content)


def write_svhn(folder: Path, *, n_train: int = 12, n_test: int = 5) -> None:
    """The two files in ``folder``; labels count from 1 to 10, which is the digit 0, and begin anew."""
    from scipy.io import savemat

    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, n_images) in enumerate((("train", n_train), ("test", n_test))):
        labels = np.arange(n_images, dtype=np.uint8).reshape(-1, 1) % 10 + 1
        pixels = color_images(n_images, seed=seed).transpose(2, 3, 1, 0)
        savemat(folder / f"{name}_32x32.mat", {"X": pixels, "y": labels})


def write_image(path: Path, pixels: np.ndarray) -> None:
    """(3, height, width) or (height, width), uint8, in the format of the path's suffix."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    Image.fromarray(image).save(path)


def write_folder(
    root: Path, part: str, classes: dict[str, int], *, size: tuple[int, int] = (8, 8), seed: int = 0
) -> None:
    """A folder of PNG files for each class, with so many images in each."""
    for offset, (name, n_images) in enumerate(classes.items()):
        images = color_images(n_images, height=size[0], width=size[1], seed=seed + offset)
        for index, pixels in enumerate(images):
            write_image(root / part / name / f"{index:03}.png", pixels)


def _key(name: str) -> bytes:
    return b"U" + bytes([len(name)]) + name.encode()
