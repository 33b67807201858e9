"""What a study has left on disk, as typed records: `read_study` and the records it gives.

Does not judge or summarize; a damaged file is an error that names the file and the line, never a guess.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from decayfree.errors import DecayFreeError
from decayfree.study.spec import StudySpec

RunState = Literal["running", "done", "failed", "diverged"]
STATES: tuple[RunState, ...] = ("running", "done", "failed", "diverged")


class ResultError(DecayFreeError, ValueError):
    """Result files are missing or damaged; the message lists all of them."""


@dataclass(frozen=True)
class Row:
    """One sample of the metrics; a number that was not finite is NaN. Accuracies are shares from 0 to 1."""

    step: int
    epoch: float
    train_loss: float
    train_accuracy: float
    test_accuracy: float
    learning_rate: float
    norms: Mapping[str, float]
    """Weight name -> mean over its blocks of the block's norm."""
    effective_learning_rates: Mapping[str, float]
    """Weight name -> mean over its blocks of the block's learning rate over its squared norm."""
    off_span_share: float
    """Mean over the first layer's rows of ‖Qw‖/‖w‖."""


@dataclass(frozen=True)
class Run:
    """One run: its settings, how it ended, and its metrics."""

    key: str
    settings: Mapping[str, Any]
    label: str
    state: RunState
    reason: str | None
    n_steps: int
    elapsed_s: float
    first_layer: str
    versions: Mapping[str, str]
    hardware: Mapping[str, Any]
    rows: tuple[Row, ...]

    @property
    def method(self) -> str:
        return str(self.settings["method"])

    @property
    def seed(self) -> int:
        return int(self.settings["seed"])


@dataclass(frozen=True)
class Study:
    """A study: its spec and those of its runs that have begun, in the order of the spec."""

    spec: StudySpec
    runs: tuple[Run, ...]

    @property
    def n_planned(self) -> int:
        return len(self.spec.runs())


def read_study(out: Path) -> Study:
    """Read what a study has left under ``out``.

    Raises:
        ResultError: If there is no study, or run files are damaged; lists all of them. The last line of a
            run that has not ended may be cut off, as a killed process leaves it: it is left out.
    """
    spec_path = out / "study.toml"
    if not spec_path.is_file():
        raise ResultError(f"no study in {out}: there is no study.toml")
    spec = StudySpec.load(spec_path)
    runs, faults = [], []
    for settings in spec.runs():
        directory = run_directory(out, settings.key)
        if not (directory / "run.json").is_file():
            continue
        try:
            runs.append(_read_run(directory))
        except ResultError as error:
            faults.append(str(error))
    if faults:
        raise ResultError("\n".join(faults))
    return Study(spec=spec, runs=tuple(runs))


def run_directory(out: Path, key: str) -> Path:
    """Where the files of a run are."""
    return out / "runs" / key


def read_rows(path: Path, *, may_be_cut: bool) -> tuple[Row, ...]:
    """Read ``metrics.jsonl``.

    Args:
        path: The file; one that is not there has no rows.
        may_be_cut: Whether a last line without an end may be left out.

    Raises:
        ResultError: Names the first damaged line.
    """
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    lines = text.split("\n")
    cut_line = lines.pop()
    if cut_line and not may_be_cut:
        raise ResultError(f"{path}, line {len(lines) + 1}: cut off")
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = row_from(json.loads(line))
        except (ValueError, TypeError, AttributeError) as error:
            raise ResultError(f"{path}, line {number}: not a row of metrics ({error})") from error
        if rows and row.step <= rows[-1].step:
            raise ResultError(f"{path}, line {number}: step {row.step} follows step {rows[-1].step}")
        rows.append(row)
    return tuple(rows)


def row_from(record: Mapping[str, Any]) -> Row:
    """The row that a line of ``metrics.jsonl`` says."""
    expected = {entry.name for entry in fields(Row)}
    if set(record) != expected:
        raise ValueError(f"expected the keys {sorted(expected)}, got {sorted(record)}")
    values = {name: _number(record[name]) for name in expected if _is_number(name)}
    tables = {name: {key: _number(value) for key, value in record[name].items()} for name in _TABLES}
    return Row(step=int(record["step"]), **values, **tables)  # type: ignore[arg-type]


def row_to(row: Row) -> str:
    """The line of ``metrics.jsonl`` that says ``row``, with null for what is not finite."""
    record = {entry.name: getattr(row, entry.name) for entry in fields(row)}
    return json.dumps(_without_nan(record), allow_nan=False) + "\n"


_TABLES = ("norms", "effective_learning_rates")


def _is_number(name: str) -> bool:
    return name != "step" and name not in _TABLES


def _read_run(directory: Path) -> Run:
    path = directory / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        state = record["state"]
        if state not in STATES:
            raise ValueError(f"state {state!r} is none of {', '.join(STATES)}")
        values = {
            entry.name: record[entry.name] for entry in fields(Run) if entry.name not in ("key", "rows")
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ResultError(f"{path}: not the record of a run ({error!r})") from error
    rows = read_rows(directory / "metrics.jsonl", may_be_cut=state in ("running", "failed"))
    return Run(key=directory.name, rows=rows, **values)


def _number(value: object) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number or null, got {value!r}")
    return float(value)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
