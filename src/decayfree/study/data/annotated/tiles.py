"""One picture with a number for each object, cut into tiles that are images by themselves.

Reads no files. An object lies in every tile that has some of it; where a tile has less than 30 % of it, its
box is ignored. A point lies in the tile that has the object's center.
"""

import torch
from torch import Tensor

from decayfree.errors import extra_needed
from decayfree.study.data.annotated.bringing import brought
from decayfree.study.data.images import Images
from decayfree.study.run_settings import TaskName

_VISIBLE_PERCENT = 30


def tiles(
    picture: Tensor, objects: Tensor, *, grid: tuple[int, int], size: int, task: TaskName
) -> tuple[Images, Images]:
    """The tiles to train on and those to test with, which are the last column.

    Args:
        picture: (height, width), uint8.
        objects: (height, width), int64: 0 for ground, a number for each object.
        grid: How many rows and columns of tiles.
        size: Height and width to which they are brought, in pixels.
        task: ``detection`` or ``counting``.

    Raises:
        MissingExtraError: If Pillow, which resizes, is not installed.
    """
    n_rows, n_columns = grid
    height, width = picture.shape[0] // n_rows, picture.shape[1] // n_columns
    corners = [(row * height, column * width) for column in range(n_columns) for row in range(n_rows)]
    _, points, areas = _around(objects)
    pixels, rows = [], []
    for top, left in corners:
        inside = (slice(top, top + height), slice(left, left + width))
        pixels.append(_resized(picture[inside], size))
        shift = torch.tensor([left, top])
        if task == "counting":
            own = points - shift
            rows.append(own[((own >= 0) & (own < torch.tensor([width, height]))).all(1)])
        else:
            rows.append(_seen(objects[inside], areas))
    sizes = torch.tensor([[width, height]] * len(corners))
    truth, _ = brought(rows, sizes, in_shares=False, size=size, name="")
    stacked, n_train = torch.stack(pixels), (n_columns - 1) * n_rows
    return (
        Images(stacked[:n_train], truth[:n_train]),
        Images(stacked[n_train:], truth[n_train:]),
    )


def _seen(objects: Tensor, areas: Tensor) -> Tensor:
    """(n, 6), float32: boxes around what a tile has of each object."""
    boxes, _, seen = _around(objects, n_numbers=len(areas))
    is_hidden = 100 * seen < _VISIBLE_PERCENT * areas
    rows = torch.cat([boxes, torch.zeros(len(areas), 1), is_hidden[:, None]], dim=1)
    return rows[seen > 0].float()


def _around(objects: Tensor, n_numbers: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Of objects 1, 2, ...: boxes (n, 4), middles of their pixels (n, 2), and numbers of pixels (n,)."""
    n_objects = int(objects.max()) if n_numbers is None else n_numbers
    y, x = objects.nonzero(as_tuple=True)
    number = objects[y, x] - 1
    area = number.bincount(minlength=n_objects)
    first = [torch.full((n_objects,), 1 << 20).scatter_reduce_(0, number, at, "amin") for at in (x, y)]
    last = [torch.full((n_objects,), -1).scatter_reduce_(0, number, at, "amax") + 1 for at in (x, y)]
    sums = [number.bincount(weights=at.double() + 0.5, minlength=n_objects) for at in (x, y)]
    return torch.stack([*first, *last], 1), torch.stack(sums, 1) / area.clamp(min=1)[:, None], area


def _resized(tile: Tensor, size: int) -> Tensor:
    with extra_needed("study", "images are resized with Pillow, which is not installed"):
        from PIL import Image
    image = Image.fromarray(tile.contiguous().numpy()).resize((size, size), Image.Resampling.BILINEAR)
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(size, size)
