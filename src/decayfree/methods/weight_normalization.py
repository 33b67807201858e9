"""Weight normalization: every kernel is a direction times a length, and the optimizer has both.

Treats the scale-invariant weights that a probe finds, and nothing else. Takes torch's parametrization.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import nn
from torch.nn.utils import parametrizations

from decayfree.methods.method import Method

if TYPE_CHECKING:
    from decayfree.invariance.result import Invariance


@dataclass(frozen=True)
class WeightNormalization(Method):
    """w = g·v/‖v‖ per kernel, with v = w and g = ‖w‖ in the beginning; v gets no decay, and its norm grows.

    Behind a batch normalization g has no effect, and its gradient is rounding, which Adam would blow up to
    whole steps: there it is fixed. Then directions are those of no treatment at all, ‖v‖ growing as ‖w‖
    would, while the norm of w stays. Where several kernels have a scale in common, as under GroupNorm, their
    lengths g are trained and are a block of their own, like their weights before.

    Its effective learning rate is η/‖v‖² (η/‖v‖ beyond SGD).

    References:
        Salimans, Kingma, "Weight Normalization: A Simple Reparameterization to Accelerate Training of Deep
        Neural Networks", 2016, arXiv 1602.07868, Eq. 2. The paper normalizes all layers and has no batch
        normalization.
    """

    name: ClassVar[str] = "weight_normalization"

    @property
    def label(self) -> str:
        return "weight normalization"

    def prepare(self, model: nn.Module, found: Invariance) -> Invariance:
        from decayfree.methods.parametrizing import parametrized

        fixed = {
            id(model.get_submodule(one.name.rpartition(".")[0]))
            for one in found
            if one.blocks.rows_are_blocks and one.bias is None
        }

        def put_in(module: nn.Module, name: str, axis: int) -> tuple[str, str | None]:
            parametrizations.weight_norm(module, name, dim=axis)
            length = getattr(module.parametrizations, name).original0
            length.requires_grad_(id(module) not in fixed)
            return "original1", "original0"

        return parametrized(
            model, found, put_in, by="weight normalization", reason="it is divided by its norm"
        )
