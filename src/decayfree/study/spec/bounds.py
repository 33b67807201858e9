"""How large and how deep may a spec's file be? Looked at before any work grows with it.

Reads TOML and knows no setting.
"""

import re
import sys
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_CHARACTERS = 500_000
MAX_VALUES = 30_000
"""Values in a file, entries of lists and of tables counted."""
MAX_DEPTH = 16
"""Lists and tables within each other, and the parts of a dotted name."""
MAX_NAME = 200
MAX_FAULTS = 50
MAX_SHOWN = 200
"""Characters of a value in a message."""
_MAX_BITS = 64

# Texts and comments, in which brackets and dots mean nothing; what is not closed reaches to the end, so that
# no character is looked at twice.
_OPAQUE = re.compile(
    r'"""(?:\\.|[^\\])*?(?:"""|\Z)|\'\'\'.*?(?:\'\'\'|\Z)|"(?:\\.|[^"\\\n])*"?|\'[^\'\n]*\'?|#[^\n]*',
    re.DOTALL,
)
_LONG_NAME = re.compile(rf"(?<![\w-])(?:[\w-]+[ \t]*\.[ \t]*){{{MAX_DEPTH}}}")


def table_of(text: str) -> tuple[dict[str, Any], list[str]]:
    """The table that a text says, and what is wrong with it whatever its settings mean; one or the other.

    A list that is too long, a number that is too large, a date: what comes after may count on their absence.
    """
    said = _text_fault(text)
    if said is not None:
        return {}, [said]
    try:
        table = tomllib.loads(text)
    except ValueError as error:  # of a number with too many digits as well
        return {}, [f"the spec is not TOML: {error}"]
    faults = _value_faults(table)
    return ({}, faults) if faults else (table, [])


def shown(value: object) -> str:
    """A value as a message shows it: from its beginning.

    Example:
        >>> shown([1, "a"]), len(shown("a" * 1000))
        ("[1, 'a']", 202)
    """
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} …"


def _text_fault(text: str) -> str | None:
    if len(text) > MAX_CHARACTERS:
        return f"the spec has {len(text):,} characters, expected at most {MAX_CHARACTERS:,}"
    bare = _OPAQUE.sub("_", text)
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", bare):
        depth = depth + 1 if bracket in "[{" else max(0, depth - 1)
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        return f"the spec has {deepest} brackets within each other, expected at most {MAX_DEPTH}"
    long = _LONG_NAME.search(bare)
    if long:
        line = bare.count("\n", 0, long.start()) + 1
        return f"line {line}: a name of more than {MAX_DEPTH} parts with dots between"
    return None


def _value_faults(table: dict[str, Any]) -> list[str]:
    faults: list[str] = []
    left: list[tuple[str, object, int]] = [("", table, 0)]
    n_values = 0
    while left and len(faults) < MAX_FAULTS:
        where, value, depth = left.pop()
        if isinstance(value, dict | list):
            n_values += len(value)
            if n_values > MAX_VALUES:
                return [f"the spec has more than {MAX_VALUES:,} values"]
            if depth > MAX_DEPTH:
                return [f"{shown(where)} lies {depth} tables deep, expected at most {MAX_DEPTH}"]
        if isinstance(value, dict):
            long = [name for name in value if len(name) > MAX_NAME]
            faults += [f"a name of {len(one)} characters, expected at most {MAX_NAME}" for one in long]
            if not long:
                left += [
                    (f"{where}.{name}" if where else name, one, depth + 1) for name, one in value.items()
                ]
        elif isinstance(value, list):
            left += [(f"{where}[{index}]", one, depth + 1) for index, one in enumerate(value)]
        elif isinstance(value, int) and value.bit_length() > _MAX_BITS:
            faults.append(
                f"{where}: a whole number of {value.bit_length()} bits, expected at most {_MAX_BITS}"
            )
        elif not isinstance(value, str | int | float):
            faults.append(f"{where}: no setting is a date or a time, got {value}")
    return faults
