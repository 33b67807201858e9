"""Runs as tasks on a running Ray cluster: sending what they need, hearing from them, pulling what they leave.

Starts no cluster and decides nothing about which run comes next. No shared file system is assumed: a task
gets the files it goes on from, the norms it replays and the files of the user's own, and sends its own back
at the end and every half minute, so that a run whose node is lost goes on elsewhere from there. The nodes
need this version of decayfree, packages of the user's own, and the images where ``data_dir`` says. Results
are bitwise those of another machine only where processor and torch are the same.
"""

import contextlib
import dataclasses
import logging
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from decayfree.arguments.address import looking_in
from decayfree.errors import DecayFreeError, extra_needed
from decayfree.study.disk import replacing
from decayfree.study.files.checkpoint import write_failure
from decayfree.study.files.results import CHECKPOINT_FILE, NORMS_FILE, RECORD_FILE, run_directory
from decayfree.study.runner.process_pool import Job, Report, train_job

_SOURCES = "sources"
_LISTEN_FOR_S = 0.2
_SEND_FILES_EVERY_S = 30.0
_STOP_WITHIN_S = 30.0
_REACH_WITHIN_S = 5.0

Files = Mapping[str, bytes]
"""Path below a folder -> content."""


class ClusterError(DecayFreeError, ConnectionError):
    """There is no Ray cluster where one was to be, or not what a run needs; the message says what to do."""


class RayPool:
    """As many tasks at a time as the cluster has room for; a context that leaves none behind."""

    n_tries = 4
    """A run is begun so often, since nodes that one pays little for are taken away more than once."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._ray = _ray()
        self._tasks: dict[Any, Job] = {}
        self._mailbox: Any = None
        self._resource = "CPU"

    def __enter__(self) -> "RayPool":
        """Connect.

        Raises:
            ClusterError: If no cluster answers.
        """
        self._is_ours = not self._ray.is_initialized()
        if self._is_ours:
            _connect(self._ray, self._address)
        self._mailbox = self._ray.remote(num_cpus=0)(_Mailbox).options(**_here(self._ray)).remote()
        self._task = self._ray.remote(max_retries=0)(_train)
        return self

    def __exit__(self, *_: object) -> None:
        """Let every task save what it is at and send it; those that do not within half a minute are ended."""
        is_lost = (self._ray.exceptions.RayError, ClusterError)
        try:
            with contextlib.suppress(*is_lost):
                self._stop()
        finally:
            with contextlib.suppress(*is_lost):
                for task in self._tasks:
                    self._ray.cancel(task, force=True)
                self._ray.kill(self._mailbox)
            if self._is_ours:
                self._ray.shutdown()

    @property
    def has_room(self) -> bool:
        """Whether the cluster, as large as it is now, has room for another job."""
        return len(self._tasks) < max(1, int(self._ray.cluster_resources().get(self._resource, 0)))

    def begin(self, job: Job) -> None:
        """Send a job: one CPU, and one GPU where its recipe wants one.

        Raises:
            ClusterError: If it wants a GPU and the cluster has none.
        """
        n_gpus = int(job.settings.recipe.device.startswith("cuda"))
        self._resource = "GPU" if n_gpus else "CPU"
        if n_gpus and not self._ray.cluster_resources().get("GPU"):
            raise ClusterError(
                f"{job.settings.label}, seed {job.settings.seed} is to train on cuda, and no node at "
                f"{self._address} has a GPU"
            )
        files = _files_needed(job)
        task = self._task.options(num_cpus=1, num_gpus=n_gpus).remote(
            job, files, self._mailbox, _SEND_FILES_EVERY_S
        )
        self._tasks[task] = job

    def reports(self) -> Iterator[Report]:
        """Wait a moment for news of the jobs and give them; the job of a lost task is reported as lost."""
        ended, _ = self._ray.wait(list(self._tasks), timeout=_LISTEN_FOR_S)
        at_work = {job.settings.key: job for task, job in self._tasks.items() if task not in ended}
        for report, files in self._letters():
            if report.key in at_work:
                _write_files(run_directory(at_work[report.key].out, report.key), files)
                yield report
        for task in ended:
            yield self._end(task, self._tasks.pop(task))

    def _stop(self) -> None:
        if self._tasks:
            self._ray.get(self._mailbox.stop_listening.remote())
        give_up_s = time.monotonic() + _STOP_WITHIN_S
        while self._tasks and time.monotonic() < give_up_s:
            for _report in self.reports():
                pass

    def _letters(self) -> list[tuple[Report, Files]]:
        try:
            letters: list[tuple[Report, Files]] = self._ray.get(self._mailbox.take.remote())
        except self._ray.exceptions.RayError as error:
            raise ClusterError(f"the Ray cluster at {self._address} is lost: {error}") from error
        return letters

    def _end(self, task: Any, job: Job) -> Report:
        key, directory = job.settings.key, run_directory(job.out, job.settings.key)
        try:
            report: Report
            report, files = self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            details = str(error)
            last_line = details.strip().splitlines()[-1]
            write_failure(directory, job.settings, f"on its node: {last_line}", details=details)
            return Report(key, job.settings.recipe.n_steps, is_over=True)
        except self._ray.exceptions.RayError as error:
            return Report(
                key, 0, is_over=True, lost=f"its node or its process there was lost ({type(error).__name__})"
            )
        _write_files(directory, files)
        if report.disk_is_full is not None:  # that of the node, not ours
            write_failure(directory, job.settings, f"the disk of its node is full: {report.disk_is_full}")
            return dataclasses.replace(report, disk_is_full=None)
        return report


class _Mailbox:
    """What tasks have to say, until it is taken; lives on the cluster, beside the study's process."""

    def __init__(self) -> None:
        self._letters: dict[str, tuple[Report, Files]] = {}
        self._is_listening = True

    def put(self, report: Report, files: Files) -> bool:
        """Leave a report, and the files so far if there are any; False once nobody listens."""
        before = self._letters.get(report.key)
        self._letters[report.key] = (report, files or (before[1] if before else {}))
        return self._is_listening

    def take(self) -> list[tuple[Report, Files]]:
        """The last report of every task that has left one since the last time."""
        letters, self._letters = list(self._letters.values()), {}
        return letters

    def stop_listening(self) -> None:
        self._is_listening = False


