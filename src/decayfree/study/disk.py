"""How does a file come to its name whole, how much of one is read, and who may write in a folder?

Knows no formats and no folders of its own: `files` and `data` do. What a link in a folder points to is never
written.
"""

import contextlib
import errno
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

from decayfree.errors import InvalidInputError

if sys.platform != "win32":
    import fcntl


@contextlib.contextmanager
def replacing(path: Path, *, has_rivals: bool = False) -> Iterator[IO[bytes]]:
    """A file to write that replaces ``path`` at once when all is written, and leaves no trace if that fails.

    Args:
        path: Where it goes, in a folder that exists.
        has_rivals: Whether another process may be writing the same: then what is unfinished has a name that
            is only this one's. Else a name that the next one overwrites, so that killed processes leave no
            more than one.
    """
    suffix = f".{secrets.token_hex(4)}.partial" if has_rivals else ".partial"
    partial = path.with_name(path.name + suffix)
    try:
        # What lies there is of a killed process, or a link of somebody's: neither is written into.
        partial.unlink(missing_ok=True)
        with partial.open("x+b") as file:
            yield file
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def replace_text(path: Path, text: str) -> None:
    """Put ``text`` where ``path`` is, at once."""
    with replacing(path) as file:
        file.write(text.encode())


def open_unlinked(path: Path, mode: Literal["r", "a+"]) -> IO[str]:
    """A file of text, to read or to append to, made there where it is not; never what a link points to.

    Raises:
        OSError: If it is a link, no file but a folder or a pipe, or cannot be opened.
    """
    # What a pipe is opened for is not waited for. Windows has neither of the two.
    flags = os.O_RDONLY if mode == "r" else os.O_RDWR | os.O_CREAT | os.O_APPEND
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(f"{path} is a symbolic link, which is not followed: delete it") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a file")
    return os.fdopen(descriptor, mode, encoding="utf-8")


def as_path(name: str, value: object) -> Path:
    """An argument that names a file or a folder.

    Raises:
        InvalidInputError: If it is neither a `str` nor a path.
    """
    if not isinstance(value, str | Path):
        raise InvalidInputError(f"{name} must be a path, as str or Path, got {value!r}")
    return Path(value)


def read_bytes(path: Path, *, at_most: int) -> bytes:
    """What is in a file, if that is not more than ``at_most`` bytes.

    Raises:
        OSError: If it cannot be read, is larger, or is no file but a folder or a pipe.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path} is not a file")
    if status.st_size > at_most:
        raise OSError(f"{path} has {status.st_size:,} bytes, expected at most {at_most:,}")
    return path.read_bytes()


def read_text(path: Path, *, at_most: int) -> str:
    """The same as text in UTF-8, with or without a mark of that at its beginning.

    Raises:
        OSError: As `read_bytes`.
        ValueError: If it is not UTF-8.
    """
    return read_bytes(path, at_most=at_most).decode("utf-8-sig")


def take_lock(file: IO[Any], *, exclusive: bool, waits: bool = False) -> bool:
    """Take the kernel's lock on an open file until it is closed, or a share in it.

    Args:
        file: Open in any mode.
        exclusive: Alone, or a share that others may have as well.
        waits: Until it can be had.

    Returns:
        Whether it was taken; always on Windows, which has no flock: nothing is locked there.
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if waits else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
