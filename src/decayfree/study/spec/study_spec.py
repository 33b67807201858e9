"""What a study is: methods, seeds, and axes that multiply over one recipe; to and from TOML.

Does not load data, build models or train. A file with faults gives one error that lists all of them.
"""

import dataclasses
import itertools
import math
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from decayfree.arguments.address import FORMS, Address
from decayfree.arguments.kinds import kind_fault
from decayfree.errors import DecayFreeError, closest
from decayfree.methods.method import Method
from decayfree.methods.table import METHODS
from decayfree.study.checked_settings import unread_in
from decayfree.study.disk import as_path, read_text
from decayfree.study.own_method import OwnMethod
from decayfree.study.run_settings import Recipe, RunSettings, plain
from decayfree.study.spec.axes import UNREAD, Axis, Override, is_table
from decayfree.study.spec.bounds import MAX_CHARACTERS, MAX_FAULTS, shown, table_of
from decayfree.study.spec.checks import MAX_METHODS, MAX_RUNS, grid_of, parts_of, whole_faults
from decayfree.study.spec.rounds import Added, Always, Extension, added_runs, rounds_faults
from decayfree.study.spec.told import Fault, Told, no_such_key
from decayfree.study.spec.toml import frozen, read_values, tables_to_toml, to_toml

TABLES: Mapping[str, type[Axis | Override | Extension | Always | Added]] = {
    "axes": Axis,
    "overrides": Override,
    "extend": Extension,
    "confirm_also": Always,
    "added": Added,
}


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
    extend: tuple[Extension, ...] = ()
    """How the grid of each arm grows while its optimum lies at an edge; see `rounds`."""
    confirm_seeds: tuple[int, ...] = ()
    """In the end what was chosen in each arm runs again with these seeds; choices rest on ``seeds``."""
    confirm_also: tuple[Always, ...] = ()
    """Settings that are confirmed whether they were chosen or not."""
    added: tuple[Added, ...] = ()
    """What these rules have added so far; the runner writes it into the study's folder."""
    title: str = "Study"
    question: str = ""
    """What the study is to answer, and what is expected."""
    data_dir: str | Path | None = None
    """Where the images lie, for data that is not embedded in a package; no part of a run's settings. Kept as
    a `str`.
    """
    source_dir: str | Path | None = field(default=None, compare=False)
    """Where ``./file.py`` is looked for: the folder of the spec's file, or the current one; kept likewise."""

    def __post_init__(self) -> None:
        if isinstance(self.methods, tuple):
            object.__setattr__(self, "methods", tuple(map(OwnMethod.taken, self.methods)))
        hints = typing.get_type_hints(StudySpec)
        kinds = [
            kind_fault(one.name, hints[one.name], getattr(self, one.name)) for one in dataclasses.fields(self)
        ]
        if any(kinds):
            raise spec_error(filter(None, kinds))
        if self.data_dir is not None:
            object.__setattr__(self, "data_dir", str(self.data_dir))
        if self.source_dir is not None:
            object.__setattr__(self, "source_dir", str(self.source_dir))
        told = Told()
        for index, method in enumerate(self.methods):
            told.faults += [f"methods[{index}].{fault}" for fault in method.faults()]
        axes, overrides = dict(enumerate(self.axes)), dict(enumerate(self.overrides))
        parts = parts_of(told, self.methods, self.seeds, self.recipe, axes, overrides)
        faults = [*told.faults, *whole_faults(parts)]
        if not faults:
            rules = self.confirm_seeds, self.confirm_also, self.extend, self.added
            faults = list(rounds_faults(self._grid, self.seeds, *rules))
            tasks = dict.fromkeys(run.recipe.task for run in self._grid)
            if len(tasks) > 1:
                faults.append(
                    f"task: expected one for all runs, whose scores are compared; got {', '.join(tasks)}"
                )
        if faults:
            raise spec_error(faults)

    def runs(self) -> tuple[RunSettings, ...]:
        """Every run once, seed by seed, in the order of the axes, then of the methods; then those added."""
        return self._runs

    def grid(self) -> tuple[RunSettings, ...]:
        """The runs that the file asks for, without those that its rules have added."""
        return self._grid

    def may_grow(self, n_ended: int) -> bool:
        """Whether rules may add runs to these, of which so many have ended."""
        if self.confirm_seeds:
            return not any(run.seed in self.confirm_seeds for run in self._runs)
        return bool(self.extend) and n_ended < len(self._runs)

    def own(self) -> dict[Address, tuple[str, ...]]:
        """What runs take from their user, with the settings that name it: code that runs when they do."""
        named: dict[Address, dict[str, None]] = {}
        for run in self._runs:
            for path, address in run.addresses().items():
                named.setdefault(address, {})[path] = None
        return {address: tuple(paths) for address, paths in named.items()}

    def varying(self) -> tuple[str, ...]:
        """Dotted names of the settings in which runs differ, like ``method.radius``; seeds do not count.

        A setting of a method counts where runs of that very method differ in it.
        """
        return self._varying

    def to_toml(self) -> str:
        """The whole spec as TOML text, defaults included."""
        lines = ["# A study of decayfree, resolved: every setting is written out."]
        lines += [f"title = {to_toml(self.title)}", f"question = {to_toml(self.question)}"]
        lines.append(f"seeds = {to_toml(self.seeds)}")
        if self.confirm_seeds:
            lines.append(f"confirm_seeds = {to_toml(self.confirm_seeds)}")
        if self.data_dir is not None:
            lines.append(f"data_dir = {to_toml(self.data_dir)}")
        if self.own():
            lines.append(f"source_dir = {to_toml(str(Path(self.source_dir or '.').resolve()))}")
        lines += tables_to_toml("recipe", plain(self.recipe))
        for method in self.methods:
            settings = {"name": method.name, **plain(method)}
            lines += ["", "[[methods]]", *(f"{key} = {to_toml(value)}" for key, value in settings.items())]
        for axis in self.axes:
            values = [dict(value) if is_table(value) and value else value for value in axis.values]
            lines += ["", "[[axes]]", f"path = {to_toml(axis.path)}", f"values = {to_toml(values)}"]
        for override in self.overrides:
            lines += ["", "[[overrides]]", f"when = {to_toml(dict(override.when))}"]
            tables = {
                path: dict(value) if is_table(value) and value else value for path, value in override.set
            }
            lines.append("skip = true" if override.skip else f"set = {to_toml(tables)}")
        for rule in self.extend:
            lines += ["", "[[extend]]", *(f"{k} = {to_toml(v)}" for k, v in dataclasses.asdict(rule).items())]
        for also in self.confirm_also:
            lines += ["", "[[confirm_also]]", f"when = {to_toml(dict(also.when))}"]
        for entry in self.added:
            lines += ["", "[[added]]", f"run = {to_toml(entry.run)}", f"seeds = {to_toml(entry.seeds)}"]
            lines += [f"set = {to_toml(dict(entry.set))}"] if entry.set else []
        return "\n".join(lines) + "\n"

    @staticmethod
    def from_toml(text: str) -> "StudySpec":
        """Read a spec back.

        Raises:
            SpecError: If the text is not TOML, has unknown keys, wrong types or values, all at once; or if it
                is too large or too deep to be a spec.
        """
        if not isinstance(text, str):
            raise SpecError(f"text must be TOML in a str, got {type(text).__name__}")
        return _study_of(text, None)

    @staticmethod
    def load(path: str | Path) -> "StudySpec":
        """Read a spec from a file of UTF-8; a `SpecError` names the file."""
        path = as_path("path", path)
        try:
            return _study_of(read_text(path, at_most=4 * MAX_CHARACTERS), path.parent.resolve())
        except (SpecError, OSError, ValueError) as error:
            raise SpecError(f"{path}: {error}") from error

    @cached_property
    def _grid(self) -> tuple[RunSettings, ...]:
        return grid_of(self.seeds, self.recipe, self.axes, self.methods, self.overrides)

    @cached_property
    def _runs(self) -> tuple[RunSettings, ...]:
        return tuple(dict.fromkeys((*self._grid, *added_runs(self._grid, self.added))))

    @cached_property
    def _varying(self) -> tuple[str, ...]:
        seen: dict[tuple[str, str], set[Any]] = {}
        for run in self._runs:
            for path, value in run.flat().items():
                of_one = run.method.name if path.startswith("method.") and path != "method.name" else ""
                seen.setdefault((path, of_one), set()).add(value)
        varying = (path for (path, _), values in seen.items() if len(values) > 1 and path != "seed")
        return tuple(dict.fromkeys(varying))


