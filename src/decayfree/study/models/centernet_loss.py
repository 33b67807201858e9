"""What each location of CenterNet should say, and how far what it says is from that.

Knows no network. Boxes of all images are laid on the map at once.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SIZE_WEIGHT, OFFSET_WEIGHT = 0.1, 1.0
_LEAST_OVERLAP = 0.3
"""Boxes whose corners lie in the Gaussian's radius have at least this IoU with the true one; CornerNet's."""
_ALPHA, _BETA = 2, 4
"""Exponents of the focal loss."""


def centernet_losses(
    said: Mapping[str, Tensor], stride: int, targets: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """The paper's three losses of a batch, each (), of which the sum is trained with.

    All are over the number of boxes: a focal loss of the class map that is weaker near to a middle, and the
    L1 distance of sizes, in pixels, and offsets, in strides, at the middles. Those two have their weights.

    Args:
        said: What `centernet.Head` gives: class_logits, size, offset.
        stride: Pixels of the image from one location to the next.
        targets: Boxes and labels from 1 of each image; locations inside its ignored boxes learn no class,
            unless a box has its middle there.

    References:
        Zhou, Wang, Krähenbühl, "Objects as Points", 2019, arXiv 1904.07850, Eq. 1 to 4.
    """
    logits = said["class_logits"]
    rows, columns = logits.shape[-2:]
    wanted = class_maps(targets, stride, n_classes=logits.shape[1], map_size=(rows, columns))
    is_middle = wanted == 1
    is_learned = is_middle | ~_inside_ignored(targets, stride, (rows, columns))[:, None]
    probability = logits.sigmoid()
    of_middles = (1 - probability) ** _ALPHA * F.logsigmoid(logits)
    of_others = (1 - wanted) ** _BETA * probability**_ALPHA * F.logsigmoid(-logits)
    focal = -torch.where(is_middle, of_middles, of_others)

    boxes = torch.cat([one["boxes"] for one in targets])
    n_boxes = max(len(boxes), 1)
    counts = torch.tensor([len(one["boxes"]) for one in targets], device=boxes.device)
    image = torch.arange(len(targets), device=boxes.device).repeat_interleave(counts)
    middles = _middles(boxes) / stride
    column, row = _locations(middles, (rows, columns)).unbind(dim=1)
    sizes = said["size"][image, :, row, column]
    offsets = said["offset"][image, :, row, column]
    wanted_offsets = middles - torch.stack([column, row], dim=1)
    return {
        "classification": (focal * is_learned).sum() / n_boxes,
        "size": SIZE_WEIGHT * (sizes - (boxes[:, 2:] - boxes[:, :2])).abs().sum() / n_boxes,
        "offset": OFFSET_WEIGHT * (offsets - wanted_offsets).abs().sum() / n_boxes,
    }


def class_maps(
    targets: Sequence[Mapping[str, Tensor]], stride: int, *, n_classes: int, map_size: tuple[int, int]
) -> Tensor:
    """For each box a Gaussian around its middle's location, where it is exactly 1; the larger of two counts.

    Args:
        targets: Boxes in pixels and labels from 1 of each image.
        stride: Pixels of the image from one location to the next.
        n_classes: Of how many classes there are maps.
        map_size: Rows and columns.

    Returns:
        (n_images, n_classes, rows, columns), float32, from 0 to 1.
    """
    rows, columns = map_size
    pad = torch.nn.utils.rnn.pad_sequence
    boxes = pad([one["boxes"] for one in targets], batch_first=True) / stride
    # Without a box, and for what is filled up, 0: a class that is cut off at the end.
    labels = pad([one["labels"] for one in targets], batch_first=True)
    deviation = (2 * gaussian_radius(boxes[..., 2:] - boxes[..., :2]) + 1)[..., None] / 6
    middles = _locations(_middles(boxes), map_size)
    across, down = (
        torch.exp(-0.5 * ((torch.arange(n, device=boxes.device) - middles[..., axis, None]) / deviation) ** 2)
        for axis, n in ((0, columns), (1, rows))
    )
    each = down[..., :, None] * across[..., None, :]  # (n_images, n_most, rows, columns)
    maps = boxes.new_zeros(len(targets), n_classes + 1, rows, columns)
    maps = maps.scatter_reduce(1, labels[..., None, None].expand_as(each), each, "amax")
    return maps[:, 1:]


def gaussian_radius(sizes: Tensor) -> Tensor:
    """So far corners of a box may be off for an IoU of at least 0.3.

    Of all boxes whose corners are off by at most r in both directions, the one with both corners moved
    inwards has the least IoU, (w − 2r)(h − 2r)/(wh). This is the least overlap t where
    4r² − 2(w + h)r + (1 − t)wh = 0. The published code asks for an IoU of 0.7, but takes other roots: for
    squares it comes to a radius that is larger than this one by a fifth.

    Args:
        sizes: (…, 2), widths and heights.

    Returns:
        (…,), in the same unit.

    References:
        Law, Deng, "CornerNet: Detecting Objects as Paired Keypoints", 2018, arXiv 1808.01244, Section 3.2.
    """
    half_sum, area = sizes.sum(dim=-1) / 2, sizes.prod(dim=-1)
    return (half_sum - (half_sum**2 - (1 - _LEAST_OVERLAP) * area).clamp(min=0).sqrt()) / 2


def _middles(boxes: Tensor) -> Tensor:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def _locations(middles: Tensor, map_size: tuple[int, int]) -> Tensor:
    """Column and row of the location in which a middle lies, in strides; the nearest for one outside."""
    limit = torch.tensor([map_size[1] - 1, map_size[0] - 1], device=middles.device)
    return torch.minimum(middles.floor().long().clamp(min=0), limit)


def _inside_ignored(
    targets: Sequence[Mapping[str, Tensor]], stride: int, map_size: tuple[int, int]
) -> Tensor:
    """Whether a location's middle is in an ignored box, (n_images, rows, columns)."""
    inside = []
    for one in targets:
        ignored = one.get("ignored", one["boxes"][:0])
        y, x = ((torch.arange(n, device=ignored.device) + 0.5) * stride for n in map_size)
        across = (x > ignored[:, :1]) & (x < ignored[:, 2:3])
        down = (y > ignored[:, 1:2]) & (y < ignored[:, 3:])
        inside.append((down[:, :, None] & across[:, None, :]).any(dim=0))
    return torch.stack(inside)
