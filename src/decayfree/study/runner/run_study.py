"""Runs a study: every run of its spec that is not done yet, in a pool of processes or on a Ray cluster.

Does not train and does not draw; it tells how far it is through a callback. Running the same spec into the
same folder again goes on where it was stopped, killed or failed; runs that the spec does not name any more
are left alone.
"""

import dataclasses
import multiprocessing.process
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from decayfree.arguments.kinds import COUNT, checked
from decayfree.errors import InvalidInputError
from decayfree.study.disk import replace_text
from decayfree.study.files.checkpoint import read_reason, read_state
from decayfree.study.files.folder_lock import FolderLock, LockShare
from decayfree.study.files.integrity import DiskFullError, full_disk_explained
from decayfree.study.files.results import ENDED, run_directory
from decayfree.study.runner.cores import threads_each
from decayfree.study.runner.growing import grown
from decayfree.study.runner.own_check import changed_sources, check_own
from decayfree.study.runner.process_pool import Pool
from decayfree.study.runner.queue import Queue
from decayfree.study.spec.study_spec import StudySpec

if TYPE_CHECKING:
    from decayfree.study.runner.ray_pool import RayPool


GO_ON = (
    "the study was stopped. Checkpoints and metrics so far are kept; make room and run the same again, and "
    "it goes on"
)


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
    set_aside: tuple[str, ...] = ()
    """What was found damaged, or begun with another source than there is now, set aside and done again, one
    sentence each, with method and seed.
    """
    changed: tuple[str, ...] = ()
    """What runs that had ended before had another source of, one sentence each; they stay as they are."""


@checked(n_jobs=COUNT)
def run_study(
    spec: StudySpec,
    out: str | Path,
    *,
    n_jobs: int = 2,
    ray_address: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_stopping: Callable[[], None] | None = None,
) -> StudyOutcome:
    """Train all runs of ``spec`` that are not done yet.

    A run that fails or diverges stops no other; one that failed is tried again at the next call. What is
    found damaged is set aside and done again. A run goes on with the number of threads it began with,
    whatever ``n_jobs`` is by then: other numbers of threads round otherwise. Where the spec has rules
    (``extend``, ``confirm_seeds``), what they ask for runs next, and stands in the folder's ``study.toml``.
    What is the user's own is tried first: its modules run, here and in every process.

    Args:
        spec: What to run.
        out: The study's folder, made where it is not there; see `read_study` for what it holds.
        n_jobs: Processes; each gets an equal share of the cores as threads, at least one and at most
            ``OMP_NUM_THREADS``.
        ray_address: Of a running Ray cluster, in Ray's words: ``auto``, ``HOST:PORT``, ``ray://HOST:PORT``.
            Runs are tasks there, as many at a time as it has room for, one thread each, and ``n_jobs`` is not
            looked at.
        on_progress: Called a few times a second from this process.
        on_stopping: Called once at Ctrl-C, before the runs have saved where they are.

    Returns:
        How it ended. Ctrl-C is no exception here: runs save where they are, and ``interrupted`` is set.

    Raises:
        InvalidInputError: If ``n_jobs`` is below 1, there is no cluster at the address, or a script calls it
            that the processes import: then the call belongs under ``if __name__ == "__main__":``.
        SpecError: If what is the user's own is not what it must be.
        FolderInUseError: If another runner is at work in ``out``.
        DiskFullError: If the disk takes no more. All checkpoints and rows so far are kept; calling again goes
            on.
        MissingExtraError: If Ray is wanted and not installed.
    """
    if getattr(multiprocessing.process.current_process(), "_inheriting", False):
        raise InvalidInputError(
            "run_study is called while one of its processes imports the script that it is called in: put the "
            'call under if __name__ == "__main__":'
        )
    out = Path(out)
    interrupted = False
    if spec.own():
        check_own(spec, with_data=ray_address is None)
    changed = changed_sources(spec, out)
    with full_disk_explained(out, GO_ON):
        out.mkdir(parents=True, exist_ok=True)
        with FolderLock(out) as lock:
            set_aside: tuple[str, ...] = ()
            before, spec = None, grown(spec, out)
            while spec != before and not interrupted:
                _write_spec(spec, out)
                queue = Queue(spec, out, n_threads=1 if ray_address else threads_each(n_jobs))
                try:
                    with _workers(n_jobs, ray_address, lock.share) as workers:
                        try:
                            _run_all(queue, workers, on_progress or (lambda progress: None))
                        except KeyboardInterrupt:
                            if on_stopping:
                                on_stopping()
                            raise
                except KeyboardInterrupt:
                    interrupted = True
                set_aside += queue.set_aside
                before, spec = spec, grown(spec, out)
            _write_spec(spec, out)  # where Ctrl-C came between two rounds, what comes next stands there
    outcome = _outcome(spec, out, interrupted=interrupted, set_aside=set_aside)
    return dataclasses.replace(outcome, changed=changed)


def _workers(n_jobs: int, ray_address: str | None, lock: LockShare) -> "Pool | RayPool":
    """What trains the runs: processes here, or tasks on a cluster."""
    if ray_address is None:
        return Pool(n_jobs, n_threads=threads_each(n_jobs), lock=lock)
    from decayfree.study.runner.ray_pool import RayPool

    return RayPool(ray_address)


def _run_all(queue: Queue, workers: "Pool | RayPool", on_progress: Callable[[Progress], None]) -> None:
    clock = Clock(queue.fraction())
    while True:
        while workers.has_room and (job := queue.next_job()):
            workers.begin(job)
        if queue.is_over:
            break
        on_progress(_progress(queue, clock))
        for report in workers.reports():
            if report.disk_is_full is not None:
                raise DiskFullError(report.disk_is_full)
            queue.note(report, n_tries=workers.n_tries)
    on_progress(_progress(queue, clock))


def _progress(queue: Queue, clock: "Clock") -> Progress:
    fraction = queue.fraction()
    return Progress(
        n_done=queue.n_ended,
        n_total=queue.n_total,
        fraction=fraction,
        label="; ".join(f"{run.label}, seed {run.seed}" for run in queue.running()),
        seconds_left=clock.seconds_left(fraction),
    )


class Clock:
    """How long the rest takes at the pace so far."""

    def __init__(self, fraction: float) -> None:
        self._began_s, self._began_at = time.monotonic(), fraction

    def seconds_left(self, fraction: float) -> float | None:
        """At the pace since this object was made; None as long as there is none."""
        gained = fraction - self._began_at
        if gained <= 0:
            return None
        return (time.monotonic() - self._began_s) / gained * (1 - fraction)


def _write_spec(spec: StudySpec, out: Path) -> None:
    path, text = out / "study.toml", spec.to_toml()
    if not path.is_file() or path.read_bytes() != text.encode():
        replace_text(path, text)


def _outcome(spec: StudySpec, out: Path, *, interrupted: bool, set_aside: tuple[str, ...]) -> StudyOutcome:
    """As the files tell it, whatever happened in between."""
    runs = spec.runs()
    states = {run: read_state(run_directory(out, run.key)) for run in runs}
    failed = [run for run in runs if states[run] == "failed"]
    return StudyOutcome(
        n_done=sum(state in ENDED for state in states.values()),
        n_total=len(runs),
        n_failed=len(failed),
        reasons=tuple(
            f"{run.label}, seed {run.seed}: {read_reason(run_directory(out, run.key))}" for run in failed
        ),
        interrupted=interrupted,
        set_aside=set_aside,
    )
