"""What each location of TTFNet should say, and how far what it says is from that.

Knows no network. Boxes of all images are laid on the map at once.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from decayfree.study.models.detector import Locations, padded
from decayfree.study.models.libraries import import_extra

BOX_WEIGHT = 5.0
_EXTENT = 0.54
"""A Gaussian has a sixth of so much of a box for its standard deviation."""
_LEAST = 0.01
"""Locations where a box's Gaussian is at least so large learn its sides."""
_ALPHA, _BETA = 2, 4
"""Exponents of the focal loss."""


def ttfnet_losses(
    said: Mapping[str, Tensor], stride: int, targets: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """The paper's two losses of a batch, each (), of which the sum is trained with.

    A focal loss of the class map, over the number of boxes, that is weaker near to a middle; and 1 − GIoU at
    all locations around a middle, of which each box weighs by the logarithm of its area in all, and each of
    its locations by the box's Gaussian. Where Gaussians meet, a location learns the smaller box.

    Args:
        said: What `ttfnet.Head` gives: class_logits, sides.
        stride: Pixels of the image from one location to the next.
        targets: Boxes and labels from 1 of each image; locations inside its ignored boxes learn no class,
            unless a box has its middle there.

    References:
        Liu et al., 2019, arXiv 1909.00700, Eq. 1 to 7. Rezatofighi et al., "Generalized Intersection over
        Union", 2019, arXiv 1902.09630.
    """
    ops = import_extra("torchvision.ops")
    logits = said["class_logits"]
    boxes, labels = padded(targets)
    gaussians = gaussians_of(boxes, stride, (logits.shape[-2], logits.shape[-1]))
    wanted = class_maps(gaussians, labels, n_classes=logits.shape[1])
    is_middle = wanted == 1
    is_ignored = Locations.of([(stride, logits)]).inside_ignored(targets)
    is_learned = is_middle | ~is_ignored.unflatten(1, (1, *logits.shape[-2:]))
    probability = logits.sigmoid()
    of_middles = (1 - probability) ** _ALPHA * F.logsigmoid(logits)
    of_others = (1 - wanted) ** _BETA * probability**_ALPHA * F.logsigmoid(-logits)
    focal = -torch.where(is_middle, of_middles, of_others)

    area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)
    is_near = (gaussians >= _LEAST) & (labels > 0)[..., None, None]
    smallest, owner = torch.where(is_near, area[..., None, None], torch.inf).min(dim=1)
    is_own = is_near & (owner[:, None] == torch.arange(boxes.shape[1], device=boxes.device)[:, None, None])
    of_each = gaussians * is_own
    # A box of a pixel still counts.
    importance = (1 + area).log()[..., None, None] / of_each.sum(dim=(2, 3), keepdim=True).clamp(min=1e-6)
    weights = (of_each * importance).sum(dim=1)
    at = smallest.isfinite()
    image = torch.arange(len(boxes), device=boxes.device)[:, None, None].expand_as(owner)
    overlap_loss = ops.generalized_box_iou_loss(
        boxes_of(said["sides"], stride)[at], boxes[image[at], owner[at]]
    )
    return {
        "classification": (focal * is_learned).sum() / max(sum(len(one["boxes"]) for one in targets), 1),
        "boxes": BOX_WEIGHT * (overlap_loss * weights[at]).sum() / weights.sum().clamp(min=1e-6),
    }


def boxes_of(sides: Tensor, stride: int) -> Tensor:
    """Boxes in pixels, (…, rows, columns, 4), of logarithms of distances in strides, (…, 4, rows, cols)."""
    boxes = Locations.of([(stride, sides)]).boxes(sides.flatten(-2).movedim(-2, -1))
    return boxes.view(*boxes.shape[:-2], *sides.shape[-2:], 4)


def gaussians_of(boxes: Tensor, stride: int, map_size: tuple[int, int]) -> Tensor:
    """For each box a Gaussian around its middle's location, where it is exactly 1.

    Args:
        boxes: (n, n_most, 4), in pixels.
        stride: Pixels of the image from one location to the next.
        map_size: Rows and columns.

    Returns:
        (n, n_most, rows, columns), from 0 to 1.
    """
    deviation = ((boxes[..., 2:] - boxes[..., :2]) / stride * _EXTENT / 6).clamp(min=1e-3)
    middles = _locations((boxes[..., :2] + boxes[..., 2:]) / 2 / stride, map_size)
    across, down = (
        torch.exp(
            -0.5
            * ((torch.arange(n, device=boxes.device) - middles[..., axis, None]) / deviation[..., axis, None])
            ** 2
        )
        for axis, n in ((0, map_size[1]), (1, map_size[0]))
    )
    return down[..., :, None] * across[..., None, :]


def class_maps(gaussians: Tensor, labels: Tensor, *, n_classes: int) -> Tensor:
    """Of the boxes of each class the largest Gaussian at each location, (n, n_classes, rows, columns).

    Args:
        gaussians: (n, n_most, rows, columns).
        labels: (n, n_most), from 1; 0 for none.
        n_classes: Of how many classes there are maps.
    """
    maps = gaussians.new_zeros(len(labels), n_classes + 1, *gaussians.shape[2:])
    return maps.scatter_reduce(1, labels[..., None, None].expand_as(gaussians), gaussians, "amax")[:, 1:]


def _locations(middles: Tensor, map_size: tuple[int, int]) -> Tensor:
    """Column and row of the location in which a middle lies, in strides; the nearest for one outside."""
    limit = torch.tensor([map_size[1] - 1, map_size[0] - 1], device=middles.device)
    return torch.minimum(middles.floor().long().clamp(min=0), limit)
