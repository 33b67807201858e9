"""Learning-rate scaling: a run without decay takes steps of the size that a weight-decay run took.

Does not change any norm by itself: norms grow as without decay, and the learning rate grows along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from decayfree.methods.method import AttachedMethod, BlockNormsByStep, Method, RunLength, number_faults
from decayfree.methods.replaying import check_not_over, fitting
from decayfree.methods.weight_decay import WeightDecay

if TYPE_CHECKING:
    from decayfree.invariance.result import Invariance
    from decayfree.invariance.verdict import ScaleInvariantWeight


@dataclass(frozen=True)
class LearningRateScaling(Method):
    """Block learning rate η_t·‖w_t‖²/‖w_t^WD‖², where w^WD is the weight-decay run of the same seed.

    ‖w_t‖/‖w_t^WD‖ beyond SGD.

    Its effective learning rate, η_t/‖w_t^WD‖² in the SGD family and η_t/‖w_t^WD‖ in those of Adam and of
    signs, is that of the replayed run at each step. It is applied to the whole update, momentum included:
    w' = w + f·Δw with Δw the optimizer's own step and f the factor.

    References:
        Hoffer, Banner, Golan, Soudry, "Norm matters: efficient and accurate normalization schemes in deep
        networks", 2018, arXiv 1803.01814, the learning-rate correction per channel.
    """

    name: ClassVar[str] = "learning_rate_scaling"
    short: ClassVar[str] = "learning-rate scaling"
    color_slot: ClassVar[int] = 4
    replayed_weight_decay: float

    @property
    def label(self) -> str:
        return f"learning-rate scaling (as {self.replayed_weight_decay:g})"

    @property
    def replays(self) -> Method | None:
        return WeightDecay(self.replayed_weight_decay)

    def faults(self) -> list[str]:
        return number_faults("replayed_weight_decay", self.replayed_weight_decay, or_zero=True)

    def attach(
        self,
        optimizer: Optimizer,
        found: Invariance,
        *,
        replayed: BlockNormsByStep | None = None,
        length: RunLength | None = None,
    ) -> AttachedMethod:
        """Attach to ``optimizer``.

        Args:
            optimizer: An optimizer of ``found.model``'s parameters whose family is known.
            found: The weights whose blocks get learning rates of their own.
            replayed: The norms of the same blocks before each step of the weight-decay run.

        Raises:
            InvalidInputError: If ``replayed`` is missing, or nobody knows how the optimizer's effective
                learning rate depends on norms.
            MismatchError: If it does not fit the blocks of ``found``.
        """
        return _ScaledSteps(optimizer, found, fitting(replayed, found, by="learning-rate scaling"))


class _ScaledSteps:
    """Scales what each step of the optimizer adds to a block."""

    def __init__(self, optimizer: Optimizer, found: Invariance, replayed: BlockNormsByStep) -> None:
        from decayfree.dynamics.families import update_family
        from decayfree.step_counter import is_inner_step

        self._found, self._replayed = found, replayed
        self._parameters = dict(found.model.named_parameters())
        self._power = 2 if update_family(optimizer) == "sgd" else 1
        self._n_steps = 0
        self._factors: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}
        optimizer.register_step_pre_hook(lambda *_: None if is_inner_step(optimizer) else self._remember())
        optimizer.register_step_post_hook(
            lambda *_: None if is_inner_step(optimizer) else self._scale_updates()
        )

    def learning_rates(self, weight: ScaleInvariantWeight, learning_rate: float) -> Tensor:
        return learning_rate * self._factor(weight)

    def state_dict(self) -> dict[str, Any]:
        return {"n_steps": self._n_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._n_steps = int(state["n_steps"])

    @torch.no_grad()
    def _factor(self, weight: ScaleInvariantWeight) -> Tensor:
        """‖w_t‖²/‖w_t^WD‖² or its root, (n_blocks,); after the replayed run's end its last norms count."""
        norms = weight.part(self._parameters).norms()
        replayed = self._replayed[weight.name]
        row = replayed[min(self._n_steps, len(replayed) - 1)].to(norms)
        return (norms / row).pow(self._power)

    @torch.no_grad()
    def _remember(self) -> None:
        check_not_over(self._replayed, self._n_steps)
        for weight in self._found:
            self._factors[weight.name] = self._factor(weight)
            for name in weight.names:
                self._before[name] = self._parameters[name].detach().clone()

    @torch.no_grad()
    def _scale_updates(self) -> None:
        for weight in self._found:
            part, before = weight.part(self._parameters), weight.part(self._before)
            after = part.each(torch.clone)
            for tensor, old in zip(after.tensors, before.tensors, strict=True):
                tensor.sub_(old)
            after.scale_(self._factors[weight.name])
            for tensor, old in zip(after.tensors, before.tensors, strict=True):
                tensor.add_(old)
            part.put_in_(after)
        self._before.clear()  # nothing but norms is kept between steps
        self._factors.clear()
        self._n_steps += 1
