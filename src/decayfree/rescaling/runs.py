"""Where in memory do the blocks of a weight lie, one after the other?

Kernels, groups, heads and whole weights alike: each run of equal blocks is a matrix with a block in each row.
Reads and writes nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from decayfree.blocks import Blocks, Part, n_rows_of


@dataclass(frozen=True)
class RunInMemory:
    """Equal blocks of one weight that follow each other in memory, as views of it.

    Args:
        rows: (blocks, numbers in a block); the order of numbers inside a block is that of the memory.
        bias: (blocks, rows in a block), of the bias that belongs to them.
        n_rows: Rows in a block.
    """

    rows: Tensor
    bias: Tensor | None
    n_rows: int

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The views."""
        return (self.rows,) if self.bias is None else (self.rows, self.bias)

    @property
    def n_blocks(self) -> int:
        """How many."""
        return len(self.rows)

    @property
    def lengths(self) -> tuple[int, int]:
        """Numbers of a block in the weight and in the bias."""
        return self.rows.shape[1], 0 if self.bias is None else self.bias.shape[1]

    @property
    def n_bytes(self) -> int:
        """Of the weight's numbers."""
        return self.rows.numel() * self.rows.element_size()

    def pieces(self, n: int) -> Iterator["RunInMemory"]:
        """It in at most ``n`` runs of about as many blocks."""
        step = -(-self.n_blocks // n)
        rows = self.rows.split(step)
        biases = [None] * len(rows) if self.bias is None else self.bias.split(step)
        return (RunInMemory(*pair, self.n_rows) for pair in zip(rows, biases, strict=True))


def runs_in_memory(part: Part) -> list[RunInMemory] | None:
    """All blocks of a weight, in their order; None if a block is not in one run of memory."""
    weight, blocks = part.weight.detach(), part.blocks
    if not _is_plain(weight) or not weight.numel() or not _do_rows_follow(weight, blocks):
        return None
    n_rows = n_rows_of(weight.shape, blocks)
    bias = None if part.bias is None else part.bias.detach()
    if bias is not None and not (
        _is_plain(bias)
        and bias.is_contiguous()
        and (bias.shape, bias.dtype, bias.device) == ((n_rows,), weight.dtype, weight.device)
    ):
        return None
    fan_in, numbers = weight.numel() // n_rows, weight.as_strided((weight.numel(),), (1,))
    runs = []
    for first, n_blocks, size in blocks.runs:
        end = first + n_blocks * size
        rows = numbers[first * fan_in : end * fan_in].view(n_blocks, -1)
        runs.append(RunInMemory(rows, None if bias is None else bias[first:end].view(n_blocks, size), size))
    return runs


def _is_plain(tensor: Tensor) -> bool:
    """Whether it has memory of its own; what does torch's operators by itself (a DTensor) may have none."""
    return type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__


def _do_rows_follow(weight: Tensor, blocks: Blocks) -> bool:
    """Whether the numbers of each row lie together and row follows row, or all of them are one block."""
    dims = list(zip(weight.stride(), weight.shape, strict=True))
    if blocks.n_blocks == 1 and not blocks.is_partial:
        return _are_dense(sorted(dims))
    outer, *inner = dims
    if blocks.axis == 0:
        return _are_dense([*sorted(inner), outer])
    # A row of a grouped transposed convolution is counted by its group and then by dimension 1.
    in_group = (outer[0], outer[1] // blocks.groups)
    of_groups = (outer[0] * in_group[1], blocks.groups)
    return _are_dense([*sorted([in_group, *inner[1:]]), inner[0], of_groups])


def _are_dense(dims: Sequence[tuple[int, int]]) -> bool:
    """Whether dimensions, (stride, size) from the inmost outwards, leave out no number."""
    expected = 1
    for stride, size in dims:
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True
