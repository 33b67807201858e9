"""Runs of a tiny study that crash or find the disk full at one write after the other; a script that forks.

Every write, truncation, opening, closing, renaming and deleting of a file counts as a point. What is half
written by then is on the disk. After each fault the run is run again, and its files are compared with those
of a run without.

    python crashing.py FOLDER crash|full few|all
"""

import contextlib
import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from decayfree.methods import WeightDecay
from decayfree.study.files.checkpoint import load_checkpoint
from decayfree.study.files.integrity import ResultError, is_no_room
from decayfree.study.files.results import read_rows, run_directory
from decayfree.study.training.loop import train
from support.small_study import settings
from support.study_files import assert_same_files

RUN = settings(WeightDecay(0.01), n_epochs=2, n_samples=3)
CRASHED, DISK_FULL = 77, 78
LABELS = "points.json"


class Faults:
    """Counts points, and does something at one of them: the first is number 0."""

    def __init__(self, at: int, action: Callable[[], None], *, also_after: bool) -> None:
        self._at, self._action, self._also_after = at, action, also_after
        self.labels: list[str] = []

    def point(self, what: str, path: Any) -> None:
        self.labels.append(f"{what} {Path(path).name}")
        n = len(self.labels) - 1
        if n == self._at or (self._also_after and n > self._at >= 0):
            self._action()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Every path and every file that is written goes through here."""
        real_open = Path.open

        def opened(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
            if mode in ("r", "rb"):
                return real_open(path, mode, *args, **options)
            self.point("open", path)
            return _File(self, path, real_open(path, mode, *args, **options))

        before = {name: getattr(Path, name) for name in ("replace", "unlink", "mkdir")}
        Path.open = opened  # type: ignore[method-assign]
        for name, real in before.items():
            setattr(Path, name, self._counted(name, real))
        try:
            yield
        finally:
            Path.open = real_open  # type: ignore[method-assign]
            for name, real in before.items():
                setattr(Path, name, real)

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(path: Path, *args: Any, **options: Any) -> Any:
            # A full disk still renames and deletes.
            if not self._also_after:
                self.point(name, path)
            result = real(path, *args, **options)
            if not self._also_after:
                self.point(f"{name}d", path)
            return result

        return counted


class _File:
    """A file written through `Faults`: at a fault in a write, the first half of it is on the disk."""

    def __init__(self, faults: Faults, path: Path, file: Any) -> None:
        self._faults, self._path, self._file = faults, path, file

    def write(self, data: Any) -> int:
        half = len(data) // 2
        self._file.write(data[:half])
        self._file.flush()
        self._faults.point("write", self._path)
        self._file.write(data[half:])
        return len(data)

    def truncate(self, size: int) -> int:
        self._faults.point("truncate", self._path)
        n: int = self._file.truncate(size)
        return n

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._faults.point("closed", self._path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def train_with_a_fault(out: Path, kind: str, at: int) -> int:
    """In a process of its own: the exit code, 0 where there are not so many points."""

    def crash() -> None:
        os._exit(CRASHED)

    def disk_is_full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    is_crash = kind == "crash"
    faults = Faults(at, crash if is_crash else disk_is_full, also_after=not is_crash)
    try:
        with faults.installed():
            train(RUN, out, record_norms=True)
    except OSError as error:
        return DISK_FULL if is_no_room(error) else 1
    if at < 0:
        (out / LABELS).write_text(json.dumps(faults.labels))
    return 0


def go_on_and_compare(out: Path, reference: Path) -> int:
    """In its own process: what a fault left can be read, and going on gives equal files; the exit code."""
    directory = run_directory(out, RUN.key)
    try:
        load_checkpoint(directory)
        read_rows(directory / "metrics.jsonl", may_be_cut=True)
    except ResultError as error:
        sys.stderr.write(f"left what cannot be read: {error}\n")
        return 1
    if train(RUN, out, record_norms=True) != "done":
        return 1
    assert_same_files(RUN, out, reference)
    left = {path.name for path in directory.iterdir()}
    return int(left != {path.name for path in run_directory(reference, RUN.key).iterdir()})


def in_a_fork(function: Callable[..., int], *arguments: Any) -> int:
    """The exit code of a process that calls it; an exception is 1, and printed."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = function(*arguments)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def chosen(labels: list[str], how_many: str) -> list[int]:
    """All points, or one of each kind, the last: by then there is something to lose."""
    if how_many == "all":
        return list(range(len(labels)))
    return sorted({label: number for number, label in enumerate(labels)}.values())


def main(folder: Path, kind: str, how_many: str) -> None:
    """Try the points; print how many there are, how many were tried, and those that left something wrong."""
    reference = folder / "reference"
    reference.mkdir(parents=True)
    # In this process, so that those that are forked find data and scale-invariant weights in its caches.
    assert train_with_a_fault(reference, kind, -1) == 0
    labels = json.loads((reference / LABELS).read_text())
    wrong = []
    numbers = chosen(labels, how_many)
    for number in numbers:
        out = folder / "tried"
        out.mkdir()
        code = in_a_fork(train_with_a_fault, out, kind, number)
        if code != (CRASHED if kind == "crash" else DISK_FULL) or in_a_fork(
            go_on_and_compare, out, reference
        ):
            wrong.append([number, labels[number], code])
        shutil.rmtree(out)
    kinds = sorted(set(labels))
    found = {"n_points": len(labels), "n_tried": len(numbers), "wrong": wrong, "kinds": kinds}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
