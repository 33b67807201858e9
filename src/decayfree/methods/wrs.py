"""Weight rescaling: after every step each block is put back to its radius, without weight decay.

A thin wrapper for studies; what rescales is `decayfree.WeightRescaling`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from decayfree.invariance import Invariance, ScaleInvariantWeight
from decayfree.methods.method import AttachedMethod, BlockNormsByStep, Method, ParamGroups
from decayfree.rescaling import WeightRescaling, split_params


@dataclass(frozen=True)
class WRS:
    """w ← radius·√(rows of the block)·w/‖w‖ per block, after every step; momentum buffers are kept.

    References:
        Liu, Cui, Wan, Mao, Chan, "Weight Rescaling: Effective and Robust Regularization for Deep Neural
        Networks with Batch Normalization", 2022, arXiv 2102.03497v2: the norm is set to one.
    """

    name: ClassVar[str] = "wrs"
    radius: float = 1.0

    @property
    def label(self) -> str:
        return f"WRS, radius {self.radius:g}"

    @property
    def replays(self) -> Method | None:
        return None

    def faults(self) -> list[str]:
        if math.isfinite(self.radius) and self.radius > 0:
            return []
        return [f"radius must be a finite number above 0, got {self.radius}"]

    def param_groups(self, model: nn.Module, found: Invariance, *, rest_weight_decay: float) -> ParamGroups:
        return split_params(model, found, weight_decay=rest_weight_decay)

    def attach(
        self, optimizer: Optimizer, found: Invariance, *, replayed: BlockNormsByStep | None = None
    ) -> AttachedMethod:
        return _AttachedRescaling(WeightRescaling(optimizer, found, radius=self.radius))


class _AttachedRescaling:
    def __init__(self, rescaling: WeightRescaling) -> None:
        self._rescaling = rescaling

    def learning_rates(self, weight: ScaleInvariantWeight, learning_rate: float) -> Tensor:
        return torch.tensor(learning_rate)

    def state_dict(self) -> dict[str, Any]:
        return self._rescaling.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._rescaling.load_state_dict(dict(state))
