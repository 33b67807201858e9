"""Is an argument of the kind that its function's signature says?

Judges kinds, and that numbers are finite and within a range; what else a function wants it says itself.
"""

import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

from decayfree.errors import InvalidInputError, closest, faults_of, raise_all

P = ParamSpec("P")
R = TypeVar("R")
Range = tuple[float, float, str]
"""At least, at most, and how that is said."""

COUNT: Range = (1, 10**9, "from 1 to 10^9")
COUNT_FROM_2: Range = (2, 10**9, "from 2 to 10^9")
SEED: Range = (0, 2**63 - 1, "from 0 to below 2^63")
SHARE: Range = (math.nextafter(0, 1), math.nextafter(1, 0), "above 0 and below 1")
ABOVE_0: Range = (math.nextafter(0, 1), math.inf, "above 0")

_WORDS = {int: "a whole number", float: "a finite number", bool: "True or False", str: "a text"}


def checked(**ranges: Range) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function refuse arguments of another kind than it is annotated with, all of them at once.

    Args:
        ranges: Of its arguments that are numbers.

    Example:
        >>> @checked(n_steps=COUNT)
        ... def steps(n_steps: int) -> int:
        ...     return n_steps
        >>> steps(True)
        Traceback (most recent call last):
        decayfree.errors.InvalidInputError: n_steps must be a whole number from 1 to 10^9, got True
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError as error:
                raise TypeError(f"{function.__qualname__}(): {error}") from None
            _judge(function, given, ranges)
            return function(*args, **kwargs)

        return call

    return decorate


def checked_where_it_fails(function: Callable[P, R]) -> Callable[P, R]:
    """The same for functions of inner loops: kinds are looked at where something else went wrong.

    Example:
        >>> @checked_where_it_fails
        ... def double(number: int) -> int:
        ...     return number.real * 2
        >>> double("a")
        Traceback (most recent call last):
        decayfree.errors.InvalidInputError: number must be a whole number, got 'a'
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (AttributeError, TypeError, IndexError, RuntimeError) as error:
            try:
                _judge(function, signature.bind(*args, **kwargs).arguments, {})
            except InvalidInputError as fault:
                raise fault from error
            raise

    return call


def _judge(function: Callable[..., Any], given: Mapping[str, object], ranges: Mapping[str, Range]) -> None:
    hints = _hints(function)
    faults = [
        fault
        for name, value in given.items()
        if (fault := kind_fault(name, hints.get(name, Any), value, ranges.get(name)))
    ]
    raise_all(faults_of(InvalidInputError, faults))


def kind_fault(name: str, hint: Any, value: object, within: Range | None = None) -> str | None:
    """What is wrong with a value by its annotation, and by its range where it is a number."""
    if type(value) is hint and hint is not float and within is None:  # nearly all of them
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if fits(hint, value) and (within is None or not is_number or within[0] <= value <= within[1]):  # type: ignore[operator]
        return None
    wanted = words(hint) + (f" {within[2]}" if within else "")
    choices = [one for one in _literals(hint) if isinstance(one, str)]
    return f"{name} must be {wanted}, got {_short(value)}{closest(value, choices)}"


def _literals(hint: Any) -> Iterator[object]:
    """The values that an annotation names, those in a union as well."""
    for inside in typing.get_args(hint):
        if typing.get_origin(hint) is Literal:
            yield inside
        else:
            yield from _literals(inside)


def fits(hint: Any, value: object) -> bool:
    """Whether a value is what an annotation says, as far as that can be told without using it up."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or (hint == int | float and type(value) is float):
        return True
    if origin in (types.UnionType, typing.Union):
        return any(fits(one, value) for one in inside)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inside)
    if hint is None or hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin in (Sequence, list, tuple, Iterable) and isinstance(value, str):
        return False
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = [inside[0]] * len(value) if inside[1:] == (...,) else inside
        return len(kinds) == len(value) and all(map(fits, kinds, value))
    if origin in (Sequence, list):
        return isinstance(value, Sequence) and all(_fits_inside(inside[0], one) for one in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            fits(inside[0], key) and _fits_inside(inside[1], one) for key, one in value.items()
        )
    kind = origin or hint
    if kind is Callable:
        return callable(value)
    return not isinstance(kind, type) or getattr(kind, "_is_protocol", False) or isinstance(value, kind)


def words(hint: Any) -> str:
    """What an annotation says."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(dict.fromkeys(words(one) for one in inside))
    if origin is Literal:
        return f"one of {', '.join(map(repr, inside))}"
    if hint is None or hint is type(None):
        return "None"
    if hint is Path:
        return "a path"
    if origin is Callable:
        return "a function"
    if origin in (Sequence, list, tuple, Iterable):
        return f"a {'tuple' if origin is tuple else 'list'} ({_name(hint)})"
    if origin is Mapping:
        return f"a table ({_name(hint)})"
    return _WORDS.get(hint) or getattr(hint, "in_words", None) or f"a {_name(hint)}"


def _fits_inside(hint: Any, value: object) -> bool:
    """In a list numbers may be NaN: that of a run that diverged is."""
    return (
        isinstance(value, int | float) and not isinstance(value, bool) if hint is float else fits(hint, value)
    )


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", None) if isinstance(hint, type) else str(hint).rpartition("typing.")[2]  # type: ignore[return-value]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]} …"


@functools.cache
def _hints(function: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(function)
    except NameError:  # of what only type checkers see
        return {}
