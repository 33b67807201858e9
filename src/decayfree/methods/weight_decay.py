"""Weight decay on the scale-invariant weights, coupled as in ``torch.optim.SGD``: g ← g + λw.

Does not decay anything else: gains, biases and the last layer get the study's ``rest_weight_decay``, the same
for all methods, so that methods differ in nothing but their treatment of the scale-invariant weights.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from torch.optim import Optimizer

from decayfree.invariance import Invariance
from decayfree.methods.method import AttachedMethod, BlockNormsByStep, Method, ParamGroups
from decayfree.methods.none import NothingToDo
from decayfree.rescaling import split_params


@dataclass(frozen=True)
class WeightDecay:
    """L2 decay: with SGD, ‖w'‖² = (1 − ηλ)²‖w‖² + η²‖g‖² per block.

    With momentum, r⁴ = ‖w‖⁴ relaxes to ηG²/(2λ(1 − μ)) at the rate 4ηλ/(1 − μ) a step.

    References:
        van Laarhoven, "L2 Regularization versus Batch and Weight Normalization", 2017, arXiv 1706.05350.
        Wan et al., "Spherical Motion Dynamics", 2021, arXiv 2006.08419: the equilibrium.
    """

    name: ClassVar[str] = "weight_decay"
    weight_decay: float

    @property
    def label(self) -> str:
        return f"weight decay {self.weight_decay:g}"

    @property
    def replays(self) -> Method | None:
        return None

    def faults(self) -> list[str]:
        if math.isfinite(self.weight_decay) and self.weight_decay > 0:
            return []
        return [f"weight_decay must be a finite number above 0, got {self.weight_decay}"]

    def param_groups(self, model: nn.Module, found: Invariance, *, rest_weight_decay: float) -> ParamGroups:
        groups = split_params(model, found, weight_decay=rest_weight_decay)
        parameters = dict(model.named_parameters())
        decayed = {id(parameters[name]) for weight in found for name in (weight.name, weight.bias) if name}
        for group in groups:
            if any(id(parameter) in decayed for parameter in group["params"]):
                group["weight_decay"] = self.weight_decay
        return groups

    def attach(
        self, optimizer: Optimizer, found: Invariance, *, replayed: BlockNormsByStep | None = None
    ) -> AttachedMethod:
        return NothingToDo()
