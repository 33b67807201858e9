"""Which runs of a study wait, run and have ended: first as files tell it, then as workers report.

Starts nothing. Runs that replay the norms of another wait until that one is done.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from decayfree.study.files import results
from decayfree.study.files.checkpoint import read_n_threads, read_state, set_aside, write_failure
from decayfree.study.files.integrity import ResultError, zip_fault
from decayfree.study.run_settings import RunSettings
from decayfree.study.runner.process_pool import Job, Report
from decayfree.study.spec.study_spec import StudySpec


class Queue:
    """The runs of a study in the order of its spec."""

    def __init__(self, spec: StudySpec, out: Path, *, n_threads: int) -> None:
        """Look at the files: whatever is damaged is set aside, and its run begins anew.

        A run that has not begun yet trains with ``n_threads``.
        """
        self._out, self._n_threads = out, n_threads
        self._data_dir, self._source_dir = spec.data_dir, spec.source_dir
        self._runs = {run.key: run for run in spec.runs()}
        self._n_set_aside = {key: len(results.set_aside_reasons(self._directory(key))) for key in self._runs}
        self._replayed = {run.replayed_run.key for run in spec.runs() if run.replayed_run is not None}
        self._ended = {key for key in self._runs if self._is_done(key)}
        self._waiting = [key for key in self._runs if key not in self._ended]
        self._running: list[str] = []
        self._n_losses: Counter[str] = Counter()
        self._n_steps = {key: run.recipe.n_steps * (key in self._ended) for key, run in self._runs.items()}
        self._n_steps_of_all = sum(run.recipe.n_steps for run in self._runs.values())

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return not self._waiting and not self._running

    @property
    def n_ended(self) -> int:
        """Runs that are done, diverged or failed."""
        return len(self._ended)

    @property
    def n_total(self) -> int:
        """All runs of the spec."""
        return len(self._runs)

    @property
    def set_aside(self) -> tuple[str, ...]:
        """What was found damaged since this object was made, one sentence each, with method and seed."""
        return tuple(
            f"{run.label}, seed {run.seed}: {reason}"
            for key, run in self._runs.items()
            for reason in results.set_aside_reasons(self._directory(key))[self._n_set_aside[key] :]
        )

    def running(self) -> Iterator[RunSettings]:
        """The runs that are at work."""
        return (self._runs[key] for key in self._running)

    def fraction(self) -> float:
        """Share of all steps that are done, from 0 to 1."""
        return sum(self._n_steps.values()) / self._n_steps_of_all

    def next_job(self) -> Job | None:
        """The first waiting run that can begin; those that never can are marked failed."""
        for key in list(self._waiting):
            run = self._runs[key]
            needed = run.replayed_run
            if needed is not None and needed.key not in self._ended:
                continue
            self._waiting.remove(key)
            if needed is not None and read_state(self._directory(needed.key)) != "done":
                self._fail(run, f"it replays the norms of {needed.label}, seed {needed.seed}, which has none")
                continue
            self._running.append(key)
            n_threads = read_n_threads(self._directory(key)) or self._n_threads
            is_replayed = key in self._replayed
            return Job(run, self._out, self._data_dir, is_replayed, n_threads, self._source_dir)
        return None

    def note(self, report: Report, *, n_tries: int) -> None:
        """Take a report; a run lost with its process waits again, until it was begun ``n_tries`` times."""
        key = report.key
        if not report.is_over:
            self._n_steps[key] = report.n_steps
            return
        self._running.remove(key)
        if report.lost is None:
            self._end(key)
            return
        self._n_losses[key] += 1
        if self._n_losses[key] < n_tries:
            self._waiting.insert(0, key)
        else:
            times = f" ({self._n_losses[key]} times)" if self._n_losses[key] > 1 else ""
            self._fail(self._runs[key], report.lost + times)

    def _is_done(self, key: str) -> bool:
        """Whether a run has ended with what is asked of it: a result, and norms if another replays them."""
        directory = self._directory(key)
        if not (directory / results.RECORD_FILE).is_file():
            return False
        try:
            record = results.read_record(directory)
        except ResultError as error:
            set_aside(directory, str(error))
            return False
        if record["state"] not in results.ENDED:
            return False
        faults = _faults_of_ended(directory, record)
        if faults:
            set_aside(directory, "\n".join(faults))
            return False
        return (
            record["state"] == "diverged"
            or key not in self._replayed
            or (directory / results.NORMS_FILE).is_file()
        )

    def _fail(self, run: RunSettings, reason: str) -> None:
        write_failure(self._directory(run.key), run, reason)
        self._end(run.key)

    def _end(self, key: str) -> None:
        self._ended.add(key)
        self._n_steps[key] = self._runs[key].recipe.n_steps

    def _directory(self, key: str) -> Path:
        return results.run_directory(self._out, key)


def _faults_of_ended(directory: Path, record: dict[str, object]) -> list[str]:
    """What is wrong with files of an ended run; norms and checkpoint may have been deleted to save room."""
    names = [results.ROWS_FILE, results.SPECTRA_FILE]
    if (directory / results.NORMS_FILE).is_file():
        names.append(results.NORMS_FILE)
    faults = results.file_faults(directory, record, tuple(names))
    checkpoint = directory / results.CHECKPOINT_FILE
    fault = zip_fault(checkpoint) if checkpoint.is_file() else None
    return faults + ([fault] if fault else [])
