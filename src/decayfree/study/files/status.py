"""How far a study is, from its files alone: what waits, runs, is done or failed and why, and the time left.

Trains nothing and disturbs no runner that is at work in the folder. Whether a run that has begun is still at
work is told by the runner's lock. A run whose record, rows or spectra are damaged waits. Norms and
checkpoints can be large: the runner judges them.
"""

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from decayfree.study.disk import as_path
from decayfree.study.files import results
from decayfree.study.files.archive import folder_of_runs
from decayfree.study.files.folder_lock import Holder, holder_of
from decayfree.study.files.integrity import ResultError
from decayfree.study.files.sources import Sources
from decayfree.study.run_settings import RunSettings

RunPhase = Literal["waiting", "running", "done", "diverged", "failed"]
_TAIL_BYTES = 1 << 20
_DAMAGED = "damaged, and to be made again when the study is run"


@dataclass(frozen=True)
class RunStatus:
    """How far one run is."""

    settings: RunSettings
    state: RunPhase
    """A stopped run is ``waiting`` as well, to go on; so is one with damaged files, to begin anew."""
    reason: str | None
    """Why it failed or diverged, or has to be made again."""
    n_done: int
    """Steps done, as of the last row of its metrics."""
    elapsed_s: float
    """Spent on it so far."""
    seconds_left: float | None
    """At its own pace while it runs, at that of runs of its size while it waits; None if none is known."""
    set_aside: tuple[str, ...]
    """Why files of it were set aside as damaged."""
    test_scores: tuple[float, ...] = ()
    """Of the rows of its metrics so far (of very many, the last), as shares; NaN where one is none."""
    sources: Sources = field(default_factory=dict)
    """Of what is the user's own in it, or a library's."""

    @property
    def fraction(self) -> float:
        """Share of its steps that are done, from 0 to 1; of one that has ended, 1."""
        return 1.0 if self.state in results.ENDED else self.n_done / self.settings.recipe.n_steps


@dataclass(frozen=True)
class StudyStatus:
    """How far a study is."""

    runs: tuple[RunStatus, ...]
    holder: Holder | None
    """Who is running it now."""

    @property
    def seconds_left(self) -> float | None:
        """Until all runs end, if as many run at a time as now (or one); None where no pace is known."""
        left = [run.seconds_left for run in self.runs if run.state in ("waiting", "running")]
        known = [seconds for seconds in left if seconds is not None]
        if len(known) < len(left):
            return None
        n_at_a_time = max(1, sum(run.state == "running" for run in self.runs))
        return max(sum(known) / n_at_a_time, max(known, default=0.0))


def study_status(out: str | Path) -> StudyStatus:
    """Read how far the study in a folder is, or in what is kept of one in ``runs.tar.xz``.

    Raises:
        ResultError: If there is no study, or its archive is damaged.
        SpecError: If its spec cannot be read.
    """
    out = as_path("out", out)
    runs = results.spec_in(out).runs()
    holder = holder_of(out)
    now_s = time.time()
    with folder_of_runs(out) as folder:
        left = [
            _left_by(run, results.run_directory(folder, run.key), now_s, is_held=holder is not None)
            for run in runs
        ]
    paces = _Paces(left)
    timed = (dataclasses.replace(status, seconds_left=paces.seconds_left(status)) for status in left)
    return StudyStatus(runs=tuple(timed), holder=holder)


def _left_by(run: RunSettings, directory: Path, now_s: float, *, is_held: bool) -> RunStatus:
    """What a run has left so far, and nothing of what is to come."""
    anew = RunStatus(run, "waiting", None, n_done=0, elapsed_s=0.0, seconds_left=None, set_aside=())
    try:
        record = results.read_record(directory)
    except ResultError as error:
        is_damaged = (directory / results.RECORD_FILE).is_file()
        return dataclasses.replace(anew, reason=f"{_DAMAGED}: {error}") if is_damaged else anew
    set_aside = tuple(record["set_aside"])
    if record["state"] in results.ENDED:
        faults = results.file_faults(directory, record, (results.ROWS_FILE, results.SPECTRA_FILE))
    else:
        faults = list(filter(None, [results.rows_fault(directory)]))
    if faults:
        return dataclasses.replace(anew, reason=f"{_DAMAGED}: {'; '.join(faults)}", set_aside=set_aside)
    n_done, scores = _steps_and_scores(directory / results.ROWS_FILE)
    elapsed_s, state = record["elapsed_s"], record["state"]
    if state == "running" and is_held:
        elapsed_s += max(0.0, now_s - (directory / results.RECORD_FILE).stat().st_mtime)
    elif state == "running":
        state = "waiting"
    sources = record["sources"]
    return RunStatus(run, state, record["reason"], n_done, elapsed_s, None, set_aside, scores, sources)


class _Paces:
    """Seconds a step takes, by the size of a run."""

    def __init__(self, runs: Sequence[RunStatus]) -> None:
        self._of_size: dict[tuple[Any, ...], tuple[float, int]] = {}
        for run in runs:
            if run.state in ("done", "running") and run.n_done > 0:
                spent_s, n_steps = self._of_size.get(_size(run), (0.0, 0))
                self._of_size[_size(run)] = spent_s + run.elapsed_s, n_steps + run.n_done

    def seconds_left(self, run: RunStatus) -> float | None:
        if run.state not in ("waiting", "running"):
            return None
        n_left = run.settings.recipe.n_steps - run.n_done
        spent_s, n_steps = self._of_size.get(_size(run), self._of_all())
        if run.state == "running" and run.n_done > 0:
            spent_s, n_steps = run.elapsed_s, run.n_done
        return None if n_steps == 0 else spent_s / n_steps * n_left

    def _of_all(self) -> tuple[float, int]:
        return sum(spent for spent, _ in self._of_size.values()), sum(n for _, n in self._of_size.values())


def _size(run: RunStatus) -> tuple[Any, ...]:
    """Runs that have this in common take about as long a step."""
    recipe = run.settings.recipe
    return recipe.model, recipe.data.name, recipe.batch_size, recipe.device, recipe.precision


def _steps_and_scores(path: Path) -> tuple[int, tuple[float, ...]]:
    """The step of the last whole row of metrics, and the scores of all in the file's end; 0 where none is."""
    if not path.is_file():
        return 0, ()
    with path.open("rb") as file:
        start = max(0, path.stat().st_size - _TAIL_BYTES)
        file.seek(start)
        lines = file.read().split(b"\n")[bool(start) : -1]
    try:
        rows = [json.loads(line) for line in lines]
        scores = [row.get("test_score") for row in rows]
        return int(rows[-1]["step"]), tuple(math.nan if one is None else float(one) for one in scores)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return 0, ()
