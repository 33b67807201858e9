"""Settings that vary in a study: axes that multiply, and overrides that change some of the combinations.

Knows no seeds and no files. What is wrong is told in lists of sentences; ``spec`` makes one error of them.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decayfree.methods.method import Method
from decayfree.methods.table import METHODS
from decayfree.study.run_settings import Recipe, RunSettings
from decayfree.study.spec.toml import Table, field_paths, field_type, read_value, replaced, to_toml

_METHOD = "method."


@dataclass(frozen=True)
class Axis:
    """One setting of the recipe and the values that it takes.

    Each with every method, seed and value of the other axes.
    """

    path: str
    """Dotted name in the recipe: ``learning_rate``, ``model.name``, ``optimizer``."""
    values: tuple[Any, ...]
    """Values of the setting; for a table such as ``optimizer``, pairs of names and values that are set on top
    of the recipe's.
    """


@dataclass(frozen=True)
class Override:
    """What is different in some runs, or that they are left out."""

    when: Table
    """Dotted names, ``method.name`` and ``method.radius`` among them, and the values that a run must have:
    each one, or one of a tuple.
    """
    set: Table = ()
    """Dotted names in the recipe or of the method's settings, and the values to set."""
    skip: bool = False
    """Leave these runs out."""

    def fits(self, settings: Mapping[str, Any]) -> bool:
        """Whether a run's settings by dotted name are what ``when`` asks for."""
        return all(
            path in settings and settings[path] in (wanted if isinstance(wanted, tuple) else (wanted,))
            for path, wanted in self.when
        )


def recipes(recipe: Recipe, axes: Sequence[Axis]) -> Iterator[Recipe]:
    """The recipe with every combination of values; the last axis changes fastest."""
    for values in itertools.product(*(axis.values for axis in axes)):
        one = recipe
        for axis, value in zip(axes, values, strict=True):
            one = replaced(one, axis.path, _as_field(Recipe, axis.path, value))
        yield one


def overridden(run: RunSettings, overrides: Sequence[Override]) -> RunSettings | None:
    """The run as the overrides leave it, one applied after the other; None where one leaves it out."""
    for override in overrides:
        if not override.fits(run.flat()):
            continue
        if override.skip:
            return None
        for path, value in override.set:
            run = _with(run, path, value)
    return run


def axis_faults(axes: Sequence[Axis]) -> list[str]:
    """What is wrong with axes, whatever the runs are."""
    faults = []
    for index, axis in enumerate(axes):
        where = f"axes[{index}]"
        if not isinstance(axis.values, tuple) or not axis.values:
            faults.append(f"{where}.values: expected a list of at least one value, got {axis.values!r}")
            continue
        if len(set(axis.values)) < len(axis.values):
            faults.append(
                f"{where}.values: expected each value once, got {to_toml(list(map(_thawed, axis.values)))}"
            )
        for value in axis.values:
            faults += _recipe_faults(axis.path, value, f"{where}.path", f"{where}.values")
    paths = Counter(axis.path for axis in axes)
    faults += [f"axes: {path} has {n} axes, expected one" for path, n in paths.items() if n > 1]
    return list(dict.fromkeys(faults))


def override_faults(overrides: Sequence[Override]) -> list[str]:
    """What is wrong with overrides, whatever the runs are."""
    faults: list[str] = []
    for index, override in enumerate(overrides):
        where = f"overrides[{index}]"
        for name, table in (("when", override.when), ("set", override.set)):
            if not _is_table(table):
                faults.append(f"{where}.{name}: expected a table of settings, got {table!r}")
            else:
                faults += [
                    fault
                    for path, value in table
                    for one in (value if name == "when" and isinstance(value, tuple) else (value,))
                    for fault in _setting_faults(path, one, f"{where}.{name}", may_be_any=name == "when")
                ]
        skip: object = override.skip  # a file may say anything
        if not isinstance(skip, bool):
            faults.append(f"{where}.skip: expected true or false, got {skip!r}")
        elif skip == bool(override.set):
            faults.append(f"{where}: expected either set or skip = true")
    return faults


