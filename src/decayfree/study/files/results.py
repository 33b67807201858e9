"""What a study has left on disk, as typed records: `read_study` and the records it gives.

Does not judge or summarize; a damaged file is an error that names the file and the line, never a guess.
"""

import contextlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from decayfree.display.frame import Library
from decayfree.display.notebook import titled
from decayfree.dynamics.samples import without_nan
from decayfree.study.disk import as_path, read_bytes, read_text
from decayfree.study.files.archive import ARCHIVE_FILE, folder_of_runs
from decayfree.study.files.integrity import ResultError, Seal, json_of, sealed_json, unsealed_json
from decayfree.study.files.of_images import images_of_text
from decayfree.study.files.sources import Sources, sources_from
from decayfree.study.spec.study_spec import StudySpec
from decayfree.study.tasks.metric import Metric

_SET_ASIDE = re.compile(r"set-aside-(\d{1,9})", re.ASCII)
_MOST_BYTES_OF_A_REASON, _MOST_BYTES_OF_A_RECORD, _MOST_BYTES_OF_METRICS = 1 << 16, 1 << 24, 1 << 28
MAIN_VARIANCE = 0.99
"""What `Spectrum.n_main` directions hold of the input variance."""
RECORD_FILE, ROWS_FILE, SPECTRA_FILE = "run.json", "metrics.jsonl", "spectra.json"
CHECKPOINT_FILE, NORMS_FILE, ERROR_FILE = "last.pt", "norms.f32", "error.txt"
Table = Literal["runs", "rows", "weights", "settings", "comparisons"]
RunState = Literal["running", "done", "failed", "diverged"]
STATES: tuple[RunState, ...] = ("running", "done", "failed", "diverged")
ENDED: tuple[RunState, ...] = ("done", "diverged")
"""States of runs that have a result."""


@dataclass(frozen=True)
class Row:
    """One sample of the metrics; a number that was not finite is NaN.

    Scores are shares, larger is better: accuracy in classification, else what tasks/metric.py says.
    """

    step: int
    epoch: float
    train_loss: float
    train_score: float
    test_score: float
    learning_rate: float
    norms: Mapping[str, float]
    """Weight name -> mean over its blocks of the block's norm."""
    effective_learning_rates: Mapping[str, float]
    """Weight name -> mean over its blocks of the block's learning rate over its squared norm; over its norm
    in Adam's and the sign family; NaN where nobody knows how the optimizer's steps depend on the norm.
    """
    angular_updates: Mapping[str, float]
    """Weight name -> mean angle, in radians, by which the last step turned its blocks; NaN before any."""
    off_span_share: float
    """Mean over the first layer's rows of ‖Qw‖/‖w‖."""
    off_span_law: float
    """What ``off_span_share`` must be, by measured norms, the first ‖Qw‖ and optimizer settings alone."""
    test_loss: float = math.nan
    validation_loss: float = math.nan
    """NaN where no images are kept for validation."""
    validation_score: float = math.nan
    test_images: str = ""
    """What each test image adds to the score (of_images.py); of the last row only."""
    test_metrics: Mapping[str, float] = field(default_factory=dict)
    """The task's further numbers, by name with unit, of the test images."""
    test_examples: Mapping[str, Any] = field(default_factory=dict)
    """Some test images, what is true of them and what the network says (training/examples.py); of the last
    row only, and not of classification.
    """


@dataclass(frozen=True)
class Spectrum:
    """How the energy of one weight lies along the principal directions of its inputs, most variance first.

    Directions are ranked and put into bins of neighboring ranks; shares are from 0 to 1 and NaN where there
    is nothing to divide by.
    """

    edges: tuple[int, ...]
    """Ranks at which bins begin and end, from 0 to the number of directions."""
    energy: tuple[float, ...]
    """Of each bin: the share of a row's squared norm in its directions, mean over the rows."""
    variance: tuple[float, ...]
    """Of each bin: its share of the input variance."""
    n_main: int
    """How many directions, the first ones, hold `MAIN_VARIANCE` of the input variance."""
    main_energy: float
    """Their share of a row's squared norm, mean over the rows."""

    @property
    def n_directions(self) -> int:
        """As many as a row has numbers."""
        return self.edges[-1]


