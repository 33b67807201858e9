"""What is true of images: a number, a mask, or as many boxes or points as there are in each.

Reads no files and knows no task.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """Rows of numbers, so many for each image: boxes, points.

    Example:
        >>> points = Ragged.of_lists([torch.tensor([[1.0, 2.0]]), torch.zeros(0, 2)])
        >>> len(points), [len(each) for each in points.split()]
        (2, [1, 0])
        >>> points[torch.tensor([1, 0])].split()[1]
        tensor([[1., 2.]])
    """

    rows: Tensor
    """(n_rows of all images, n_numbers), float32."""
    counts: Tensor
    """(n_images,), int64, on the CPU: how many rows each has."""

    @staticmethod
    def of_lists(images: Sequence[Tensor]) -> "Ragged":
        """From (n_rows, n_numbers) of each image; at least one image."""
        return Ragged(torch.cat(tuple(images)), torch.tensor([len(rows) for rows in images]))

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, chosen: Tensor | slice) -> "Ragged":
        """The same of some images: their numbers, or a slice."""
        chosen = chosen if isinstance(chosen, slice) else chosen.to(self.counts.device)
        counts, first = self.counts[chosen], (self.counts.cumsum(0) - self.counts)[chosen]
        # From the place of a row among those chosen to its place among all.
        shift = (first - counts.cumsum(0) + counts).repeat_interleave(counts)
        return Ragged(self.rows[(shift + torch.arange(len(shift))).to(self.device)], counts)

    @property
    def device(self) -> torch.device:
        return self.rows.device

    def split(self) -> tuple[Tensor, ...]:
        """(n_rows, n_numbers) of each image."""
        parts: tuple[Tensor, ...] = self.rows.split(self.counts.tolist())
        return parts

    def to(self, device: torch.device | str) -> "Ragged":
        return Ragged(self.rows.to(device), self.counts)


Truth = Tensor | Ragged
"""What is true of n images, by task.

- classification: (n,), int64, the class.
- segmentation: (n, height, width), uint8, the class of each pixel: 0 for ground, `IGNORED` where it is not
  known.
- detection: rows x₁, y₁, x₂, y₂ in pixels, the class from 0, and 1 where a box is to be ignored (a crowd),
  else 0.
- counting: rows x, y in pixels.

Pixels are counted from the upper left corner of the image, whose own pixel goes from 0 to 1.
"""


def mirrored(truth: Truth, which: Tensor, *, width: int) -> Truth:
    """What is true of the images after those of ``which``, (n,), bool, were mirrored left to right.

    Args:
        truth: Of all of them.
        which: On any device.
        width: Of the images, in pixels.
    """
    if isinstance(truth, Ragged):
        moves = which.to(truth.counts.device).repeat_interleave(truth.counts).to(truth.device)
        x = [0] if truth.rows.shape[1] == _N_NUMBERS_OF_A_POINT else [2, 0]
        rows = truth.rows.clone()
        rows[moves, : 2 * len(x) : 2] = width - truth.rows[moves][:, x]
        return Ragged(rows, truth.counts)
    if truth.ndim != _N_DIMENSIONS_OF_MASKS:
        return truth
    return torch.where(which.to(truth.device)[:, None, None], truth.flip(2), truth)


_N_NUMBERS_OF_A_POINT, _N_DIMENSIONS_OF_MASKS = 2, 3
IGNORED = 255
"""The class of pixels that are neither trained on nor scored."""
