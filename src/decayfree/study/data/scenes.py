"""Scenes of real pixels, for tasks that look at more than a class: items of clothing in front of photographs.

Says what is in them, for segmentation, detection and counting. Loads nothing but items and photographs that
packages ship, and gives the same scene for the same number on every machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from decayfree.errors import InvalidInputError, extra_needed
from decayfree.study.data import digits, fashion_mnist
from decayfree.study.data.draws import generator_for
from decayfree.study.data.images import Images
from decayfree.study.data.truth import Ragged, Truth

Role = Literal["train", "validation", "test"]
CLOTHES = (
    *("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
GROUND = "ground"
MOST_ITEMS, MOST_IN_A_CROWD, FEWEST_IN_A_CROWD = 6, 200, 5
LEAST_VISIBLE = 0.3
"""Of an item that is hidden more than this leaves, a box is to be ignored, and a point is not there."""
_SIDE = 28
_N_TEST_DIGITS = 500
_SHARES: dict[Role, tuple[float, float]] = {"train": (0.0, 0.6), "validation": (0.6, 0.8), "test": (0.8, 1.0)}
"""Of the photographs, from left to right; of the items, train and validation share the training part."""
_INK = 40
"""Of an item what is brighter is a pixel of it."""
_BLOCK = 256
"""Scenes whose numbers are drawn together, whichever of them are wanted."""
_AT_ONCE = 512
_N_NUMBERS = 7
_UNIT = 64
"""The side of the image, in pixels, that sizes of items are said for."""


@dataclass(frozen=True)
class Source:
    """What scenes of a part are made of."""

    items: Tensor
    """(n, 28, 28), uint8."""
    classes: Tensor
    """(n,), int64."""
    photographs: tuple[Tensor, ...]
    """(3, height, width) each, uint8: the part's share of every photograph."""
    names: tuple[str, ...]
    """Of the classes."""


@lru_cache(maxsize=6)
def source(role: Role, data_dir: str | None = None) -> Source:
    """Items and ground of a part; no two parts have an item or a pixel of ground in common.

    Fashion-MNIST where it is, else the digits of scikit-learn; the classes' names say which.

    Raises:
        InvalidInputError: If ``data_dir`` is given and Fashion-MNIST is not there.
        MissingExtraError: If scikit-learn or Pillow, which read the photographs, is not installed.
    """
    items, classes, names = _items(role, data_dir)
    with extra_needed("study", "scenes stand in front of photographs of {}, which is not installed"):
        from sklearn.datasets import load_sample_images
    begin, end = _SHARES[role]
    photographs = []
    for picture in load_sample_images().images:
        whole = torch.from_numpy(picture.copy()).permute(2, 0, 1)
        width = whole.shape[2]
        photographs.append(whole[:, :, round(begin * width) : round(end * width)].contiguous())
    return Source(items, classes, tuple(photographs), names)


def draw(indices: Tensor, *, task: str, size: int, role: Role, of: Source) -> Images:
    """Scenes with these numbers, each a function of its number, the part, the task and the size alone.

    Segmentation and detection see the same scenes: 2 to 6 items of 16 to 32 of 64 pixels, later ones over
    earlier ones. To count are 5 to 200, small and dense at the top and larger below, as people are in a
    square.

    Args:
        indices: (n,), int64, from 0.
        task: ``segmentation``, ``detection`` or ``counting``.
        size: Height and width in pixels, at least 32.
        role: Of the part.
        of: What they are made of.

    Returns:
        Images (n, 3, size, size) with their truth.
    """
    if not len(indices):
        one = draw(torch.zeros(1, dtype=torch.int64), task=task, size=size, role=role, of=of)
        return Images(one.pixels[:0], one.labels[:0])
    drawer = _crowd if task == "counting" else _several
    parts = []
    for some in torch.split(indices, _AT_ONCE):
        numbers = _numbers(some, drawer is _crowd, role)
        parts.append(_scenes(drawer(numbers, size, of), numbers, task, size, of))
    pixels = torch.cat([part.pixels for part in parts])
    return Images(pixels.contiguous(memory_format=torch.channels_last), _together([p.labels for p in parts]))


def class_names(task: str, of: Source) -> tuple[str, ...]:
    """What the classes of a task are called."""
    if task == "counting":
        return ("item",)
    return (GROUND, *of.names) if task == "segmentation" else of.names


