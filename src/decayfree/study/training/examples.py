"""The first test images as pictures, with what is true of them and what the network says, for people.

Chooses none of them: the page does, by a rule over all methods.
"""

import base64
import colorsys
import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from decayfree.errors import extra_needed
from decayfree.study.data.images import Images
from decayfree.study.data.truth import IGNORED, Ragged, Truth

N_EXAMPLES = 12
"""So many at most: a picture of 64×64 pixels takes ten thousand bytes."""
MAX_BOXES = 30
"""Of an image, those of the highest scores."""
_N_NUMBERS_OF_A_BOX = 6
_HIGHEST = 255


def examples_of(images: Images, predictions: Tensor | Ragged | None) -> dict[str, Any]:
    """Lists of equal length, ready for JSON; empty where there are no predictions.

    Args:
        images: As they are stored, with their truth.
        predictions: Of all of them, as a task's `Score` has them.

    Returns:
        ``size``: height and width. ``images``: PNG in base64. ``truth`` and ``said``, of each one of:
        ``mask``, a PNG with a color for each class but the ground, which is transparent; ``boxes``, rows x₁,
        y₁, x₂, y₂ in pixels, class, and 1 where it is to be ignored or, of what was said, the score, the
        highest first; ``points``, rows x, y; ``density``, a PNG that is the brighter and the less transparent
        the more there is, with the sum, ``count``.
    """
    if predictions is None:
        return {}
    first = slice(min(N_EXAMPLES, len(images)))
    height, width = images.pixels.shape[-2:]
    return {
        "size": [height, width],
        "images": [_png(pixels) for pixels in images.pixels[first]],
        "truth": _told(images.labels[first]),
        "said": _told(predictions[first], is_said=True),
    }


def _told(truth: Truth, *, is_said: bool = False) -> list[dict[str, Any]]:
    if isinstance(truth, Ragged):
        return [_rows(rows.cpu(), is_said=is_said) for rows in truth.split()]
    if truth.dtype == torch.uint8:
        return [{"mask": _png(mask, CLASS_COLORS)} for mask in truth]
    return [
        {
            "density": _png(_brightest_at_the_top(density.cpu()), _DENSITIES),
            "count": round(float(density.sum()), 2),
        }
        for density in truth
    ]


def _rows(rows: Tensor, *, is_said: bool) -> dict[str, Any]:
    if rows.shape[1] != _N_NUMBERS_OF_A_BOX:
        return {"points": _rounded(rows)}
    if is_said:
        rows = rows[rows[:, 5].argsort(descending=True, stable=True)[:MAX_BOXES]]
    return {"boxes": _rounded(rows)}


def _rounded(rows: Tensor) -> list[list[float]]:
    return [[round(number, 2) for number in row] for row in rows.tolist()]


def _brightest_at_the_top(density: Tensor) -> Tensor:
    density = density.clamp(min=0)
    return (density * (_HIGHEST / density.max().clamp(min=1e-12))).round().to(torch.uint8)


def _png(pixels: Tensor, palette: Sequence[tuple[int, int, int, int]] = ()) -> str:
    """(height, width) or (3, height, width), uint8, as a picture in base64.

    With a palette numbers are places in it, of red, green, blue and opacity.
    """
    with extra_needed("study", "pictures are written with Pillow, which is not installed"):
        from PIL import Image
    array = (pixels.permute(1, 2, 0) if pixels.ndim == 3 else pixels).contiguous().cpu().numpy()
    picture = Image.fromarray(array)
    options: dict[str, Any] = {}
    if palette:
        picture.putpalette([number for color in palette for number in color[:3]])
        options["transparency"] = bytes(color[3] for color in palette)
    written = io.BytesIO()
    picture.save(written, format="png", optimize=True, **options)
    return base64.b64encode(written.getvalue()).decode()


def _color(of_class: int) -> tuple[int, int, int, int]:
    """The hue of boxes of this class on pages."""
    red, green, blue = colorsys.hls_to_rgb((of_class - 1) * 0.1 % 1, 0.55, 0.95)
    return round(red * _HIGHEST), round(green * _HIGHEST), round(blue * _HIGHEST), 170


_GROUND, _UNKNOWN = (0, 0, 0, 0), (128, 128, 128, 220)
CLASS_COLORS = (_GROUND, *map(_color, range(1, IGNORED)), _UNKNOWN)
_DENSITIES = tuple((_HIGHEST, 210 - value * 2 // 3, 40, min(230, value)) for value in range(_HIGHEST + 1))
