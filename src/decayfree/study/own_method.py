"""A method of the user's own in a spec: its name and its arguments, until it is trained with.

What a spec, a table and a page ask of a method is told without it, so that reading them runs nothing. A run
trains with the one that is made of it.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from decayfree.arguments.address import Address, Args
from decayfree.arguments.kinds import kind_fault
from decayfree.errors import InvalidInputError, faults_of, raise_all
from decayfree.methods.method import Method
from decayfree.methods.table import METHODS
from decayfree.study.own import own


@dataclass(frozen=True)
class OwnMethod(Method):
    """The `Method` that is at ``name``, called with ``args``, which may be a dictionary.

    Raises:
        InvalidInputError: If that is no address, or arguments are none that a file could say.
    """

    name: Address  # type: ignore[misc]
    args: Args = field(default=Args())  # it cannot be changed

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", Address.taken(self.name))
        if isinstance(self.args, Mapping):
            object.__setattr__(self, "args", Args.of(self.args))
        wrong = (kind_fault("name", Address, self.name), kind_fault("args", Args, self.args))
        raise_all(faults_of(InvalidInputError, filter(None, wrong)))

    @staticmethod
    def taken(value: Any) -> Any:
        """This for a method that is not built in, its class or its address; others as they are.

        Raises:
            InvalidInputError: If it has no name under which another process finds it.
        """
        if isinstance(value, str):
            address = Address.taken(value)
            return OwnMethod(address) if isinstance(address, Address) else value
        if isinstance(value, OwnMethod) or not _is_method(value):
            return value
        if isinstance(value, type):
            return OwnMethod(Address.taken(value))
        if METHODS.get(getattr(value, "name", "")) is type(value):
            return value
        fields = dataclasses.fields(value)
        args = Args.of({entry.name: getattr(value, entry.name) for entry in fields})
        return OwnMethod(Address.taken(type(value)), args)

    @property
    def label(self) -> str:
        return self.name.label(self.args)

    def made(self) -> Method:
        """The method itself; its module is imported.

        Raises:
            InvalidInputError: If that is no method.
        """
        made: Method = own("method.name", self.name, args=self.args)
        return made


def _is_method(value: Any) -> bool:
    return isinstance(value, Method) or (isinstance(value, type) and issubclass(value, Method))
