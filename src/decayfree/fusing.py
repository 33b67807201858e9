"""How are kernels on the CPU measured and scaled in one pass over memory?

Kernel by kernel in machine code that numba compiles: the second look at a kernel meets it in the first-level cache. Holds what lies in one
run of memory in float32 or float64; everything else is held as holding.py does it.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import torch

from decayfree.holding import ROUNDING, Held, Holder, holders_of, rows_in_memory


class FusedHolder(Holder):
    """A :class:`decayfree.holding.Holder` that reads and writes each kernel once, by one thread.

    Norms are summed in float64. A kernel of norm zero, infinity or NaN is left alone, and one that is on its target already; all others
    are scaled, also beside a kernel that is not finite.

    Args:
        held: Weights that :func:`can_be_fused`, all of one precision.

    Raises:
        ImportError: If numba is not installed.
    """

    def __init__(self, held: Sequence[Held]) -> None:
        self._hold = _compiled()
        super().__init__(held)
        self._arrays = [
            tuple(tensor.numpy() for tensor in (rows, self.targets[at], self.norms[at], self.factors[at]))
            for rows, at in ((rows_in_memory(one), self.slices[one.name]) for one in self.held)
            if rows is not None
        ]
        # Compiled now, so that no step of the training waits for it.
        self._hold(*(array[:0] for array in self._arrays[0]), self._rounding)

    def hold_(self) -> float:
        """Scale every block to its target, and return the largest |factor − 1|, infinity where a norm was not finite."""
        worst: float = max(self._hold(*arrays, self._rounding) for arrays in self._arrays)
        # numpy's writing goes past autograd, which must know of it to refuse a backward pass through weights that have changed.
        torch.autograd.graph.increment_version(self._whole)
        return worst


def can_be_fused(one: Held) -> bool:
    """Whether a weight lies on the CPU in float32 or float64, each of its kernels a block in one run of memory."""
    weight = one.weight
    return weight.device.type == "cpu" and weight.dtype in ROUNDING and rows_in_memory(one) is not None


def fused_holders_of(held: Iterable[Held]) -> list[Holder]:
    """Holders for all weights, fused where that is possible."""
    held = list(held)
    holders: list[Holder] = []
    for dtype in ROUNDING:
        fusable = [one for one in held if can_be_fused(one) and one.weight.dtype == dtype]
        if fusable:
            holders.append(FusedHolder(fusable))
    return holders + holders_of(one for one in held if not can_be_fused(one))


@cache
def _compiled() -> Callable[..., float]:
    """The loop over kernels as machine code, compiled for each precision when it is first called with it."""
    try:
        import numba
    except ImportError as error:
        raise ImportError(
            f"fused=True needs numba, which cannot be imported ({error}): pip install 'decayfree[fused]'"
        ) from error
    # Sums may be reordered, which vector instructions need; NaN and infinity keep their meaning.
    compiled: Callable[..., float] = numba.njit(fastmath={"reassoc", "contract"})(_hold)
    return compiled


def _hold(rows: Any, targets: Any, norms: Any, factors: Any, rounding: float) -> float:
    """Put each row of an array (kernels, fan-in) on its target; arrays (kernels,) are read, filled and filled."""
    worst = 0.0
    n_rows, fan_in = rows.shape
    for row in range(n_rows):
        squares = 0.0
        for column in range(fan_in):
            entry = 1.0 * rows[row, column]  # in float64: numba's float() would leave a float32 as it is
            squares += entry * entry
        # Stored and read again: what counts is the value in the weight's own precision.
        norms[row] = squares**0.5
        norm, target = norms[row], targets[row]
        factors[row] = 1.0
        if not norm < float("inf"):
            worst = float("inf")
        elif norm > 0 and target > 0 and abs(norm - target) > rounding * target:
            factors[row] = target / norm
            factor = factors[row]
            if factor < float("inf"):
                for column in range(fan_in):
                    rows[row, column] *= factor
                worst = max(worst, abs(factor - 1.0))
            else:
                factors[row] = 1.0
    return worst
