"""FCOS with BatchNorm in all of it: boxes without anchors, for small images.

Says for each location a class, a box and how central it is; fcos_loss.py says what they should be.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decayfree.study.models.detector import Detector, Locations, Said, Targets
from decayfree.study.models.fcos_loss import fcos_losses
from decayfree.study.models.libraries import import_extra
from decayfree.study.models.residual_body import ResidualBody
from decayfree.study.models.resnet import convolution
from decayfree.study.models.sizes import Sizes

STRIDES = (4, 8, 16, 32)
"""Pixels of the image from one location of a level to the next."""
_N_CONVOLUTIONS = 2
_PRIOR = 0.01
"""The probability that a location has any one class, before training; the focal loss's paper."""
_LEAST_SCORE = 0.05
_MOST_OVERLAP = 0.6
_MOST_LOCATIONS = 1000
_MOST_BOXES = 100


class FCOS(Detector):
    """A ResNet-18 whose stem halves, a feature pyramid of strides 4 to 32, and two towers for all levels.

    Called like torchvision's detectors: in train mode with images and targets, for a dictionary of losses; in
    eval mode with images, for a dictionary with boxes, labels and scores of each. Labels are from 1.

    It is smaller than the published network: towers of two convolutions, a pyramid of 128 channels, finer
    strides. Norms have their own statistics, gains and biases in each level, since the levels' features
    differ and a norm for all would have in eval mode the statistics of no level. A location's distances to
    the four sides of its box are e to the power of what the network says, in strides of its level.

    References:
        Tian, Shen, Chen, He, "FCOS: Fully Convolutional One-Stage Object Detection", 2019, arXiv 1904.01355.
        Norms of each level: Tan, Pang, Le, "EfficientDet", 2019, arXiv 1911.09070 (code).
    """

    def __init__(self, sizes: Sizes, *, width: int = 64) -> None:
        """``width``: channels of the first stage."""
        super().__init__()
        width = sizes.scaled(width)
        self.backbone = Backbone(sizes.n_channels, width)
        self.head = Head(2 * width, sizes.n_classes)

    def places(self, features: Sequence[Tensor]) -> Locations:
        """Of all levels, the finest one's first."""
        return Locations.of(zip(STRIDES, features, strict=True))

    def losses(self, said: Said, places: Locations, targets: Targets) -> dict[str, Tensor]:
        """Of classes, boxes and centerness."""
        return fcos_losses(said, places, targets)

    def detections(self, said: Said, places: Locations, height: int, width: int) -> dict[str, Tensor]:
        """The boxes of at least the least score, without those that overlap a better one's."""
        # By location and class. The paper multiplies the two; torchvision takes the root, which orders alike.
        scores = (said["class_logits"].sigmoid() * said["centerness"].sigmoid()).sqrt()
        where, classes = (scores > _LEAST_SCORE).nonzero(as_tuple=True)
        best, order = scores[where, classes].sort(descending=True, stable=True)
        best, order = best[:_MOST_LOCATIONS], order[:_MOST_LOCATIONS]
        where, classes = where[order], classes[order]
        boxes = places.boxes(said["boxes"])[where]
        limit = boxes.new_tensor([width, height, width, height])
        boxes = torch.minimum(boxes.clamp(min=0), limit)
        kept = import_extra("torchvision.ops").batched_nms(boxes, best, classes, _MOST_OVERLAP)[:_MOST_BOXES]
        return {"boxes": boxes[kept], "labels": classes[kept] + 1, "scores": best[kept]}


class Backbone(nn.Module):
    """The body's features of four strides, each made one with the coarser ones; torchvision's names."""

    def __init__(self, n_in: int, width: int) -> None:
        super().__init__()
        self.body = ResidualBody(n_in, width)
        self.fpn = Pyramid(self.body.widths, 2 * width)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(n, n_in, height, width) to (n, 2·width, height/stride, width/stride) of each stride."""
        levels: list[Tensor] = self.fpn(self.body(images)[1:])
        return levels


class Pyramid(nn.Module):
    """A feature pyramid: each level plus the coarser one, enlarged.

    References:
        Lin et al., "Feature Pyramid Networks for Object Detection", 2016, arXiv 1612.03144.
    """

    def __init__(self, widths: Sequence[int], n_out: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Sequential(*convolution(width, n_out, 1)) for width in widths)
        self.smoothing = nn.ModuleList(nn.Sequential(*convolution(n_out, n_out, 3)) for _ in widths)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """As many levels, the finest first, each with ``n_out`` channels."""
        merged = [lateral(level) for lateral, level in zip(self.lateral, levels, strict=True)]
        for finer in range(len(merged) - 2, -1, -1):
            size = merged[finer].shape[-2:]
            merged[finer] = merged[finer] + F.interpolate(merged[finer + 1], size=size, mode="nearest")
        return [smoothing(level) for smoothing, level in zip(self.smoothing, merged, strict=True)]


class Head(nn.Module):
    """A tower for classes and one for boxes, and what each location says."""

    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__()
        self.class_tower, self.box_tower = Tower(width), Tower(width)
        self.class_logits = nn.Conv2d(width, n_classes, 3, padding=1)
        self.boxes = nn.Conv2d(width, 4, 3, padding=1)
        self.centerness = nn.Conv2d(width, 1, 3, padding=1)
        nn.init.constant_(self.class_logits.bias, -math.log((1 - _PRIOR) / _PRIOR))  # type: ignore[arg-type]

    def forward(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Of all locations, the finest level's first: (n, n_locations, n_classes), (…, 4) and (…, 1)."""
        each: dict[str, list[Tensor]] = {"class_logits": [], "boxes": [], "centerness": []}
        for number, level in enumerate(levels):
            of_boxes = self.box_tower(level, number)
            each["class_logits"].append(self.class_logits(self.class_tower(level, number)))
            each["boxes"].append(self.boxes(of_boxes))
            each["centerness"].append(self.centerness(of_boxes))
        return {name: torch.cat([_by_location(one) for one in said], dim=1) for name, said in each.items()}


class Tower(nn.Module):
    """Convolutions for all levels, with norms of each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(_N_CONVOLUTIONS)
        )
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(width) for _ in STRIDES) for _ in range(_N_CONVOLUTIONS)
        )

    def forward(self, features: Tensor, level: int) -> Tensor:
        """(n, width, h, w) to the same."""
        for kernels, norms in zip(self.convolutions, self.norms, strict=True):
            assert isinstance(norms, nn.ModuleList)
            features = F.relu(norms[level](kernels(features)))
        return features


def _by_location(values: Tensor) -> Tensor:
    return values.flatten(2).transpose(1, 2)
