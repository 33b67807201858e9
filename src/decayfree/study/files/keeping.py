"""Keeps the ended runs of a study as one file, and takes them out again to go on with the others.

How the file is read: archive.py.
"""

import io
import lzma
import shutil
import tarfile
from pathlib import Path

from decayfree.arguments.kinds import checked
from decayfree.study.disk import replacing
from decayfree.study.files.archive import ARCHIVE_FILE, KEPT_FILES, folder_of_runs
from decayfree.study.files.checkpoint import read_state
from decayfree.study.files.integrity import ResultError
from decayfree.study.files.results import ENDED, run_directory
from decayfree.study.spec.study_spec import StudySpec


@checked()
def keep(out: str | Path, target: str | Path) -> Path:
    """Write the spec and the ended runs of the study in ``out`` to ``target``; equal files give equal bytes.

    Returns:
        The archive's path, ``target/runs.tar.xz``; ``study.toml`` lies beside it.

    Raises:
        ResultError: If there is no study in ``out``.
    """
    out, target = Path(out), Path(target)
    if not (out / "study.toml").is_file():
        raise ResultError(f"no study in {out}: there is no study.toml")
    planned = {run.key for run in StudySpec.load(out / "study.toml").runs()}
    keys = {key for key in planned if read_state(run_directory(out, key)) in ENDED}
    paths = (path for name in KEPT_FILES for path in (out / "runs").glob(f"*/{name}"))
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


@checked()
def take_out(kept: str | Path, out: str | Path) -> int:
    """Put what is kept of a study into the folder ``out``, so that running it there does what is left.

    Runs that ``out`` has already stay as they are, and so does its spec.

    Returns:
        How many runs were put there.

    Raises:
        ResultError: If nothing is kept in ``kept``, or its archive is damaged.
    """
    kept, out = Path(kept), Path(out)
    if not (kept / ARCHIVE_FILE).is_file() or not (kept / "study.toml").is_file():
        raise ResultError(f"{kept}: expected study.toml and {ARCHIVE_FILE} of a kept study")
    n_new = 0
    (out / "runs").mkdir(parents=True, exist_ok=True)
    with folder_of_runs(kept) as folder:
        for run in sorted((folder / "runs").glob("*")):
            if not (out / "runs" / run.name).exists():
                shutil.move(run, out / "runs" / run.name)
                n_new += 1
    if not (out / "study.toml").is_file():
        with replacing(out / "study.toml") as copy:
            copy.write((kept / "study.toml").read_bytes())
    return n_new