def unused_faults(combinations: Sequence[RunSettings], overrides: Sequence[Override]) -> Iterator[str]:
    """Overrides that fit no run, most likely misspelt, or that set what the method of a run does not have.

    Args:
        combinations: The runs before any override.
        overrides: Without faults of their own.
    """
    left: list[RunSettings] = list(combinations)
    for index, override in enumerate(overrides):
        fitting = [run for run in left if override.fits(run.flat())]
        if not fitting:
            yield f"overrides[{index}].when: fits no run: {to_toml(_thawed(override.when))}"
        lacking = {
            f"overrides[{index}].set: {path}: {run.method.name} has no such setting"
            for path, _ in override.set
            for run in fitting
            if path.startswith(_METHOD) and path.removeprefix(_METHOD) not in _settings_of(type(run.method))
        }
        yield from sorted(lacking)
        if not lacking:
            left = [run for one in left if (run := overridden(one, (override,)))]


def _with(run: RunSettings, path: str, value: Any) -> RunSettings:
    if not path.startswith(_METHOD):
        recipe = replaced(run.recipe, path, _as_field(Recipe, path, value))
        return dataclasses.replace(run, recipe=recipe)
    name = path.removeprefix(_METHOD)
    if name not in _settings_of(type(run.method)):
        return run  # `unused_faults` tells
    method = replaced(run.method, name, _as_field(type(run.method), name, value))
    return dataclasses.replace(run, method=method)


def _as_field(cls: type, path: str, value: Any) -> Any:
    """A value as the field holds it, 1.0 for a number that is written 1; a table's entries likewise."""
    hint = field_type(cls, path)
    if dataclasses.is_dataclass(hint):
        return tuple((key, _as_field(cls, f"{path}.{key}", entry)) for key, entry in value)
    return read_value(hint, value, path, [])


def _setting_faults(path: Any, value: Any, where: str, *, may_be_any: bool) -> list[str]:
    """What is wrong with one entry of an override; a condition may name the seed and the method as well."""
    if may_be_any and path in ("seed", f"{_METHOD}name"):
        return []
    if not isinstance(path, str) or not path.startswith(_METHOD):
        return _recipe_faults(path, value, where, f"{where}.{path}")
    name = path.removeprefix(_METHOD)
    hints = [field_type(cls, name) for cls in METHODS.values() if name in _settings_of(cls)]
    if not hints:
        known = sorted({f"{_METHOD}{one}" for cls in METHODS.values() for one in _settings_of(cls)})
        return [f"{where}: {path}: no such setting of a method; known are {', '.join(known)}"]
    attempts: list[list[str]] = [[] for _ in hints]
    for hint, faults in zip(hints, attempts, strict=True):
        read_value(hint, value, f"{where}.{path}", faults)
    return min(attempts, key=len)


def _recipe_faults(path: Any, value: Any, where_path: str, where_value: str) -> list[str]:
    """What is wrong with one value for one setting of the recipe."""
    hint = field_type(Recipe, path) if isinstance(path, str) else None
    if hint is None:
        return [
            f"{where_path}: {path}: no such setting of the recipe; known are {', '.join(field_paths(Recipe))}"
        ]
    if not dataclasses.is_dataclass(hint):
        faults: list[str] = []
        read_value(hint, value, where_value, faults)
        return faults
    if not _is_table(value) or not value:
        return [f"{where_value}: expected a table of settings of {path}, got {value!r}"]
    return [
        fault
        for key, entry in value
        for fault in _recipe_faults(f"{path}.{key}", entry, where_value, f"{where_value}.{key}")
    ]


def _settings_of(cls: type[Method]) -> list[str]:
    return [entry.name for entry in dataclasses.fields(cls)]  # type: ignore[arg-type]


def _is_table(value: object) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str) for entry in value
    )


def _thawed(value: Any) -> Any:
    return dict(value) if _is_table(value) and value else value
