"""Is a file what was written? Lengths and CRC-32 checksums of files that grow, of JSON and of checkpoints.

They find damage (a file that was cut off, a bit that flipped), not forgery. What to do about it is for the
callers to say.
"""

import contextlib
import errno
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from decayfree.errors import DecayFreeError

_CHUNK = 1 << 20
_COMMENT_LENGTH = struct.Struct("<H")  # the last field of a zip file, before its comment
_ZIP_MARK, _N_DIGITS = b"decayfree crc32 ", 8
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class ResultError(DecayFreeError, ValueError):
    """Result files are missing or damaged; the message lists all of them."""


class DiskFullError(DecayFreeError, OSError):
    """The study's folder takes no more; the message says what is kept and what to do."""


@dataclass(frozen=True)
class Seal:
    """How long a file is, and the CRC-32 of its content."""

    n_bytes: int = 0
    crc32: int = 0

    @staticmethod
    def of(path: Path, *, n_bytes: int | None = None) -> "Seal":
        """Of the first ``n_bytes`` of a file, or of all of it; of nothing where there is no such file."""
        if not path.is_file():
            return Seal()
        n_read, crc32 = 0, 0
        with path.open("rb") as file:
            while n_bytes is None or n_read < n_bytes:
                chunk = file.read(_CHUNK if n_bytes is None else min(_CHUNK, n_bytes - n_read))
                if not chunk:
                    break
                n_read, crc32 = n_read + len(chunk), zlib.crc32(chunk, crc32)
        return Seal(n_read, crc32)

    @staticmethod
    def of_bytes(content: bytes) -> "Seal":
        """Of a file with this content."""
        return Seal(len(content), zlib.crc32(content))

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> "Seal":
        """What `dataclasses.asdict` made of it.

        Raises:
            ValueError: If that is not what it made.
        """
        is_one = isinstance(record, Mapping) and set(record) == {"n_bytes", "crc32"}
        seal = Seal(**record) if is_one else None
        if seal is None or type(seal.n_bytes) is not int or type(seal.crc32) is not int:
            raise ValueError(f"expected n_bytes and crc32, got {record}")
        return seal

    def fault(self, path: Path) -> str | None:
        """What is wrong with a file that begins with what was sealed and may have grown, or None."""
        return self._fault(path, Seal.of(path, n_bytes=self.n_bytes))

    def fault_of_all(self, path: Path) -> str | None:
        """What is wrong with a file that is what was sealed, and no more."""
        return self._fault(path, Seal.of(path))

    def _fault(self, path: Path, found: "Seal") -> str | None:
        if found.n_bytes != self.n_bytes:
            return f"{path}: {found.n_bytes} bytes long, expected {self.n_bytes}"
        if found.crc32 != self.crc32:
            return f"{path}: its content has changed (CRC-32 {found.crc32:08x}, expected {self.crc32:08x})"
        return None


class GrowingFile:
    """A file that only this object appends to, with the seal of all that was written."""

    def __init__(self, path: Path, seal: Seal = Seal()) -> None:
        """Go on after what was sealed; what a killed run wrote after its checkpoint is cut off."""
        self.path, self.seal = path, seal
        with path.open("ab") as file:
            file.truncate(seal.n_bytes)

    def append(self, data: bytes) -> None:
        """Write ``data`` at the end.

        Raises:
            ResultError: If something else has changed the file's length.
        """
        n_bytes = self.path.stat().st_size if self.path.is_file() else 0
        if n_bytes != self.seal.n_bytes:
            raise ResultError(
                f"{self.path}: {n_bytes} bytes long, but {self.seal.n_bytes} were written: "
                "something else writes to it"
            )
        with self.path.open("ab") as file:
            file.write(data)
        self.seal = Seal(self.seal.n_bytes + len(data), zlib.crc32(data, self.seal.crc32))


def sealed_json(record: Mapping[str, Any], *, indent: int | None = None) -> str:
    """A table as JSON text that carries its own checksum, under ``crc32``."""
    return json.dumps({**record, "crc32": _crc32_of(record)}, indent=indent, allow_nan=False) + "\n"


def unsealed_json(text: str) -> dict[str, Any]:
    """The table in such a text, without its checksum; one that never had any is taken as it is.

    Raises:
        ValueError: If it is not JSON, not a table, or not what was sealed.
    """
    record = json_of(text)
    if not isinstance(record, dict):
        raise ValueError(f"expected a table, got {text[:20]!r}")
    expected = record.pop("crc32", None)
    if expected is not None and expected != _crc32_of(record):
        raise ValueError(f"its content has changed: CRC-32 {_crc32_of(record)}, expected {expected}")
    return record


def json_of(text: str) -> Any:
    """What JSON says.

    Raises:
        ValueError: If it is not JSON, or has too many brackets within each other.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"too many brackets within each other in {text[:20]!r}") from None


def seal_zip(file: IO[bytes]) -> None:
    """Put the checksum of a zip file, open and whole, into its comment, where no reader of zip files looks.

    The checksums within a zip file do not do: `torch.load` does not ask for them, and a flipped bit in a
    header makes it read other bytes than those that they are of.
    """
    file.seek(-_COMMENT_LENGTH.size, os.SEEK_END)
    file.write(_COMMENT_LENGTH.pack(len(_ZIP_MARK) + _N_DIGITS) + _ZIP_MARK)
    file.seek(0)
    crc32 = 0
    while chunk := file.read(_CHUNK):
        crc32 = zlib.crc32(chunk, crc32)
    file.write(f"{crc32:0{_N_DIGITS}x}".encode())


def zip_fault(path: Path) -> str | None:
    """What is wrong with a zip file that was sealed."""
    n_bytes = path.stat().st_size - _N_DIGITS
    found = Seal.of(path, n_bytes=max(0, n_bytes))
    with path.open("rb") as file:
        file.seek(max(0, n_bytes - len(_ZIP_MARK)))
        end = file.read()
    if not end.startswith(_ZIP_MARK):
        return f"{path}: cut off, or not a checkpoint of ours"
    if end != _ZIP_MARK + f"{found.crc32:0{_N_DIGITS}x}".encode():
        return f"{path}: its content has changed (its CRC-32 is {found.crc32:08x})"
    return None


@contextlib.contextmanager
def full_disk_explained(where: Path, what_to_do: str) -> Iterator[None]:
    """Whatever says within that a disk takes no more becomes one `DiskFullError` that says what to do."""
    try:
        yield
    except OSError as error:
        if not is_no_room(error):
            raise
        raise DiskFullError(f"no room left while writing to {where} ({error}): {what_to_do}") from error


def is_no_room(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that a disk takes no more."""
    while error is not None:
        if isinstance(error, DiskFullError) or (isinstance(error, OSError) and error.errno in _NO_ROOM):
            return True
        error = error.__cause__ or error.__context__
    return False


def _crc32_of(record: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())
