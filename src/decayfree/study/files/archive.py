"""The ended runs of a study as one file beside its spec, read like the folder that they came from.

Records, rows and spectra; not checkpoints, nor the norms that runs replay. Writes none: keeping.py does.
"""

import contextlib
import io
import lzma
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from decayfree.study.files.integrity import ResultError

ARCHIVE_FILE = "runs.tar.xz"
KEPT_FILES = ("run.json", "metrics.jsonl", "spectra.json")
_OF_A_RUN = re.compile(rf"runs/[0-9a-f]{{16}}/(?:{'|'.join(map(re.escape, KEPT_FILES))})")
_MOST_BYTES, _MOST_MEMORY, _CHUNK = 1 << 30, 1 << 28, 1 << 16
"""Of all runs together, far more than a study that is read whole can have; and of the dictionary of xz."""


@contextlib.contextmanager
def folder_of_runs(out: Path) -> Iterator[Path]:
    """A folder with ``runs/``: ``out``, or a temporary one from its archive where it has no runs of its own.

    Raises:
        ResultError: If the archive is damaged, holds anything but runs, or is far larger than it looks.
    """
    path = out / ARCHIVE_FILE
    if (out / "runs").is_dir() or not path.is_file():
        yield out
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            _extract(path, Path(folder))
        except (OSError, EOFError, tarfile.TarError, lzma.LZMAError, ValueError) as error:
            raise ResultError(f"{path}: not an archive of runs ({error})") from error
        yield Path(folder)


def _extract(path: Path, folder: Path) -> None:
    with (
        path.open("rb") as packed,
        tarfile.open(fileobj=io.BufferedReader(_Unpacked(packed)), mode="r|") as archive,
    ):
        for entry in archive:
            if not (entry.isreg() and _OF_A_RUN.fullmatch(entry.name)):
                raise ValueError(f"{entry.name[:100]!r} is no file of a run")
            target = folder / entry.name
            target.parent.mkdir(parents=True, exist_ok=True)
            content = archive.extractfile(entry)
            assert content is not None
            with target.open("xb") as whole:
                shutil.copyfileobj(content, whole)


class _Unpacked(io.RawIOBase):
    """What an xz file holds, for one who reads it from beginning to end; a bounded number of bytes of it.

    A name or a header in it cannot be longer than that either, since both are read from here.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._n_left = file, _MOST_BYTES
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = b""
        while not part and not self._decoder.eof:
            more = self._file.read(_CHUNK) if self._decoder.needs_input else b""
            if self._decoder.needs_input and not more:
                raise EOFError("cut off")
            part = self._decoder.decompress(more, max_length=len(buffer))
        self._n_left -= len(part)
        if self._n_left < 0:
            raise ValueError(f"it unpacks to more than {_MOST_BYTES:,} bytes")
        buffer[: len(part)] = part
        return len(part)
