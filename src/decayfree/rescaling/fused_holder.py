"""How are blocks on the CPU measured and scaled in one pass over memory?

Block by block in machine code that numba compiles: the second look at a block, which is to scale it, meets it
in the cache. Holds what lies in runs of memory in float32 or float64; everything else is held as holder.py
does it.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from decayfree.errors import InvalidInputError, MissingExtraError
from decayfree.rescaling.held import Held
from decayfree.rescaling.holder import ROUNDING, Holder, holders_of
from decayfree.rescaling.runs import RunInMemory, runs_in_memory
from decayfree.rescaling.sharded import Shifts


class FusedHolder(Holder):
    """A :class:`decayfree.rescaling.holder.Holder` that, on one thread, reads and writes each block once.

    What is left alone is the same, but for one thing: the other blocks of a weight are scaled beside one
    that is not finite.

    Args:
        held: Weights of one precision, all on the CPU.
        runs: Of each weight, from :func:`decayfree.rescaling.runs.runs_in_memory`.
        at_most: As for the other.

    Raises:
        MissingExtraError: If numba is not installed.
    """

    def __init__(
        self, held: Sequence[Held], runs: Sequence[Sequence[RunInMemory]], *, at_most: bool = False
    ) -> None:
        hold = _compiled()
        super().__init__(held, at_most=at_most)
        numbers = torch.finfo(self.norms.dtype)
        all_runs = [run for of_weight in runs for run in of_weight]
        self._written = [run.tensors for run in all_runs]
        # A numpy array keeps its memory where it is.
        self._memory = [tensor.numpy() for tensors in self._written for tensor in tensors]
        # Of each run where its rows and its bias begin, how many blocks it has, and how long both are.
        table = torch.tensor(
            [(run.rows.data_ptr(), _address(run.bias), run.n_blocks, *run.lengths) for run in all_runs]
        )
        self._distances = torch.zeros(len(all_runs), dtype=torch.float64)
        columns = [column.numpy() for column in (self.targets, self.norms, self.factors, self._distances)]
        limits = (self._rounding, float(numbers.tiny), float(numbers.max), at_most)
        # Compiled now, so that no step of the training waits for it.
        hold(table[:0].numpy(), *columns, *limits)
        self._hold = partial(hold, table.numpy(), *columns, *limits)

    def hold_(self, *, everywhere: bool = False) -> float:
        """Scale every block to its target; the largest |factor − 1|, infinity if a norm is not finite."""
        worst = self._hold()
        # Writing by address goes past autograd, which must know of it to refuse a backward pass through
        # weights that have changed.
        distances = zip(self._written, self._distances.tolist(), strict=True)
        for one in (one for of, distance in distances if distance > 0 for one in of):
            torch.autograd.graph.increment_version(one)
        return worst


def fused_holders_of(
    held: Iterable[Held], shifts: Shifts | None = None, *, at_most: bool = False
) -> list[Holder]:
    """Holders for all weights, fused where that is possible."""
    sorted_out: dict[torch.dtype, list[tuple[Held, list[RunInMemory]]]] = {dtype: [] for dtype in ROUNDING}
    others = []
    for one in held:
        runs = runs_in_memory(one)
        if runs is None or one.weight.device.type != "cpu" or one.weight.dtype not in ROUNDING:
            others.append(one)
        else:
            sorted_out[one.weight.dtype].append((one, runs))
    fused = [
        FusedHolder([one for one, _ in pairs], [runs for _, runs in pairs], at_most=at_most)
        for pairs in sorted_out.values()
        if pairs
    ]
    return [*fused, *holders_of(others, shifts, at_most=at_most)]


def check_fused(holders: Sequence[Holder]) -> None:
    """See that some weights are held in one pass, where that was asked for.

    Raises:
        InvalidInputError: If none is.
    """
    if not any(isinstance(holder, FusedHolder) for holder in holders):
        raise InvalidInputError(
            "fused=True is for weights on the CPU in float32 or float64, each block in one run of memory: "
            f"none of the {sum(len(holder.held) for holder in holders)} that are held here is one"
        )


def _address(bias: Tensor | None) -> int:
    return 0 if bias is None else bias.data_ptr()


@cache
def _compiled() -> Callable[..., float]:
    """The loops as machine code, compiled for each precision when they are first called with it."""
    try:
        import numba as package
        from numba.core import cgutils, types
        from numba.extending import intrinsic
    except ImportError as error:
        raise MissingExtraError(
            f"fused=True needs numba, which cannot be imported ({error}): pip install 'decayfree[fused]'"
        ) from error

    numba: Any = package

    def memory_at(typing_context: Any, address: Any) -> Any:
        """The memory at an address: an array for each weight took longer than holding small weights."""

        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], cgutils.voidptr_t)

        return types.voidptr(address), code

    memory: Any = intrinsic(memory_at)
    # Sums may be reordered, which vector instructions need; NaN and infinity keep their meaning.
    compiled = numba.njit(fastmath={"reassoc", "contract"}, nogil=True)
    hold_run = compiled(_hold_run)

    def hold(
        table: Any,
        targets: Any,
        norms: Any,
        factors: Any,
        distances: Any,
        rounding: float,
        tiny: float,
        largest: float,
        at_most: bool,
    ) -> float:
        first, worst = 0, 0.0
        for run in range(len(table)):
            address, of_bias, n_blocks, length, n_entries = table[run]
            rows = numba.carray(memory(address), (n_blocks, length), targets.dtype)
            bias = numba.carray(memory(of_bias), (n_blocks, n_entries), targets.dtype)
            at = slice(first, first + n_blocks)
            distances[run] = hold_run(
                rows, bias, targets[at], norms[at], factors[at], rounding, tiny, largest, at_most
            )
            worst = max(worst, distances[run])
            first += n_blocks
        return worst

    whole: Callable[..., float] = compiled(hold)
    return whole


def _hold_run(
    rows: Any,
    bias: Any,
    targets: Any,
    norms: Any,
    factors: Any,
    rounding: float,
    tiny: float,
    largest: float,
    at_most: bool,
) -> float:
    """Put each block, a row of ``rows`` and of ``bias``, on its target; fill norms and factors, (blocks,).

    This reaches as far as a sum of squares in the rows' own precision, from ``tiny`` to ``largest``; beyond,
    a norm is 0 or infinite.
    """
    worst = 0.0
    n_blocks, length = rows.shape
    n_entries = bias.shape[1]
    for block in range(n_blocks):
        squares = 0.0
        for column in range(length):
            number = 1.0 * rows[block, column]  # in float64: numba's float() would leave a float32 as it is
            squares += number * number
        for column in range(n_entries):
            number = 1.0 * bias[block, column]
            squares += number * number
        factors[block] = 1.0
        if not squares <= largest:
            norms[block] = squares * float("inf")
            worst = float("inf")
            continue
        norms[block] = squares**0.5 if squares >= tiny else 0.0
        # Stored and read again: what counts is the value in the rows' own precision.
        norm, target = norms[block], targets[block]
        is_off = norm - target > rounding * target or (not at_most and target - norm > rounding * target)
        if norm > 0 and target > 0 and is_off:
            factors[block] = target / norm
            factor = factors[block]
            if 0 < factor < float("inf"):
                for column in range(length):
                    rows[block, column] *= factor
                for column in range(n_entries):
                    bias[block, column] *= factor
                worst = max(worst, abs(factor - 1.0))
            else:
                factors[block] = 1.0
    return worst
