"""What was measured on one parameter, in figures."""

import math
from dataclasses import dataclass
from typing import Literal

from decayfree.invariance.partition import Partition
from decayfree.invariance.running_statistics import NormLayer

# What really changing a parameter says, where its gradient says nothing or not the truth:
#   no effect       no other value of it moves the outputs;
#   moves           scaling it does;
#   weak            growth moves them, if little, and as much as other changes of it do;
#   moves elsewhere scaling it does not where it is, but at other values, which these inputs activate;
#   sign            its numbers have no size: the outputs know their signs;
#   choice          they know more of it than signs, but not its scale;
#   detached        likewise, and they follow it smoothly where no gradient goes;
#   free            its blocks have no scale, though its gradient says that they have one;
#   two values      a normalization saw two values and keeps nothing of them but which is larger.
Says = Literal[
    "", "no effect", "moves", "weak", "moves elsewhere", "sign", "choice", "detached", "free", "two values"
]


@dataclass(frozen=True)
class Finding:
    """What was measured on one parameter.

    Args:
        shape: Of the parameter.
        is_real: Whether it holds real floating numbers; others are not measured.
        has_path: Whether any output depends on it at all.
        is_silent: Whether no probe gave it a gradient worth speaking of.
        is_mostly_silent: Whether its rows with a gradient do form blocks, but are less than half of all.
        n_silent_rows: Rows along dimension 0 without a gradient, where these are most.
        moves: Relative change of the outputs per relative growth of the whole parameter, largest over the
            probes; for what was really scaled, the movement seen there.
        bias: Its bias, if they only work together.
        partition: Its blocks, of all rows or of some, or None where it is not scale-invariant.
        failed_finite: Whether it passed the probes and then moved the outputs when really scaled.
        is_exactly_silent: Whether its gradient was exactly zero, not only up to rounding.
        is_true: Whether its gradient is the derivative of what the model computes, as far as was seen.
        says: What really changing it says; empty where it was not asked alone.
        says_of: The normalization of two values, by its name in the model.
        norm_layers: What cancels its scale.
    """

    shape: tuple[int, ...]
    is_real: bool = True
    has_path: bool = False
    is_silent: bool = True
    is_mostly_silent: bool = False
    n_silent_rows: int = 0
    moves: float = 0.0
    bias: str | None = None
    partition: Partition | None = None
    failed_finite: bool = False
    is_exactly_silent: bool = False
    is_true: bool = True
    says: Says = ""
    says_of: str | None = None
    norm_layers: tuple[NormLayer, ...] = ()

    @property
    def is_vector(self) -> bool:
        """Whether its rows are single numbers."""
        return len(self.shape) < 2

    @property
    def has_sign_rows(self) -> bool:
        """Whether it is a matrix whose rows are single numbers: they have a sign and no direction."""
        return len(self.shape) > 1 and math.prod(self.shape) == self.shape[0]

    @property
    def has_scale(self) -> bool:
        """Whether gradients say that it has one, or some of its rows."""
        is_heard = self.is_real and not self.is_silent and not self.is_mostly_silent
        return is_heard and (self.partition is None or self.partition.blocks.is_partial)
