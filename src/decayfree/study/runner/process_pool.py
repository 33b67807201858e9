"""Processes that train runs: starting them, giving them jobs, hearing from them, ending them.

Decides nothing about which run comes next: `queue` does. A process keeps its imports and data for all its
runs.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from decayfree.study.files.checkpoint import write_failure
from decayfree.study.files.folder_lock import LockShare
from decayfree.study.files.integrity import is_no_room
from decayfree.study.files.results import ERROR_FILE, run_directory
from decayfree.study.run_settings import RunSettings
from decayfree.study.training.loop import train

_REPORT_EVERY_S = 0.2
_STOP_WITHIN_S = 30.0


@dataclass(frozen=True)
class Job:
    """One run to train."""

    settings: RunSettings
    out: Path
    data_dir: str | Path | None
    record_norms: bool
    n_threads: int
    source_dir: str | Path | None = None


@dataclass(frozen=True)
class Report:
    """News of a job: steps done so far, and whether that is all that will be done now."""

    key: str
    n_steps: int
    is_over: bool
    lost: str | None = None
    """Why the job's process is gone, where it is: a run that is none the worse for it."""
    disk_is_full: str | None = None
    """What the disk said, where it takes no more: no other run would get further."""


class Pool:
    """At most so many processes, started when there is a job for them; a context that leaves none behind."""

    n_tries = 2
    """A run whose process was killed is tried again once: the kernel kills the largest, guilty or not."""

    def __init__(self, n_workers: int, *, n_threads: int, lock: LockShare | None = None) -> None:
        """Prepare; no process is started yet.

        Each starts with ``n_threads``, while a job says how many it trains with, and holds the lock until it
        ends.
        """
        self._n_workers, self._n_threads, self._lock = n_workers, n_threads, lock
        self._workers: list[_Worker] = []

    @property
    def has_room(self) -> bool:
        """Whether another job can begin."""
        return any(worker.job is None for worker in self._workers) or len(self._workers) < self._n_workers

    def begin(self, job: Job) -> None:
        """Give a job to a process without one."""
        worker = next((worker for worker in self._workers if worker.job is None), None)
        if worker is None:
            worker = _Worker(self._n_threads, self._lock)
            self._workers.append(worker)
        worker.begin(job)

    def reports(self) -> Iterator[Report]:
        """Wait for news of the jobs and give it; a dead process is dropped, its job reported as lost."""
        ready = wait([worker.connection for worker in self._workers])
        for worker in [worker for worker in self._workers if worker.connection in ready]:
            try:
                report: Report = worker.connection.recv()
            except (EOFError, OSError):
                yield from self._drop(worker)
                continue
            if report.is_over:
                worker.job = None
            yield report

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        """Let every process save what it is at and end; those that do not within half a minute are ended."""
        for worker in self._workers:
            worker.connection.close()
        give_up_s = time.monotonic() + _STOP_WITHIN_S
        for worker in self._workers:
            worker.process.join(max(0.0, give_up_s - time.monotonic()))
        for worker in self._workers:
            worker.process.kill()
            worker.process.join()

    def _drop(self, worker: "_Worker") -> Iterator[Report]:
        self._workers.remove(worker)
        worker.connection.close()
        worker.process.join()
        if worker.job is not None:
            yield Report(
                worker.job.settings.key, 0, is_over=True, lost=_how_it_ended(worker.process.exitcode)
            )


def train_job(job: Job, tell: Callable[[Report], bool]) -> Report:
    """Train a run in this process and say how it ended; an error goes into its folder and stops no other.

    ``tell`` is called with news now and then; False, since nobody listens any more, saves and stops.
    """
    torch.set_num_threads(job.n_threads)
    reporter = _Reporter(job.settings.key, tell)
    try:
        (run_directory(job.out, job.settings.key) / ERROR_FILE).unlink(missing_ok=True)
        train(
            job.settings,
            job.out,
            data_dir=job.data_dir,
            source_dir=job.source_dir,
            record_norms=job.record_norms,
            on_step=reporter,
        )
    except Exception as error:
        return _note_failure(job, error, n_steps=reporter.n_steps)
    return Report(job.settings.key, job.settings.recipe.n_steps, is_over=True)


def _note_failure(job: Job, error: Exception, *, n_steps: int) -> Report:
    key, directory = job.settings.key, run_directory(job.out, job.settings.key)
    if not is_no_room(error):
        reason, details = f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))
        try:
            write_failure(directory, job.settings, reason, details=details)
        except OSError as another:
            if not is_no_room(another):
                raise
            error = another
        else:
            return Report(key, job.settings.recipe.n_steps, is_over=True)
    return Report(key, n_steps, is_over=True, disk_is_full=str(error))


class _Reporter:
    """Called after each step: reports now and then, and says False once nobody listens."""

    def __init__(self, key: str, tell: Callable[[Report], bool]) -> None:
        self._key, self._tell, self.n_steps = key, tell, 0
        self._next_s = 0.0

    def __call__(self, n_steps: int) -> bool:
        self.n_steps = n_steps
        now_s = time.monotonic()
        if now_s < self._next_s:
            return True
        self._next_s = now_s + _REPORT_EVERY_S
        return self._tell(Report(self._key, n_steps, is_over=False))


class _Worker:
    """A process and the job it is at."""

    def __init__(self, n_threads: int, lock: LockShare | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.job: Job | None = None
        self.process = context.Process(target=_serve, args=(theirs, lock), daemon=True)
        # It inherits deafness to the terminal's Ctrl-C: its parent stops it.
        with handling(signal.SIGINT, signal.SIG_IGN), _environment_for_threads(n_threads):
            self.process.start()
        theirs.close()

    def begin(self, job: Job) -> None:
        self.job = job
        with contextlib.suppress(OSError):  # of a dead process the next reports will tell
            self.connection.send(job)


def _serve(connection: Connection, lock: LockShare | None) -> None:
    """Train one job after the other, holding a share of the lock, until the other end hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def tell(report: Report) -> bool:
        try:
            connection.send(report)
        except OSError:
            return False
        return True

    with contextlib.suppress(EOFError, OSError):
        while True:
            job: Job = connection.recv()
            tell(train_job(job, tell))


def _how_it_ended(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"its process ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    hint = ", as the kernel does for want of memory" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{hint}"


@contextlib.contextmanager
def handling(number: int, handler: Any) -> Iterator[None]:
    """Handle a signal so, and afterwards as before; only the main thread can, others leave it as it is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextlib.contextmanager
def _environment_for_threads(n_threads: int) -> Iterator[None]:
    """OpenMP reads these when a process imports torch: so many threads, and no spinning while they wait."""
    wanted = {"OMP_NUM_THREADS": str(n_threads), "OMP_WAIT_POLICY": "PASSIVE"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
