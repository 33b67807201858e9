"""TTFNet with BatchNorm in all of it: each object as a peak of a map, for small images.

Says for each location which classes have a middle there and how far the sides of its box are; ttfnet_loss.py
says what it should say.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decayfree.study.models.detector import Detector, Said, Targets
from decayfree.study.models.residual_body import ResidualBody
from decayfree.study.models.sizes import Sizes
from decayfree.study.models.ttfnet_loss import boxes_of, ttfnet_losses

SMALL = 96
"""Images with a side of fewer pixels have a finer map."""
_STRIDE = 4
_PRIOR = 0.1
"""The probability that a location is a middle of any one class, before training."""
_LEAST_SCORE = 0.05
_MOST_BOXES = 100


class TTFNet(Detector):
    """A ResNet-18, three transposed convolutions to a stride of 4, and heads for classes and sides of boxes.

    CenterNet's network with losses in which every box has many locations, so that it learns in a seventh of
    the steps.

    Called like torchvision's detectors: in train mode with images and targets, for a dictionary of losses; in
    eval mode with images, for a dictionary with boxes, labels and scores of each. Labels are from 1.

    Kernels are not deformable, the stem is a 3×3 convolution that halves, without pooling, no shortcuts lead
    to the doubled maps, and heads have one hidden layer, with a BatchNorm. All doubled maps and hidden layers
    have the channels of the first one, 256: with 64, as published for the last, a network of an eighth of the
    width learned nothing in 800 steps (mAP 0.001; 0.037 so). If it is built for images under 96 pixels, the
    first stage does not halve and the map's stride is 2: at 4 small objects are a location or two. Boxes are
    at the peaks of the class map, locations that are the largest of 3×3, with a score above 0.05; boxes that
    overlap stay. Images have at least 32×32 pixels.

    References:
        Liu, Zheng, Xu, Yang, Liu, Cai, "Training-Time-Friendly Network for Real-Time Object Detection", 2019,
        arXiv 1909.00700. Zhou, Wang, Krähenbühl, "Objects as Points", 2019, arXiv 1904.07850.
    """

    def __init__(self, sizes: Sizes, *, width: int = 64) -> None:
        """``width``: channels of the first stage."""
        super().__init__()
        width = sizes.scaled(width)
        is_small = min(sizes.image_size) < SMALL
        self.stride = _STRIDE // 2 if is_small else _STRIDE
        self.backbone = Backbone(sizes.n_channels, width, first_stride=1 if is_small else 2)
        self.head = Head(self.backbone.n_out, sizes.n_classes)

    def places(self, features: Tensor) -> int:
        """Pixels from one location to the next."""
        return self.stride

    def losses(self, said: Said, places: int, targets: Targets) -> dict[str, Tensor]:
        """Of classes and boxes."""
        return ttfnet_losses(said, places, targets)

    def detections(self, said: Said, places: int, height: int, width: int) -> dict[str, Tensor]:
        """The boxes at the peaks of at least the least score."""
        # Peaks are sought among logits: large ones differ where their probabilities are rounded to 1.
        logits = said["class_logits"]
        is_peak = logits == F.max_pool2d(logits, 3, stride=1, padding=1)
        classes, rows, columns = (is_peak & (logits.sigmoid() > _LEAST_SCORE)).nonzero(as_tuple=True)
        scores = logits[classes, rows, columns].sigmoid()
        best, order = scores.sort(descending=True, stable=True)
        best, order = best[:_MOST_BOXES], order[:_MOST_BOXES]
        classes, rows, columns = classes[order], rows[order], columns[order]
        boxes = boxes_of(said["sides"], places)[rows, columns].clamp(min=0)
        boxes = torch.minimum(boxes, boxes.new_tensor([width, height, width, height]))
        return {"boxes": boxes, "labels": classes + 1, "scores": best}


class Backbone(nn.Module):
    """A body whose last features are doubled three times."""

    def __init__(self, n_in: int, width: int, *, first_stride: int) -> None:
        super().__init__()
        self.body = ResidualBody(n_in, width, strides=(first_stride, 2, 2, 2))
        self.n_out = 4 * width
        layers: list[nn.Module] = []
        for n_coarse in (self.body.widths[-1], self.n_out, self.n_out):
            doubling = nn.ConvTranspose2d(n_coarse, self.n_out, 4, stride=2, padding=1, bias=False)
            layers += [doubling, nn.BatchNorm2d(self.n_out), nn.ReLU()]
        self.upsampling = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """(n, n_in, height, width) to (n, n_out, rows, columns), a map that covers the image."""
        features: Tensor = self.upsampling(self.body(images)[-1])
        return features


class Head(nn.Module):
    """What each location says."""

    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__()
        self.class_logits, self.sides = (_branch(width, n) for n in (n_classes, 4))
        nn.init.constant_(self.class_logits[-1].bias, -math.log((1 - _PRIOR) / _PRIOR))  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """(n, width, rows, columns) to class_logits (n, n_classes, rows, columns) and sides (n, 4, …).

        Sides are logarithms of the distances to the left, upper, right and lower one, in strides.
        """
        return {"class_logits": self.class_logits(features), "sides": self.sides(features)}


def _branch(width: int, n_out: int) -> nn.Sequential:
    kernels = nn.Conv2d(width, width, 3, padding=1, bias=False)
    return nn.Sequential(kernels, nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, n_out, 1))
