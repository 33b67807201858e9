"""Rotational equilibrium.

Every block turns, from the first step on, as fast as weight decay would make it turn in the end.

Leaves what is not scale-invariant to the optimizer. Decays nothing: the coefficient only says how fast to
turn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch.optim import Optimizer

from decayfree import equilibrium
from decayfree.errors import InvalidInputError, faults_of, raise_all
from decayfree.methods.method import (
    AttachedMethod,
    BlockNormsByStep,
    Method,
    RunLength,
    number_faults,
    only_with,
)
from decayfree.optimizers import settling

if TYPE_CHECKING:
    from decayfree.invariance.result import Invariance


@dataclass(frozen=True)
class RotationalEquilibrium(Method):
    """w ← R·Norm(w − R·tan(θ)·u/√⟨‖u‖²⟩) per block.

    u is the optimizer's update without its part along w, R = ‖w_0‖.

    θ is the angle at which the optimizer's steps and decay by ``weight_decay`` would be in balance
    (`decayfree.equilibrium`): √(2ηλ/(1+μ)) for SGD with momentum and L2, √(2ηλ(1−β₁)/(1+β₁)) for AdamW,
    √(πηλκ) for Lion, all to first order in ηλ, at the learning rate of each step. Adam gets the angle of
    AdamW: its own, with L2, depends on the gradient's size. ⟨‖u‖²⟩ is a running mean; with ``averaging = 0``
    every step turns by exactly θ, otherwise by θ in the mean, and further where an update is larger than
    usual.

    The authors also center weights, an option of their code that is left out here: it would change the
    network that training starts from.

    Its effective learning rate is that at which the plain optimizer would have taken the last step (one with
    the usual size of updates).

    References:
        Kosson, Messmer, Jaggi, "Rotational Equilibrium: How Weight Decay Balances Learning Across Neural
        Networks", 2024, arXiv 2305.17212: rotational variants of optimizers.
    """

    name: ClassVar[str] = "rotational_equilibrium"
    holds_norms: ClassVar[bool] = True
    weight_decay: float
    averaging: float = 0.99
    """This share of the running mean square of an update's norm stays from step to step."""

    @property
    def label(self) -> str:
        averaging = "" if self.averaging == 0.99 else f", averaging {self.averaging:g}"
        return f"rotational equilibrium (of {self.weight_decay:g}{averaging})"

    def faults(self) -> list[str]:
        faults = number_faults("weight_decay", self.weight_decay)
        is_number = not number_faults("averaging", self.averaging, or_zero=True)
        if not (is_number and self.averaging < 1):
            faults.append(f"averaging must be at least 0 and below 1, got {self.averaging!r}")
        return faults

    def optimizer_faults(self, optimizer: str) -> list[str]:
        return only_with(
            self.label, optimizer, *settling(), reason="no closed form of its equilibrium angle is known here"
        )

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
            InvalidInputError: If the angle of its equilibrium is unknown.
        """
        from decayfree.methods.turned import Turned

        kind = type(optimizer).__name__.lower()
        if kind not in settling():
            raise_all(faults_of(InvalidInputError, self.optimizer_faults(kind)))

        angle = _ANGLES[settling()[kind]]

        def reach(group: Mapping[str, Any], learning_rate: float) -> float:
            return math.tan(angle(group, learning_rate, self.weight_decay))

        return Turned(
            optimizer,
            found,
            reach=reach,
            tangential=True,
            averaging=self.averaging,
            by="rotational equilibrium",
        )


def _sgd(group: Mapping[str, Any], lr: float, weight_decay: float) -> float:
    momentum, nesterov = float(group["momentum"]), bool(group["nesterov"])
    lr *= 1 - float(group["dampening"])
    return equilibrium.sgd(lr, weight_decay, momentum=momentum, nesterov=nesterov).angle_rad


def _adamw(group: Mapping[str, Any], lr: float, weight_decay: float) -> float:
    return equilibrium.adamw(lr, weight_decay, betas=tuple(map(float, group["betas"]))).angle_rad  # type: ignore[arg-type]


def _lion(group: Mapping[str, Any], lr: float, weight_decay: float) -> float:
    return equilibrium.lion(lr, weight_decay, betas=tuple(map(float, group["betas"]))).angle_rad  # type: ignore[arg-type]


_ANGLES = {
    equilibrium.sgd: _sgd,
    equilibrium.adam_l2: _adamw,
    equilibrium.adamw: _adamw,
    equilibrium.lion: _lion,
}