def first_seeds(n: int) -> tuple[int, ...]:
    """The seeds from 0 to n − 1.

    Raises:
        SpecError: If ``n`` is not a whole number, or more than a study may have runs.
    """
    if type(n) is not int or n > MAX_RUNS:
        raise SpecError(f"seeds: expected a whole number of at most {MAX_RUNS:,}, got {shown(n)}")
    return tuple(range(n))


def _study_of(text: str, folder: Path | None) -> StudySpec:
    """The study that a text says, in a file of this folder, or in none."""
    table, faults = table_of(text)
    if faults:
        raise spec_error(faults)
    source_dir = table.get("source_dir", "")
    if folder is not None and isinstance(source_dir, str):
        table["source_dir"] = str(folder / source_dir)
    return _study_from(table)


def _study_from(table: Mapping[str, Any]) -> StudySpec:
    told = Told()
    values = read_values(StudySpec, table, "", told, skipped=("methods", *TABLES))
    methods, methods_are_whole = _read_methods(table.get("methods"), told)
    n_before = len(told.faults)
    tables = {name: _read_tables(cls, table, name, told) for name, cls in TABLES.items()}
    if not told.faults:
        values |= {name: tuple(read.values()) for name, read in tables.items()}
        return StudySpec(**values, methods=methods)
    parts = parts_of(
        told,
        methods,
        None if "seeds" in told.unread else values.get("seeds", (0,)),
        values.get("recipe", Recipe()),
        tables["axes"],
        tables["overrides"],
        methods_are_whole=methods_are_whole,
        tables_are_whole=len(told.faults) == n_before,
    )
    raise spec_error([*told.faults, *whole_faults(parts)])


