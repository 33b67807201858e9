"""What each location of FCOS should say, and how far what it says is from that.

Knows no network. Locations of all levels and images are compared with all boxes at once.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from decayfree.study.models.detector import Locations, padded, to_sides
from decayfree.study.models.libraries import import_extra

_RADIUS = 1.5
"""A location is of a box if it is within so many strides of the middle of the box."""
_MOST_STRIDES = 8
"""A location's largest distance to a side is between half of so many strides and as many."""


def fcos_losses(
    said: Mapping[str, Tensor], locations: Locations, targets: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """The paper's three losses of a batch, each (), of which the sum is trained with.

    Classes by the focal loss over the number of locations that have a box; boxes by 1 − GIoU, weighted by how
    central a location is; centerness by binary cross-entropy over those locations.

    Args:
        said: What `fcos.Head` gives: class_logits, boxes, centerness.
        locations: Where the network's locations are.
        targets: Boxes and labels from 1 of each image; locations inside its ignored boxes learn no class.

    References:
        Tian et al., 2019, arXiv 1904.01355, Sections 3.1 to 3.3. Lin et al., "Focal Loss for Dense Object
        Detection", 2017, arXiv 1708.02002, Eq. 5. Rezatofighi et al., "Generalized Intersection over Union",
        2019, arXiv 1902.09630.
    """
    ops = import_extra("torchvision.ops")
    logits, centerness = said["class_logits"], said["centerness"].squeeze(2)
    boxes, labels = padded(targets)
    chosen = _chosen(boxes, labels, locations)  # (n, n_locations), -1 for none
    has_box = chosen >= 0
    image = torch.arange(len(chosen), device=chosen.device)[:, None]
    wanted = torch.where(has_box, labels[image, chosen.clamp(min=0)], 0)
    classes = F.one_hot(wanted, logits.shape[2] + 1)[:, :, 1:].to(logits)
    focal = ops.sigmoid_focal_loss(logits, classes).sum(dim=2)
    is_learned = has_box | ~locations.inside_ignored(targets)
    n_with_box = has_box.sum().clamp(min=1)

    true_boxes = boxes[image, chosen.clamp(min=0)][has_box]
    at = locations.centers.expand(*chosen.shape, 2)[has_box]
    central = _centerness(to_sides(at, true_boxes))
    overlap_loss = ops.generalized_box_iou_loss(locations.boxes(said["boxes"])[has_box], true_boxes)
    return {
        "classification": (focal * is_learned).sum() / n_with_box,
        "boxes": (overlap_loss * central).sum() / central.sum().clamp(min=1e-6),
        "centerness": F.binary_cross_entropy_with_logits(centerness[has_box], central, reduction="sum")
        / n_with_box,
    }


def _chosen(boxes: Tensor, labels: Tensor, locations: Locations) -> Tensor:
    """Of each location the smallest box that is its own, (n, n_locations), -1 where there is none."""
    stride = locations.strides[:, None]
    distances = to_sides(locations.centers[:, None], boxes[:, None])  # (n, n_locations, n_most, 4)
    from_middle = (locations.centers[:, None] - (boxes[:, None, :, :2] + boxes[:, None, :, 2:]) / 2).abs()
    largest = distances.amax(dim=3)
    # The finest level has all that are smaller as well, the coarsest all that are larger.
    least = torch.where(stride == stride.min(), 0.0, stride * _MOST_STRIDES / 2)
    most = torch.where(stride == stride.max(), torch.inf, stride * _MOST_STRIDES)
    is_own = (
        (distances.amin(dim=3) > 0)
        & (from_middle.amax(dim=3) < _RADIUS * stride)
        & (largest > least)
        & (largest <= most)
        & (labels > 0)[:, None]
    )
    area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)
    smallest, chosen = torch.where(is_own, area[:, None], torch.inf).min(dim=2)
    return torch.where(smallest.isfinite(), chosen, -1)


def _centerness(distances: Tensor) -> Tensor:
    """√(min(l, r)/max(l, r) · min(t, b)/max(t, b)), Eq. 3: 1 in the middle of the box, 0 at its sides."""
    left_top, right_bottom = distances.chunk(2, dim=-1)
    nearer, farther = torch.minimum(left_top, right_bottom), torch.maximum(left_top, right_bottom)
    return (nearer / farther).prod(dim=-1).sqrt()
