"""How are many blocks measured and scaled where calls cost more than passes over memory?

Through a copy of their numbers in which blocks of one length lie beside each other: one call for all of them.
Chooses no factors.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from decayfree.rescaling.runs import RunInMemory

# A copy holds at most so many numbers, 256 MB in float32.
_MOST_NUMBERS = 1 << 26

# Runs of more numbers stay where they are: a pass over 16 MB takes an accelerator about as long as a call.
_LARGE = 1 << 22


@dataclass(frozen=True)
class _Matrix:
    """Blocks of one length.

    Args:
        rows: (blocks, length), a view of a weight; None if they are in the copy.
        first: Where in the copy they begin.
        shape: (blocks, length).
        norms: (blocks, 1), to be filled.
        factors: (blocks, 1).
    """

    rows: Tensor | None
    first: int
    shape: tuple[int, int]
    norms: Tensor
    factors: Tensor


class Batch:
    """Runs of blocks with their targets, norms and factors.

    Args:
        runs: Equal ones beside each other.
        targets: (blocks of all runs,).
        norms: Likewise; to be filled.
        factors: Likewise.
    """

    def __init__(self, runs: Sequence[RunInMemory], targets: Tensor, norms: Tensor, factors: Tensor) -> None:
        self.targets, self.norms, self.factors = targets, norms, factors
        self._bias_norms = torch.zeros_like(norms) if any(run.bias is not None for run in runs) else None
        self._sources: list[Tensor] = []
        self._matrices: list[_Matrix] = []
        self._n_numbers = 0
        done = 0
        for _, equal in groupby(enumerate(runs), lambda pair: (pair[1].lengths, is_large(pair[1]) * pair[0])):
            alike = [run for _, run in equal]
            at = slice(done, done + sum(run.n_blocks for run in alike))
            self._add([run.rows for run in alike], norms[at, None], factors[at, None])
            biases = [run.bias for run in alike if run.bias is not None]
            if biases and self._bias_norms is not None:
                self._add(biases, self._bias_norms[at, None], factors[at, None])
            done = at.stop

    def _add(self, views: list[Tensor], norms: Tensor, factors: Tensor) -> None:
        shape = (len(norms), views[0].shape[1])
        is_alone = views[0].numel() >= _LARGE
        self._matrices.append(_Matrix(views[0] if is_alone else None, self._n_numbers, shape, norms, factors))
        if not is_alone:
            self._sources += [view.view(-1) for view in views]
            self._n_numbers += shape[0] * shape[1]

    def measure(self) -> "Copy":
        """Fill the norms; returns the numbers that :meth:`scale_` would have to read again."""
        copy = self._copied()
        for matrix, rows in zip(self._matrices, copy.matrices, strict=True):
            torch.linalg.vector_norm(rows, 2, 1, True, dtype=matrix.norms.dtype, out=matrix.norms)
        if self._bias_norms is not None:
            torch.hypot(self.norms, self._bias_norms, out=self.norms)
        return copy

    def scale_(self, copy: "Copy | None" = None) -> None:
        """Multiply all blocks by their factors; ``copy`` is from :meth:`measure`, if nothing moved since."""
        copy = copy or self._copied()
        for matrix, rows in zip(self._matrices, copy.matrices, strict=True):
            rows.mul_(matrix.factors)
        if self._sources:
            torch._foreach_copy_(self._sources, copy.pieces)

    def _copied(self) -> "Copy":
        numbers = torch.empty(self._n_numbers, dtype=self.norms.dtype, device=self.norms.device)
        pieces = numbers.split([source.numel() for source in self._sources])
        if pieces:
            torch._foreach_copy_(pieces, self._sources)
        matrices = [
            numbers.as_strided(one.shape, (one.shape[1], 1), one.first) if one.rows is None else one.rows
            for one in self._matrices
        ]
        return Copy(pieces, matrices)


@dataclass(frozen=True)
class Copy:
    """The numbers of a batch, in the precision of norms.

    Args:
        pieces: Weight by weight, (numbers,).
        matrices: Blocks of one length, (blocks, length): views of the same, or of weights.
    """

    pieces: tuple[Tensor, ...]
    matrices: list[Tensor]


def is_large(run: RunInMemory) -> bool:
    """Whether a run is not worth a copy."""
    return run.rows.numel() >= _LARGE


def batches_of(runs: Iterable[RunInMemory]) -> Iterator[list[RunInMemory]]:
    """Runs that are copied together."""
    batch: list[RunInMemory] = []
    n_numbers = 0
    for run in runs:
        n_more = 0 if is_large(run) else run.rows.numel()
        if batch and n_numbers + n_more > _MOST_NUMBERS:
            yield batch
            batch, n_numbers = [], 0
        batch.append(run)
        n_numbers += n_more
    if batch:
        yield batch
