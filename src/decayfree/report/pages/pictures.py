"""Some test images as people look at them: what is true of them, and what each method's network says.

Chooses images by a rule over all methods, and draws nothing: it gives the template pictures and shapes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decayfree.report.numbers.groups import StudyGroups
from decayfree.report.numbers.series import Cell
from decayfree.report.tables.metrics import standing
from decayfree.report.words.wording import count, significant
from decayfree.study.files.results import Run

RANKS = ("Best", "Median", "Worst")
NOTE = (
    "The same images for all methods, chosen by what they add to the score, mean over the methods: the "
    "highest, the middle and the lowest of the first {} test images. Each method is shown by its first seed."
)
OF_BOXES = (
    " Of the boxes of a network those are drawn that it is surest of, at most as many as there are true ones "
    "that are scored, or one where there are none; dashed ones are not scored."
)
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_SHADES = 36  # degrees of hue from class to class


@dataclass(frozen=True)
class Picture:
    """An image with what lies over it.

    Args:
        caption: Who says so.
        text: What is said in words, empty where the shapes say it.
        image: PNG in base64.
        layer: The same, over it; empty without.
        boxes: x, y, width, height in pixels, hue in degrees, and whether the line is dashed.
        points: x, y in pixels.
    """

    caption: str
    text: str
    image: str
    layer: str
    boxes: Sequence[tuple[float, float, float, float, int, bool]]
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Ranked:
    """One image: what is true, then what each method says."""

    title: str
    width: int
    height: int
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Shown:
    """The images of a group."""

    label: str
    images: Sequence[Ranked]


def pictures(numbers: StudyGroups) -> list[Shown]:
    """Of every group whose runs kept examples."""
    return [shown for group in numbers.groups if (shown := _shown(numbers, group.label))]


def pictures_note(numbers: StudyGroups) -> str:
    """By which rule images were chosen."""
    runs = [run for _, _, cell in standing(numbers) if (run := _first(cell))]
    has_boxes = any("boxes" in said for run in runs for said in run.rows[-1].test_examples["said"])
    return NOTE.format(min((_n_examples(run) for run in runs), default=0)) + OF_BOXES * has_boxes


def _shown(numbers: StudyGroups, label: str) -> Shown | None:
    found = [(name, cell) for group, name, cell in standing(numbers) if group.label == label]
    runs = {name: (cell, run) for name, cell in found if (run := _first(cell))}
    if not runs:
        return None
    n = min(_n_examples(run) for _, run in runs.values())
    values = [sum(float(cell.of_images[run.seed][at]) for cell, run in runs.values()) for at in range(n)]
    order = sorted(range(n), key=lambda at: values[at], reverse=True)
    chosen = dict(zip(RANKS, (order[0], order[n // 2], order[-1]), strict=True))
    first = next(iter(runs.values()))[1].rows[-1].test_examples
    height, width = (int(side) for side in first["size"])
    return Shown(
        label,
        [
            Ranked(
                title,
                width,
                height,
                [
                    _picture("Truth", first, first["truth"][at], at),
                    *(
                        _picture(name, first, _surest(run.rows[-1].test_examples, at), at)
                        for name, (_, run) in runs.items()
                    ),
                ],
            )
            for title, at in chosen.items()
        ],
    )


def _first(cell: Cell) -> Run | None:
    """Of the lowest seed that kept examples, and what they add to the score."""
    kept = [seed for seed, run in cell.runs.items() if _n_examples(run) and seed in cell.of_images]
    return cell.runs[min(kept)] if kept else None


def _n_examples(run: Run) -> int:
    return len(run.rows[-1].test_examples.get("images", ()))


def _surest(examples: Mapping[str, Any], at: int) -> Mapping[str, Any]:
    """What was said of an image, with no more boxes than are true there and scored, or one."""
    said: Mapping[str, Any] = examples["said"][at]
    if "boxes" not in said:
        return said
    n_true = sum(not ignored for *_, ignored in examples["truth"][at]["boxes"])
    return {"boxes": said["boxes"][: max(n_true, 1)]}


def _picture(caption: str, examples: Mapping[str, Any], said: Mapping[str, Any], at: int) -> Picture:
    boxes = [
        (x1, y1, x2 - x1, y2 - y1, int(of_class) * _SHADES % 360, caption == "Truth" and last > 0)
        for x1, y1, x2, y2, of_class, last in said.get("boxes", ())
    ]
    points = [(float(x), float(y)) for x, y in said.get("points", ())]
    text = ""
    if "points" in said:
        text = count(len(points), "item")
    elif "count" in said:
        text = f"{significant(float(said['count']))} items"
    layer = said.get("mask") or said.get("density") or ""
    return Picture(caption, text, _png(examples["images"][at]), _png(layer), boxes, points)


def _png(text: str) -> str:
    """What can stand in an address as it is; nothing else does."""
    return text if _BASE64.fullmatch(text) else ""
