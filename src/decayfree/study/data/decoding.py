"""Image files decoded once by Pillow to pixels of one size, in a file of bytes that is mapped into memory.

Knows no classes and no splits. The files lie in the user's cache folder, under a name that is a function of
the size asked for and of the images' paths, lengths and times of change; they can be deleted at any time, and
runs that read the same one share its memory.
"""

import contextlib
import hashlib
import os
import shutil
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import torch
from torch import Tensor

from decayfree.errors import InvalidInputError, extra_needed
from decayfree.study.data.folders import cache_dir
from decayfree.study.disk import open_unlinked, replacing, take_lock

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_N_VALUES = 256
_IMAGES_AT_ONCE = 256
_N_FAULTS_SHOWN = 20
_MOST_PIXELS, _LONGEST = 1 << 26, 100
"""A picture keeps its shape when it is resized, and is as long as its file says until it is cut."""


@dataclass(frozen=True)
class Way:
    """How a file becomes an image of one size."""

    name: str
    """Part of what the file of bytes is called by."""
    modes: tuple[str, ...]
    """What Pillow may call its pixels; whatever there is where empty."""
    mode: str
    """What they are converted to; L and P stay the numbers that the file has."""
    is_cut: bool = False
    """Its center is cut out of it; else the whole of it is squeezed."""
    is_mask: bool = False
    """A pixel is the nearest of the file; else what lies near it is averaged."""

    @property
    def n_channels(self) -> int:
        """1 or 3."""
        return 3 if self.mode == "RGB" else 1

    @property
    def counts(self) -> struct.Struct:
        """How often each value occurs, as it stands behind the pixels."""
        return struct.Struct(f"<{self.n_channels * _N_VALUES}q")


CUT = Way("", (), "RGB", is_cut=True)
WHOLE = Way("whole", (), "RGB")
MASK = Way("mask", ("L", "P"), "", is_mask=True)
COLORED_MASK = Way("colored mask", ("RGB", "P", "RGBA"), "RGB", is_mask=True)


@dataclass(frozen=True)
class Decoded:
    """Images of one size, and how often each value occurs in them."""

    pixels: Tensor
    """(n, 3 or 1, size, size), uint8, channels_last, mapped from a file."""
    counts: Tensor
    """(3 or 1, 256), int64: of each color, how many pixels have each value."""


