"""What is said of one parameter: a verdict with its reason, and the blocks of those that have no scale."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor

from decayfree.blocks import Blocks, Part
from decayfree.invariance.running_statistics import NormLayer

VerdictName = Literal["invariant", "not_invariant", "undecided", "frozen"]
LeftOut = Literal["", "sign", "numbers", "no gradient", "excluded", "not included"]


@dataclass(frozen=True)
class Verdict:
    """What the probe says of one parameter.

    Args:
        name: Of the parameter.
        verdict: ``invariant``, ``not_invariant``, ``undecided`` (no gradient reached it, or too little to
            tell) or ``frozen``.
        reason: Why, in words.
        measured: For invariant ones the largest radial derivative of a block as a share of what it could have
            been; for the others the relative change of the outputs per relative growth of the parameter. No
            unit.
        shape: Of the parameter.
        left_out: Why an invariant one is no weight of the result: only the signs of its numbers count
            (``sign``), its rows are single numbers without a direction to keep (``numbers``), no gradient
            turns it (``no gradient``), or a pattern says so (``excluded``, ``not included``). Empty where it
            is in the result, goes with a weight that is, or is not invariant.
    """

    name: str
    verdict: VerdictName
    reason: str
    measured: float
    shape: tuple[int, ...]
    left_out: LeftOut = ""


@dataclass(frozen=True)
class ScaleInvariantWeight:
    """A parameter whose blocks can be scaled by any positive factors without changing the model's outputs.

    Args:
        name: Of the parameter.
        bias: The bias that is scaled along, where weight and bias only work together.
        axis: The dimension along which the rows (output channels) run: 0, or 1 for transposed convolutions.
        block_sizes: Rows in each block; 1 everywhere for kernels under BatchNorm, one entry for a whole
            weight under LayerNorm.
        norm_layers: The normalizations that cancel its scale, with the channels whose running statistics
            follow it.
        residual: Largest |⟨block, gradient⟩| as a share of ‖block‖‖gradient‖ that was measured; no unit.
        groups: For ``axis=1``: parts of dimension 0 that share no output channel.
        starts: First row of each block, where only some rows are scale-invariant; empty where all are.
        by_request: It has a scale, and is here only since somebody asked for it: see
            :meth:`decayfree.Invariance.by_request`. Holding its norm changes what the model can learn.
    """

    name: str
    bias: str | None
    axis: int
    block_sizes: tuple[int, ...]
    norm_layers: tuple[NormLayer, ...]
    residual: float
    groups: int = 1
    starts: tuple[int, ...] = ()
    by_request: bool = False

    @cached_property
    def blocks(self) -> Blocks:
        """How the rows are divided."""
        return Blocks(self.axis, self.block_sizes, self.groups, self.starts)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameter, and of its bias where they only work together."""
        return (self.name,) if self.bias is None else (self.name, self.bias)

    def part(self, values: Mapping[str, Tensor]) -> Part:
        """It among tensors by name: a model's parameters, their gradients, their values before a step."""
        return Part(values[self.name], None if self.bias is None else values[self.bias], self.blocks)
