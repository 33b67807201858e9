"""Runs a study: every run of its spec that is not done yet, in a pool of processes, in an order that fits.

Does not train and does not draw; it tells how far it is through a callback. Running the same spec into the same
folder again goes on where it was stopped, killed or failed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from decayfree.errors import InvalidInputError
from decayfree.study.checkpoint import read_reason, read_state, write_record
from decayfree.study.norm_log import FILE_NAME
from decayfree.study.pool import Job, Pool, Report
from decayfree.study.results import run_directory
from decayfree.study.spec import RunSettings, StudySpec

_ENDED = ("done", "diverged")


@dataclass(frozen=True)
class Progress:
    """How far a study is."""

    n_done: int
    """Runs that have ended, done, diverged or failed."""
    n_total: int
    fraction: float
    """Share of all steps that are done, from 0 to 1."""
    label: str
    """What runs now."""
    seconds_left: float | None
    """At the pace since this call began; None as long as there is none."""


@dataclass(frozen=True)
class StudyOutcome:
    """How a study ended."""

    n_done: int
    """Runs that have a result; a diverged one counts."""
    n_total: int
    n_failed: int
    reasons: tuple[str, ...]
    """Why runs failed, one sentence each, with method and seed."""
    interrupted: bool
    """Whether Ctrl-C stopped it; calling again goes on."""


def run_study(
    spec: StudySpec,
    out: Path,
    *,
    n_jobs: int = 2,
    on_progress: Callable[[Progress], None] | None = None,
    on_stopping: Callable[[], None] | None = None,
) -> StudyOutcome:
    """Train all runs of ``spec`` that are not done yet.

    Args:
        spec: What to run.
        out: The study's folder, made where it is not there; see `read_study` for what it holds.
        n_jobs: Processes, one thread each.
        on_progress: Called a few times a second from this process.
        on_stopping: Called once at Ctrl-C, before the runs have saved where they are.

    Returns:
        How it ended. Ctrl-C is no exception here: runs save where they are, and ``interrupted`` is set.

    Raises:
        InvalidInputError: If ``n_jobs`` is below 1.
    """
    if n_jobs < 1:
        raise InvalidInputError(f"n_jobs must be at least 1, got {n_jobs}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "study.toml").write_text(spec.to_toml(), encoding="utf-8")
    queue = _Queue(spec, out)
    interrupted = False
    try:
        with Pool(n_jobs) as pool:
            try:
                _run_all(queue, pool, on_progress or (lambda progress: None))
            except KeyboardInterrupt:
                if on_stopping:
                    on_stopping()
                raise
    except KeyboardInterrupt:
        interrupted = True
    return _outcome(spec, out, interrupted=interrupted)


def _run_all(queue: "_Queue", pool: Pool, on_progress: Callable[[Progress], None]) -> None:
    clock = _Clock(queue.fraction())
    while True:
        while pool.has_room and (job := queue.next_job()):
            pool.begin(job)
        if queue.is_over:
            break
        on_progress(queue.progress(clock))
        for report in pool.reports():
            queue.note(report)
    on_progress(queue.progress(clock))


class _Queue:
    """Which runs wait, which run, which have ended, and how many steps each has done."""

    def __init__(self, spec: StudySpec, out: Path) -> None:
        self._out, self._data_dir = out, spec.data_dir
        self._runs = {run.key: run for run in spec.runs()}
        self._replayed = {run.replayed_run.key for run in spec.runs() if run.replayed_run is not None}
        self._ended = {key for key in self._runs if self._is_done(key)}
        self._waiting = [key for key in self._runs if key not in self._ended]
        self._running: list[str] = []
        self._n_steps = {key: run.recipe.n_steps * (key in self._ended) for key, run in self._runs.items()}

    @property
    def is_over(self) -> bool:
        return not self._waiting and not self._running

    def next_job(self) -> Job | None:
        """The first waiting run that can begin; those that never can are marked failed."""
        for key in list(self._waiting):
            run = self._runs[key]
            needed = run.replayed_run
            if needed is not None and needed.key not in self._ended:
                continue
            self._waiting.remove(key)
            if needed is not None and read_state(run_directory(self._out, needed.key)) != "done":
                self._fail(run, f"it replays the norms of {needed.label}, seed {needed.seed}, which has none")
                continue
            self._running.append(key)
            return Job(run, self._out, self._data_dir, record_norms=key in self._replayed)
        return None

    def note(self, report: Report) -> None:
        if report.is_over:
            self._running.remove(report.key)
            self._ended.add(report.key)
            self._n_steps[report.key] = self._runs[report.key].recipe.n_steps
        else:
            self._n_steps[report.key] = report.n_steps

    def fraction(self) -> float:
        return sum(self._n_steps.values()) / sum(run.recipe.n_steps for run in self._runs.values())

    def progress(self, clock: "_Clock") -> Progress:
        fraction = self.fraction()
        running = [f"{self._runs[key].label}, seed {self._runs[key].seed}" for key in self._running]
        return Progress(
            n_done=len(self._ended),
            n_total=len(self._runs),
            fraction=fraction,
            label="; ".join(running),
            seconds_left=clock.seconds_left(fraction),
        )

    def _is_done(self, key: str) -> bool:
        """Whether a run has ended with all that is asked of it: a result, and its norms if another replays them."""
        directory = run_directory(self._out, key)
        state = read_state(directory)
        return state == "diverged" or (
            state == "done" and (key not in self._replayed or (directory / FILE_NAME).is_file())
        )

    def _fail(self, run: RunSettings, reason: str) -> None:
        write_record(run_directory(self._out, run.key), run, state="failed", reason=reason)
        self._ended.add(run.key)
        self._n_steps[run.key] = run.recipe.n_steps


class _Clock:
    """How long the rest takes at the pace so far."""

    def __init__(self, fraction: float) -> None:
        self._began_s, self._began_at = time.monotonic(), fraction

    def seconds_left(self, fraction: float) -> float | None:
        gained = fraction - self._began_at
        if gained <= 0:
            return None
        return (time.monotonic() - self._began_s) / gained * (1 - fraction)


def _outcome(spec: StudySpec, out: Path, *, interrupted: bool) -> StudyOutcome:
    """As the files tell it, whatever happened in between."""
    runs = spec.runs()
    states = {run: read_state(run_directory(out, run.key)) for run in runs}
    failed = [run for run in runs if states[run] == "failed"]
    return StudyOutcome(
        n_done=sum(state in _ENDED for state in states.values()),
        n_total=len(runs),
        n_failed=len(failed),
        reasons=tuple(
            f"{run.label}, seed {run.seed}: {read_reason(run_directory(out, run.key))}" for run in failed
        ),
        interrupted=interrupted,
    )
