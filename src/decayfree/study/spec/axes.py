"""Settings that vary in a study: axes that multiply, and overrides that change some of the combinations.

Knows no seeds and no files. What is wrong is told fault by fault; `study_spec` makes one error of them.
"""

import dataclasses
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decayfree.arguments.address import Address, Args
from decayfree.errors import closest
from decayfree.methods.method import Method
from decayfree.methods.table import METHODS
from decayfree.study.checked_settings import is_unread
from decayfree.study.own_method import OwnMethod
from decayfree.study.run_settings import Recipe, RunSettings
from decayfree.study.spec import toml
from decayfree.study.spec.bounds import shown
from decayfree.study.spec.told import Fault
from decayfree.study.spec.toml import Table, to_toml

_METHOD = "method."
WHOLE = "recipe"
"""The path of an axis whose values are tables of dotted names."""
SWEPT = ("learning_rate", "rest_learning_rate")
"""Settings of the recipe that are chosen for each method, and make no groups."""
TUNED = ("weight_decay", "memory_epochs", "forgetting")
"""How the names of methods' settings end that are chosen likewise."""
UNREAD: Any = object()
"""In place of what a table of a file lacks."""


@dataclass(frozen=True)
class Axis:
    """A setting of the recipe and the values it takes, each with every method, seed and other axis value."""

    path: str
    """Dotted name in the recipe: ``learning_rate``, ``model.name``, ``optimizer``; or ``recipe``, for several
    settings that change together.
    """
    values: tuple[Any, ...]
    """Values of the setting; for a table such as ``optimizer``, (name, value) pairs set upon the recipe's;
    for ``recipe``, (dotted name, value) pairs.
    """

    def __post_init__(self) -> None:
        if isinstance(self.values, tuple):
            object.__setattr__(self, "values", tuple(map(_with_addresses, self.values)))

    @property
    def paths(self) -> tuple[str, ...]:
        """The dotted names that it sets."""
        if self.path != WHOLE:
            return (self.path,)
        tables = [value for value in self.values if is_table(value)] if isinstance(self.values, tuple) else []
        return tuple(dict.fromkeys(path for value in tables for path, _ in value))


@dataclass(frozen=True)
class Override:
    """What is different in some runs, or that they are left out."""

    when: Table
    """Dotted names, also ``method.radius``, and the values that a run must have: each, or one of a tuple."""
    set: Table = ()
    """Dotted names in the recipe or of the method's settings, and the values to set."""
    skip: bool = False
    """Leave these runs out."""

    def fits(self, run: RunSettings) -> bool:
        """Whether a run's settings are what ``when`` asks for."""
        return all(
            run.at(path) in (wanted if isinstance(wanted, tuple) else (wanted,)) for path, wanted in self.when
        )


def recipes(recipe: Recipe, axes: Sequence[Axis]) -> Iterator[Recipe]:
    """The recipe with every combination of values; the last axis changes fastest."""
    for values in itertools.product(*(axis.values for axis in axes)):
        one = recipe
        for axis, value in zip(axes, values, strict=True):
            for path, entry in value if axis.path == WHOLE else ((axis.path, value),):
                one = toml.replaced(one, path, _as_field(Recipe, path, entry))
        yield one


def overridden(run: RunSettings, overrides: Sequence[Override]) -> RunSettings | None:
    """The run as the overrides leave it, one applied after the other; None where one leaves it out."""
    for override in overrides:
        if not override.fits(run):
            continue
        if override.skip:
            return None
        for path, value in override.set:
            run = with_setting(run, path, value)
    return run


def axis_faults(axis: Axis, where: str) -> Iterator[Fault | str]:
    """What is wrong with one axis, whatever the runs are; nothing of what is `UNREAD`."""
    if UNREAD in (axis.path, axis.values):
        if axis.path not in (UNREAD, WHOLE) and not is_setting(axis.path):
            yield _no_such_setting(f"{where}.path", axis.path, "the recipe", toml.field_paths(Recipe))
        return
    if not isinstance(axis.values, tuple) or not axis.values:
        yield f"{where}.values: expected a list of at least one value, got {shown(axis.values)}"
        return
    if len(set(axis.values)) < len(axis.values):
        yield f"{where}.values: expected each value once, got {shown(list(map(_thawed, axis.values)))}"
    for value in axis.values:
        yield from _axis_value_faults(axis.path, value, f"{where}.path", f"{where}.values")


