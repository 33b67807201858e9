"""Settings that say what is wrong with them, one sentence for each fault.

Knows no setting: a class of them says what it wants in ``_check``.
"""

import dataclasses
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any

from decayfree.arguments.address import Address, Args
from decayfree.arguments.kinds import kind_fault


class SettingsTold:
    """What is wrong, but for what rests on a value that could not be read."""

    def __init__(self, settings: "CheckedSettings", unread: Collection[str]) -> None:
        self.faults: list[str] = []
        self._settings, self._unread = settings, unread

    def unless(self, is_right: bool, fields: str, sentence: str) -> None:
        """Tell it unless it is right.

        Args:
            is_right: Whether it is.
            fields: Dotted names of all that the check looks at, divided by spaces; it is told of the first.
            sentence: What was expected and what was found.
        """
        names = fields.split()
        if not is_right and not any(is_unread(name, self._unread) for name in names):
            self.faults.append(f"{names[0]}: {sentence}")

    def each(self, fields: str, wanted: str, is_right: Callable[[Any], bool]) -> None:
        """Tell each of these fields, divided by spaces, whose value is not what is wanted."""
        for name in fields.split():
            value = getattr(self._settings, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            self.unless(is_number and is_right(value), name, f"expected {wanted}, got {value}")

    def only_with_an_address(self, args: str, name: str) -> None:
        """Tell arguments that nobody is called with."""
        given, of = getattr(self._settings, args), getattr(self._settings, name)
        self.unless(
            isinstance(of, Address) or not given,
            f"{args} {name}",
            f"{of or 'nothing'} takes none, got {dict(given)}",
        )

    def part(self, name: str) -> None:
        """Tell what is wrong with the settings in this field."""
        if not is_unread(name, self._unread):
            faults = getattr(self._settings, name).faults(unread_in(name, self._unread))
            self.faults += [f"{name}.{fault}" for fault in faults]


class CheckedSettings(ABC):
    """Settings that say what is wrong with them."""

    def __post_init__(self) -> None:
        """Take classes and functions by where they are, and arguments from dictionaries."""
        for name in _open_to_users(type(self)):
            value = getattr(self, name)
            if isinstance(value, Args) or (isinstance(value, str) and ":" not in value):
                continue  # nearly all of them, and a study has thousands
            taken = Args.of(value) if isinstance(value, Mapping) else self._named(value)
            object.__setattr__(self, name, taken)

    def _named(self, value: Any) -> Any:
        return Address.taken(value)

    def faults(self, unread: Collection[str] = ()) -> list[str]:
        """What is wrong here and in the parts, one sentence each, beginning with the field's dotted name.

        Args:
            unread: Dotted names of fields that hold a stand-in for what could not be read; nothing that rests
                on one is told.
        """
        hints = _hints(type(self))
        wrong = {
            name: fault
            for name, hint in hints.items()
            if (fault := kind_fault(name, hint, getattr(self, name)))
        }
        if wrong:  # what else is to be said rests on kinds
            kinds = {
                name: fault.replace(f"{name} must be", f"{name}: expected", 1)
                for name, fault in wrong.items()
            }
            return [fault for name, fault in kinds.items() if not is_unread(name, unread)]
        told = SettingsTold(self, unread)
        self._check(told)
        return told.faults

    @abstractmethod
    def _check(self, told: SettingsTold) -> None:
        """Tell all of it."""


_NUMBER = int | float


@lru_cache
def _open_to_users(cls: type) -> tuple[str, ...]:
    """The fields that may name something of the user's own, and those of its arguments."""
    hints = _hints(cls).items()
    return tuple(name for name, hint in hints if hint in (str, Args) or Address in typing.get_args(hint))


@lru_cache
def _hints(cls: type) -> Mapping[str, Any]:
    hints = typing.get_type_hints(cls)
    # Numbers that are not finite have their own sentence.
    names = [entry.name for entry in dataclasses.fields(cls)]
    return {name: _NUMBER if hints[name] is float else hints[name] for name in names}


def is_unread(field: str, unread: Collection[str]) -> bool:
    """Whether a field, or the table that it is in, is among those that could not be read."""
    return any(field == one or field.startswith(f"{one}.") for one in unread)


def unread_in(part: str, unread: Collection[str]) -> set[str]:
    """The names, within a table, of those in it that could not be read."""
    return {one.removeprefix(f"{part}.") for one in unread if one.startswith(f"{part}.")}
