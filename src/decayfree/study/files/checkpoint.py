"""What a run keeps on disk while it trains: its record, its metrics, and all it needs to go on.

A process killed anywhere leaves a run that can go on: files grow at their end or are replaced at once, and a
checkpoint holds the length and the checksum of what it goes with. Damage is set aside, never half-read. Power
cuts are no different: nothing is forced to the disk, so they may leave damage, and the run begins anew. Does
not decide when to save.
"""

import dataclasses
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from decayfree.dynamics.samples import without_nan
from decayfree.study.disk import replace_text, replacing
from decayfree.study.files import results
from decayfree.study.files.integrity import GrowingFile, ResultError, Seal, seal_zip, sealed_json, zip_fault
from decayfree.study.files.saved_state import seals_in, unpickled
from decayfree.study.files.sources import Sources
from decayfree.study.run_settings import RunSettings
from decayfree.study.tasks.metric import Metric

_OF_A_RUN = (results.CHECKPOINT_FILE, results.ROWS_FILE, results.NORMS_FILE, results.SPECTRA_FILE)
"""All but the record; the checkpoint first, since without it nothing else counts."""


_MOST_THREADS = 1024


class RunFiles:
    """The files of a run that trains; remembers what it wrote, so that no checkpoint vouches for more."""

    def __init__(self, directory: Path, *, keeps_norms: bool) -> None:
        """Open the files of a run, whose record is there already; `load` or `begin_anew` comes next.

        The norms of every step are kept for a run that replays them.
        """
        self._directory, self._keeps_norms = directory, keeps_norms
        self._logs: dict[str, GrowingFile] = {}
        self._spectra: Seal | None = None

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, with the other files as they were then; what was written after it is cut off.

        Returns:
            The state that was saved; None where there is none to go on from: it has not got that far, did not
            keep the norms that are asked of it now, or is damaged, in which case all files are set aside.
        """
        try:
            state = load_checkpoint(self._directory)
            if state is None:
                return None
            seals = seals_in(state, self._directory)
            if not self._has_all(seals):
                return None
            seals = {name: seals[name] for name in self._log_names}
            faults = [_fault_of_log(self._directory / name, seal) for name, seal in seals.items()]
            if any(faults):
                raise ResultError("\n".join(filter(None, faults)))
            # It is sealed in itself: a run may have been killed between it and the checkpoint.
            results.read_spectra(self._directory)
        except ResultError as error:
            set_aside(self._directory, str(error), keep_record=True)
            return None
        self._open(seals)
        spectra = self._directory / results.SPECTRA_FILE
        self._spectra = Seal.of(spectra) if spectra.is_file() else None
        return state

    def begin_anew(self) -> None:
        """Drop whatever is there, the checkpoint first: a run that is killed in here begins anew as well."""
        for name in _OF_A_RUN:
            (self._directory / name).unlink(missing_ok=True)
        self._spectra = None
        self._open(dict.fromkeys(self._log_names, Seal()))

    @property
    def norms(self) -> GrowingFile | None:
        """Where the norms go; None where they are not kept."""
        return self._logs.get(results.NORMS_FILE)

    def append_row(self, row: results.Row) -> None:
        """Append to ``metrics.jsonl``."""
        self._logs[results.ROWS_FILE].append(results.row_to(row).encode())

    def write_spectra(self, spectra: results.Spectra) -> None:
        """Write ``spectra.json``."""
        self._spectra = write_spectra(self._directory, spectra)

    def save(self, state: Mapping[str, Any]) -> None:
        """Write ``last.pt``: the state, and the seals of the files that go with it."""
        seals = {name: dataclasses.asdict(log.seal) for name, log in self._logs.items()}
        save_checkpoint(self._directory, {**state, "files": seals})

    def seals(self) -> dict[str, Seal]:
        """The seals of all files but the checkpoint, sealed in itself, for the record of an ended run.

        Raises:
            ResultError: If a file is not what was written.
        """
        seals = {name: log.seal for name, log in self._logs.items()}
        if self._spectra is not None:
            seals[results.SPECTRA_FILE] = self._spectra
        faults = [seal.fault_of_all(self._directory / name) for name, seal in seals.items()]
        if any(faults):
            raise ResultError("\n".join(filter(None, faults)))
        return seals

    @property
    def _log_names(self) -> tuple[str, ...]:
        return (results.ROWS_FILE, results.NORMS_FILE) if self._keeps_norms else (results.ROWS_FILE,)

    def _has_all(self, seals: Mapping[str, Seal]) -> bool:
        """Whether the norms that are asked for were kept, and have not been deleted since."""
        norms_are_there = not self._keeps_norms or (self._directory / results.NORMS_FILE).is_file()
        return set(self._log_names) <= set(seals) and norms_are_there

    def _open(self, seals: Mapping[str, Seal]) -> None:
        self._logs = {name: GrowingFile(self._directory / name, seal) for name, seal in seals.items()}
        if not self._keeps_norms:  # norms with gaps would pass for whole ones
            (self._directory / results.NORMS_FILE).unlink(missing_ok=True)


def _fault_of_log(path: Path, seal: Seal) -> str | None:
    """What is wrong with a file that is to grow: also that it is a link, since what it points to would."""
    return f"{path}: a symbolic link, which is not followed" if path.is_symlink() else seal.fault(path)


def save_checkpoint(directory: Path, state: Mapping[str, Any]) -> None:
    """Write ``last.pt``; it loads with ``weights_only=True``."""
    with replacing(directory / results.CHECKPOINT_FILE) as file:
        try:
            torch.save(dict(state), file)
        except RuntimeError as error:
            # torch says "unexpected pos" of a full disk, and keeps what the file said as the context.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise
        seal_zip(file)


def load_checkpoint(directory: Path) -> dict[str, Any] | None:
    """The state in ``last.pt``, on the CPU; None where a run has not got that far.

    Raises:
        ResultError: If the file is damaged.
    """
    path = directory / results.CHECKPOINT_FILE
    if not path.is_file():
        return None
    fault = zip_fault(path)
    if fault:
        raise ResultError(fault)
    return unpickled(path)


def write_spectra(directory: Path, spectra: results.Spectra) -> Seal:
    """Write ``spectra.json``, and give its seal."""
    text = results.spectra_to(spectra)
    replace_text(directory / results.SPECTRA_FILE, text)
    return Seal.of_bytes(text.encode())


def write_record(
    directory: Path,
    settings: RunSettings,
    *,
    state: results.RunState,
    reason: str | None = None,
    elapsed_s: float = 0.0,
    first_layer: str = "",
    cost: Mapping[str, Any] | None = None,
    seals: Mapping[str, Seal] | None = None,
    notes: Sequence[str] = (),
    sources: Sources | None = None,
    metric: Metric | None = None,
) -> None:
    """Write ``run.json``.

    With the ``seals`` of the other files once the run has ended, notes on data, and the sources of what is
    the user's own, whose task may have a metric.
    """
    directory.mkdir(parents=True, exist_ok=True)
    record = {
        "settings": settings.to_dict(),
        "label": settings.label,
        "versions": _versions(),
        "hardware": {"processor": _processor(), "n_threads": torch.get_num_threads()},
        "state": state,
        "reason": reason,
        "n_steps": settings.recipe.n_steps,
        "elapsed_s": round(elapsed_s, 3),
        "first_layer": first_layer,
        "cost": without_nan(dict(cost or {})),
        "set_aside": list(results.set_aside_reasons(directory)),
        "notes": list(notes),
        **({"sources": sources} if sources else {}),
        **({"metric": {"name": metric.name, "meaning": metric.meaning}} if metric else {}),
        "files": {name: dataclasses.asdict(seal) for name, seal in (seals or {}).items()},
    }
    replace_text(directory / results.RECORD_FILE, sealed_json(record, indent=1))


def write_failure(directory: Path, settings: RunSettings, reason: str, *, details: str | None = None) -> None:
    """Write the reason why a run failed into its record, and details such as a traceback to ``error.txt``."""
    directory.mkdir(parents=True, exist_ok=True)
    if details is not None:
        replace_text(directory / results.ERROR_FILE, details)
    write_record(directory, settings, state="failed", reason=reason)


def set_aside(directory: Path, reason: str, *, keep_record: bool = False) -> None:
    """Move what a run has left into a folder ``set-aside-1``, ``-2``, … beside a file with the reason.

    A run that is killed in here begins anew: its checkpoint goes first.
    """
    n = 1 + max(results.set_aside_folders(directory), default=0)
    while os.path.lexists(folder := directory / f"set-aside-{n}"):  # a file or a link of this name
        n += 1
    folder.mkdir()
    replace_text(folder / "reason.txt", reason + "\n")
    for name in (*_OF_A_RUN, results.ERROR_FILE, *(() if keep_record else (results.RECORD_FILE,))):
        if (directory / name).is_file():
            (directory / name).replace(folder / name)


def read_state(directory: Path) -> results.RunState | None:
    """The state in ``run.json``; None where there is no readable record, so that the run begins anew."""
    state: results.RunState | None = _record_or_nothing(directory).get("state")
    return state


def read_reason(directory: Path) -> str | None:
    """Why the run failed or diverged."""
    reason: str | None = _record_or_nothing(directory).get("reason")
    return reason


def read_n_threads(directory: Path) -> int | None:
    """How many threads a run that has begun trains with: other numbers round otherwise.

    What no machine has is not taken from a record, least of all from one that was set aside.
    """
    aside = sorted(results.set_aside_folders(directory).items(), reverse=True)
    folders = (directory, *(folder for _, folder in aside))
    numbers = (_record_or_nothing(folder).get("hardware", {}).get("n_threads") for folder in folders)
    return next((one for one in numbers if type(one) is int and 1 <= one <= _MOST_THREADS), None)


def _record_or_nothing(directory: Path) -> Mapping[str, Any]:
    try:
        return results.read_record(directory)
    except ResultError:
        return {}


def _versions() -> dict[str, str]:
    return {
        "decayfree": version("decayfree"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def _processor() -> str:
    """The processor's name; Linux tells it only in a file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
