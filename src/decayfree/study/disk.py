"""How does a file come to its name whole, and who may write in a folder?

Knows no formats and no folders of its own: `files` and `data` do.
"""

import contextlib
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

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
        with partial.open("w+b") as file:
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
