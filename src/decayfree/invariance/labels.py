"""By which factors are blocks scaled, so that a channel of running statistics tells which block it follows?

Makes the factors, and reads a block back from the factor by which a channel's deviation grew. Runs no model.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

# All blocks are scaled in one run, and each channel of a normalization's statistics must then say which block
# it follows. A channel that follows a block has its deviation multiplied by the block's factor c, and by two
# for every gain on the way, since gains are only ever doubled. So log2 of its growth is log2 c and a whole
# number, and what survives is the fraction of log2 c: the block's label.
#
# Three blocks with labels 0.20, 0.83 and 0.47 and whole parts −2, 5 and 0 are scaled by 2^−1.80 = 0.287,
# 2^5.83 = 56.9 and 2^0.47 = 1.385. A channel whose deviation grew
#   by 113.8, log2 6.83, has label 0.83: it follows the second block, and one gain doubled it too;
#   by 4, log2 2.00, has label 0: gains alone, no block reached it;
#   by 0.397, log2 −1.33, has label 0.67: nobody's, here the first block times the third. It is unexplained.
#
# N labels lie on a grid: (0.05, 0.95) has N cells, each label one to itself, at random within its middle
# half. Neighbors are therefore at least 0.45/N apart (4.5e-6, and 9e-6 on average, for 100,000 blocks), none
# is near 0 or 1, and no sum of labels is a third one but by chance. Float64 reads log2 of a growth far better
# than SAME, and SAME keeps chance small: N labels cover 2·N·SAME of all fractions, 0.2 % for 100,000. Float32
# reads it to 1e-6 at best, too coarse for thousands: there each weight is scaled alone, by factors whose
# whole log2 tells its blocks apart.
SAME = 1e-8


def labels_of(n_blocks: Mapping[str, int], seed: int) -> dict[str, Tensor]:
    """For each weight the labels of its blocks, (n_blocks,), float64; all of them are different."""
    labels = 0.05 + 0.9 * _spread(sum(n_blocks.values()), seed)
    return dict(zip(n_blocks, labels.split(list(n_blocks.values())), strict=True))


def labelled_factors(labels: Tensor, least: int, seed: int) -> Tensor:
    """Random factors whose log2 has the labels as fractions: half of them far below 1, half far above.

    Args:
        labels: (n_blocks,), float64.
        least: The smallest whole part of log2, at least -6; from 0 on, no factor is below 1.
        seed: Seeds the whole parts, of at most 13.
    """
    generator = torch.Generator().manual_seed(seed)
    is_longer = torch.rand(labels.shape, generator=generator) < 0.5
    shorter = torch.randint(least, least + 3, labels.shape, generator=generator)
    longer = torch.randint(10, 14, labels.shape, generator=generator)
    return (labels + torch.where(is_longer, longer, shorter)).exp2()


def least_log2(eps: float) -> int:
    """Of the factors for normalizations with an ε: a larger one shows where a block is small."""
    return -6 if eps < 1e-20 else 0


def opposite_factors(factors: Tensor, least: int, most: int, seed: int) -> Tensor:
    """Random factors far above 1 for blocks that others made shorter, far below for the rest; (n_blocks,).

    They reach further than those, since no running statistics are read from them, and all of them reach
    further up than down.
    So among weights in a row, whose factors multiply, the long ones win in one of the two runs at least, and
    what bends only far out is met.

    Args:
        factors: (n_blocks,), float64, of :func:`labelled_factors`.
        least: The smallest log2, or 0.
        most: The largest log2.
        seed: Seeds them.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    uniform = torch.rand(factors.shape, generator=generator, dtype=torch.float64)
    return torch.where(factors < 2.0**4, most - 3 * uniform, least * (1 - 0.3 * uniform)).exp2()


def factors_for_one(n_blocks: int, seed: int) -> Tensor:
    """(n_blocks,), float64. Factors between 1.2 and 8 for a weight that is scaled alone."""
    return (0.25 + 2.75 * _spread(n_blocks, seed)).exp2()


class LabelTable:
    """Finds a block by its label.

    Args:
        factors: For each weight those of its blocks, (n_blocks,), float64.
    """

    def __init__(self, factors: Mapping[str, Tensor]) -> None:
        labels = sorted(
            (math.log2(factor) % 1, name, block)
            for name, values in factors.items()
            for block, factor in enumerate(values.tolist())
        )
        self._blocks: list[tuple[str, int]] = [(name, block) for _, name, block in labels]
        self._labels = torch.tensor([label for label, _, _ in labels], dtype=torch.float64)

    def blocks_of(self, log2_growth: Sequence[float]) -> list[tuple[str, int] | None]:
        """The weight and the block that each channel follows; None where no block has its label."""
        growth = torch.tensor(log2_growth, dtype=torch.float64)
        label = growth - growth.floor()
        at = torch.searchsorted(self._labels, label)
        found: list[tuple[str, int] | None] = [None] * len(log2_growth)
        if not self._blocks:
            return found
        for neighbor in (at, at - 1):  # the lower one counts where both fit
            place = neighbor.clamp(0, len(self._blocks) - 1)
            fits = (
                (self._labels[place] - label).abs() < SAME if self._blocks else torch.zeros_like(label).bool()
            )
            for channel in fits.nonzero().flatten().tolist():
                if is_scaled(log2_growth[channel]):
                    found[channel] = self._blocks[place[channel]]
        return found


def is_scaled(log2_growth: float) -> bool:
    """Whether a growth is more than doublings, which come from gains."""
    return math.isfinite(log2_growth) and abs(log2_growth - round(log2_growth)) > 100 * SAME


def _spread(number: int, seed: int) -> Tensor:
    """Random numbers in (0, 1), one in the middle half of each of so many cells."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randperm(number, generator=generator).double()
    within = 0.5 * torch.rand(number, generator=generator, dtype=torch.float64)
    return (cells + 0.25 + within) / max(number, 1)
