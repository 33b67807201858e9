"""A method of the user's own in a spec: its name and its arguments, until it is trained with.

What a spec, a table and a page ask of a method is told without it, so that reading them runs nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from decayfree.arguments.address import Address, Args
from decayfree.arguments.kinds import kind_fault
from decayfree.errors import InvalidInputError, faults_of, raise_all
from decayfree.methods.method import AttachedMethod, BlockNormsByStep, Method, ParamGroups, RunLength
from decayfree.methods.table import METHODS
from decayfree.study.own import own

if TYPE_CHECKING:
    from decayfree.invariance.result import Invariance


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

    def prepare(self, model: nn.Module, found: Invariance) -> Invariance:
        return self.made().prepare(model, found)

    def param_groups(self, model: nn.Module, found: Invariance, *, rest_weight_decay: float) -> ParamGroups:
        return self.made().param_groups(model, found, rest_weight_decay=rest_weight_decay)

    def optimizer(self, name: str, groups: ParamGroups, settings: Mapping[str, Any]) -> Optimizer | None:
        return self.made().optimizer(name, groups, settings)

    def attach(
        self,
        optimizer: Optimizer,
        found: Invariance,
        *,
        replayed: BlockNormsByStep | None = None,
        length: RunLength | None = None,
    ) -> AttachedMethod:
        return self.made().attach(optimizer, found, replayed=replayed, length=length)


def _is_method(value: Any) -> bool:
    return isinstance(value, Method) or (isinstance(value, type) and issubclass(value, Method))
