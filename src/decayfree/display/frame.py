"""How do named columns become a data frame, of polars or of pandas?

Computes nothing: values in, the same values out.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, get_args

from decayfree.errors import InvalidInputError, MissingExtraError, closest

Library = Literal["polars", "pandas"]
Columns = Mapping[str, Sequence[Any]]
"""Name of a column -> its values, as many as any other's; NaN stands for a number that nobody knows."""


def frame_of(columns: Columns, library: Library | None = None) -> Any:
    """A frame of these columns; in polars a number that nobody knows is null, in pandas it is NaN.

    Args:
        columns: By name, in their order.
        library: Whose frame; by default the first of polars and pandas that is installed.

    Raises:
        InvalidInputError, MissingExtraError: As in :func:`library_for`.

    Example:
        >>> frame_of({"step": [1, 2], "norm": [1.0, math.nan]}, "polars")["norm"].to_list()
        [1.0, None]
    """
    name = library_for(library)
    frames = import_module(name)
    if name == "pandas":
        return frames.DataFrame({key: list(values) for key, values in columns.items()})
    floats = {key for key, values in columns.items() if any(isinstance(one, float) for one in values)}
    told = {key: _without_nan(values) if key in floats else list(values) for key, values in columns.items()}
    return frames.DataFrame(told, schema_overrides=dict.fromkeys(floats, frames.Float64))


def library_for(library: Library | None) -> Library:
    """Whose frame it will be: to be asked before anything is read for it.

    Raises:
        InvalidInputError: If it is another library.
        MissingExtraError: If it is not installed or, where none was asked for, neither is.
    """
    known: tuple[Library, ...] = get_args(Library)
    if library not in (*known, None):
        listed = " or ".join(map(repr, known))
        raise InvalidInputError(f"library must be {listed} or None, got {library!r}{closest(library, known)}")
    name = library or next((one for one in known if find_spec(one)), None)
    if name is None or not find_spec(name):
        lacking = f"{name}, which is not" if name else "polars or pandas, neither of which is"
        raise MissingExtraError(
            f"a frame needs {lacking} installed: pip install 'decayfree[frames]' for polars, or pip "
            "install pandas"
        )
    return name


def columns_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Columns out of rows, each named where it first occurs; None where a row has no such value.

    In a column of floats NaN stands for None.

    Example:
        >>> columns_of([{"step": 1}, {"step": 2, "norm": 0.5}])
        {'step': [1, 2], 'norm': [nan, 0.5]}
    """
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    for values in columns.values():
        if any(isinstance(one, float) for one in values):
            values[:] = [math.nan if one is None else one for one in values]
    return columns


def _without_nan(values: Iterable[Any]) -> list[Any]:
    return [None if isinstance(one, float) and math.isnan(one) else one for one in values]