@dataclass(frozen=True)
class _Items:
    """All items of some scenes, in the order in which they are drawn."""

    scene: Tensor
    """(n,), int64: which scene each is in."""
    which: Tensor
    """(n,), int64: which of the source's."""
    center: Tensor
    """(n, 2), float32: x and y in pixels."""
    side: Tensor
    """(n,), int64, in pixels."""
    tint: Tensor
    """(n, 3), float32: how much of each color, from 0 to 1."""


def _numbers(indices: Tensor, is_crowd: bool, role: Role) -> Tensor:
    """(n, 1 + most items, _N_NUMBERS), uniform from 0 to 1; the first row is the scene's own."""
    most = MOST_IN_A_CROWD if is_crowd else MOST_ITEMS
    blocks = {
        block: torch.rand(
            _BLOCK, 1 + most, _N_NUMBERS, generator=generator_for(f"scenes {role} {most}", block)
        )
        for block in torch.unique(indices // _BLOCK).tolist()
    }
    return torch.stack([blocks[index // _BLOCK][index % _BLOCK] for index in indices.tolist()])


def _several(numbers: Tensor, size: int, of: Source) -> _Items:
    n_items = 2 + (numbers[:, 0, 0] * (MOST_ITEMS - 1)).long()
    scene, place = _present(n_items, MOST_ITEMS)
    own = numbers[scene, 1 + place]
    side = ((16 + 16 * own[:, 0]) * size / _UNIT).round().long()
    return _Items(scene, _one_of(own[:, 1], of), own[:, 2:4] * size, side, 0.35 + 0.65 * own[:, 4:7])


def _crowd(numbers: Tensor, size: int, of: Source) -> _Items:
    """So many that the logarithm is uniform; far ones, at the top, first."""
    ratio = MOST_IN_A_CROWD / FEWEST_IN_A_CROWD
    n_items = (FEWEST_IN_A_CROWD * ratio ** numbers[:, 0, 0]).round().long()
    depths = numbers[:, 1:, 3] ** 1.5  # from 0, far, to 1
    order = depths.masked_fill(torch.arange(MOST_IN_A_CROWD) >= n_items[:, None], 2.0).argsort(dim=1)
    scene, place = _present(n_items, MOST_IN_A_CROWD)
    chosen = order[scene, place]
    own, depth = numbers[scene, 1 + chosen], depths[scene, chosen]
    side = ((3 + 7 * depth + 0.8 * own[:, 0]) * size / _UNIT).round().long()
    center = torch.stack([own[:, 2], 0.08 + 0.84 * depth], dim=1) * size
    return _Items(scene, _one_of(own[:, 1], of), center, side, 0.35 + 0.65 * own[:, 4:7])


def _present(n_items: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """(n,) each: the scene of every item, and its place in it, scene by scene."""
    scene, place = (torch.arange(most) < n_items[:, None]).nonzero(as_tuple=True)
    return scene, place


def _one_of(share: Tensor, of: Source) -> Tensor:
    return (share * len(of.items)).long().clamp(max=len(of.items) - 1)


def _scenes(items: _Items, numbers: Tensor, task: str, size: int, of: Source) -> Images:
    """Draw each item over all that were before it in its scene."""
    n, order = len(numbers), torch.arange(1, len(items.scene) + 1)
    ground = _grounds(numbers[:, 0, 1:5], size, of)
    on_top = torch.zeros(n * size * size, dtype=torch.int64)
    n_inked = torch.zeros(len(order), dtype=torch.int64)
    patches = []
    for side in torch.unique(items.side).tolist():
        chosen = (items.side == side).nonzero().squeeze(1)
        ink = F.interpolate(
            of.items[items.which[chosen]].unsqueeze(1).float(), (side, side), mode="bilinear", antialias=True
        ).squeeze(1)
        corner = (items.center[chosen] - side / 2).round().long()
        x = corner[:, 0, None, None] + torch.arange(side)[None, None, :]
        y = corner[:, 1, None, None] + torch.arange(side)[None, :, None]
        is_inked = ink > _INK
        n_inked[chosen] = is_inked.sum(dim=(1, 2))
        is_drawn = is_inked & (x >= 0) & (x < size) & (y >= 0) & (y < size)
        drawn = is_drawn.flatten().nonzero().squeeze(1)
        item = chosen[drawn // (side * side)]
        at = ((items.scene[chosen][:, None, None] * size + y) * size + x).flatten()[drawn]
        on_top.scatter_reduce_(0, at, order[item], "amax")
        patches.append((item, at, ink.flatten()[drawn]))
    colors = ground.permute(1, 0, 2, 3).reshape(3, -1)
    for item, at, ink in patches:
        wins = (on_top[at] == order[item]).nonzero().squeeze(1)
        colors[:, at[wins]] = (items.tint[item[wins]] * ink[wins, None]).to(torch.uint8).t()
    pixels = colors.reshape(3, n, size, size).permute(1, 0, 2, 3)
    return Images(pixels, _truth(items, on_top, n_inked, n, task, size, of))


def _truth(items: _Items, on_top: Tensor, n_inked: Tensor, n: int, task: str, size: int, of: Source) -> Truth:
    classes = of.classes[items.which]
    if task == "segmentation":
        of_items = torch.cat([torch.zeros(1, dtype=torch.uint8), (classes + 1).to(torch.uint8)])
        return of_items[on_top].view(n, size, size)
    n_visible = torch.bincount(on_top, minlength=len(classes) + 1)[1:]
    is_visible = n_visible >= LEAST_VISIBLE * n_inked
    if task == "counting":
        kept = is_visible & (items.center >= 0).all(dim=1) & (items.center < size).all(dim=1)
        return Ragged(items.center[kept], torch.bincount(items.scene[kept], minlength=n))
    at = on_top.nonzero().squeeze(1)
    item, x, y = on_top[at] - 1, at % size, at // size % size
    sides = [
        torch.full((len(classes),), start).scatter_reduce(0, item, value, reduction)
        for value, start, reduction in (
            (x, size, "amin"),
            (y, size, "amin"),
            (x + 1, 0, "amax"),
            (y + 1, 0, "amax"),
        )
    ]
    rows = torch.stack([*sides, classes, (~is_visible).long()], dim=1).float()
    seen = n_visible > 0
    return Ragged(rows[seen], torch.bincount(items.scene[seen], minlength=n))


def _grounds(numbers: Tensor, size: int, of: Source) -> Tensor:
    """(n, 3, size, size), uint8: a place of a photograph for each, more or less light."""
    grounds = torch.empty(len(numbers), 3, size, size)
    for index, (which, along, down, light) in enumerate(numbers.tolist()):
        photograph = _enlarged(of.photographs[int(which * len(of.photographs))], size)
        y, x = (
            int(share * (side - size + 1))
            for share, side in zip((down, along), photograph.shape[1:], strict=True)
        )
        torch.mul(photograph[:, y : y + size, x : x + size], 0.4 + 0.5 * light, out=grounds[index])
    return grounds.to(torch.uint8)


@lru_cache(maxsize=16)
def _enlarged(photograph: Tensor, size: int) -> Tensor:
    """(3, height, width), float32, at least as large as a scene."""
    scale = max(1.0, size / min(photograph.shape[1:]))
    if scale == 1.0:
        return photograph.float()
    return F.interpolate(photograph[None].float(), scale_factor=scale * 1.001, mode="bilinear")[0]


def _items(role: Role, data_dir: str | None) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    try:
        arrays = fashion_mnist.read(fashion_mnist.locate(data_dir))
    except InvalidInputError:
        if data_dir is not None:
            raise
        return _digits(role)
    part = "test" if role == "test" else "train"
    pixels, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"].long()
    if role != "test":
        n_train = round(len(pixels) * 5 / 6)
        some = slice(n_train) if role == "train" else slice(n_train, None)
        pixels, labels = pixels[some], labels[some]
    return pixels, labels, CLOTHES


def _digits(role: Role) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    everything = digits.read()
    n = len(everything) - _N_TEST_DIGITS
    some = {"train": slice(n * 5 // 6), "validation": slice(n * 5 // 6, n), "test": slice(n, None)}[role]
    small = everything.pixels[some].unsqueeze(1).float()
    scaled = F.interpolate(small * (255 / max(1.0, float(small.max()))), (_SIDE, _SIDE), mode="bilinear")
    return scaled.squeeze(1).round().to(torch.uint8), everything.classes[some], tuple("0123456789")


def _together(parts: Sequence[Truth]) -> Truth:
    if isinstance(parts[0], Ragged):
        ragged = [part for part in parts if isinstance(part, Ragged)]
        return Ragged(torch.cat([one.rows for one in ragged]), torch.cat([one.counts for one in ragged]))
    return torch.cat([part for part in parts if isinstance(part, Tensor)])
