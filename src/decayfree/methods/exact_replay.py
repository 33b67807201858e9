"""Exact replay: a run of fixed norm takes the very directions that a weight-decay run took.

Learning-rate scaling without its approximations: a learning rate and a momentum factor for every block and
step. Does not decide any norm by itself: it needs those of the weight-decay run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from decayfree.blocks import scale_blocks_
from decayfree.errors import InvalidInputError
from decayfree.methods.method import (
    AttachedMethod,
    BlockNormsByStep,
    Method,
    RunLength,
    number_faults,
    only_with,
)
from decayfree.methods.partly_held import refuse_partly_held
from decayfree.methods.replaying import check_not_over, fitting
from decayfree.methods.stepping import refuse_scaled_gradients
from decayfree.methods.weight_decay import WeightDecay

if TYPE_CHECKING:
    from decayfree.invariance.result import Invariance
    from decayfree.invariance.verdict import ScaleInvariantWeight


@dataclass(frozen=True)
class ExactReplay(Method):
    """Learning rate η_t/r_t² and momentum coefficient μ·r_t/r_{t−1} per block, at unit norm.

    r_t is the norm in the weight-decay run. The weight-decay run is v ← μv + g(w) + λw, w ← w − ηv. Divided
    by its own norm r_t before the step, with u = w/r_t and g(w) = g(u)/r_t, it is a run at unit norm:

        b ← μ·(r_t/r_{t−1})·b + g(u) + λr_t²u,    u ← u − (η/r_t²)·b,    u ← u/‖u‖,    with b = r_t·v.

    torch's optimizers have one learning rate for all blocks, so the same is written with the buffer in units
    of steps, c = b/r_t² = v/r_t:

        c ← μ·(r_{t−1}/r_t)·c + g(u)/r_t² + λu,    u ← u − η·c.

    Before each step the buffer is multiplied by r_{t−1}/r_t and the gradient replaced by g(u)/r_t² + λu; then
    the ordinary ``torch.optim.SGD``, with any schedule, dampening or Nesterov momentum, does the rest, and
    the gradient is put back. A radius other than 1 only changes the unit of r_t.

    Directions agree up to rounding, which training may amplify as it would amplify rounding in the
    weight-decay run itself; norms that were rounded to float32 replay them to about that precision. That
    needs normalizations whose ε is small beside the variances that they meet. In eval mode the two may differ
    all the same: running statistics lag behind norms that change, and here none does.

    References:
        Li, Arora, "An Exponential Learning Rate Schedule for Deep Learning", 2020, arXiv 1910.07454: decay as
        a learning rate that grows.
    """

    name: ClassVar[str] = "exact_replay"
    short: ClassVar[str] = "exact replay"
    holds_norms: ClassVar[bool] = True
    replayed_weight_decay: float

    @property
    def label(self) -> str:
        return f"exact replay (of {self.replayed_weight_decay:g})"

    @property
    def replays(self) -> Method | None:
        return WeightDecay(self.replayed_weight_decay)

    def faults(self) -> list[str]:
        return number_faults("replayed_weight_decay", self.replayed_weight_decay, or_zero=True)

    def optimizer_faults(self, optimizer: str) -> list[str]:
        return only_with(
            self.label, optimizer, "sgd", reason="it needs steps that are linear in gradient and weight"
        )

    def attach(
        self,
        optimizer: Optimizer,
        found: Invariance,
        *,
        replayed: BlockNormsByStep | None = None,
        length: RunLength | None = None,
        decoupled: bool = False,
    ) -> AttachedMethod:
        """Attach to ``optimizer``, and rescale the weights to unit norm.

        Args:
            optimizer: A `torch.optim.SGD` of ``found.model``'s parameters, without decay on those of
                ``found``.
            found: The weights that are replayed.
            replayed: The norms of the same blocks before each step of the weight-decay run.
            length: Of the training; it is that of the run.
            decoupled: Whether that run decayed the weight, w ← (1 − η_tλ)w − ηv, instead of the gradient;
                then u ← (1 − η_tλ)u − η·c.

        Raises:
            InvalidInputError: If ``replayed`` is missing or the optimizer is not SGD.
            UnsupportedWeightError: If a weight is scale-invariant in some of its rows only.
            MismatchError: If ``replayed`` does not fit the blocks of ``found``.
        """
        if type(optimizer) is not SGD:
            raise InvalidInputError(
                "exact replay is for torch.optim.SGD, whose steps are linear in gradient and weight, got "
                f"{type(optimizer).__name__}"
            )
        refuse_partly_held(found, by="exact replay")
        norms = fitting(replayed, found, by="exact replay")
        return _Replay(optimizer, found, norms, self.replayed_weight_decay, decoupled)


class _Replay:
    """Takes the steps of a weight-decay run in units of that run's norm."""

    def __init__(
        self,
        optimizer: SGD,
        found: Invariance,
        replayed: BlockNormsByStep,
        weight_decay: float,
        decoupled: bool,
    ) -> None:
        from decayfree.rescaling.radius import rows_norm
        from decayfree.rescaling.weight_rescaling import WeightRescaling

        self._optimizer, self._found, self._replayed = optimizer, found, replayed
        self._weight_decay, self._decoupled = weight_decay, decoupled
        self._parameters = dict(found.model.named_parameters())
        self._held = {one.name: rows_norm(one.blocks, self._parameters[one.name]) for one in found}
        self._n_steps = 0
        self._gradients: list[tuple[Tensor, Tensor | None]] = []
        self._rescaling = WeightRescaling(optimizer, found)
        optimizer.register_step_pre_hook(lambda *_: self._before_step())
        optimizer.register_step_post_hook(lambda *_: self._after_step())

    def learning_rates(self, weight: ScaleInvariantWeight, learning_rate: float) -> Tensor:
        return learning_rate * self._unit(weight, self._n_steps).square().reciprocal()

    def state_dict(self) -> dict[str, Any]:
        return {"n_steps": self._n_steps, "rescaling": self._rescaling.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._rescaling.load_state_dict(state["rescaling"])
        self._n_steps = int(state["n_steps"])

    def _unit(self, weight: ScaleInvariantWeight, step: int) -> Tensor:
        """r_t over the norm a block is held at, (n_blocks,); after the last recorded step its norms count."""
        recorded, held = self._replayed[weight.name], self._held[weight.name]
        return recorded[min(step, len(recorded) - 1)].to(held) / held

    @torch.no_grad()
    def _before_step(self) -> None:
        check_not_over(self._replayed, self._n_steps)
        refuse_scaled_gradients(self._optimizer, by="exact replay")
        groups = {id(p): group for group in self._optimizer.param_groups for p in group["params"]}
        for weight in self._found:
            group = groups.get(id(self._parameters[weight.name]))
            if group is not None:
                self._in_units_of_the_norm(weight, group)

    def _in_units_of_the_norm(self, weight: ScaleInvariantWeight, group: Mapping[str, Any]) -> None:
        unit = self._unit(weight, self._n_steps)
        before = self._unit(weight, max(self._n_steps - 1, 0))
        tensors = weight.part(self._parameters).tensors
        buffers = [self._optimizer.state.get(one, {}).get("momentum_buffer") for one in tensors]
        if buffers[0] is not None:
            scale_blocks_(buffers[0], before / unit, weight.blocks, *buffers[1:])
        gradients = [one.grad.clone() for one in tensors if one.grad is not None]
        if len(gradients) < len(tensors):  # nothing reached it, and torch leaves it alone
            return
        scale_blocks_(gradients[0], unit.square().reciprocal(), weight.blocks, *gradients[1:])
        decay = self._weight_decay
        for one, gradient in zip(tensors, gradients, strict=True):
            self._gradients.append((one, one.grad))
            if self._decoupled:
                one.mul_(1 - float(group["lr"]) * decay)
            else:
                gradient.add_(one, alpha=-decay if group["maximize"] else decay)
            one.grad = gradient

    def _after_step(self) -> None:
        for tensor, gradient in self._gradients:
            tensor.grad = gradient
        self._gradients.clear()
        self._n_steps += 1