Spectra = Mapping[int, Mapping[str, Spectrum]]
"""Number of steps done -> weight name -> its spectrum; after no step and after the last one."""


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
    spectra: Spectra
    cost: Mapping[str, float] = field(default_factory=dict)
    """What the training took, by name with its unit: epoch seconds, bytes of memory; empty if unmeasured."""
    set_aside: tuple[str, ...] = ()
    """Why files of this run were set aside, and the run begun anew; once for each time."""
    notes: tuple[str, ...] = ()
    """What was left out of its data, or taken in place of something else, a sentence each."""
    sources: Sources = field(default_factory=dict)
    """Of which source what it took from its user was."""
    metric: Metric | None = None
    """By what a task of its user scores, where that says it."""

    @property
    def method(self) -> str:
        """The name of the method."""
        return str(self.settings["method"]["name"])

    @property
    def seed(self) -> int:
        return int(self.settings["seed"])


@dataclass(frozen=True)
class Study:
    """A study: its spec and those of its runs that have begun, in the order of the spec."""

    spec: StudySpec
    runs: tuple[Run, ...]
    archive: str | None = field(default=None, compare=False)
    """Name of the file beside the spec that the runs were read from, where they have no folders."""
    left_out: tuple[str, ...] = field(default=(), compare=False)
    """Runs that have ended there and are no part of the spec: key, and what it was called."""

    @property
    def n_planned(self) -> int:
        return len(self.spec.runs())

    def frame(self, table: Table = "runs", *, library: Library | None = None) -> Any:
        """Its numbers, those of the page and unrounded, as a data frame; docs/figures.md has the columns.

        Args:
            table: ``"runs"``: one row a run that has begun. ``"rows"``: one a sample of a run, and
                ``"weights"``: one a weight in it. ``"settings"``: one a setting, its seeds taken together.
                ``"comparisons"``: one a comparison of the page.
            library: ``"polars"`` or ``"pandas"``; by default the first of them that is installed.

        Returns:
            The frame. A number that nobody knows is null in polars, NaN in pandas. Scores and their
            differences are shares from 0 to 1, angles radians, times seconds.

        Raises:
            InvalidInputError: If ``table`` or ``library`` is another one.
            MissingExtraError: If polars and pandas are not installed.
        """
        # The one way up in this house: what a method is called on the page, and what it is compared with, the
        # report knows. It is loaded when somebody asks, and named here alone.
        frames = import_module("decayfree.report.frames")
        return frames.study_frame(self, table, library)

    def __repr__(self) -> str:
        done = sum(run.state == "done" for run in self.runs)
        return f"Study({self.spec.title!r}, {done} of {self.n_planned} runs done)"

    def _repr_html_(self) -> str:
        """What a notebook shows: how many runs of each method are in which state."""
        states = [state for state in STATES if any(run.state == state for run in self.runs)]
        labels = dict.fromkeys(settings.label for settings in self.spec.runs())
        count = Counter((run.label, run.state) for run in self.runs)
        rows = [[label, *(str(count[label, state]) for state in states)] for label in labels]
        note = f"{len(self.runs)} of {self.n_planned} runs have begun; study.frame() has their numbers"
        return titled(self.spec.title or "A study", [["method", *states], *rows], note)


def read_study(out: str | Path) -> Study:
    """Read what a study has left under ``out``, or what is kept of it there in ``runs.tar.xz``.

    Raises:
        ResultError: If there is no study, or run files are damaged; lists all of them. The last line of a
            run that has not ended may be cut off, as a killed process leaves it: it is left out.
    """
    out = as_path("out", out)
    spec = spec_in(out)
    runs, faults = [], []
    with folder_of_runs(out) as folder:
        for settings in spec.runs():
            directory = run_directory(folder, settings.key)
            if not (directory / RECORD_FILE).is_file():
                continue
            try:
                runs.append(_read_run(directory))
            except ResultError as error:
                faults.append(str(error))
    if faults:
        faults.append("Running the study again sets damaged files aside and makes these runs anew.")
        raise ResultError("\n".join(faults))
    archive = None if folder == out else ARCHIVE_FILE
    return Study(spec=spec, runs=tuple(runs), archive=archive, left_out=left_out(out, spec))


