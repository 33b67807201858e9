"""What a file asks for: pictures, arrays, pickles and folders that say they are larger than they may be."""

import gzip
import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from decayfree.errors import InvalidInputError, MismatchError
from decayfree.study.data import cifar, decoding, fashion_mnist, image_folder, svhn
from decayfree.study.files.norm_log import read_norms
from support.image_files import color_images, write_cifar10, write_image, write_svhn


def png(path, width, height):
    """All black; a bomb of 2,000,000 pixels has 8 kB."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = zlib.compress((b"\0" + bytes(3 * width)) * height, 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")
    )
    return str(path)


@pytest.mark.parametrize(
    ("width", "height"), [(1, 101), (101, 1), (1, 2_000_000), (2_000_000, 1), (8200, 8200)]
)
def test_a_picture_of_which_resizing_would_be_large_is_a_fault(width, height, tmp_path):
    said = decoding._image(png(tmp_path / "bomb.png", width, height), 64)
    assert said.startswith(
        f"{width:,} × {height:,} pixels, expected at most 67,108,864 of them and a longer "
    )


def test_a_picture_at_the_limit_is_resized_as_ever(tmp_path):
    pixels = color_images(1, height=300, width=3)[0]
    write_image(tmp_path / "long.png", pixels)
    expected = Image.open(tmp_path / "long.png").resize((4, 400), Image.Resampling.BILINEAR)
    assert decoding._image(str(tmp_path / "long.png"), 4) == expected.crop((0, 198, 4, 202)).tobytes()


def test_a_folder_names_the_pictures_that_are_too_large(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = png(tmp_path / "bomb.png", 1, 2_000_000)
    with pytest.raises(
        InvalidInputError, match=f"1 files cannot be read as images:\n  {path}: 1 × 2,000,000"
    ):
        decoding.decode([[path]], size=8)


def idx(shape, n_bytes=None):
    content = b"\0\0\x08" + bytes([len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    return content + bytes(int(np.prod(shape)) if n_bytes is None else n_bytes)


def test_an_idx_file_that_unpacks_to_more_than_there_is_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "_MOST_BYTES", 1000)
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx((992,))))
    assert fashion_mnist.read_idx(path).shape == (992,)
    for content in (idx((993,)), bytes(10**6)):
        path.write_bytes(gzip.compress(content))
        with pytest.raises(InvalidInputError, match=r"images.gz holds more than 1,000 bytes"):
            fashion_mnist.read_idx(path)


def test_a_packed_idx_file_with_a_changed_byte_cannot_be_read(tmp_path):
    content = bytearray(gzip.compress(bytes(range(256)) * 40))
    content[20] ^= 0xFF
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"images.gz cannot be read"):
        fashion_mnist.read_idx(path)


@pytest.mark.parametrize("shape", [(2, 28), (2, 28, 27), (2,), (2, 28, 28, 1)])
def test_images_of_another_shape_are_refused(shape, tmp_path):
    for part, (name, _) in fashion_mnist._FILES.items():
        (tmp_path / name).write_bytes(
            idx(shape if part == "train_images" else (2, 28, 28)[: 1 + 2 * ("images" in part)])
        )
    with pytest.raises(InvalidInputError, match="expected train images of 28×28 pixels"):
        fashion_mnist.read(tmp_path)


def test_labels_of_no_class_are_refused(tmp_path):
    for part, (name, _) in fashion_mnist._FILES.items():
        content = (
            idx((2, 28, 28))
            if "images" in part
            else idx((2,), 0) + b"\x09" + bytes([9 + (part[0] == "t" and "test" in part)])
        )
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"expected test images .* up to 10"):
        fashion_mnist.read(tmp_path)


class _Calls:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


RECONSTRUCT = np.empty(0).__reduce__()[0]
BATCHES = {
    "an array of any size": pickle.dumps({"data": _Calls(RECONSTRUCT, np.ndarray, (10**13,), "b")}, 2),
    "objects of any number": pickle.dumps({"data": _Calls(RECONSTRUCT, np.ndarray, (10**9,), "O")}, 2),
    "a call of the class": pickle.dumps({"data": _Calls(np.ndarray, (10**13,), "b")}, 2),
    "a text as long as it says": b"\x80\x04\x8e" + (1 << 60).to_bytes(8, "little"),
    "a place in the memo": b"\x80\x02]r\xff\xff\xff\x7f.",
    "depth": b"\x80\x02" + b"(" * 10**6,
}


SAID = {
    "an array of any size": r"asks for an array of shape \(10000000000000,\), which a batch",
    "objects of any number": r"asks for an array of shape \(1000000000,\), which a batch",
    "a call of the class": "'object' object is not callable",
    "a text as long as it says": "EOFError|truncated",
    "a place in the memo": "EOFError|IndexError|KeyError|AttributeError",
    "depth": "EOFError",
}


@pytest.mark.parametrize("kind", BATCHES)
def test_a_pickle_gets_no_more_than_its_file_holds(kind, tmp_path):
    path = tmp_path / "data_batch_1"
    path.write_bytes(BATCHES[kind])
    with pytest.raises(InvalidInputError, match=f"data_batch_1 is .*(?:{SAID[kind]})"):
        cifar.read_batch(path, cifar.CIFAR10)


def test_a_batch_that_is_too_large_is_not_opened(tmp_path, monkeypatch):
    write_cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    monkeypatch.setattr(cifar, "_MOST_BYTES", path.stat().st_size)
    assert len(cifar.read_batch(path, cifar.CIFAR10)) == 4
    monkeypatch.setattr(cifar, "_MOST_BYTES", path.stat().st_size - 1)
    with pytest.raises(InvalidInputError, match="expected at most"):
        cifar.read_batch(path, cifar.CIFAR10)


def matlab(n_bytes):
    """A file whose one variable is packed, and unpacks to so many zeros."""
    packed = zlib.compress(bytes(n_bytes))
    return bytes(124) + b"\x00\x01IM" + struct.pack("<II", 15, len(packed)) + packed


def test_a_matlab_file_that_unpacks_to_more_than_there_is_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(matlab(10**7))
    monkeypatch.setattr(svhn, "_MOST_BYTES", 10**6)
    with pytest.raises(InvalidInputError, match="it unpacks to more than 1,000,000 bytes"):
        svhn.read_part(path)
    write_svhn(tmp_path, n_train=300)
    assert len(svhn.read_part(path)) == 300


def test_a_link_back_into_a_folder_is_walked_once(tmp_path):
    write_image(tmp_path / "train" / "a" / "0.png", color_images(1, height=4, width=4)[0])
    (tmp_path / "train" / "a" / "again").symlink_to(tmp_path / "train" / "a")
    (tmp_path / "train" / "a" / "above").symlink_to(tmp_path)
    (tmp_path / "test").symlink_to(tmp_path / "train")
    found = image_folder.find(str(tmp_path)).train.paths
    names = [path.removeprefix(str(tmp_path / "train" / "a")) for path in found]
    assert names == ["/0.png"]


def test_annotations_that_are_no_text_are_a_fault(tmp_path):
    write_image(tmp_path / "train" / "a" / "0.png", color_images(1, height=4, width=4)[0])
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "val_annotations.txt").write_bytes(b"\xff")
    with pytest.raises(InvalidInputError, match=r"val_annotations.txt cannot be read"):
        image_folder.find(str(tmp_path))


def test_norms_of_another_number_are_not_read(tmp_path):
    path = tmp_path / "norms.f32"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no room
    with pytest.raises(MismatchError, match="holds 1099511627776 bytes"):
        read_norms(path, [], n_steps=1)
