"""The runs of a finished study as one file, kept beside its spec and read like the folder it came from.

Keeps records, rows and spectra; not checkpoints, nor the norms that runs replay: a kept study is read, not
continued.
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

from decayfree.arguments.kinds import checked
from decayfree.study.disk import replacing
from decayfree.study.files.integrity import ResultError

ARCHIVE_FILE = "runs.tar.xz"
_KEPT = ("run.json", "metrics.jsonl", "spectra.json")
_OF_A_RUN = re.compile(rf"runs/[0-9a-f]{{16}}/(?:{'|'.join(map(re.escape, _KEPT))})")
_MOST_BYTES, _MOST_MEMORY, _CHUNK = 1 << 30, 1 << 28, 1 << 16
"""Of all runs together, far more than a study that is read whole can have; and of the dictionary of xz."""


@checked()
def keep(out: str | Path, target: str | Path) -> Path:
    """Write the spec and the runs of the study in ``out`` to ``target``; equal files give equal bytes.

    Returns:
        The archive's path, ``target/runs.tar.xz``; ``study.toml`` lies beside it.

    Raises:
        ResultError: If there is no study in ``out``.
    """
    from decayfree.study.spec.study_spec import StudySpec  # what reads an archive needs no spec

    out, target = Path(out), Path(target)
    if not (out / "study.toml").is_file():
        raise ResultError(f"no study in {out}: there is no study.toml")
    keys = {run.key for run in StudySpec.load(out / "study.toml").runs()}
    paths = (path for name in _KEPT for path in (out / "runs").glob(f"*/{name}"))
    target.mkdir(parents=True, exist_ok=True)
    with (
        replacing(target / ARCHIVE_FILE) as whole,
        lzma.open(whole, "wb", preset=9) as file,
        tarfile.open(fileobj=file, mode="w") as archive,
    ):
        for path in sorted(path for path in paths if path.parent.name in keys):
            content = path.read_bytes()
            entry = tarfile.TarInfo(path.relative_to(out).as_posix())
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    if target.resolve() != out.resolve():
        with replacing(target / "study.toml") as copy:
            copy.write((out / "study.toml").read_bytes())
    return target / ARCHIVE_FILE


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