def _axis_value_faults(path: Any, value: Any, where_path: str, where_value: str) -> Iterator[Fault | str]:
    if path != WHOLE:
        yield from _recipe_faults(path, value, where_path, where_value)
    elif not is_table(value):
        yield Fault(where_value, "tables of settings by dotted names", _thawed(value))
    else:
        for name, entry in value:
            yield from _recipe_faults(name, entry, where_value, f"{where_value}.{name}")


def is_setting(path: Any) -> bool:
    """Whether the recipe has a setting of this dotted name."""
    return isinstance(path, str) and toml.field_type(Recipe, path) is not None


def usable(axis: Axis) -> Axis:
    """The axis with those of its values that are without faults, each once."""
    values = axis.values if isinstance(axis.values, tuple) else ()
    sound = (one for one in values if not any(_axis_value_faults(axis.path, one, "", "")))
    return Axis(axis.path, tuple(dict.fromkeys(sound)))


def paths_set_by(override: Override) -> set[Any]:
    """The dotted names that it sets, whatever they are."""
    return {path for path, _ in override.set} if is_table(override.set) else set()


def set_by(override: Override) -> dict[str, Any]:
    """Recipe settings, by dotted name, that it sets to values without faults, those of tables included."""
    entries = override.set if is_table(override.set) else ()
    return {
        name: one
        for path, value in entries
        if is_setting(path) and not any(_recipe_faults(path, value, "", ""))
        for name, one in (
            ((f"{path}.{key}", one) for key, one in value) if is_table(value) else ((path, value),)
        )
    }


def override_faults(override: Override, where: str) -> Iterator[Fault | str]:
    """What is wrong with one override, whatever the runs are; nothing of what is `UNREAD`."""
    for name, table in (("when", override.when), ("set", override.set)):
        if table is UNREAD:
            continue
        if not is_table(table):
            yield f"{where}.{name}: expected a table of settings, got {shown(table)}"
            continue
        for path, value in table:
            for one in value if name == "when" and isinstance(value, tuple) else (value,):
                yield from _setting_faults(path, one, f"{where}.{name}", may_be_any=name == "when")
    skip: object = override.skip  # a file may say anything
    if not isinstance(skip, bool):
        yield f"{where}.skip: expected true or false, got {shown(skip)}"
    elif skip == bool(override.set):
        yield f"{where}: expected either set or skip = true"


def unused_faults(
    combinations: Sequence[RunSettings], overrides: Sequence[Override], unread: Collection[str] = ()
) -> Iterator[str]:
    """Overrides that fit no run, most likely misspelt, or that set what the method of a run does not have.

    Combinations are the runs before any override; whether one fits what is ``unread`` is not known.
    """
    left: list[RunSettings] = list(combinations)
    for index, override in enumerate(overrides):
        fitting = [run for run in left if override.fits(run)]
        if not fitting and not any(is_unread(path, unread) for path, _ in override.when):
            names = [value for path, value in override.when if path == "method.name"]
            meant = closest(str(names[0]), METHODS) if names and names[0] not in METHODS else ""
            yield f"overrides[{index}].when: fits no run: {to_toml(_thawed(override.when))}{meant}"
        lacking = {
            f"overrides[{index}].set: {path}: {run.method.name} has no such setting"
            for path, _ in override.set
            for run in fitting
            if path.startswith(_METHOD) and _head(path) not in _settings_of(type(run.method))
        }
        yield from sorted(lacking)
        if not lacking:
            left = [run for one in left if (run := overridden(one, (override,)))]


