"""TOML to frozen dataclasses and back: values are checked by the types of fields, every fault is told.

Knows no study: it is told which class to fill. What is wrong is collected, so that one call finds all of it.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from decayfree.arguments.address import FORMS, Address, Args
from decayfree.errors import InvalidInputError, closest
from decayfree.study.spec.told import Fault, Told, no_such_key

Table = tuple[tuple[str, Any], ...]
"""A TOML table as a value that can be hashed."""
_KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    Args: Args.in_words,
}


MISFIT: Any = object()
"""Stands for a value that is not what is wanted; None may be one that is."""


def read_values(
    cls: type, table: Mapping[str, Any], where: str, told: Told, *, skipped: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The arguments for a dataclass out of a table, as many as could be read; what is wrong is told.

    In a fault ``where`` stands before a key: ``recipe.``. Somebody else reads what is skipped.
    """
    hints = typing.get_type_hints(cls)
    fields = {entry.name: entry for entry in dataclasses.fields(cls)}
    told.faults += [no_such_key(where, key, fields) for key in table if key not in fields]
    values = {}
    for name, entry in fields.items():
        if name in skipped:
            continue
        if name in table:
            value = _read(hints[name], table[name], f"{where}{name}", told)
            if value is not MISFIT:
                values[name] = value
        elif entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING:
            told.missing(f"{where}{name}")
    return values


def _read(hint: Any, value: object, where: str, told: Told) -> Any:
    if is_table(hint) and isinstance(value, dict):
        return hint(**read_values(hint, value, f"{where}.", told))
    fault = value_fault(hint, value, where)
    if fault is not None:
        told.misfit(fault)
        return MISFIT
    return as_field(hint, value)


def value_fault(hint: Any, value: object, where: str) -> Fault | None:
    """What is wrong with the value of one field, tables aside; None if nothing."""
    if as_field(hint, value) is not MISFIT:
        return None
    more = ""
    if isinstance(value, str):
        more = closest(value, _choices(hint))
    elif isinstance(value, list) and hint in _KINDS:
        more = "; several values make an [[axes]] table with this path"
    return Fault(where, wanted(hint), value, more)


def as_field(hint: Any, value: Any) -> Any:
    """The value as a field of this type holds it, 1.0 for a number that is written 1; else `MISFIT`."""
    if _is_union(hint):
        read = (as_field(kind, value) for kind in typing.get_args(hint))
        return next((one for one in read if one is not MISFIT), MISFIT)
    if typing.get_origin(hint) is Literal:
        return value if value in typing.get_args(hint) else MISFIT
    if typing.get_origin(hint) is tuple:
        is_list = isinstance(value, list) and all(type(item) is int for item in value)
        return tuple(value) if is_list else MISFIT
    if hint is float and type(value) is int:
        return float(value)
    if hint is Address:
        taken = Address.taken(value)
        return taken if isinstance(taken, Address) else MISFIT
    if hint is Args and isinstance(value, Args | Mapping):
        try:
            return Args.of(dict(value))
        except InvalidInputError:
            return MISFIT
    is_one = hint is Any or type(value) is hint or (hint is str and isinstance(value, Address))
    return value if is_one else MISFIT


def wanted(hint: Any) -> str:
    """What a field of this type takes, in words; TOML has no null, so None is not among it."""
    if is_table(hint):
        return "a table"
    if Address in typing.get_args(hint):
        return f"one of {', '.join(_choices(hint))}"
    if _is_union(hint):
        return " or ".join(wanted(kind) for kind in typing.get_args(hint) if kind is not type(None))
    if typing.get_origin(hint) is Literal:
        choices = _choices(hint)
        return f"one of {', '.join(choices)}" if len(choices) > 1 else repr(choices[0])
    return "a list of whole numbers" if typing.get_origin(hint) is tuple else _KINDS[hint]


def is_table(hint: Any) -> bool:
    """Whether a field of this type is a table of settings."""
    return dataclasses.is_dataclass(hint) and isinstance(hint, type)


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (types.UnionType, typing.Union)


def _choices(hint: Any) -> list[str]:
    if hint is Address:
        return list(FORMS)
    if typing.get_origin(hint) is Literal:
        return [str(one) for one in typing.get_args(hint) if one != ""]
    return [one for kind in typing.get_args(hint) for one in _choices(kind)] if _is_union(hint) else []


@lru_cache(maxsize=1024)
def field_type(cls: type, path: str) -> Any:
    """The type of a field by its dotted name, ``optimizer.momentum``; None where there is no such field."""
    head, _, rest = path.partition(".")
    hint = typing.get_type_hints(cls).get(head)
    if hint is None or not rest:
        return hint
    if hint is Args:  # only who is called with them knows which there are
        return None if "." in rest else Any
    return field_type(hint, rest) if is_table(hint) else None


def field_paths(cls: type) -> list[str]:
    """The dotted names of all fields, those of nested dataclasses after the table that holds them."""
    paths = []
    for name, hint in typing.get_type_hints(cls).items():
        if name in {entry.name for entry in dataclasses.fields(cls)}:
            paths.append(name)
            if is_table(hint):
                paths += [f"{name}.{path}" for path in field_paths(hint)]
    return paths


def replaced(settings: Any, path: str, value: Any) -> Any:
    """Dataclass ``settings`` with ``path`` set; a `Table` sets those fields of a nested one that it names."""
    head, _, rest = path.partition(".")
    if isinstance(settings, Args):
        return Args.of({**dict(settings), head: value})
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
        return Args((key, frozen(entry)) for key, entry in value.items())
    return tuple(map(frozen, value)) if isinstance(value, list) else value


def to_toml(value: Any) -> str:
    """A TOML value; JSON writes text, booleans, whole numbers and lists the same way, and repr the floats."""
    if isinstance(value, Args):
        value = dict(value)
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
    values = {key: value for key, value in table.items() if not (isinstance(value, dict) and value)}
    lines = ["", f"[{name}]", *(f"{key} = {to_toml(value)}" for key, value in values.items())]
    for key, value in table.items():
        if isinstance(value, dict) and value:
            lines += tables_to_toml(f"{name}.{key}", value)
    return lines


def _key(name: str) -> str:
    return name if name.replace("_", "").isalnum() and name.isascii() else json.dumps(name)
