"""What may stand in a study's file, as a JSON schema, by which editors complete and check it as it is typed.

Knows kinds of values and names of settings, as the classes have them. What values may be together, only
reading the file tells.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from decayfree.arguments.address import Address, Args
from decayfree.methods.table import METHODS
from decayfree.study.own_method import OwnMethod
from decayfree.study.run_settings import LIBRARY_NAMES, OWN_MODELS, ModelSpec, Recipe
from decayfree.study.spec.axes import WHOLE
from decayfree.study.spec.documented import documented
from decayfree.study.spec.study_spec import TABLES, StudySpec
from decayfree.study.spec.toml import Table, field_paths, is_table

Schema = dict[str, Any]
DRAFT = "http://json-schema.org/draft-07/schema#"
"""The newest draft that editors of TOML read."""
_OWN: Schema = {"type": "string", "pattern": ":", "description": "package.module:NAME or ./file.py:NAME"}
_KINDS: Mapping[Any, Schema] = {
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    str: {"type": "string"},
    Path: {"type": "string"},
    Address: _OWN,
    Args: {"type": "object"},
    Table: {"type": "object"},
    Any: {},
}


def spec_schema() -> Schema:
    """The schema of a study's file, in draft 7.

    Example:
        >>> spec_schema()["properties"]["seeds"]["items"]
        {'type': 'integer'}
    """
    root = _table(StudySpec, skipped=("methods", *TABLES))
    root["properties"]["methods"] = {
        "type": "array",
        "minItems": 1,
        "items": {"anyOf": [*(_method(name) for name in METHODS), _own_method()]},
        "description": "What is compared; a list as a setting makes a method for each of its values.",
    }
    for name, cls in TABLES.items():
        root["properties"][name] = {"type": "array", "items": _table(cls)}
    axis = root["properties"]["axes"]["items"]["properties"]
    axis["path"]["anyOf"] = [{"enum": [WHOLE, *field_paths(Recipe)]}, {"pattern": r"args\."}]
    axis["values"] = {"type": "array", "minItems": 1} | _described(axis["values"])
    return {"$schema": DRAFT, "title": "A study of decayfree", **root, "required": ["methods"]}


def _table(cls: type, *, skipped: tuple[str, ...] = ()) -> Schema:
    """Of a dataclass: its fields and no others."""
    hints, told = typing.get_type_hints(cls), documented(cls)
    fields = [entry for entry in dataclasses.fields(cls) if entry.name not in skipped]
    properties = {}
    for entry in fields:
        schema = dict(_of(hints[entry.name]))
        if cls is ModelSpec and entry.name == "name":
            libraries = f"^({'|'.join(LIBRARY_NAMES)}):.|:"
            schema = {"anyOf": [{"enum": list(OWN_MODELS)}, {"type": "string", "pattern": libraries}]}
        if told.get(entry.name):
            schema["description"] = told[entry.name]
        if isinstance(entry.default, str | int | float) and entry.default != "":
            schema["default"] = entry.default
        properties[entry.name] = schema
    needed = [one.name for one in fields if one.default is one.default_factory is dataclasses.MISSING]
    return {"type": "object", "properties": properties, "additionalProperties": False, "required": needed}


def _of(hint: Any) -> Schema:
    """Of a field's type; TOML has no null."""
    if hint in _KINDS:
        return _KINDS[hint]
    if is_table(hint):
        return _table(hint)
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return {"enum": list(inside)}
    if origin in (types.UnionType, typing.Union):
        kinds = [_of(one) for one in inside if one is not type(None)]
        return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    assert origin is tuple, hint
    return {"type": "array", "items": _of(inside[0])}


def _method(name: str) -> Schema:
    """Of a method: each of its settings is one value, or a list of them."""
    cls = METHODS[name]
    schema = _table(cls)
    for key, one in schema["properties"].items():
        plain = {word: value for word, value in one.items() if word not in ("description", "default")}
        several = {"type": "array", "minItems": 1, "items": plain}
        schema["properties"][key] = {"anyOf": [plain, several]} | _described(one)
    first = (cls.__doc__ or "").partition("\n")[0]
    schema["properties"] = {"name": {"const": name, "description": first}, **schema["properties"]}
    return schema | {"required": ["name", *schema["required"]]}


def _own_method() -> Schema:
    schema = _table(OwnMethod)
    schema["properties"]["name"] = _OWN
    return schema


def _described(schema: Schema) -> Schema:
    return {word: schema[word] for word in ("description", "default") if word in schema}
