"""One runner in a folder at a time: a lock that ends with the processes that hold it, however they end.

Readers need none. The lock is the kernel's (flock) on ``OUT/.lock``; what is written in the file only says
who holds it, so a file that a killed runner has left is no obstacle. On NFS it holds between machines where
the server keeps locks (Linux from 2.6.12 on, without the mount options ``nolock`` and ``local_lock``), else
only between processes of one machine. Windows has no flock, so nothing is locked there.
"""

import json
import os
import socket
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from multiprocessing import reduction
from pathlib import Path
from typing import IO, Any

from decayfree.errors import DecayFreeError
from decayfree.study.disk import open_unlinked, take_lock
from decayfree.study.files.integrity import json_of

LOCK_FILE = ".lock"
_MOST_CHARACTERS = 10_000
_TRY_FOR_S = 1.0
_TRY_AGAIN_AFTER_S = 0.05


class FolderInUseError(DecayFreeError, BlockingIOError):
    """Another runner is at work in the study's folder; the message says which."""


@dataclass(frozen=True)
class Holder:
    """Who holds the lock of a folder."""

    pid: int
    host: str
    since: str
    """Time of its beginning, as ISO 8601 in UTC."""


_UNKNOWN = Holder(pid=0, host="an unknown host", since="just now")


class FolderLock:
    """Held within its context and by processes started in it with its `share`, until the last has ended."""

    def __init__(self, out: Path) -> None:
        self._path = out / LOCK_FILE
        self._file: IO[str] | None = None

    def __enter__(self) -> "FolderLock":
        """Take the lock.

        Raises:
            FolderInUseError: If another runner holds it.
            OSError: If the file is a link, which is not followed, or cannot be opened.
        """
        file = open_unlinked(self._path, "a+")
        # For a moment, since one that looks whether it is held takes a share in it, and so do the last
        # breaths of a killed runner.
        give_up_s = time.monotonic() + _TRY_FOR_S
        while not take_lock(file, exclusive=True):
            if time.monotonic() > give_up_s:
                file.close()
                raise FolderInUseError(_refusal(self._path))
            time.sleep(_TRY_AGAIN_AFTER_S)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        holder = Holder(pid=os.getpid(), host=socket.gethostname(), since=now)
        file.truncate(0)
        file.write(json.dumps(holder.__dict__) + "\n")
        file.flush()
        self._file = file
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of it; processes that hold a share in it may hold it a little longer."""
        if self._file is not None:
            self._file.close()

    @property
    def share(self) -> "LockShare":
        """What a started process gets as an argument, so that the lock is held until it too has ended."""
        assert self._file is not None
        return LockShare(self._file.fileno())


class LockShare:
    """An open file that a spawned process inherits; nothing need be done with it there."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _inherited, (reduction.DupFd(self.descriptor),)


def holder_of(out: Path) -> Holder | None:
    """Who is running the study in a folder now; None where nobody is."""
    try:
        file = open_unlinked(out / LOCK_FILE, "r")
    except OSError:
        return None
    with file:
        if take_lock(file, exclusive=False):
            return None
        return _holder_in(file)


def _holder_in(file: IO[str]) -> Holder:
    """As the file says; it is written right after the lock is taken, so for a moment it may say nothing."""
    file.seek(0)
    try:
        record = json_of(file.read(_MOST_CHARACTERS))
        is_one = [type(record[name]) for name in ("pid", "host", "since")] == [int, str, str]
        return Holder(**record) if is_one else _UNKNOWN
    except (ValueError, TypeError, KeyError):
        return _UNKNOWN


def _refusal(path: Path) -> str:
    with open_unlinked(path, "r") as file:
        holder = _holder_in(file)
    return (
        f"a study is being run in {path.parent} by process {holder.pid} on {holder.host} since "
        f"{holder.since}: wait until it has ended, end it, or choose another folder"
    )


def _inherited(descriptor: Any) -> LockShare:
    return LockShare(descriptor.detach())
