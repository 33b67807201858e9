"""Hyperball: weight norm and update norm are both fixed.

So the learning rate is the length of a step as a share of the norm. Leaves what is not scale-invariant to the
optimizer. Norms are of blocks here, where its authors take whole matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch.optim import Optimizer

from decayfree.methods.method import AttachedMethod, BlockNormsByStep, Method, RunLength

if TYPE_CHECKING:
    from decayfree.invariance.result import Invariance


@dataclass(frozen=True)
class Hyperball(Method):
    """w ← R·Norm(w − ηR·Norm(u)) per block, with u the optimizer's update, R = ‖w_0‖ and Norm(x) = x/‖x‖.

    Steps no longer know the size of gradients: a learning rate that suits a plain optimizer does not suit it,
    0.01 turns every block by about half a degree a step. The radius has no say, since a scale-invariant block
    computes the same at any norm and turns by the same angle, and so it is no setting.

    Its effective learning rate is that at which the plain optimizer would have taken the last step, η·R/‖u‖.

    References:
        Wen, Dang, Lyu, Ma, Liang, "Fantastic Pretraining Optimizers and Where to Find Them II: Hyperball
        Optimization", 2026, arXiv 2606.16899: Frobenius norms of the matrices of a transformer, around Adam
        and Muon.
    """

    name: ClassVar[str] = "hyperball"
    holds_norms: ClassVar[bool] = True

    @property
    def label(self) -> str:
        return "Hyperball"

    def attach(
        self,
        optimizer: Optimizer,
        found: Invariance,
        *,
        replayed: BlockNormsByStep | None = None,
        length: RunLength | None = None,
    ) -> AttachedMethod:
        from decayfree.methods.turned import Turned

        return Turned(optimizer, found, reach=lambda group, learning_rate: learning_rate, by="Hyperball")
