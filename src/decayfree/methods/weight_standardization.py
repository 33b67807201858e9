"""Weight standardization.

Every kernel is computed from one whose mean is taken out and whose standard deviation is divided out. Treats
the scale-invariant weights that a probe finds, and nothing else: so it differs from other methods in their
treatment only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from decayfree.blocks import block_norms
from decayfree.errors import InvalidInputError
from decayfree.methods.method import AttachedMethod, BlockNormsByStep, Method, NothingToDo, RunLength

if TYPE_CHECKING:
    from decayfree.invariance.result import Invariance
    from decayfree.invariance.verdict import ScaleInvariantWeight

# Far below the variance of any kernel that learns, so that v has no scale; with the 1e-5 of other code,
# kernels of many inputs have one.
_EPS = 1e-12


@dataclass(frozen=True)
class WeightStandardization(Method):
    """w = (v − mean(v))/√(var(v) + ε) per kernel, with v what the optimizer has.

    Rescaling to norm √C, C numbers a kernel, and centering.

    v gets no decay and its norm grows; its steps are tangent, and their effect that of η/‖v − mean(v)‖²
    (η/‖v − mean(v)‖ beyond SGD), the effective learning rate that is recorded. Kernels are standardized
    whatever normalization follows; their sizes beside each other are lost where it is not a batch
    normalization. The network that training starts from has its kernels centered, which other methods' have
    not.

    The paper standardizes all convolutions. Here it is the weights that have no scale anyway, convolutions or
    not: where no normalization follows, a standardized weight could compute less than a plain one.

    References:
        Qiao, Wang, Liu, Shen, Yuille, "Micro-Batch Training with Batch-Channel Normalization and Weight
        Standardization", 2019, arXiv 1903.10520, Eq. 7–8.
    """

    name: ClassVar[str] = "weight_standardization"

    @property
    def label(self) -> str:
        return "weight standardization"

    def prepare(self, model: nn.Module, found: Invariance) -> Invariance:
        from decayfree.methods.parametrizing import parametrized

        return parametrized(
            model,
            found,
            _put_in,
            by="weight standardization",
            reason="it is divided by its standard deviation",
        )

    def attach(
        self,
        optimizer: Optimizer,
        found: Invariance,
        *,
        replayed: BlockNormsByStep | None = None,
        length: RunLength | None = None,
    ) -> AttachedMethod:
        return _Standardized(optimizer, found)


class Standardized(nn.Module):
    """The parametrization: each slice along a dimension gets mean 0 and standard deviation 1.

    Args:
        axis: That dimension, in which rows follow each other.

    Attributes:
        eps: Added to the variance, in units of it. An attribute, so that the probe for scale-invariant
            weights can set it aside.
    """

    def __init__(self, axis: int = 0) -> None:
        super().__init__()
        self.axis = axis
        self.eps = _EPS

    def forward(self, weight: Tensor) -> Tensor:
        """Standardize each row of (*shape), floating."""
        centered = _centered(weight, self.axis)
        spread = centered.square().mean(dim=_within_rows(weight, self.axis), keepdim=True)
        return centered * torch.rsqrt(spread + self.eps)


def _centered(weight: Tensor, axis: int) -> Tensor:
    return weight - weight.mean(dim=_within_rows(weight, axis), keepdim=True)


def _within_rows(weight: Tensor, axis: int) -> tuple[int, ...]:
    return tuple(dim for dim in range(weight.ndim) if dim != axis)


def _put_in(module: nn.Module, name: str, axis: int) -> tuple[str, str | None]:
    parametrize.register_parametrization(module, name, Standardized(axis))
    return "original", None


class _Standardized(NothingToDo):
    """Nothing around a step; knows how much of a norm is the mean, which no step moves."""

    def __init__(self, optimizer: Optimizer, found: Invariance) -> None:
        from decayfree.dynamics.families import update_family

        self._model = found.model
        try:
            self._power = 2 if update_family(optimizer) == "sgd" else 1
        except InvalidInputError:  # no effective learning rate, so nobody asks for it
            self._power = 1

    @torch.no_grad()
    def learning_rates(self, weight: ScaleInvariantWeight, learning_rate: float) -> Tensor:
        tensor = self._model.get_parameter(weight.name)
        centered = _centered(tensor, weight.axis)
        whole, moving = (block_norms(one, weight.blocks) for one in (tensor, centered))
        return learning_rate * (whole / moving).pow(self._power)
