"""Four images of 32×32 pixels with two bright squares each, and what is true of them for every task."""

import torch
from torch import Tensor

from decayfree.study.data.truth import Ragged, Truth

N_CLASSES = {"segmentation": 3, "detection": 2, "counting": 1}


def scenes(task: str, *, n: int = 4) -> tuple[Tensor, Truth]:
    """Inputs (n, 3, 32, 32), and the truth: a red square of 8 pixels to the left, a green one of 10."""
    images = 0.3 * torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(n, 32, 32, dtype=torch.uint8)
    boxes = []
    for image in range(n):
        for label, side in enumerate((8, 10)):
            left, top = 4 + 14 * label + image % 2, 3 + 4 * (image % 4)
            images[image, label, top : top + side, left : left + side] += 2
            masks[image, top : top + side, left : left + side] = label + 1
            boxes.append([left, top, left + side, top + side, label, 0])
    rows = torch.tensor(boxes, dtype=torch.float32)
    counts = torch.full((n,), 2)
    if task == "segmentation":
        return images, masks
    if task == "detection":
        return images, Ragged(rows, counts)
    return images, Ragged((rows[:, :2] + rows[:, 2:4]) / 2, counts)
