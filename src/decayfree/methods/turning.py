"""Turning: norms are held, and every step turns so far that directions are remembered for so many epochs.

A thin wrapper for studies; what turns is `decayfree.Turning`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from decayfree.errors import InvalidInputError
from decayfree.methods.method import (
    AttachedMethod,
    BlockNormsByStep,
    Method,
    RunLength,
    choice_faults,
    number_faults,
    only_with,
)
from decayfree.optimizers import in_studies

if TYPE_CHECKING:
    from decayfree.invariance.result import Invariance
    from decayfree.invariance.verdict import ScaleInvariantWeight
    from decayfree.rescaling.turning import Turning


@dataclass(frozen=True)
class TurningMethod(Method):
    """w ← R·Norm(w − R·tan(θ_t)·u/√⟨‖u‖²⟩) per block, θ_t = √(2s_t/(κ·memory in steps)).

    u is the optimizer's update without its part along w, κ the autocorrelation time of updates, and s_t the
    learning rate's share of the full one. With ``forgetting`` above 0, that is forgotten over the whole run,
    and ``schedule`` says how: the run's own learning rate counts for the rest of the network only.

    Its effective learning rate is that at which the plain optimizer would have taken the last step (one with
    the usual size of updates).

    References:
        `decayfree.Turning`.
    """

    name: ClassVar[str] = "turning"
    short: ClassVar[str] = "turning"
    holds_norms: ClassVar[bool] = True
    decays_other_rows: ClassVar[bool] = True
    color_slot: ClassVar[int] = 2
    memory_epochs: float = 5.0
    forgetting: float = 0.0
    schedule: Literal["follow", "plain", "cosine", "linear", "constant"] = "follow"

    @property
    def label(self) -> str:
        how = "" if self.schedule == "follow" else f", {self.schedule}"
        if self.forgetting:
            return f"turning, forgetting {self.forgetting:g}{how}"
        return f"turning, memory of {self.memory_epochs:g} epochs{how}"

    def faults(self) -> list[str]:
        faults = number_faults("memory_epochs", self.memory_epochs)
        of_forgetting = number_faults("forgetting", self.forgetting, or_zero=True)
        own = ("cosine", "linear", "constant")
        is_whole = not of_forgetting and self.forgetting > 0
        allowed = own if is_whole else ("follow", "plain", *own)
        return faults + of_forgetting + choice_faults("schedule", self.schedule, *allowed)

    def optimizer_faults(self, optimizer: str) -> list[str]:
        known = [name for name, row in in_studies().items() if row.correlation is not None]
        reason = "how long its steps remember a gradient is not known"
        return only_with(self.label, optimizer, *known, reason=reason)

    def attach(
        self,
        optimizer: Optimizer,
        found: Invariance,
        *,
        replayed: BlockNormsByStep | None = None,
        length: RunLength | None = None,
    ) -> AttachedMethod:
        """Attach to ``optimizer``.

        Raises:
            InvalidInputError: Without the length of the training.
        """
        from decayfree.rescaling.turning import Turning

        if length is None:
            raise InvalidInputError("turning is paced by epochs: pass length=RunLength(...)")
        is_whole = self.forgetting > 0
        return _AttachedTurning(
            Turning(
                optimizer,
                found,
                steps_per_epoch=None if is_whole else length.steps_per_epoch,
                memory_epochs=None if is_whole else self.memory_epochs,
                forgetting=self.forgetting if is_whole else None,
                total_steps=length.total_steps,
                schedule=self.schedule,
            )
        )


class _AttachedTurning:
    def __init__(self, turning: Turning) -> None:
        self._turning = turning

    def learning_rates(self, weight: ScaleInvariantWeight, learning_rate: float) -> Tensor:
        return self._turning.learning_rates.get(weight.name, torch.tensor(torch.nan))

    def state_dict(self) -> dict[str, Any]:
        return self._turning.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._turning.load_state_dict(dict(state))
