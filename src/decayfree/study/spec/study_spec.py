"""What a study is: methods, seeds, and axes that multiply over one recipe; to and from TOML.

Does not load data, build models or train. A file with faults gives one error that lists all of them.
"""

import dataclasses
import itertools
import math
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from decayfree.errors import DecayFreeError
from decayfree.methods.method import Method
from decayfree.methods.table import METHODS
from decayfree.study.models.networks import model_faults
from decayfree.study.optimizers import optimizer_faults
from decayfree.study.run_settings import Recipe, RunSettings, plain
from decayfree.study.spec.axes import (
    Axis,
    Override,
    axis_faults,
    overridden,
    override_faults,
    recipes,
    unused_faults,
)
from decayfree.study.spec.toml import frozen, read_values, tables_to_toml, to_toml

MAX_RUNS = 100_000


class SpecError(DecayFreeError, ValueError):
    """A study's spec has faults; the message lists all of them."""


@dataclass(frozen=True)
class StudySpec:
    """A set of runs that answers one question: every method with every seed and every value of every axis."""

    methods: tuple[Method, ...]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    recipe: Recipe = field(default_factory=Recipe)
    axes: tuple[Axis, ...] = ()
    overrides: tuple[Override, ...] = ()
    """Applied one after the other; a later one sees what an earlier one has set."""
    title: str = "Study"
    question: str = ""
    """What the study is to answer, and what is expected."""
    data_dir: str | None = None
    """Where the images lie, for data that is not embedded in a package; no part of a run's settings."""

    def __post_init__(self) -> None:
        varied = axis_faults(self.axes) + override_faults(self.overrides)
        faults = _own_faults(self) + (varied or _run_faults(self))
        if faults:
            raise SpecError(_fault_text(faults))

    def runs(self) -> tuple[RunSettings, ...]:
        """Every run once, seed by seed, in the order of the axes and then of the methods."""
        return self._runs

    def varying(self) -> tuple[str, ...]:
        """Dotted names of the settings in which runs differ, seeds aside.

        ``method.name``, ``method.radius``, ``learning_rate``.

        A setting of a method counts where runs of that very method differ in it.
        """
        return self._varying

    def to_toml(self) -> str:
        """The whole spec as TOML text, defaults included."""
        lines = ["# A study of decayfree, resolved: every setting is written out."]
        lines += [f"title = {to_toml(self.title)}", f"question = {to_toml(self.question)}"]
        lines.append(f"seeds = {to_toml(self.seeds)}")
        if self.data_dir is not None:
            lines.append(f"data_dir = {to_toml(self.data_dir)}")
        lines += tables_to_toml("recipe", plain(self.recipe))
        for method in self.methods:
            settings = {"name": method.name, **plain(method)}
            lines += ["", "[[methods]]", *(f"{key} = {to_toml(value)}" for key, value in settings.items())]
        for axis in self.axes:
            values = [dict(value) if isinstance(value, tuple) else value for value in axis.values]
            lines += ["", "[[axes]]", f"path = {to_toml(axis.path)}", f"values = {to_toml(values)}"]
        for override in self.overrides:
            lines += ["", "[[overrides]]", f"when = {to_toml(dict(override.when))}"]
            tables = {
                path: dict(value) if isinstance(value, tuple) else value for path, value in override.set
            }
            lines.append("skip = true" if override.skip else f"set = {to_toml(tables)}")
        return "\n".join(lines) + "\n"

    @staticmethod
    def from_toml(text: str) -> "StudySpec":
        """Read a spec back.

        Raises:
            SpecError: If the text is not TOML, or has unknown keys, wrong types or values; all at once.
        """
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SpecError(f"the spec is not TOML: {error}") from error
        return _study_from(table)

    @staticmethod
    def load(path: str | Path) -> "StudySpec":
        """Read a spec from a file; a `SpecError` names the file."""
        try:
            return StudySpec.from_toml(Path(path).read_text(encoding="utf-8"))
        except (SpecError, UnicodeDecodeError) as error:
            raise SpecError(f"{path}: {error}") from error

    @cached_property
    def _runs(self) -> tuple[RunSettings, ...]:
        runs = (overridden(run, self.overrides) for run in _combinations(self))
        return tuple(dict.fromkeys(run for run in runs if run is not None))

    @cached_property
    def _varying(self) -> tuple[str, ...]:
        seen: dict[tuple[str, str], set[Any]] = {}
        for run in self._runs:
            for path, value in run.flat().items():
                of_one = run.method.name if path.startswith("method.") and path != "method.name" else ""
                seen.setdefault((path, of_one), set()).add(value)
        varying = (path for (path, _), values in seen.items() if len(values) > 1 and path != "seed")
        return tuple(dict.fromkeys(varying))


def _combinations(spec: StudySpec) -> Iterator[RunSettings]:
    """Every seed with every recipe and every method, before overrides."""
    for seed in spec.seeds:
        for recipe in recipes(spec.recipe, spec.axes):
            for method in spec.methods:
                yield RunSettings(method, seed, recipe)


def _study_from(table: Mapping[str, Any]) -> StudySpec:
    faults: list[str] = []
    values = read_values(StudySpec, table, "", faults, skipped=("methods", "axes", "overrides"))
    values["methods"] = _read_methods(table.get("methods"), faults)
    values["axes"] = tuple(_read_tables(Axis, table, "axes", faults))
    values["overrides"] = tuple(_read_tables(Override, table, "overrides", faults))
    if not faults:
        return StudySpec(**values)
    recipe = values.get("recipe")
    if isinstance(recipe, Recipe):
        faults += [f"recipe.{fault}" for fault in recipe.faults()]
    raise SpecError(_fault_text(faults + axis_faults(values["axes"]) + override_faults(values["overrides"])))


