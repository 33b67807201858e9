"""A laid-out scene as pixels, and which of them belong to which item.

Draws no random numbers. All values are whole numbers, also where they are floating, so that every machine
paints the same.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from decayfree.study.data.scenes.layout import Layout, within
from decayfree.study.data.scenes.pool import Pool

_LARGEST_PIECE = 112
"""Pixels of the photographs that a scene shows on a side; larger scenes show them enlarged."""
_UNIT = 64
"""What the weights of a resized pixel add up to, along rows and along columns; 64² is 2¹²."""


@dataclass(frozen=True)
class Painted:
    """Scenes, and what is seen of each item in them."""

    pixels: Tensor
    """(n_scenes, size, size, n_channels), uint8."""
    labels: Tensor
    """(n_items,), int64: the class of each item of the layout."""
    n_pixels: Tensor
    """(n_items,), int64: of each item, what is covered too."""
    n_visible: Tensor
    """(n_items,), int64: of these, how many no other item covers."""
    owner: Tensor
    """(n_visible pixels,), int64: the item of each pixel that is one's."""
    place: Tensor
    """(n_visible pixels,), int64: where it is, counted over all scenes row by row."""


def painted(layout: Layout, pool: Pool, *, size: int) -> Painted:
    """Paint the items on the ground, each over those before it.

    Args:
        layout: Of the scenes; at least one.
        pool: Items and ground.
        size: Height and width of the scenes, in pixels.
    """
    which = within(layout.item, 0, len(pool.items))
    values = _resized(pool.items[which], layout.side, layout.is_mirrored & pool.has_mirror_images)
    width = values.shape[2]
    seen = (values > pool.threshold) & _inside(layout.side, width)
    item, row, column = seen.nonzero(as_tuple=True)
    corner = (layout.scene * size + layout.top) * size + layout.left
    place = corner[item] + row * size + column
    # The item in front has the highest number: items of a scene are in order.
    front = torch.full((len(layout) * size * size,), -1).scatter_reduce_(0, place, item, "amax")
    is_visible = front[place] == item
    owner, place = item[is_visible], place[is_visible]
    canvas = _ground(layout, pool.ground, size)
    n_channels = canvas.shape[-1]
    value = values[seen][is_visible].to(torch.int16)
    colors = value[:, None] * layout.tint.to(torch.int16)[:, :n_channels].index_select(0, owner) >> 7
    canvas.view(-1, n_channels).index_copy_(0, place, colors.to(torch.uint8))
    n_pixels, n_visible = (each.bincount(minlength=len(which)) for each in (item, owner))
    return Painted(canvas, pool.labels[which], n_pixels, n_visible, owner, place)


def _inside(side: Tensor, width: int) -> Tensor:
    """(n_items, width, width), bool: what of a window an item of this side fills."""
    is_inside = torch.arange(width) < side[:, None]
    return is_inside[:, :, None] & is_inside[:, None]


def _resized(items: Tensor, side: Tensor, is_mirrored: Tensor) -> Tensor:
    """(n_items, width, width), int32: each brought to its own side, in the upper left of the widest."""
    width = int(side.max())
    sides, number = side.unique(return_inverse=True)
    table = torch.stack([_weights(items.shape[1], one, width) for one in sides.tolist()])
    mirrored = torch.cat([table, table.flip(2)])  # those of the columns, where left is right
    return _weighted(items, table[number], mirrored[number + len(sides) * is_mirrored])


def _weighted(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(..., n_rows, n_columns), int32, from images of bytes and weights of `_UNIT` in sum."""
    # Whole numbers of at most 255·64² are exact in whatever order they are added up. float32 would hold them
    # too, but may be multiplied in less where its precision is set to medium.
    values = rows @ images.to(rows.dtype) @ columns.transpose(-1, -2)
    return values.to(torch.int32) >> 12


@lru_cache(maxsize=1024)
def _weights(n_from: int, n_to: int, width: int) -> Tensor:
    """(width, n_from), float64: of each pixel those of the old ones, a triangle; 0 from ``n_to`` on."""
    scale = n_from / n_to
    center = (torch.arange(n_to, dtype=torch.float64) + 0.5) * scale
    distance = torch.arange(n_from, dtype=torch.float64) + 0.5 - center[:, None]
    # A triangle as wide as the coarser of the two grids: what is made smaller is averaged.
    triangle = (1 - distance.abs() / max(scale, 1)).clamp(min=0)
    # Rounding the running sum keeps the whole at 64.
    sums = (triangle.cumsum(1) / triangle.sum(1, keepdim=True) * _UNIT).round()
    weights = torch.zeros(width, n_from, dtype=torch.float64)
    weights[:n_to] = sums.diff(dim=1, prepend=torch.zeros(n_to, 1, dtype=torch.float64))
    return weights


def _ground(layout: Layout, ground: Tensor, size: int) -> Tensor:
    """(n_scenes, size, size, n_channels), uint8: a piece of a photograph each, in its own light."""
    side = min(size, _LARGEST_PIECE)
    pieces = ground.unfold(1, side, 1).unfold(2, side, 1)  # photograph, row, column, color, then the piece
    n_photographs, n_rows, n_columns = pieces.shape[:3]
    photograph, column, row = layout.ground.unbind(1)
    picked = pieces[
        within(photograph, 0, n_photographs), within(row, 0, n_rows), within(column, 0, n_columns)
    ]
    if side != size:
        weights = _weights(side, size, size)
        picked = _weighted(picked, weights, weights)
    lit = picked.to(torch.int16) * layout.light.to(torch.int16)[:, None, None, None] >> 7
    return lit.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