def with_setting(run: RunSettings, path: str, value: Any) -> RunSettings:
    """The run with one setting of its recipe or its method changed, by its dotted name."""
    if not path.startswith(_METHOD):
        recipe = toml.replaced(run.recipe, path, _as_field(Recipe, path, value))
        return dataclasses.replace(run, recipe=recipe)
    name = path.removeprefix(_METHOD)
    if _head(path) not in _settings_of(type(run.method)):
        return run  # `unused_faults` tells
    method = toml.replaced(run.method, name, _as_field(type(run.method), name, value))
    return dataclasses.replace(run, method=method)


def _as_field(cls: type, path: str, value: Any) -> Any:
    """A value as the field holds it, 1.0 for a number that is written 1; a table's entries likewise."""
    hint = toml.field_type(cls, path)
    if toml.is_table(hint):
        return tuple((key, _as_field(cls, f"{path}.{key}", entry)) for key, entry in value)
    return toml.as_field(hint, value)


def _setting_faults(path: Any, value: Any, where: str, *, may_be_any: bool) -> Iterator[Fault | str]:
    """What is wrong with one entry of an override; a condition may name the seed and the method as well."""
    if may_be_any and path in ("seed", f"{_METHOD}name"):
        fault = toml.value_fault(int if path == "seed" else str, value, f"{where}.{path}")
        if fault is not None:
            yield fault
        return
    if not isinstance(path, str) or not path.startswith(_METHOD):
        yield from _recipe_faults(path, value, where, f"{where}.{path}")
        return
    name = path.removeprefix(_METHOD)
    classes: tuple[type[Method], ...] = (*METHODS.values(), OwnMethod)
    found = [toml.field_type(cls, name) for cls in classes if _head(path) in _settings_of(cls)]
    hints = [hint for hint in found if hint is not None]
    if not hints:
        known = sorted({f"{_METHOD}{one}" for cls in classes for one in _settings_of(cls)})
        yield _no_such_setting(where, path, "a method", known)
        return
    faults = [toml.value_fault(hint, value, f"{where}.{path}") for hint in hints]
    if None not in faults:
        yield from faults[:1]  # type: ignore[misc]


def _recipe_faults(path: Any, value: Any, where_path: str, where_value: str) -> Iterator[Fault | str]:
    """What is wrong with one value for one setting of the recipe."""
    hint = toml.field_type(Recipe, path) if isinstance(path, str) else None
    if hint is None:
        yield _no_such_setting(where_path, path, "the recipe", toml.field_paths(Recipe))
    elif toml.is_table(hint):
        if not is_table(value) or not value:
            yield Fault(where_value, f"a table of settings of {path}", value)
            return
        for key, entry in value:
            yield from _recipe_faults(f"{path}.{key}", entry, where_value, f"{where_value}.{key}")
    else:
        fault = toml.value_fault(hint, value, where_value)
        if fault is not None:
            yield fault


def _no_such_setting(where: str, path: Any, of: str, known: list[str]) -> str:
    return (
        f"{where}: {path}: no such setting of {of}; known are {', '.join(known)}{closest(str(path), known)}"
    )


def _settings_of(cls: type[Method]) -> list[str]:
    names = [entry.name for entry in dataclasses.fields(cls)]  # type: ignore[arg-type]
    return [name for name in names if name != "name"]  # of one's own it is a field, and no setting


def _head(path: str) -> str:
    """The setting of a method that a path is in: that of method.args.rate is args."""
    return path.removeprefix(_METHOD).partition(".")[0]


def is_table(value: object) -> bool:
    """Whether a value is a table as it is kept here: pairs of names and values."""
    return isinstance(value, tuple) and all(
        isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str) for entry in value
    )


def _with_addresses(value: Any) -> Any:
    """With classes and functions by where they are, and tables of arguments as values that can be hashed."""
    if isinstance(value, Mapping):
        return Args.of(value)
    if is_table(value):
        return Args((name, _with_addresses(one)) for name, one in value)
    return value if isinstance(value, str) else Address.taken(value)


def _thawed(value: Any) -> Any:
    return dict(value) if is_table(value) and value else value