def _read_tables(
    cls: type[Axis | Override], table: Mapping[str, Any], name: str, faults: list[str]
) -> Iterator[Any]:
    """The entries of ``[[axes]]`` or ``[[overrides]]``.

    What their values must be is asked of the spec as a whole.
    """
    tables = table.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(entry, dict) for entry in tables):
        faults.append(f"{name}: expected [[{name}]] tables, got {tables!r}")
        return
    known = {entry.name: entry for entry in dataclasses.fields(cls)}
    for index, entry in enumerate(tables):
        unknown = [key for key in entry if key not in known]
        faults += [f"{name}[{index}].{key}: no such key; known keys: {', '.join(known)}" for key in unknown]
        missing = [
            key for key, one in known.items() if one.default is dataclasses.MISSING and key not in entry
        ]
        faults += [f"{name}[{index}].{key}: missing" for key in missing]
        if not missing and not unknown:
            yield cls(**{key: frozen(value) for key, value in entry.items()})


def _read_methods(tables: object, faults: list[str]) -> tuple[Method, ...]:
    if not isinstance(tables, list) or not tables:
        faults.append("methods: expected at least one [[methods]] table")
        return ()
    methods: list[Method] = []
    for index, table in enumerate(tables):
        where = f"methods[{index}]."
        name = table.get("name") if isinstance(table, dict) else None
        if not isinstance(name, str) or name not in METHODS:
            faults.append(f"{where}name: expected one of {', '.join(METHODS)}; got {name!r}")
            continue
        empty = [key for key, value in table.items() if value == []]
        faults += [f"{where}{key}: expected a value or a list of at least one, got []" for key in empty]
        for options in _each(table):
            n_faults = len(faults)
            values = read_values(METHODS[name], options, where, faults)
            if len(faults) == n_faults:
                methods.append(METHODS[name](**values))
                faults += [f"{where}{fault}" for fault in methods[-1].faults()]
    return tuple(methods)


def _each(table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The settings of one method or, where a value is a list, of one method for each of its values."""
    options = {key: value for key, value in table.items() if key != "name"}
    lists = [value if isinstance(value, list) else [value] for value in options.values()]
    for values in itertools.product(*lists):
        yield dict(zip(options, values, strict=True))


def _own_faults(spec: StudySpec) -> list[str]:
    faults = [
        f"methods[{index}].{fault}" for index, method in enumerate(spec.methods) for fault in method.faults()
    ]
    if not spec.methods:
        faults.append("methods: expected at least one")
    if len(set(spec.methods)) < len(spec.methods):
        faults.append("methods: the same method with the same settings is there twice")
    if not spec.seeds:
        faults.append("seeds: expected at least one")
    if len(set(spec.seeds)) < len(spec.seeds):
        faults.append(f"seeds: expected each once, got {list(spec.seeds)}")
    if any(seed < 0 for seed in spec.seeds):
        faults.append(f"seeds: expected whole numbers from 0, got {list(spec.seeds)}")
    if any(seed >= 2**63 for seed in spec.seeds):
        faults.append(f"seeds: expected whole numbers below 2^63, got {list(spec.seeds)}")
    return faults


def _run_faults(spec: StudySpec) -> list[str]:
    """What is wrong with the runs as axes and overrides make them.

    Each fault once, with the number of runs that have it.
    """
    n_runs = len(spec.seeds) * len(spec.methods) * math.prod(len(axis.values) for axis in spec.axes)
    if n_runs == 0:
        return [f"recipe.{fault}" for fault in spec.recipe.faults()]  # that there are none is told already
    if n_runs > MAX_RUNS:
        return [f"axes: they multiply to {n_runs:,} runs, expected at most {MAX_RUNS:,}"]
    faults = list(unused_faults(tuple(_combinations(spec)), spec.overrides))
    if faults:
        return faults
    runs = spec.runs()
    if not runs:
        return ["overrides: they leave no run"]
    counted = Counter(fault for run in runs for fault in _faults_of(run, spec.methods))
    faults += [
        fault if n == len(runs) else f"{fault} (in {n} of {len(runs)} runs)" for fault, n in counted.items()
    ]
    return faults + list(dict.fromkeys(_missing_runs(runs)))


def _faults_of(run: RunSettings, told: tuple[Method, ...]) -> Iterator[str]:
    """What is wrong with one run, but for the faults of methods that are ``told`` already."""
    recipe = run.recipe
    yield from (f"recipe.{fault}" for fault in recipe.faults())
    yield from (f"recipe.model.{fault}" for fault in model_faults(recipe.model))
    yield from (f"recipe.{fault}" for fault in optimizer_faults(recipe.optimizer, run.method))
    if run.method not in told:
        yield from (
            f"methods: {run.method.name}, as an override sets it: {fault}" for fault in run.method.faults()
        )


def _missing_runs(runs: tuple[RunSettings, ...]) -> Iterator[str]:
    """Runs whose norms are replayed must be there."""
    there = set(runs)
    for run in runs:
        replayed = run.replayed_run
        if replayed is not None and replayed not in there:
            yield (
                f"methods: {run.label} replays the runs of {replayed.label}, "
                "which is not among the methods with otherwise equal settings"
            )


def _fault_text(faults: list[str]) -> str:
    return f"{len(faults)} fault{'s' * (len(faults) != 1)} in the study's spec:\n  " + "\n  ".join(faults)
