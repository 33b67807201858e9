"""No treatment: scale-invariant weights get no decay and no rescaling, so their norms grow.

Says nothing about the other parameters; a study treats those the same for all methods.
"""

from dataclasses import dataclass
from typing import ClassVar

from decayfree.methods.method import Method


@dataclass(frozen=True)
class NoTreatment(Method):
    """Train as the optimizer does: with SGD, ‖w'‖² = ‖w‖² + η²‖g‖² per block.

    References:
        Liu, Cui, Wan, Mao, Chan, "The Implicit Biases of Stochastic Gradient Descent on Deep Neural Networks
        with Batch Normalization", 2021, arXiv 2102.03497v1: norms keep growing in discrete time.
    """

    name: ClassVar[str] = "none"
    short: ClassVar[str] = "no decay"
    is_treatment: ClassVar[bool] = False
    color_slot: ClassVar[int] = 1

    @property
    def label(self) -> str:
        return "no decay"
