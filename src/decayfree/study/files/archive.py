"""The runs of a finished study as one file, kept beside its spec and read like the folder it came from.

Keeps records, rows and spectra; not checkpoints, nor the norms that runs replay: a kept study is read, not
continued.
"""

import contextlib
import io
import lzma
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from decayfree.study.disk import replacing
from decayfree.study.files.integrity import ResultError

ARCHIVE_FILE = "runs.tar.xz"
_KEPT = ("run.json", "metrics.jsonl", "spectra.json")


def keep(out: Path, target: Path) -> Path:
    """Write the spec and the runs of the study in ``out`` to ``target``; equal files give equal bytes.

    Returns:
        The archive's path, ``target/runs.tar.xz``; ``study.toml`` lies beside it.

    Raises:
        ResultError: If there is no study in ``out``.
    """
    from decayfree.study.spec.study_spec import StudySpec  # what reads an archive needs no spec

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
        (target / "study.toml").write_bytes((out / "study.toml").read_bytes())
    return target / ARCHIVE_FILE


@contextlib.contextmanager
def folder_of_runs(out: Path) -> Iterator[Path]:
    """A folder with ``runs/``: ``out``, or a temporary one from its archive where it has no runs of its own.

    Raises:
        ResultError: If the archive is damaged.
    """
    path = out / ARCHIVE_FILE
    if (out / "runs").is_dir() or not path.is_file():
        yield out
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            with tarfile.open(path, "r:xz") as archive:
                archive.extractall(folder, filter="data")
        except (OSError, EOFError, tarfile.TarError, lzma.LZMAError) as error:
            raise ResultError(f"{path}: not an archive of runs ({error})") from error
        yield Path(folder)