def spec_in(out: Path) -> StudySpec:
    """The spec of the study in a folder; a `ResultError` where there is none."""
    if not (out / "study.toml").is_file():
        raise ResultError(f"no study in {out}: there is no study.toml")
    return StudySpec.load(out / "study.toml")


def left_out(out: Path, spec: StudySpec) -> tuple[str, ...]:
    """Runs that have ended in a folder and are no part of the spec: key, and what it was called."""
    keys = {run.key for run in spec.runs()}
    said = []
    for directory in sorted((out / "runs").glob("*")):
        if directory.name in keys or not (directory / RECORD_FILE).is_file():
            continue
        try:
            record = read_record(directory)
        except ResultError:
            continue
        if record["state"] in ENDED:
            said.append(f"{directory.name} ({record['label']}, seed {record['settings']['seed']})")
    return tuple(said)


def sources_in(out: Path, spec: StudySpec) -> list[Sources]:
    """Of which sources the ended runs of a spec are that lie in a folder."""
    records = []
    for run in spec.runs():
        with contextlib.suppress(ResultError):
            records.append(read_record(run_directory(out, run.key)))
    return [record["sources"] for record in records if record["state"] in ENDED]


def run_directory(out: Path, key: str) -> Path:
    """Where the files of a run are."""
    return out / "runs" / key


def read_record(directory: Path) -> dict[str, Any]:
    """Read ``run.json``.

    Raises:
        ResultError: If it is not there, or damaged.
    """
    path = directory / RECORD_FILE
    try:
        record = unsealed_json(read_text(path, at_most=_MOST_BYTES_OF_A_RECORD))
        if not _IN_RECORD <= set(record) <= _IN_RECORD | set(_LATER_IN_RECORD):
            raise ValueError(f"expected the keys {sorted(_IN_RECORD)}, got {sorted(record)}")
        if record["state"] not in STATES:
            raise ValueError(f"state {record['state']!r} is none of {', '.join(STATES)}")
        record = {**_LATER_IN_RECORD, **record}
        _check_types(record)
    except (OSError, ValueError, TypeError) as error:
        raise ResultError(f"{path}: not the record of a run ({error!r})") from error
    return record


def _check_types(record: Mapping[str, Any]) -> None:
    """Raise where an entry of a record, or of what a reader looks at in it, is of another kind."""
    wrong = [name for name, kinds in _KINDS_IN_RECORD.items() if not isinstance(record[name], kinds)]
    if wrong:
        raise TypeError(f"{', '.join(wrong)}: of another kind than expected")
    method, seed = record["settings"].get("method"), record["settings"].get("seed")
    if not isinstance(method, dict) or not isinstance(method.get("name"), str) or type(seed) is not int:
        raise TypeError("settings: without a method or a seed")
    for value in (record["elapsed_s"], *record["cost"].values()):
        _number(value)
    for name in ("set_aside", "notes"):
        if not all(isinstance(text, str) for text in record[name]):
            raise TypeError(f"{name}: expected texts")
    for seal in record["files"].values():
        Seal.from_dict(seal)
    sources_from(record["sources"])
    if record["metric"] is not None:
        Metric(**record["metric"])


def file_faults(directory: Path, record: Mapping[str, Any], names: tuple[str, ...]) -> list[str]:
    """Which of a run's files are not as when it ended, a sentence each; unknown ones are not looked at."""
    seals = {name: Seal.from_dict(record["files"][name]) for name in names if name in record["files"]}
    faults = (seal.fault_of_all(directory / name) for name, seal in seals.items())
    return [fault for fault in faults if fault]


