"""Where items lie in a scene, and what of the ground: a function of purpose and number of the scene alone.

Paints nothing. Numbers are drawn for blocks of scenes and computed with integers, so that a scene is the same
on every machine, however many are asked for.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from decayfree.study.data.draws import generator_for

Kind = Literal["objects", "crowd", "faces"]
BLOCK = 256
"""Scenes whose numbers are drawn at once."""
_BITS = 20
_FEWEST, _MOST = {"objects": 2, "crowd": 5, "faces": 2}, {"objects": 7, "crowd": 200, "faces": 6}
_SMALLEST, _LARGEST = {"objects": 14, "crowd": 4, "faces": 12}, {"objects": 32, "crowd": 13, "faces": 24}
"""Sides of items, in 64ths of the side of the scene."""


@dataclass(frozen=True)
class Layout:
    """The items of some scenes, scene by scene, those in front after those behind, and their grounds.

    What is chosen out of a number that the layout does not know is a draw, from 0 to 2²⁰.
    """

    scene: Tensor
    """(n_items,), int64: the place of its scene among these."""
    item: Tensor
    """(n_items,), int64, a draw: which one it is."""
    side: Tensor
    """(n_items,), int64: of the square that it fills, in pixels."""
    left: Tensor
    """(n_items,), int64: the first column of that square."""
    top: Tensor
    """(n_items,), int64: its first row."""
    is_mirrored: Tensor
    """(n_items,), bool: whether left is right, where its class lets it."""
    tint: Tensor
    """(n_items, 3), int64: by how many 128ths the item's values are multiplied for each color."""
    ground: Tensor
    """(n_scenes, 3), int64, draws: which photograph, the first column and row of the piece that is seen."""
    light: Tensor
    """(n_scenes,), int64: by how many 128ths the ground is multiplied."""

    def __len__(self) -> int:
        return len(self.ground)


def layout(kind: Kind, purpose: str, block: int, chosen: Tensor, *, size: int) -> Layout:
    """How some scenes of a block are laid out.

    Args:
        kind: ``objects``: 2 to 7 of middle size anywhere; ``faces``: 2 to 6, the same; ``crowd``: 5 to 200,
            small and dense at the top, larger below and in front.
        purpose: What the scenes are for; those of one have nothing to do with another's.
        block: Scenes ``BLOCK·block`` and so on.
        chosen: (n_scenes,), int64: which of them, from 0 to `BLOCK`.
        size: Height and width of the scenes, in pixels.
    """
    n_items, items, grounds = (numbers[chosen] for numbers in _drawn(kind, purpose, block))
    is_there = torch.arange(items.shape[1]) < n_items[:, None]
    draws = items[is_there]
    depth = draws[:, 0]
    if kind == "crowd":
        depth = depth * depth >> _BITS  # those in the distance are more
    side = within(depth, _SMALLEST[kind] * size, _LARGEST[kind] * size + 1) // 64
    return Layout(
        scene=is_there.nonzero()[:, 0],
        item=draws[:, 3],
        side=side,
        left=within(draws[:, 2], 0, size - side + 1),
        top=within(depth if kind == "crowd" else draws[:, 1], 0, size - side + 1),
        is_mirrored=draws[:, 4] & 1 == 1,
        tint=within(draws[:, 5:], 64, 128),
        ground=grounds[:, :3],
        light=within(grounds[:, 3], 48, 128),
    )


def within(draw: Tensor, low: int | Tensor, high: int | Tensor) -> Tensor:
    """A whole number from ``low`` up to, and not, ``high``, all equally likely."""
    return low + (draw * (high - low) >> _BITS)


@lru_cache(maxsize=4)
def _drawn(kind: Kind, purpose: str, block: int) -> tuple[Tensor, Tensor, Tensor]:
    """How many items each scene has, eight numbers for each of them, and four for the ground."""
    generator = generator_for(f"scenes of {kind} to {purpose}", block)
    most = _MOST[kind]
    share = torch.randint(1 << _BITS, (BLOCK,), generator=generator)
    if kind == "crowd":  # most crowds are small
        share = share * share >> _BITS
    n_items = within(share, _FEWEST[kind], most + 1)
    items = torch.randint(1 << _BITS, (BLOCK, most, 8), generator=generator)
    grounds = torch.randint(1 << _BITS, (BLOCK, 4), generator=generator)
    if kind == "crowd":  # from the distance to the front; what is not there comes last
        depth = items[..., 0] + (torch.arange(most) >= n_items[:, None]) * (1 << _BITS)
        order = depth.argsort(dim=1, stable=True)
        items = items.gather(1, order[..., None].expand_as(items))
    return n_items, items, grounds
