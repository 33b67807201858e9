"""How are kernels on the CPU measured and scaled in one pass over memory?

Kernel by kernel in machine code that numba compiles: the second look at a kernel, which is to scale it, meets
it in the cache. Holds what lies in one run of memory in float32 or float64; everything else is held as
holder.py does it.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from decayfree.rescaling.held import Held
from decayfree.rescaling.holder import ROUNDING, Holder, holders_of, rows_in_memory


class FusedHolder(Holder):
    """A :class:`decayfree.rescaling.holder.Holder` that, on one thread, reads and writes each kernel once.

    What is left alone is the same, but for one thing: the other kernels of a weight are scaled beside one
    that is not finite.

    Args:
        held: Weights of one precision, all on the CPU.
        rows: Of each weight its (kernels, fan-in) view from
            :func:`decayfree.rescaling.holder.rows_in_memory`.

    Raises:
        ImportError: If numba is not installed.
    """

    def __init__(self, held: Sequence[Held], rows: Sequence[Tensor]) -> None:
        self._hold = _compiled()
        super().__init__(held)
        numbers = torch.finfo(self.norms.dtype)
        self._limits = (self._rounding, numbers.tiny, numbers.max)
        slices = (self.slices[one.name] for one in held)
        self._arrays = [
            tuple(part.numpy() for part in (kernels, self.targets[at], self.norms[at], self.factors[at]))
            for kernels, at in zip(rows, slices, strict=True)
        ]
        # Compiled now, so that no step of the training waits for it.
        self._hold(*(array[:0] for array in self._arrays[0]), *self._limits)

    def hold_(self) -> float:
        """Scale every block to its target; the largest |factor − 1|, infinity if a norm is not finite."""
        distances = [self._hold(*arrays, *self._limits) for arrays in self._arrays]
        # numpy's writing goes past autograd, which must know of it to refuse a backward pass through weights
        # that have changed.
        moved = [one.weight for one, distance in zip(self.held, distances, strict=True) if distance > 0]
        torch.autograd.graph.increment_version(moved)
        return max(distances)


def fused_holders_of(held: Iterable[Held]) -> list[Holder]:
    """Holders for all weights, fused where that is possible."""
    sorted_out: dict[torch.dtype, list[tuple[Held, Tensor]]] = {dtype: [] for dtype in ROUNDING}
    others = []
    for one in held:
        rows = rows_in_memory(one)
        if rows is None or rows.device.type != "cpu" or rows.dtype not in ROUNDING:
            others.append(one)
        else:
            sorted_out[rows.dtype].append((one, rows))
    fused = [
        FusedHolder([one for one, _ in pairs], [rows for _, rows in pairs])
        for pairs in sorted_out.values()
        if pairs
    ]
    return [*fused, *holders_of(others)]


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
    compiled: Callable[..., float] = numba.njit(fastmath={"reassoc", "contract"}, nogil=True)(_hold)
    return compiled


def _hold(
    rows: Any, targets: Any, norms: Any, factors: Any, rounding: float, tiny: float, largest: float
) -> float:
    """Put each row of (kernels, fan-in) on its target; of arrays (kernels,) norms and factors are filled.

    This reaches as far as a sum of squares in the rows' own precision, from ``tiny`` to ``largest``; beyond,
    a norm is 0 or infinite.
    """
    worst = 0.0
    n_rows, fan_in = rows.shape
    for row in range(n_rows):
        squares = 0.0
        for column in range(fan_in):
            entry = 1.0 * rows[row, column]  # in float64: numba's float() would leave a float32 as it is
            squares += entry * entry
        factors[row] = 1.0
        if not squares <= largest:
            norms[row] = squares * float("inf")
            worst = float("inf")
            continue
        norms[row] = squares**0.5 if squares >= tiny else 0.0
        # Stored and read again: what counts is the value in the rows' own precision.
        norm, target = norms[row], targets[row]
        if norm > 0 and target > 0 and abs(norm - target) > rounding * target:
            factors[row] = target / norm
            factor = factors[row]
            if 0 < factor < float("inf"):
                for column in range(fan_in):
                    rows[row, column] *= factor
                worst = max(worst, abs(factor - 1.0))
            else:
                factors[row] = 1.0
    return worst