def _train(job: Job, files: Files, mailbox: Any, send_files_every_s: float) -> tuple[Report, Files]:
    """The task: train in a folder of the node, and give the run's files."""
    with tempfile.TemporaryDirectory(prefix="decayfree-") as folder:
        out = Path(folder)
        for path, content in files.items():
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            (out / path).write_bytes(content)
        directory = run_directory(out, job.settings.key)
        source_dir = out / _SOURCES if (out / _SOURCES).is_dir() else job.source_dir
        here = dataclasses.replace(job, out=out, source_dir=source_dir)
        report = train_job(here, _sender(mailbox, directory, send_files_every_s))
        return report, _files_below(directory)


def _sender(mailbox: Any, directory: Path, send_files_every_s: float) -> Callable[[Report], bool]:
    ray = _ray()
    next_s = time.monotonic() + send_files_every_s

    def tell(report: Report) -> bool:
        nonlocal next_s
        files: Files = {}
        if time.monotonic() >= next_s:
            next_s, files = time.monotonic() + send_files_every_s, _files_below(directory)
        try:
            is_heard: bool = ray.get(mailbox.put.remote(report, files))
        except ray.exceptions.RayError:
            return False
        return is_heard

    return tell


def _files_needed(job: Job) -> dict[str, bytes]:
    """What the task begins with.

    The run's files, if it was begun before, the norms it replays, and files of the user's own that it takes.
    """
    directory = run_directory(job.out, job.settings.key)
    files = {
        str(directory.relative_to(job.out) / name): content
        for name, content in _files_below(directory).items()
    }
    replayed = job.settings.replayed_run
    if replayed is not None:
        path = run_directory(job.out, replayed.key) / NORMS_FILE
        files[str(path.relative_to(job.out))] = path.read_bytes()
    with looking_in(job.source_dir):
        for address in job.settings.addresses().values():
            for name, path in address.source().files.items():
                files[f"{_SOURCES}/{name}"] = path.read_bytes()
    return files


def _files_below(directory: Path) -> dict[str, bytes]:
    paths = (path for path in directory.rglob("*") if path.is_file() and path.suffix != ".partial")
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def _write_files(directory: Path, files: Files) -> None:
    """Replace files: first those that a checkpoint vouches for, then the checkpoint, the record last."""
    if files and CHECKPOINT_FILE not in files:
        (directory / CHECKPOINT_FILE).unlink(missing_ok=True)
    for name in sorted(files, key=lambda name: (name == RECORD_FILE, name == CHECKPOINT_FILE, name)):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        with replacing(directory / name) as file:
            file.write(files[name])


def _connect(ray: ModuleType, address: str) -> None:
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"no Ray cluster answers at {address} ({error}): start one with 'ray start --head', "
            "or leave the address out to train on this machine"
        ) from error


def _knock(address: str) -> None:
    """Ray tries an address for a minute; whether anybody is there shows at once."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        with contextlib.closing(socket.create_connection((host, int(port)), timeout=_REACH_WITHIN_S)):
            pass


def _here(ray: ModuleType) -> dict[str, Any]:
    """Options that keep an actor on the node of this process: while that one lives, so does the study.

    Not softly: Ray then takes that for a hint, and puts an actor that asks for no CPU on another node.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = ray.get_runtime_context().get_node_id()
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id=node, soft=False)}


def _ray() -> ModuleType:
    with extra_needed("ray", "studies on a cluster need ray, which is not installed"):
        import ray
    module: ModuleType = ray
    return module