def _read_tables(
    cls: type[Axis | Override | Extension | Always | Added], table: Mapping[str, Any], name: str, told: Told
) -> dict[int, Any]:
    """Entries of ``[[axes]]`` and the like by number, `UNREAD` for gaps; values are not judged."""
    tables = table.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(entry, dict) for entry in tables):
        told.misfit(Fault(name, f"[[{name}]] tables", tables))
        return {}
    fields = {entry.name: entry for entry in dataclasses.fields(cls)}
    read = {}
    for index, entry in enumerate(tables):
        where = f"{name}[{index}]."
        told.faults += [no_such_key(where, key, fields) for key in entry if key not in fields]
        values = {key: frozen(value) for key, value in entry.items() if key in fields}
        for key, one in fields.items():
            if one.default is dataclasses.MISSING and key not in entry:
                told.missing(f"{where}{key}")
                values[key] = UNREAD
        read[index] = cls(**values)
    return read


def _read_methods(tables: object, told: Told) -> tuple[tuple[Method, ...], bool]:
    """The methods whose settings could all be read, and whether these are all that were meant."""
    if not isinstance(tables, list) or not tables:
        told.faults.append("methods: expected at least one [[methods]] table")
        return (), False
    n_methods = sum(_n_of(table) for table in tables)
    if n_methods > MAX_METHODS:
        told.faults.append(f"methods: they are {n_methods:,}, expected at most {MAX_METHODS:,}")
        return (), False
    methods: list[Method] = []
    are_whole = True
    for index, table in enumerate(tables):
        where = f"methods[{index}]."
        name = table.get("name") if isinstance(table, dict) else None
        kind = _method_kind(name)
        if kind is None:
            meant = closest(name, METHODS) if isinstance(name, str) else ""
            known = f"one of {', '.join((*METHODS, *FORMS))}"
            told.faults.append(Fault(f"{where}name", known, name, meant))
            are_whole = False
            continue
        empty = [key for key, value in table.items() if value == []]
        told.faults += [f"{where}{key}: expected a value or a list of at least one, got []" for key in empty]
        named = {"name": name} if kind is OwnMethod else {}
        read = [_read_method(kind, {**named, **options}, where, told) for options in _each(table)]
        methods += [method for method, _ in read if method is not None]
        are_whole = are_whole and not empty and all(is_whole for _, is_whole in read)
    return tuple(methods), are_whole


def _method_kind(name: object) -> type[Method] | None:
    if isinstance(Address.taken(name) if isinstance(name, str) else None, Address):
        return OwnMethod
    return METHODS[name] if isinstance(name, str) and name in METHODS else None


def _read_method(
    cls: type[Method], options: Mapping[str, Any], where: str, told: Told
) -> tuple[Method | None, bool]:
    """The method, None where a setting could not be read, and whether it has all that was meant.

    What is wrong with the settings that could be read is told all the same.
    """
    own = Told()
    values = read_values(cls, options, where, own)
    unread = unread_in(where.removesuffix("."), own.unread)
    # A setting without a default is a number. What is said of these stand-ins is left out.
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    defaults = {entry.name for entry in fields if entry.default is not dataclasses.MISSING}
    method = cls(**dict.fromkeys(unread - defaults, 1.0) | values)
    begin = tuple(f"{name} " for name in unread)
    told.faults += own.faults
    told.faults += [f"{where}{fault}" for fault in method.faults() if not fault.startswith(begin)]
    return (None if unread else method), not own.faults


def _n_of(table: object) -> int:
    """How many methods a table makes."""
    values = table.values() if isinstance(table, dict) else ()
    return math.prod(len(value) for value in values if isinstance(value, list))


def _each(table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The settings of one method or, where a value is a list, of one method for each of its values."""
    options = {key: value for key, value in table.items() if key != "name"}
    lists = [value if isinstance(value, list) else [value] for value in options.values()]
    for values in itertools.product(*lists):
        yield dict(zip(options, values, strict=True))


def spec_error(faults: Iterable[Fault | str]) -> SpecError:
    """The one error of all these faults; of very many, the first ones."""
    lines = list(dict.fromkeys(map(str, faults)))
    more = [f"and {len(lines) - MAX_FAULTS} more"] if len(lines) > MAX_FAULTS else []
    return SpecError(
        f"{len(lines)} fault{'s' * (len(lines) != 1)} in the study's spec:\n  "
        + "\n  ".join([*lines[:MAX_FAULTS], *more])
    )
