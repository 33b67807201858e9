"""CenterNet with BatchNorm: each item is a point of a map of its class, and says how large it is."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decayfree.study.models.resnet import ResidualBlock, basic_body, convolution, projection
from decayfree.study.models.sizes import Sizes

STRIDE = 4
"""Pixels of the image in a pixel of the maps."""
SIZE_WEIGHT = 0.1
_LEAST_OVERLAP = 0.7
"""Boxes about points within a Gaussian's radius overlap the true one by at least this."""
_PRIOR = 0.1
_MOST_BOXES = 100


class CenterNet(nn.Module):
    """A residual network down to a sixteenth of the size, transposed convolutions up to a quarter, and heads.

    Called like torchvision's detectors: in train mode with images and targets, for a dictionary of losses; in
    eval mode with images, for a dictionary with boxes, labels and scores of each. Labels are from 1. Boxes
    are the highest points of the classes' maps that are not below a neighbor; none is suppressed afterwards.

    References:
        Zhou, Wang, Krähenbühl, "Objects as Points", 2019, arXiv 1904.07850: losses, heads and decoding; the
        network is its ResNet-18 with fewer stages. Law, Deng, "CornerNet", 2018, arXiv 1808.01244: the
        Gaussians' radius.
    """

    def __init__(self, sizes: Sizes, *, width: int = 64) -> None:
        """``width``: channels of the first stage and of the maps."""
        super().__init__()
        width = sizes.scaled(width)
        self.backbone = Backbone(sizes.n_channels, width)
        self.head = Head(width, sizes.n_classes)

    def forward(
        self, images: Tensor | Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> Any:
        """Losses of a batch, or what is seen in each image; boxes are (n, 4), x₁, y₁, x₂, y₂ in pixels.

        Args:
            images: (n, channels, height, width), or as many of one size.
            targets: Of each image boxes, labels (n_boxes,) and, maybe, boxes of which nothing is learned:
                ignored.
        """
        images = images if isinstance(images, Tensor) else torch.stack(tuple(images))
        said = {name: values.float() for name, values in self.head(self.backbone(images)).items()}
        if self.training:
            assert targets is not None
            return centernet_losses(said, targets)
        height, width = images.shape[-2:]
        limit = images.new_tensor([width, height, width, height], dtype=torch.float32)
        return [
            _detections({name: values[at] for name, values in said.items()}, limit)
            for at in range(len(images))
        ]


class Backbone(nn.Module):
    """A stem and three strided stages of two residual blocks, and two transposed convolutions."""

    def __init__(self, n_in: int, width: int) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width]
        self.body = nn.Sequential(
            *convolution(n_in, width, 3, stride=2),
            nn.ReLU(),
            *(
                nn.Sequential(
                    ResidualBlock(basic_body(before, n_out, 2), projection(before, n_out, 2)),
                    ResidualBlock(basic_body(n_out, n_out, 1), nn.Identity()),
                )
                for before, n_out in zip((width, *widths), widths, strict=False)
            ),
        )
        self.up = nn.Sequential(*_doubling(4 * width, 2 * width), *_doubling(2 * width, width))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(n, n_in, height, width) to [(n, width, height / 4, width / 4)]."""
        return [self.up(self.body(images))]


class Head(nn.Module):
    """What each pixel of the map says: a class's probability, an offset and a size, in pixels of the map."""

    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__()
        self.classes, self.offset, self.size = (_branch(width, n) for n in (n_classes, 2, 2))
        nn.init.constant_(self.classes[-1].bias, -math.log((1 - _PRIOR) / _PRIOR))  # type: ignore[arg-type]

    def forward(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """[(n, width, h, w)] to (n, n_classes, h, w) logits, and (n, 2, h, w) each, x before y."""
        (features,) = levels
        return {
            "classes": self.classes(features),
            "offset": self.offset(features),
            "size": self.size(features),
        }


def centernet_losses(
    said: Mapping[str, Tensor], targets: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """The penalty-reduced focal loss of classes, and L1 of offset and size at the centers; over all boxes.

    Args:
        said: As `Head` gives them.
        targets: Of each image boxes, in pixels of the image, labels from 1, and boxes to ignore.
    """
    n, n_classes, height, width = said["classes"].shape
    boxes = torch.cat([target["boxes"] for target in targets]) / STRIDE
    classes = torch.cat([target["labels"] for target in targets]) - 1
    image = torch.arange(n, device=boxes.device).repeat_interleave(
        torch.tensor([len(target["boxes"]) for target in targets], device=boxes.device)
    )
    centers, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    limit = centers.new_tensor([width - 1, height - 1])
    whole = torch.minimum(centers.floor().clamp(min=0), limit)
    heat = _heat(whole, sizes, image * n_classes + classes, n * n_classes, height, width)
    heat = heat.view(n, n_classes, height, width)
    losses = _focal(said["classes"], heat) * _is_learned(said["classes"], targets)
    x, y = whole.long().unbind(1)
    n_boxes = max(len(boxes), 1)
    return {
        "classes": losses.sum() / n_boxes,
        "offset": (said["offset"][image, :, y, x] - (centers - whole)).abs().sum() / n_boxes,
        "size": SIZE_WEIGHT * (said["size"][image, :, y, x] - sizes).abs().sum() / n_boxes,
    }


def gaussian_radius(sizes: Tensor, least_overlap: float = _LEAST_OVERLAP) -> Tensor:
    """How far both corners of a box may move until it overlaps the true one by no more than that.

    The least of three cases: both move out, both in, and one out and one in.

    Args:
        sizes: (n, 2), width and height.
        least_overlap: Intersection over union.

    Returns:
        (n,), in the unit of the sizes.
    """
    total, area = sizes.sum(dim=1), sizes.prod(dim=1)
    share = least_overlap
    aside = (total - (total**2 - 4 * area * (1 - share) / (1 + share)).sqrt()) / 2
    inside = (2 * total - (4 * total**2 - 16 * (1 - share) * area).sqrt()) / 8
    outside = (-2 * share * total + (4 * share**2 * total**2 + 16 * share * (1 - share) * area).sqrt()) / (
        8 * share
    )
    return torch.stack([aside, inside, outside]).min(dim=0).values


def _heat(centers: Tensor, sizes: Tensor, which: Tensor, n: int, height: int, width: int) -> Tensor:
    """(n, height · width): the highest of the Gaussians about the centers on each map."""
    widths = (2 * gaussian_radius(sizes) + 1) / 6
    grid = torch.arange(max(height, width), device=centers.device)
    distances = [(grid[:side] - centers[:, axis, None]).square() for axis, side in ((1, height), (0, width))]
    squares = distances[0][:, :, None] + distances[1][:, None, :]
    gaussians = (-squares / (2 * widths[:, None, None] ** 2)).exp().flatten(1)
    maps = gaussians.new_zeros(n, height * width)
    return maps.scatter_reduce(0, which[:, None].expand_as(gaussians), gaussians, "amax")


def _focal(logits: Tensor, heat: Tensor) -> Tensor:
    """−(1 − p)² log p at centers, −(1 − y)⁴ p² log(1 − p) elsewhere."""
    p, log_p, log_rest = logits.sigmoid(), F.logsigmoid(logits), F.logsigmoid(-logits)
    elsewhere = -((1 - heat) ** 4) * p**2 * log_rest
    return torch.where(heat == 1, -((1 - p) ** 2) * log_p, elsewhere)


def _is_learned(logits: Tensor, targets: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """(n, 1, height, width): 0 in boxes to ignore, else 1."""
    n, _, height, width = logits.shape
    kept = logits.new_ones(n, 1, height, width)
    for at, target in enumerate(targets):
        for x1, y1, x2, y2 in (target.get("ignored", logits.new_zeros(0, 4)) / STRIDE).tolist():
            kept[at, :, math.floor(y1) : math.ceil(y2), math.floor(x1) : math.ceil(x2)] = 0
    return kept


def _detections(said: Mapping[str, Tensor], limit: Tensor) -> dict[str, Tensor]:
    """Of one image."""
    heat = said["classes"].sigmoid()
    is_peak = F.max_pool2d(heat[None], 3, stride=1, padding=1)[0] == heat
    height, width = heat.shape[1:]
    scores, order = (heat * is_peak).flatten().sort(descending=True, stable=True)
    scores, order = scores[:_MOST_BOXES], order[:_MOST_BOXES]
    y, x = order // width % height, order % width
    centers = torch.stack([x, y], dim=1) + said["offset"][:, y, x].t()
    sizes = said["size"][:, y, x].t().clamp(min=0)
    boxes = torch.cat([centers - sizes / 2, centers + sizes / 2], dim=1) * STRIDE
    boxes = torch.minimum(boxes.clamp(min=0), limit)
    kept = (scores > 0) & (boxes[:, :2] < boxes[:, 2:]).all(dim=1)
    return {"boxes": boxes[kept], "labels": (order // (height * width) + 1)[kept], "scores": scores[kept]}


def _doubling(n_in: int, n_out: int) -> list[nn.Module]:
    kernels = nn.ConvTranspose2d(n_in, n_out, 4, stride=2, padding=1, bias=False)
    return [kernels, nn.BatchNorm2d(n_out), nn.ReLU()]


def _branch(width: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(*convolution(width, width, 3), nn.ReLU(), nn.Conv2d(width, n_out, 1))
