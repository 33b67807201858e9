"""Processes that train runs, one thread each: starting them, giving them jobs, hearing from them, ending them.

Decides nothing about which run comes next; see `runner`. A process keeps its imports and data for all its runs.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from decayfree.study.checkpoint import write_record
from decayfree.study.results import run_directory
from decayfree.study.spec import RunSettings
from decayfree.study.training import train

_REPORT_EVERY_S = 0.2
_STOP_WITHIN_S = 30.0


@dataclass(frozen=True)
class Job:
    """One run to train."""

    settings: RunSettings
    out: Path
    data_dir: str | None
    record_norms: bool


@dataclass(frozen=True)
class Report:
    """What a process says about its job: steps done so far, and whether that is all that it will do."""

    key: str
    n_steps: int
    is_over: bool


class Pool:
    """At most so many processes, started when there is a job for them; a context that leaves none behind."""

    def __init__(self, n_workers: int) -> None:
        self._n_workers = n_workers
        self._workers: list[_Worker] = []

    @property
    def has_room(self) -> bool:
        """Whether another job can begin."""
        return any(worker.job is None for worker in self._workers) or len(self._workers) < self._n_workers

    def begin(self, job: Job) -> None:
        """Give a job to a process without one."""
        worker = next((worker for worker in self._workers if worker.job is None), None)
        if worker is None:
            worker = _Worker()
            self._workers.append(worker)
        worker.begin(job)

    def reports(self) -> Iterator[Report]:
        """Wait for news of the jobs and give them; a process that has died is dropped, its job marked failed."""
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
        deadline_s = time.monotonic() + _STOP_WITHIN_S
        try:
            for worker in self._workers:
                worker.process.join(max(0.0, deadline_s - time.monotonic()))
        finally:  # a second Ctrl-C does not wait
            for worker in self._workers:
                worker.process.terminate()

    def _drop(self, worker: "_Worker") -> Iterator[Report]:
        self._workers.remove(worker)
        worker.connection.close()
        worker.process.join()
        if worker.job is not None:
            settings = worker.job.settings
            reason = f"its process ended with exit code {worker.process.exitcode}"
            write_record(run_directory(worker.job.out, settings.key), settings, state="failed", reason=reason)
            yield Report(settings.key, 0, is_over=True)


class _Worker:
    """A process and the job it is at."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.job: Job | None = None
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with _ignoring_interrupts(), _single_threaded_environment():
            self.process.start()
        theirs.close()

    def begin(self, job: Job) -> None:
        self.job = job
        with contextlib.suppress(OSError):  # of a dead process the next reports will tell
            self.connection.send(job)


def _serve(connection: Connection) -> None:
    """What a process does: train one job after the other until the other end hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):
        while True:
            job: Job = connection.recv()
            reporter = _Reporter(connection, job.settings.key)
            _train(job, reporter)
            connection.send(Report(job.settings.key, job.settings.recipe.n_steps, is_over=True))


def _train(job: Job, reporter: "_Reporter") -> None:
    try:
        train(
            job.settings,
            job.out,
            data_dir=job.data_dir,
            record_norms=job.record_norms,
            on_step=reporter,
        )
    except Exception as error:  # a failing run must not stop the others; its reason is kept in its record
        directory = run_directory(job.out, job.settings.key)
        reason = f"{type(error).__name__}: {error}"
        write_record(directory, job.settings, state="failed", reason=reason)


class _Reporter:
    """Called after each step: reports now and then, and says False once the other end has hung up."""

    def __init__(self, connection: Connection, key: str) -> None:
        self._connection, self._key = connection, key
        self._next_s = 0.0

    def __call__(self, n_steps: int) -> bool:
        now_s = time.monotonic()
        if now_s < self._next_s:
            return True
        self._next_s = now_s + _REPORT_EVERY_S
        try:
            self._connection.send(Report(self._key, n_steps, is_over=False))
        except OSError:
            return False
        return True


@contextlib.contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """A process started within inherits deafness to Ctrl-C, which goes to the whole terminal: the parent stops it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _single_threaded_environment() -> Iterator[None]:
    """OpenMP reads these when a process imports torch: one thread, and no spinning while it waits."""
    wanted = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
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
