"""What a method is: settings that can be attached to an optimizer, and what then runs beside it.

Does not train and does not read files; a method works in anyone's loop. One file each beside this one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from decayfree.errors import closest

if TYPE_CHECKING:
    from decayfree.invariance.result import Invariance
    from decayfree.invariance.verdict import ScaleInvariantWeight

ADDED = MappingProxyType({"is_added": True})
"""Metadata of a setting that came later: at its default no run is another one for it."""
ParamGroups = list[dict[str, Any]]
BlockNormsByStep = Mapping[str, Tensor]
"""Name of a weight -> (n_steps, n_blocks), float32: the norm of each block before each step of a run."""


@dataclass(frozen=True)
class RunLength:
    """How long a training is that a method is attached to.

    Args:
        steps_per_epoch: Optimizer steps that go once through the data.
        total_steps: Optimizer steps of all of it.
    """

    steps_per_epoch: int
    total_steps: int


class AttachedMethod(Protocol):
    """A method at work on one optimizer; what it does around a step, it does by the optimizer's hooks."""

    def learning_rates(self, weight: ScaleInvariantWeight, learning_rate: float) -> Tensor:
        """The learning rates, () or (n_blocks,), that the blocks of ``weight`` get in the next step.

        In units of the optimizer's own: at which it alone would take that step. A method whose steps are of a
        size of its own says what its last step would have needed, and NaN before there was one.
        """

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs; loadable with ``weights_only=True``."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""


class NothingToDo:
    """The attached form of a method that needs nothing around a step."""

    def learning_rates(self, weight: ScaleInvariantWeight, learning_rate: float) -> Tensor:
        return torch.tensor(learning_rate)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


class Method(ABC):
    """A way to treat norms: a frozen dataclass whose fields are its settings (TOML scalars).

    Only a name and a label are needed. What is not overridden leaves the model and the optimizer as they are,
    with decay on what is not scale-invariant only, and does nothing around a step.
    """

    name: ClassVar[str]
    """In a study's file, and of the file that the method is in."""
    short: ClassVar[str] = ""
    """What sentences and tables call it where it occurs with one setting only; empty for its label."""
    holds_norms: ClassVar[bool] = False
    """Whether norms stay where they are put, whatever the optimizer does."""
    decays_other_rows: ClassVar[bool] = False
    """Whether rows that are not scale-invariant get their decay, of a weight of which others are."""
    is_treatment: ClassVar[bool] = True
    """Whether it does anything at all; what a method costs is told beside the one that does not."""
    color_slot: ClassVar[int] = 5
    """Which of the page's eight colors it prefers; those that prefer one take the next that is free."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What a legend says; methods with different settings have different labels."""

    @property
    def replays(self) -> Method | None:
        """The method whose run of the same seed must have left its block norms; None where none is needed."""
        return None

    def faults(self) -> list[str]:
        """What is wrong with the settings, one sentence each, beginning with the setting's name."""
        return []

    def optimizer_faults(self, optimizer: str) -> list[str]:
        """Why it cannot work with an optimizer, by its lower-case name (sgd, adam, …); nothing if it can."""
        return []

    def prepare(self, model: nn.Module, found: Invariance) -> Invariance:
        """Change the model before its optimizer is made; called once.

        Args:
            model: As it was built. Changed in place, parametrized for instance.
            found: Its scale-invariant weights.

        Returns:
            The scale-invariant weights that it has now.
        """
        return found

    def param_groups(self, model: nn.Module, found: Invariance, *, rest_weight_decay: float) -> ParamGroups:
        """The optimizer's parameter groups; ``rest_weight_decay`` is for what is not scale-invariant.

        Raises:
            UnsupportedWeightError: If a weight is scale-invariant in some of its rows, and nothing decays
                the others.
        """
        from decayfree.methods.partly_held import refuse_partly_held
        from decayfree.rescaling.param_groups import split_params

        if rest_weight_decay and not self.decays_other_rows:
            refuse_partly_held(found, by=self.label, lacks="decays the others")
        return split_params(model, found, weight_decay=rest_weight_decay)

    def optimizer(self, name: str, groups: ParamGroups, settings: Mapping[str, Any]) -> Optimizer | None:
        """An optimizer in place of the one of this name; None leaves that one.

        Args:
            name: In lower case: sgd, adam, ….
            groups: From `param_groups`.
            settings: Of the optimizer that it replaces, by torch's names: lr, momentum, nesterov, betas, eps.
        """
        return None

    def attach(
        self,
        optimizer: Optimizer,
        found: Invariance,
        *,
        replayed: BlockNormsByStep | None = None,
        length: RunLength | None = None,
    ) -> AttachedMethod:
        """Begin: called once, after the optimizer is made and before its first step.

        Args:
            optimizer: That takes the steps.
            found: Its scale-invariant weights.
            replayed: Norms of the run that it replays.
            length: Of the training, for who paces itself by it.
        """
        return NothingToDo()


def number_faults(name: str, value: object, *, or_zero: bool = False) -> list[str]:
    """What is wrong with a setting that must be a finite number above 0, or from 0."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and (0 < value < float("inf") or (or_zero and value == 0)):  # type: ignore[operator]
        return []
    return [f"{name} must be a finite number {'from' if or_zero else 'above'} 0, got {value!r}"]


def choice_faults(name: str, value: object, *choices: str) -> list[str]:
    """What is wrong with a setting that must be one of some texts."""
    if isinstance(value, str) and value in choices:
        return []
    return [f"{name} must be one of {', '.join(choices)}; got {value!r}{closest(value, choices)}"]


def only_with(label: str, optimizer: str, *names: str, reason: str) -> list[str]:
    """The fault of an optimizer that is none of ``names``."""
    if optimizer in names:
        return []
    return [f"{label} works with {', '.join(names)} only, not with {optimizer}: {reason}"]
