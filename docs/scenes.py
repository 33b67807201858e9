"""Draw docs/pictures/scenes.png: scenes as segmentation, detection and counting see them.

python docs/scenes.py
"""

from pathlib import Path

import torch
from PIL import Image, ImageDraw

from decayfree.study import DataSpec
from decayfree.study.data import Images, load

PICTURE = Path(__file__).parent / "pictures" / "scenes.png"
SIZE, SCALE, N_SCENES, GAP = 64, 3, 5, 6
COLORS = (
    *("#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#edc948", "#b07aa1", "#ff9da7", "#9c755f"),
    "#bab0ac",
)


def main() -> None:
    """A row of scenes, their masks, the same with boxes, and a row of crowds with points."""
    spec = DataSpec("scenes", n_train=N_SCENES, n_test=1, image_size=SIZE)
    masked, boxed, counted = (
        load(spec, task=task).train for task in ("segmentation", "detection", "counting")
    )
    rows = [
        [enlarged(pixels) for pixels in masked.pixels],
        [mask_picture(mask) for mask in masked.labels],
        with_boxes(boxed),
        with_points(counted),
    ]
    step = SIZE * SCALE + GAP
    sheet = Image.new("RGB", (N_SCENES * step - GAP, len(rows) * step - GAP), "white")
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (column * step, row * step))
    sheet.quantize(256).save(PICTURE, optimize=True)
    print(f"{PICTURE.name}: {PICTURE.stat().st_size / 1000:.0f} kB")


def enlarged(pixels: torch.Tensor) -> Image.Image:
    """(3, size, size), uint8."""
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    return image.resize((SIZE * SCALE, SIZE * SCALE), Image.Resampling.NEAREST)


def mask_picture(mask: torch.Tensor) -> Image.Image:
    """Ground is white, each class has its color."""
    palette = torch.tensor([[255, 255, 255], *(list(bytes.fromhex(color[1:])) for color in COLORS)])
    return enlarged(palette[mask.long()].to(torch.uint8).permute(2, 0, 1))


def with_boxes(part: Images) -> list[Image.Image]:
    """Boxes in the color of their class; those that are ignored are white."""
    pictures = []
    for pixels, rows in zip(part.pixels, part.labels.split(), strict=True):
        picture = enlarged(pixels)
        pen = ImageDraw.Draw(picture)
        for x1, y1, x2, y2, label, is_ignored in rows.tolist():
            corners = (x1 * SCALE, y1 * SCALE, x2 * SCALE - 1, y2 * SCALE - 1)
            pen.rectangle(corners, outline="white" if is_ignored else COLORS[int(label)], width=2)
        pictures.append(picture)
    return pictures


def with_points(part: Images) -> list[Image.Image]:
    """A red dot for each item that is counted."""
    pictures = []
    for pixels, rows in zip(part.pixels, part.labels.split(), strict=True):
        picture = enlarged(pixels)
        pen = ImageDraw.Draw(picture)
        for x, y in rows.tolist():
            pen.ellipse((x * SCALE - 2, y * SCALE - 2, x * SCALE + 2, y * SCALE + 2), fill="#ff2020")
        pictures.append(picture)
    return pictures


if __name__ == "__main__":
    main()
