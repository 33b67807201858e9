"""How TOML becomes frozen dataclasses, and back.

Values are checked by the types of the fields, and every fault is told.

Knows no study: it is told which class to fill. What is wrong is appended to a list, so that one call finds
all of it.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

Table = tuple[tuple[str, Any], ...]
"""A TOML table as a value that can be hashed."""
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def read_values(
    cls: type, table: Mapping[str, Any], where: str, faults: list[str], *, skipped: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The arguments for a dataclass out of a table; whatever is wrong is appended to ``faults``.

    Args:
        cls: The dataclass.
        table: What the file says.
        where: What stands before a key in a fault: ``recipe.``.
        faults: Grows.
        skipped: Fields that somebody else reads.
    """
    hints = typing.get_type_hints(cls)
    fields = {entry.name: entry for entry in dataclasses.fields(cls)}
    known = ", ".join(fields) or "none"
    faults += [f"{where}{key}: no such key; known keys: {known}" for key in table if key not in fields]
    values = {}
    for name, entry in fields.items():
        if name in skipped:
            continue
        if name in table:
            values[name] = read_value(hints[name], table[name], f"{where}{name}", faults)
        elif entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING:
            faults.append(f"{where}{name}: missing")
    return values


def read_value(hint: Any, value: object, where: str, faults: list[str]) -> Any:
    """The value of one field; a whole number is taken for a number."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _read_table(hint, value, where, faults)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return _read_union(typing.get_args(hint), value, where, faults)
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            faults.append(f"{where}: expected one of {', '.join(map(str, choices))}; got {value!r}")
        return value
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            faults.append(f"{where}: expected a list of whole numbers, got {value!r}")
            return ()
        return tuple(value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        several = "; several values make an [[axes]] table with this path" if isinstance(value, list) else ""
        faults.append(f"{where}: expected {_KINDS[hint]}, got {value!r}{several}")
    return value


@lru_cache(maxsize=1024)
def field_type(cls: type, path: str) -> Any:
    """The type of a field by its dotted name, ``optimizer.momentum``; None where there is no such field."""
    head, _, rest = path.partition(".")
    hint = typing.get_type_hints(cls).get(head)
    if hint is None or not rest:
        return hint
    return field_type(hint, rest) if dataclasses.is_dataclass(hint) and isinstance(hint, type) else None


def field_paths(cls: type) -> list[str]:
    """The dotted names of all fields, those of nested dataclasses after the table that holds them."""
    paths = []
    for name, hint in typing.get_type_hints(cls).items():
        if name in {entry.name for entry in dataclasses.fields(cls)}:
            paths.append(name)
            if dataclasses.is_dataclass(hint) and isinstance(hint, type):
                paths += [f"{name}.{path}" for path in field_paths(hint)]
    return paths


def replaced(settings: Any, path: str, value: Any) -> Any:
    """Dataclass ``settings`` with the field at ``path`` set.

    A `Table` sets those fields of a nested dataclass that it names.
    """
    head, _, rest = path.partition(".")
    before = getattr(settings, head)
    if rest:
        return dataclasses.replace(settings, **{head: replaced(before, rest, value)})
    if not dataclasses.is_dataclass(before):
        return dataclasses.replace(settings, **{head: value})
    for key, entry in value:
        before = replaced(before, key, entry)
    return dataclasses.replace(settings, **{head: before})


def frozen(value: Any) -> Any:
    """A TOML value that can be hashed: tables become pairs, lists tuples."""
    if isinstance(value, Mapping):
        return tuple((key, frozen(entry)) for key, entry in value.items())
    return tuple(map(frozen, value)) if isinstance(value, list) else value


def to_toml(value: Any) -> str:
    """A TOML value; JSON writes text, booleans, whole numbers and lists the same way, and repr the floats."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(name)} = {to_toml(entry)}" for name, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    # JSON leaves the character 127 as it is, which TOML does not allow.
    return (
        repr(value)
        if isinstance(value, float)
        else json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    )


def tables_to_toml(name: str, table: Mapping[str, Any]) -> list[str]:
    """The lines of a table with its values and, after it, the tables within."""
    values = {key: value for key, value in table.items() if not isinstance(value, dict)}
    lines = ["", f"[{name}]", *(f"{key} = {to_toml(value)}" for key, value in values.items())]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += tables_to_toml(f"{name}.{key}", value)
    return lines


def _key(name: str) -> str:
    return name if name.replace("_", "").isalnum() and name.isascii() else json.dumps(name)


def _read_table(cls: type, value: object, where: str, faults: list[str]) -> Any:
    if not isinstance(value, dict):
        faults.append(f"{where}: expected a table, got {value!r}")
        return None
    n_faults = len(faults)
    values = read_values(cls, value, f"{where}.", faults)
    return cls(**values) if len(faults) == n_faults else None


def _read_union(kinds: tuple[Any, ...], value: object, where: str, faults: list[str]) -> Any:
    """The first kind that takes the value; TOML has no null, so None is none of them."""
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    attempts: list[str] = []
    for kind in kinds:
        found: list[str] = []
        read = read_value(kind, value, where, found)
        if not found:
            return read
        attempts += found
    wanted = " or ".join(
        attempt.split("expected ", 1)[-1].rsplit(", got ", 1)[0].rsplit("; got ", 1)[0]
        for attempt in attempts
    )
    faults.append(f"{where}: expected {wanted}, got {value!r}")
    return value
