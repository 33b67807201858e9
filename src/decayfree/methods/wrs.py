"""Weight rescaling: after every step each block is put back to its radius, without weight decay.

A thin wrapper for studies; what rescales is `decayfree.WeightRescaling`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch.optim import Optimizer

from decayfree.errors import whole_number_faults
from decayfree.methods.method import (
    ADDED,
    AttachedMethod,
    BlockNormsByStep,
    Method,
    NothingToDo,
    RunLength,
    choice_faults,
    number_faults,
)

if TYPE_CHECKING:
    from decayfree.invariance.result import Invariance
    from decayfree.rescaling.weight_rescaling import WeightRescaling


@dataclass(frozen=True)
class WRS(Method):
    """w ← radius·√(rows of the block)·w/‖w‖ per block, after every ``every``-th step.

    ``radius = "init"`` is the norm that torch's initialization gave each block. ``momentum = "scale"``
    divides what the optimizer remembers of the gradient by the factor, ``"keep"`` leaves it alone.

    References:
        Liu, Cui, Wan, Mao, Chan, "Weight Rescaling: Effective and Robust Regularization for Deep Neural
        Networks with Batch Normalization", 2022, arXiv 2102.03497v2: the norm is set to one.
    """

    name: ClassVar[str] = "wrs"
    short: ClassVar[str] = "WRS"
    holds_norms: ClassVar[bool] = True
    decays_other_rows: ClassVar[bool] = True
    color_slot: ClassVar[int] = 0
    radius: float | Literal["init"] = 1.0
    every: int = 1
    momentum: Literal["keep", "scale"] = "keep"
    schedule: Literal["plain", "follow"] = field(default="plain", metadata=ADDED)
    """Whether angles follow the learning rate or the root of its schedule, as they do under decay."""

    @property
    def label(self) -> str:
        radius = "initial radius" if self.radius == "init" else f"radius {self.radius:g}"
        every = "" if self.every == 1 else f", every {self.every} steps"
        root = ", root of the schedule" if self.schedule == "follow" else ""
        return f"WRS, {radius}{every}{', momentum scaled' if self.momentum == 'scale' else ''}{root}"

    def faults(self) -> list[str]:
        is_init = isinstance(self.radius, str) and self.radius == "init"
        faults = [] if is_init else number_faults("radius", self.radius)
        faults += choice_faults("momentum", self.momentum, "keep", "scale")
        faults += choice_faults("schedule", self.schedule, "plain", "follow")
        return faults + whole_number_faults("every", self.every)

    def attach(
        self,
        optimizer: Optimizer,
        found: Invariance,
        *,
        replayed: BlockNormsByStep | None = None,
        length: RunLength | None = None,
    ) -> AttachedMethod:
        from decayfree.rescaling.weight_rescaling import WeightRescaling

        return _AttachedRescaling(
            WeightRescaling(
                optimizer,
                found,
                radius=self.radius,
                every=self.every,
                momentum=self.momentum,
                schedule=self.schedule,
            )
        )


class _AttachedRescaling(NothingToDo):
    def __init__(self, rescaling: WeightRescaling) -> None:
        self._rescaling = rescaling

    def state_dict(self) -> dict[str, Any]:
        return self._rescaling.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._rescaling.load_state_dict(dict(state))
