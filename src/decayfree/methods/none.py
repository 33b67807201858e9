"""No treatment: scale-invariant weights get no decay and no rescaling, so their norms grow.

Says nothing about the other parameters; a study treats those the same for all methods.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from decayfree.invariance import Invariance, ScaleInvariantWeight
from decayfree.methods.method import AttachedMethod, BlockNormsByStep, Method, ParamGroups
from decayfree.rescaling import split_params


@dataclass(frozen=True)
class NoTreatment:
    """Train as the optimizer does: with SGD, ‖w'‖² = ‖w‖² + η²‖g‖² per block.

    References:
        Liu, Cui, Wan, Mao, Chan, "The Implicit Biases of Stochastic Gradient Descent on Deep Neural Networks
        with Batch Normalization", 2021, arXiv 2102.03497v1: norms keep growing in discrete time.
    """

    name: ClassVar[str] = "none"

    @property
    def label(self) -> str:
        return "no decay"

    @property
    def replays(self) -> Method | None:
        return None

    def faults(self) -> list[str]:
        return []

    def param_groups(self, model: nn.Module, found: Invariance, *, rest_weight_decay: float) -> ParamGroups:
        return split_params(model, found, weight_decay=rest_weight_decay)

    def attach(
        self, optimizer: Optimizer, found: Invariance, *, replayed: BlockNormsByStep | None = None
    ) -> AttachedMethod:
        return NothingToDo()


class NothingToDo:
    """The attached form of a method that needs nothing around a step."""

    def learning_rates(self, weight: ScaleInvariantWeight, learning_rate: float) -> Tensor:
        return torch.tensor(learning_rate)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass
