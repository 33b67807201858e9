"""Weight decay on the scale-invariant weights.

The optimizer's own, or coupled or decoupled with any optimizer. Does not decay anything else: gains, biases
and the last layer get the study's ``rest_weight_decay``, the same for all methods, so that methods differ in
nothing but their treatment of the scale-invariant weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from decayfree.methods.method import (
    AttachedMethod,
    BlockNormsByStep,
    Method,
    NothingToDo,
    ParamGroups,
    RunLength,
    choice_faults,
    number_faults,
)
from decayfree.methods.stepping import around_steps, refuse_scaled_gradients
from decayfree.optimizers import DecayForm, decay_form_in

if TYPE_CHECKING:
    from decayfree.invariance.result import Invariance


@dataclass(frozen=True)
class WeightDecay(Method):
    """Coupled, g ← g + λw, or decoupled, w ← (1 − ηλ)w before the step.

    With SGD, ‖w'‖² = (1 − ηλ)²‖w‖² + η²‖g‖² per block.

    ``own`` is the argument ``weight_decay`` of the optimizer, whatever it does with it: decoupled in AdamW,
    Lion and Muon, coupled in most others (`decayfree.optimizers`). Without momentum SGD's two forms are one.
    With momentum and L2, r⁴ = ‖w‖⁴ relaxes to ηG²/(2λ(1 − μ)) at the rate 4ηλ/(1 − μ) a step.
    A decay of 0 is no treatment, where a sweep over decays begins.

    References:
        van Laarhoven, "L2 Regularization versus Batch and Weight Normalization", 2017, arXiv 1706.05350.
        Wan et al., "Spherical Motion Dynamics", 2021, arXiv 2006.08419: the equilibrium.
        Loshchilov, Hutter, "Decoupled Weight Decay Regularization", 2019, arXiv 1711.05101.
    """

    name: ClassVar[str] = "weight_decay"
    short: ClassVar[str] = "weight decay"
    color_slot: ClassVar[int] = 2
    weight_decay: float
    form: Literal["own", "coupled", "decoupled"] = "own"

    @property
    def label(self) -> str:
        return f"{'' if self.form == 'own' else self.form + ' '}weight decay {self.weight_decay:g}"

    def faults(self) -> list[str]:
        faults = number_faults("weight_decay", self.weight_decay, or_zero=True)
        return faults + choice_faults("form", self.form, "own", "coupled", "decoupled")

    def param_groups(self, model: nn.Module, found: Invariance, *, rest_weight_decay: float) -> ParamGroups:
        own = self.weight_decay if self.form == "own" else 0.0
        return groups_of(model, found, weight_decay=own, rest_weight_decay=rest_weight_decay)

    def attach(
        self,
        optimizer: Optimizer,
        found: Invariance,
        *,
        replayed: BlockNormsByStep | None = None,
        length: RunLength | None = None,
    ) -> AttachedMethod:
        from decayfree.methods.partly_held import refuse_partly_held

        refuse_partly_held(found, by=self.label)
        if self.form == "own" or self.weight_decay == 0:
            return NothingToDo()
        if self.form == own_form(optimizer):
            decayed = _identities(found.model, found)
            for group in optimizer.param_groups:
                if any(id(parameter) in decayed for parameter in group["params"]):
                    group["weight_decay"] = self.weight_decay
            return NothingToDo()
        decay = _decay_coupled if self.form == "coupled" else _decay_decoupled
        decay(optimizer, found, self.weight_decay)
        return NothingToDo()


def groups_of(
    model: nn.Module, found: Invariance, *, weight_decay: float, rest_weight_decay: float
) -> ParamGroups:
    """Parameter groups with one decay for the scale-invariant weights and one for the rest.

    Both as the optimizer understands them.

    Raises:
        UnsupportedWeightError: If a weight is scale-invariant in some of its rows only.
    """
    from decayfree.methods.partly_held import refuse_partly_held
    from decayfree.rescaling.param_groups import split_params

    refuse_partly_held(found, by=f"weight decay {weight_decay:g}")
    decayed = _identities(model, found)
    groups = split_params(model, found, weight_decay=rest_weight_decay)
    for group in groups:
        if any(id(parameter) in decayed for parameter in group["params"]):
            group["weight_decay"] = weight_decay
    return groups


def own_form(optimizer: Optimizer) -> DecayForm | None:
    """What an optimizer's own ``weight_decay`` does; None where nobody knows."""
    return decay_form_in(type(optimizer), optimizer.param_groups[0])


def _decay_coupled(optimizer: Optimizer, found: Invariance, weight_decay: float) -> None:
    """Show the optimizer gradients with λw added, and put the gradients back after the step."""
    decayed = _identities(found.model, found)
    gradients: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def add() -> None:
        refuse_scaled_gradients(optimizer, by="coupled weight decay")
        for group in optimizer.param_groups:
            sign = -1 if group.get("maximize", False) else 1
            for parameter in group["params"]:
                if id(parameter) in decayed and parameter.grad is not None:
                    gradients.append((parameter, parameter.grad))
                    parameter.grad = parameter.grad.add(parameter, alpha=sign * weight_decay)

    def put_back() -> None:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        gradients.clear()

    around_steps(optimizer, add, put_back, by="coupled weight decay")


def _decay_decoupled(optimizer: Optimizer, found: Invariance, weight_decay: float) -> None:
    """Shrink weights that are about to be stepped."""
    decayed = _identities(found.model, found)

    @torch.no_grad()
    def shrink() -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in decayed and parameter.grad is not None:
                    parameter.mul_(1 - float(group["lr"]) * weight_decay)

    around_steps(optimizer, shrink, lambda: None, by="decoupled weight decay")


def _identities(model: nn.Module, found: Invariance) -> set[int]:
    """The parameters that are decayed: scale-invariant weights, and biases that work only with one."""
    return {id(tensor) for part in found.parts(model).values() for tensor in part.tensors}