def set_aside_folders(directory: Path) -> dict[int, Path]:
    """The folders of what was set aside of a run, by number; others of such names are somebody else's."""
    named = ((_SET_ASIDE.fullmatch(path.name), path) for path in directory.glob("set-aside-*"))
    found = {int(name[1]): path for name, path in named if name and path.is_dir() and not path.is_symlink()}
    return dict(sorted(found.items()))


def set_aside_reasons(directory: Path) -> tuple[str, ...]:
    """Why files of a run were set aside, the first time first; people may change, move and delete them."""
    reasons = []
    for folder in set_aside_folders(directory).values():
        with contextlib.suppress(OSError):
            content = read_bytes(folder / "reason.txt", at_most=_MOST_BYTES_OF_A_REASON)
            reasons.append(content.decode(errors="replace").strip())
    return tuple(reasons)


def rows_fault(directory: Path) -> str | None:
    """What is wrong with the rows of a run that has not ended, by what its checkpoint says of them."""
    from decayfree.study.files.saved_state import fault_of_unfinished  # most studies that are read have ended

    return fault_of_unfinished(directory / ROWS_FILE, directory / CHECKPOINT_FILE)


def read_rows(path: Path, *, may_be_cut: bool) -> tuple[Row, ...]:
    """Read ``metrics.jsonl``.

    Args:
        path: The file; one that is not there has no rows.
        may_be_cut: Whether a last line without an end may be left out.

    Raises:
        ResultError: Names the first damaged line.
    """
    try:
        content = read_bytes(path, at_most=_MOST_BYTES_OF_METRICS) if path.is_file() else b""
    except OSError as error:
        raise ResultError(f"{path}: cannot be read ({error})") from error
    text = content.decode(errors="replace")
    lines = text.split("\n")
    cut_line = lines.pop()
    if cut_line and not may_be_cut:
        raise ResultError(f"{path}, line {len(lines) + 1}: cut off")
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = row_from(json_of(line))
        except (ValueError, TypeError, AttributeError) as error:
            raise ResultError(f"{path}, line {number}: not a row of metrics ({error})") from error
        if rows and row.step <= rows[-1].step:
            raise ResultError(f"{path}, line {number}: step {row.step} follows step {rows[-1].step}")
        rows.append(row)
    return tuple(rows)


