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
from typing import IO

import torch
from torch import Tensor

from decayfree.errors import InvalidInputError, extra_needed
from decayfree.study.data.folders import cache_dir
from decayfree.study.disk import open_unlinked, replacing, take_lock

_N_COLORS, _N_VALUES = 3, 256
_COUNTS = struct.Struct(f"<{_N_COLORS * _N_VALUES}q")
_IMAGES_AT_ONCE = 256
_N_FAULTS_SHOWN = 20
_MOST_PIXELS, _LONGEST = 1 << 26, 100
"""A picture keeps its shape when it is resized, and is as long as its file says until it is cut."""


@dataclass(frozen=True)
class Decoded:
    """Images of one size, and how often each value occurs in them."""

    pixels: Tensor
    """(n, 3, size, size), uint8, channels_last, mapped from a file."""
    counts: Tensor
    """(3, 256), int64: of each color, how many pixels have each value."""


class _DamagedError(Exception):
    """Files are no images; nothing of the others is kept."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(faults)
        self.faults = faults


def decode(parts: Sequence[list[str]], *, size: int) -> list[Decoded]:
    """Each part's images: the shorter side brought to ``size``, the center cut out; grey ones made color.

    Raises:
        InvalidInputError: If files are no images or are damaged, all of them named at once; or if there is no
            room for the pixels.
        MissingExtraError: If Pillow is not installed.
    """
    folder = cache_dir("image-folder")
    paths = [folder / f"{_key(part, size)}.pixels" for part in parts]
    faults: list[str] = []
    if not all(_is_whole(path, len(part), size) for path, part in zip(paths, parts, strict=True)):
        with _alone(folder):
            for path, part in zip(paths, parts, strict=True):
                if not _is_whole(path, len(part), size):
                    faults += _decode_into(path, part, size)
    if faults:
        shown = "\n  ".join(faults[:_N_FAULTS_SHOWN])
        more = f"\n  and {len(faults) - _N_FAULTS_SHOWN} more" if len(faults) > _N_FAULTS_SHOWN else ""
        raise InvalidInputError(f"{len(faults)} files cannot be read as images:\n  {shown}{more}")
    return [_mapped(path, len(part), size) for path, part in zip(paths, parts, strict=True)]


def _key(part: list[str], size: int) -> str:
    digest = hashlib.sha256(f"{size}".encode())
    for path in part:
        with contextlib.suppress(OSError):  # one that is not there is named when it is read
            status = os.stat(path)  # noqa: PTH116, a million Path objects are slow
            digest.update(
                f"\0{path}\0{status.st_size}\0{status.st_mtime_ns}".encode(errors="surrogateescape")
            )
    return digest.hexdigest()[:32]


def _n_bytes(n_images: int, size: int) -> int:
    return n_images * _N_COLORS * size * size


def _is_whole(path: Path, n_images: int, size: int) -> bool:
    """A file gets its name when it is whole; that its length fits says that it was not cut off since."""
    return path.is_file() and path.stat().st_size == _n_bytes(n_images, size) + _COUNTS.size


def _mapped(path: Path, n_images: int, size: int) -> Decoded:
    n_bytes = _n_bytes(n_images, size)
    # Not shared: what writes to these tensors by mistake does not change the file.
    content = torch.from_file(str(path), shared=False, size=n_bytes + _COUNTS.size, dtype=torch.uint8)
    pixels = content[:n_bytes].view(n_images, size, size, _N_COLORS).permute(0, 3, 1, 2)
    counts = torch.tensor(_COUNTS.unpack(bytes(content[n_bytes:].tolist())), dtype=torch.int64)
    return Decoded(pixels, counts.view(_N_COLORS, _N_VALUES))


def _decode_into(path: Path, part: list[str], size: int) -> list[str]:
    """Write the file, or say what is wrong with which image."""
    n_bytes = _n_bytes(len(part), size) + _COUNTS.size
    try:
        if shutil.disk_usage(path.parent).free < n_bytes:
            raise OSError("there is not enough room")
        with replacing(path, has_rivals=True) as file:  # where files cannot be locked
            _write(file, part, size)
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


def _write(file: IO[bytes], part: list[str], size: int) -> None:
    """Pixels, then counts; after the first image that cannot be read, only what is wrong with the others.

    Raises:
        _DamagedError: If there was one.
    """
    counts = torch.zeros(_N_COLORS * _N_VALUES, dtype=torch.int64)
    faults = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(part), _IMAGES_AT_ONCE):
            names = part[start : start + _IMAGES_AT_ONCE]
            for name, image in zip(names, pool.map(lambda name: _image(name, size), names), strict=True):
                if isinstance(image, str):
                    faults.append(f"{name}: {image}")
                elif not faults:
                    file.write(image)
                    counts += _counted(image)
    if faults:
        raise _DamagedError(faults)
    file.write(_COUNTS.pack(*counts.tolist()))


def _counted(image: bytes) -> Tensor:
    """(768,), int64: how often each value occurs in red, then green, then blue."""
    values = torch.frombuffer(bytearray(image), dtype=torch.uint8).view(-1, _N_COLORS)
    return torch.cat([torch.bincount(values[:, color], minlength=_N_VALUES) for color in range(_N_COLORS)])


def _image(path: str, size: int) -> bytes | str:
    """RGB of each pixel, line by line, as torchvision's Resize and CenterCrop give them, or what is wrong."""
    with extra_needed("study", "images are decoded with Pillow, which is not installed"):
        from PIL import Image
    try:
        with Image.open(path) as opened:  # which reads no pixel yet
            short, long = min(opened.size), max(opened.size)
            if short * long > _MOST_PIXELS or long > _LONGEST * short:
                return (
                    f"{opened.width:,} × {opened.height:,} pixels, expected at most {_MOST_PIXELS:,} of them "
                    f"and a longer side of at most {_LONGEST} shorter ones"
                )
            image = opened.convert("RGB")
        if short != size:
            long = size * long // short
            width, height = (size, long) if image.width == short else (long, size)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = round((image.width - size) / 2.0), round((image.height - size) / 2.0)
        return image.crop((left, top, left + size, top + size)).tobytes()
    except Exception as error:  # a damaged file may raise anything
        return f"{type(error).__name__}: {error}"


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
