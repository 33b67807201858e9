"""Scenes by number, and what is true of them: masks, boxes or points.

Reads no files. Scene 7 is the same whatever else is asked for and whatever the run's seed.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from decayfree.errors import InvalidInputError
from decayfree.study.data.images import Images
from decayfree.study.data.scenes.layout import BLOCK, Kind, Layout, layout
from decayfree.study.data.scenes.painting import Painted, painted
from decayfree.study.data.scenes.pool import NO_CLASS, Pool
from decayfree.study.data.truth import Ragged, Truth
from decayfree.study.run_settings import TaskName

SIZES = range(32, 513)
"""Height and width that scenes may have."""
VISIBLE_PERCENT = 30
"""An item of which less is visible is ignored in detection."""
_PIXELS_AT_ONCE = 1 << 20


def draw(kind: Kind, purpose: str, numbers: Tensor, pool: Pool, *, size: int, task: TaskName) -> Images:
    """The scenes of these numbers.

    Args:
        kind: What lies in them; see `layout`.
        purpose: What they are for: those of one have nothing to do with another's.
        numbers: (n,), int64: which scenes.
        pool: What they are drawn of.
        size: Height and width, in pixels.
        task: What is to be known of them.

    Returns:
        The scenes in the order of ``numbers``, and what is true of them as `Truth` has it. Of items that are
        wholly covered nothing is said. A point is the center of the square that an item fills.

    Raises:
        InvalidInputError: If they cannot have this size.
    """
    if size not in SIZES:
        raise InvalidInputError(
            f"image_size: scenes are drawn with {SIZES[0]} to {SIZES[-1]} pixels a side, got {size}"
        )
    n_channels = pool.ground.shape[-1]
    pixels = torch.empty(len(numbers), size, size, n_channels, dtype=torch.uint8)
    order = numbers.argsort(stable=True)
    truths: list[Truth] = []
    start = 0
    for block, chosen in _batches(numbers[order], size):
        scenes = layout(kind, purpose, block, chosen, size=size)
        drawn = painted(scenes, pool, size=size)
        pixels[order[start : start + len(chosen)]] = drawn.pixels
        truths.append(_truth(scenes, drawn, size, task))
        start += len(chosen)
    truth = _joined(truths, size, task)[order.argsort()]
    if n_channels == 1:
        return Images(pixels[..., 0], truth)
    return Images(pixels.permute(0, 3, 1, 2), truth)


def _batches(numbers: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    """Of sorted numbers, so many at once as memory is small for: their block, and their places in it."""
    for block in (numbers // BLOCK).unique().tolist():
        inside = numbers[numbers // BLOCK == block] % BLOCK
        yield from ((block, some) for some in inside.split(max(1, _PIXELS_AT_ONCE // size**2)))


def _truth(scenes: Layout, drawn: Painted, size: int, task: TaskName) -> Truth:
    if task == "segmentation":
        mask = torch.zeros(len(scenes) * size * size, dtype=torch.uint8)
        mask[drawn.place] = (drawn.labels + 1).to(torch.uint8)[drawn.owner]
        return mask.view(-1, size, size)
    is_told = (drawn.n_visible > 0) & (drawn.labels != NO_CLASS)
    counts = scenes.scene[is_told].bincount(minlength=len(scenes))
    if task == "counting":
        centers = torch.stack([scenes.left, scenes.top], dim=1) + scenes.side[:, None] / 2
        return Ragged(centers[is_told], counts)
    is_hidden = 100 * drawn.n_visible < VISIBLE_PERCENT * drawn.n_pixels
    rows = torch.cat([_boxes(drawn, size), drawn.labels[:, None], is_hidden[:, None]], dim=1)
    return Ragged(rows[is_told].float(), counts)


def _boxes(drawn: Painted, size: int) -> Tensor:
    """(n_items, 4), int64: x₁, y₁, x₂, y₂ around what is visible of each."""
    x, y = drawn.place % size, drawn.place // size % size
    n_items = len(drawn.labels)
    first = [torch.full((n_items,), size).scatter_reduce_(0, drawn.owner, at, "amin") for at in (x, y)]
    last = [torch.full((n_items,), -1).scatter_reduce_(0, drawn.owner, at, "amax") for at in (x, y)]
    return torch.stack([*first, *(end + 1 for end in last)], dim=1)


def _joined(truths: list[Truth], size: int, task: TaskName) -> Truth:
    if task == "segmentation":
        masks = [truth for truth in truths if isinstance(truth, Tensor)]
        return torch.cat([torch.zeros(0, size, size, dtype=torch.uint8), *masks])
    ragged = [truth for truth in truths if isinstance(truth, Ragged)]
    nothing = torch.zeros(0, 2 if task == "counting" else 6)
    return Ragged(
        torch.cat([nothing, *(each.rows for each in ragged)]),
        torch.cat([torch.zeros(0, dtype=torch.int64), *(each.counts for each in ragged)]),
    )