def read_spectra(directory: Path) -> Spectra:
    """Read ``spectra.json`` of a run; empty where it is not there.

    Raises:
        ResultError: If the file is damaged.
    """
    path = directory / SPECTRA_FILE
    if not path.is_file():
        return {}
    try:
        record = unsealed_json(read_text(path, at_most=_MOST_BYTES_OF_METRICS))
        return {
            int(step): {name: _spectrum_from(values) for name, values in weights.items()}
            for step, weights in record.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultError(f"{path}: not the spectra of a run ({error!r})") from error


def spectra_to(spectra: Spectra) -> str:
    """The text of ``spectra.json``, with null for what is not finite."""
    record = {
        str(step): {name: without_nan(asdict(spectrum)) for name, spectrum in weights.items()}
        for step, weights in spectra.items()
    }
    return sealed_json(record)


def row_from(record: Mapping[str, Any]) -> Row:
    """The row that a line of ``metrics.jsonl`` says; null in it stands for a column that older runs lack."""
    expected = {entry.name for entry in fields(Row)}
    if isinstance(record, dict):
        record = {_ONCE.get(str(name), str(name)): value for name, value in record.items()}
    if not expected - _LATER <= set(record) <= expected:
        raise ValueError(f"expected the keys {sorted(expected)}, got {sorted(record)}")
    wrong = [name for name in (*_TABLES, "test_examples") if not isinstance(record.get(name, {}), dict)]
    if wrong:
        raise TypeError(f"{', '.join(wrong)}: expected tables")
    later = {
        **dict.fromkeys(_LATER),
        "angular_updates": dict.fromkeys(record["norms"]),
        "test_metrics": {},
        "test_examples": {},
    }
    record = {**later, **record}
    others = {"step", "test_images", "test_examples", *_TABLES}
    values = {name: _number(record[name]) for name in expected - others}
    tables = {name: {key: _number(value) for key, value in record[name].items()} for name in _TABLES}
    if type(record["step"]) is not int:
        raise TypeError(f"step: expected a whole number, got {record['step']!r}")
    images = record["test_images"] or ""
    images_of_text(images)
    named = {"test_images": images, "test_examples": record["test_examples"]}
    return Row(step=record["step"], **named, **values, **tables)  # type: ignore[arg-type]


def row_to(row: Row) -> str:
    """The line of ``metrics.jsonl`` that says ``row``, with null for what is not finite."""
    record = {entry.name: getattr(row, entry.name) for entry in fields(row)}
    for name in ("test_images", "test_metrics", "test_examples"):
        if not record[name]:
            del record[name]
    return json.dumps(without_nan(record), allow_nan=False) + "\n"


_TABLES = ("norms", "effective_learning_rates", "angular_updates", "test_metrics")
_LATER = frozenset(
    [
        *("angular_updates", "off_span_law", "test_loss", "validation_loss", "validation_score"),
        *("test_images", "test_metrics", "test_examples"),
    ]
)
_ONCE = {
    **{f"{part}_accuracy": f"{part}_score" for part in ("train", "validation", "test")},
    "test_right": "test_images",
}
"""What columns were called in files of runs from before there were other tasks than classification."""


def _read_run(directory: Path) -> Run:
    record = read_record(directory)
    faults = file_faults(directory, record, (ROWS_FILE, SPECTRA_FILE))
    if record["state"] not in ENDED:
        faults += filter(None, [rows_fault(directory)])
    if faults:
        raise ResultError("\n".join(faults))
    values = {entry.name: record[entry.name] for entry in fields(Run) if entry.name not in _READ_OTHERWISE}
    return Run(
        key=directory.name,
        rows=read_rows(directory / ROWS_FILE, may_be_cut=record["state"] not in ENDED),
        spectra=read_spectra(directory),
        cost={name: _number(value) for name, value in record["cost"].items()},
        set_aside=tuple(record["set_aside"]),
        notes=tuple(record["notes"]),
        sources=sources_from(record["sources"]),
        metric=record["metric"] and Metric(**record["metric"]),
        **values,
    )


_READ_OTHERWISE = ("key", "rows", "spectra", "cost", "set_aside", "notes", "sources", "metric")
_IN_RECORD = {entry.name for entry in fields(Run)} - set(_READ_OTHERWISE)
_LATER_IN_RECORD: Mapping[str, Any] = {
    **{name: {} for name in ("cost", "files", "sources")},
    **{name: [] for name in ("set_aside", "notes")},
    "metric": None,
}
_KINDS_IN_RECORD: Mapping[str, Any] = {
    **dict.fromkeys(("settings", "versions", "hardware", "cost", "files", "sources"), dict),
    **dict.fromkeys(("label", "first_layer"), str),
    "reason": str | None,
    "n_steps": int,
    **dict.fromkeys(("set_aside", "notes"), list),
}


def _spectrum_from(record: Mapping[str, Any]) -> Spectrum:
    edges = tuple(record["edges"])
    energy, variance = (tuple(map(_number, record[name])) for name in ("energy", "variance"))
    n_main = record["n_main"]
    if not all(type(edge) is int for edge in (*edges, n_main)):
        raise TypeError(f"expected whole numbers as ranks, got {record['edges']!r} and {n_main!r}")
    if edges[:1] != (0,) or any(after <= before for before, after in pairwise(edges)):
        raise ValueError(f"expected ranks that rise from 0, got {edges}")
    if not len(edges) - 1 == len(energy) == len(variance) > 0:
        raise ValueError(f"expected {len(edges) - 1} bins, got {len(energy)} and {len(variance)}")
    return Spectrum(edges, energy, variance, n_main, _number(record["main_energy"]))


def _number(value: object) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number or null, got {value!r}")
    return float(value)