class _DamagedError(Exception):
    """Files are no images; nothing of the others is kept."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(faults)
        self.faults = faults


def decode(parts: Sequence[list[str]], *, size: int, way: Way = CUT) -> list[Decoded]:
    """Each part's images: the shorter side brought to ``size``, the center cut out; grey ones made color.

    Args:
        parts: Paths of files.
        size: Height and width of the images, in pixels.
        way: Another one: to squeeze the whole of each image, or to read masks.

    Raises:
        InvalidInputError: If files are no images or are damaged, all of them named at once; or if there is no
            room for the pixels.
        MissingExtraError: If Pillow is not installed.
    """
    folder = cache_dir("image-folder")
    paths = [folder / f"{_key(part, size, way)}.pixels" for part in parts]
    faults: list[str] = []
    if not all(_is_whole(path, len(part), size, way) for path, part in zip(paths, parts, strict=True)):
        with _alone(folder):
            for path, part in zip(paths, parts, strict=True):
                if not _is_whole(path, len(part), size, way):
                    faults += _decode_into(path, part, size, way)
    raise_faults("files cannot be read as images", faults)
    return [_mapped(path, len(part), size, way) for path, part in zip(paths, parts, strict=True)]


def sizes(paths: Sequence[str]) -> Tensor:
    """(n, 2), int64: width and height of each picture as its file says, no pixel of it being read.

    Raises:
        InvalidInputError: If files are no images, all of them named at once.
        MissingExtraError: If Pillow is not installed.
    """
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(_size, paths))
    faults = [f"{path}: {each}" for path, each in zip(paths, found, strict=True) if isinstance(each, str)]
    raise_faults("files cannot be read as images", faults)
    return torch.tensor(found, dtype=torch.int64).view(-1, 2)


def raise_faults(title: str, faults: Sequence[str]) -> None:
    """One error with the first faults, a line each, and how many there are; none where there is none."""
    if faults:
        shown = "\n  ".join(faults[:_N_FAULTS_SHOWN])
        more = f"\n  and {len(faults) - _N_FAULTS_SHOWN} more" if len(faults) > _N_FAULTS_SHOWN else ""
        raise InvalidInputError(f"{len(faults)} {title}:\n  {shown}{more}")


def _key(part: list[str], size: int, way: Way) -> str:
    digest = hashlib.sha256(f"{size}{way.name}".encode())
    for path in part:
        with contextlib.suppress(OSError):  # one that is not there is named when it is read
            status = os.stat(path)  # noqa: PTH116, a million Path objects are slow
            digest.update(
                f"\0{path}\0{status.st_size}\0{status.st_mtime_ns}".encode(errors="surrogateescape")
            )
    return digest.hexdigest()[:32]


def _n_bytes(n_images: int, size: int, way: Way) -> int:
    return n_images * way.n_channels * size * size


def _is_whole(path: Path, n_images: int, size: int, way: Way) -> bool:
    """A file gets its name when it is whole; that its length fits says that it was not cut off since."""
    return path.is_file() and path.stat().st_size == _n_bytes(n_images, size, way) + way.counts.size


def _mapped(path: Path, n_images: int, size: int, way: Way) -> Decoded:
    n_bytes = _n_bytes(n_images, size, way)
    # Not shared: what writes to these tensors by mistake does not change the file.
    content = torch.from_file(str(path), shared=False, size=n_bytes + way.counts.size, dtype=torch.uint8)
    pixels = content[:n_bytes].view(n_images, size, size, way.n_channels).permute(0, 3, 1, 2)
    counts = torch.tensor(way.counts.unpack(bytes(content[n_bytes:].tolist())), dtype=torch.int64)
    return Decoded(pixels, counts.view(way.n_channels, _N_VALUES))


def _decode_into(path: Path, part: list[str], size: int, way: Way) -> list[str]:
    """Write the file, or say what is wrong with which image."""
    n_bytes = _n_bytes(len(part), size, way) + way.counts.size
    try:
        if shutil.disk_usage(path.parent).free < n_bytes:
            raise OSError("there is not enough room")
        with replacing(path, has_rivals=True) as file:  # where files cannot be locked
            _write(file, part, size, way)
            file.flush()
            os.fsync(file.fileno())
    except _DamagedError as error:
        return error.faults
    except OSError as error:
        raise InvalidInputError(
            f"the pixels of {len(part)} images, {n_bytes / 1e9:.3g} GB, could not be written to "
            f"{path.parent}: {error}. Make room, or set XDG_CACHE_HOME to a folder that has it."
        ) from error
    return []


def _write(file: IO[bytes], part: list[str], size: int, way: Way) -> None:
    """Pixels, then counts; after the first image that cannot be read, only what is wrong with the others.

    Raises:
        _DamagedError: If there was one.
    """
    counts = torch.zeros(way.n_channels * _N_VALUES, dtype=torch.int64)
    faults = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(part), _IMAGES_AT_ONCE):
            names = part[start : start + _IMAGES_AT_ONCE]
            images = pool.map(lambda name: _image(name, size, way), names)
            for name, image in zip(names, images, strict=True):
                if isinstance(image, str):
                    faults.append(f"{name}: {image}")
                elif not faults:
                    file.write(image)
                    counts += _counted(image, way.n_channels)
    if faults:
        raise _DamagedError(faults)
    file.write(way.counts.pack(*counts.tolist()))


def _counted(image: bytes, n_channels: int) -> Tensor:
    """(256·n_channels,), int64: how often each value occurs in red, then green, then blue."""
    values = torch.frombuffer(bytearray(image), dtype=torch.uint8).view(-1, n_channels)
    return torch.cat([torch.bincount(values[:, color], minlength=_N_VALUES) for color in range(n_channels)])


def _image(path: str, size: int, way: Way = CUT) -> bytes | str:
    """Values of each pixel, line by line, or what is wrong with the file."""
    with extra_needed("study", "images are decoded with Pillow, which is not installed"):
        from PIL import Image
    try:
        with Image.open(path) as opened:  # which reads no pixel yet
            if fault := _size_fault(opened):
                return fault
            if way.modes and opened.mode not in way.modes:
                return f"its pixels are {opened.mode}, expected {' or '.join(way.modes)}"
            image = opened.convert(way.mode) if way.mode else opened.copy()
        if way.is_cut:
            return _cut(image, size).tobytes()
        how = Image.Resampling.NEAREST if way.is_mask else Image.Resampling.BILINEAR
        pixels: bytes = image.resize((size, size), how).tobytes()
        return pixels
    except Exception as error:  # a damaged file may raise anything
        return f"{type(error).__name__}: {error}"


def _size(path: str) -> tuple[int, int] | str:
    with extra_needed("study", "images are decoded with Pillow, which is not installed"):
        from PIL import Image
    try:
        with Image.open(path) as opened:
            return _size_fault(opened) or opened.size
    except Exception as error:  # a damaged file may raise anything
        return f"{type(error).__name__}: {error}"


def _size_fault(picture: "Picture") -> str:
    """What is wrong with how large it says that it is; empty where nothing is."""
    short, long = min(picture.size), max(picture.size)
    if short * long <= _MOST_PIXELS and long <= _LONGEST * short:
        return ""
    return (
        f"{picture.width:,} × {picture.height:,} pixels, expected at most {_MOST_PIXELS:,} of them "
        f"and a longer side of at most {_LONGEST} shorter ones"
    )


def _cut(image: "Picture", size: int) -> "Picture":
    """As torchvision's Resize and CenterCrop give it."""
    from PIL import Image

    short, long = min(image.size), max(image.size)
    if short != size:
        long = size * long // short
        width, height = (size, long) if image.width == short else (long, size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((image.width - size) / 2.0), round((image.height - size) / 2.0)
    return image.crop((left, top, left + size, top + size))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make the folder; of runs started together one decodes, the others wait where files can be locked."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open_unlinked(folder / "lock", "a+")
    except OSError as error:
        raise InvalidInputError(
            f"decoded images could not be written to {folder}: {error}. "
            "Set XDG_CACHE_HOME to a folder that can."
        ) from error
    with lock:
        with contextlib.suppress(OSError):  # a folder whose files cannot be locked
            take_lock(lock, exclusive=True, waits=True)
        yield
