"""What was measured on one parameter, in figures."""

from dataclasses import dataclass

from decayfree.invariance.partition import Partition
from decayfree.invariance.running_statistics import NormLayer


@dataclass(frozen=True)
class Finding:
    """What was measured on one parameter.

    Args:
        shape: Of the parameter.
        is_real: Whether it holds real floating numbers; others are not measured.
        has_path: Whether any output depends on it at all.
        is_silent: Whether no probe gave it a gradient worth speaking of.
        is_mostly_silent: Whether its rows with a gradient do form blocks, but are less than half of all.
        is_unclear: Whether it may move the outputs more than the probes happened to see.
        moves: Relative change of the outputs per relative growth of the whole parameter, largest over the
            probes; for a candidate that failed the confirmation, and for one that was
            unclear, the movement seen when it was scaled.
        bias: Its bias, if they only work together.
        partition: Its blocks, of all rows or of some, or None where it is not scale-invariant.
        failed_finite: Whether it passed the probes and then moved the outputs when really scaled.
        norm_layers: What cancels its scale.
    """

    shape: tuple[int, ...]
    is_real: bool = True
    has_path: bool = False
    is_silent: bool = True
    is_mostly_silent: bool = False
    is_unclear: bool = False
    moves: float = 0.0
    bias: str | None = None
    partition: Partition | None = None
    failed_finite: bool = False
    norm_layers: tuple[NormLayer, ...] = ()

    @property
    def is_vector(self) -> bool:
        """Whether its rows are single numbers."""
        return len(self.shape) < 2
