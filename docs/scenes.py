"""Draws the picture of scenes in data.md: python docs/scenes.py"""

from pathlib import Path

import torch
from PIL import Image, ImageDraw

from decayfree.study.data import scenes
from decayfree.study.data.images import Images
from decayfree.study.data.truth import Ragged
from decayfree.study.training.examples import CLASS_COLORS

SIDE, SCALE, N, GAP = 64, 2, 8, 4
TARGET = Path(__file__).parent / "pictures" / "scenes.png"


def main() -> None:
    """A row of images and a row of what is true of them for each task, but for detection's images."""
    source = scenes.source("train")
    parts = {
        task: scenes.draw(torch.arange(N), task=task, size=SIDE, role="train", of=source)
        for task in ("segmentation", "detection", "counting")
    }
    rows = [_plain(parts["segmentation"]), *map(_explained, parts.values())]
    step = SIDE * SCALE + GAP
    picture = Image.new("RGB", (N * step - GAP, len(rows) * step - GAP), "white")
    for down, row in enumerate(rows):
        for along, tile in enumerate(row):
            picture.paste(tile, (along * step, down * step))
    picture.quantize(256).save(TARGET, optimize=True)


def _plain(images: Images) -> list[Image.Image]:
    size = (SIDE * SCALE, SIDE * SCALE)
    return [
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize(size, Image.Resampling.NEAREST)
        for pixels in images.pixels
    ]


def _explained(images: Images) -> list[Image.Image]:
    tiles = _plain(images)
    if not isinstance(images.labels, Ragged):
        colors = torch.tensor([color[:3] for color in CLASS_COLORS], dtype=torch.uint8)
        masks = [Image.fromarray(colors[mask.long()].numpy()) for mask in images.labels]
        return [
            mask.resize(tile.size, Image.Resampling.NEAREST) for mask, tile in zip(masks, tiles, strict=True)
        ]
    for tile, rows in zip(tiles, images.labels.split(), strict=True):
        pen = ImageDraw.Draw(tile)
        for row in (SCALE * rows).tolist():
            if len(row) > 2:
                pen.rectangle(row[:4], outline="red" if row[5] else "yellow")
            else:
                pen.ellipse([row[0] - 2, row[1] - 2, row[0] + 2, row[1] + 2], fill="yellow")
    return tiles


if __name__ == "__main__":
    main()
