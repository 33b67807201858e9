"""How is a detector of ours called, and which boxes do its locations mean?

As torchvision's detectors are. Knows no network and no loss: fcos.py and ttfnet.py do.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LARGEST = 10.0
"""e to this power, in strides, is beyond any image."""

Said = Mapping[str, Tensor]
Targets = Sequence[Mapping[str, Tensor]]


class Detector(nn.Module):
    """In train mode losses of images and targets, in eval mode boxes, labels from 1 and scores of images.

    Attributes:
        backbone: Makes features of images.
        head: Makes of features what each location says, by name.
    """

    backbone: nn.Module
    head: nn.Module

    def forward(self, images: Tensor | Sequence[Tensor], targets: Targets | None = None) -> Any:
        """Losses of a batch, or what is seen in each image; boxes are (n, 4), x₁, y₁, x₂, y₂ in pixels.

        Args:
            images: (n, channels, height, width), or as many of one size.
            targets: Of each image boxes, labels (n_boxes,) and, maybe, boxes of which nothing is learned:
                ignored.
        """
        images = images if isinstance(images, Tensor) else torch.stack(tuple(images))
        features = self.backbone(images)
        said = {name: values.float() for name, values in self.head(features).items()}
        places = self.places(features)
        if self.training:
            assert targets is not None
            return self.losses(said, places, targets)
        height, width = images.shape[-2:]
        return [
            self.detections({name: values[image] for name, values in said.items()}, places, height, width)
            for image in range(len(images))
        ]

    def places(self, features: Any) -> Any:
        """Where locations are."""
        raise NotImplementedError

    def losses(self, said: Said, places: Any, targets: Targets) -> dict[str, Tensor]:
        """Of a batch, each ()."""
        raise NotImplementedError

    def detections(self, said: Said, places: Any, height: int, width: int) -> dict[str, Tensor]:
        """Of one image of so many pixels: boxes, labels and scores, the best first."""
        raise NotImplementedError


@dataclass(frozen=True)
class Locations:
    """Where locations are.

    Attributes:
        centers: (n_locations, 2), x and y in pixels.
        strides: (n_locations,), pixels to the next.
    """

    centers: Tensor
    strides: Tensor

    @classmethod
    def of(cls, maps: Iterable[tuple[int, Tensor]]) -> "Locations":
        """The middle of what each location of maps (…, rows, columns) stands for, row by row, by strides."""
        centers, strides = [], []
        for stride, one in maps:
            y, x = (torch.arange(n, device=one.device) for n in one.shape[-2:])
            at = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
            centers.append((at + 0.5) * stride)
            strides.append(torch.full((len(at),), float(stride), device=one.device))
        return cls(torch.cat(centers), torch.cat(strides))

    def boxes(self, said: Tensor) -> Tensor:
        """The boxes, in pixels, of logarithms of distances in strides, both (…, n_locations, 4)."""
        left_top, right_bottom = (said.clamp(max=_LARGEST).exp() * self.strides[:, None]).chunk(2, dim=-1)
        return torch.cat([self.centers - left_top, self.centers + right_bottom], dim=-1)

    def inside_ignored(self, targets: Targets) -> Tensor:
        """Whether a location is in an ignored box, (n_images, n_locations)."""
        nothing = self.centers.new_zeros(0, 4)
        ignored = [one.get("ignored", nothing) for one in targets]
        inside = [(to_sides(self.centers[:, None], boxes) > 0).all(dim=2).any(dim=1) for boxes in ignored]
        return torch.stack(inside)


def to_sides(points: Tensor, boxes: Tensor) -> Tensor:
    """From points (…, 2) to the left, upper, right and lower sides of boxes (…, 4): (…, 4)."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def padded(targets: Targets) -> tuple[Tensor, Tensor]:
    """Boxes (n, n_most, 4) and labels (n, n_most) of all images; label 0, at least once, for none."""
    boxes = [F.pad(one["boxes"], (0, 0, 0, 1)) for one in targets]
    labels = [F.pad(one["labels"], (0, 1)) for one in targets]
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(boxes, batch_first=True), pad(labels, batch_first=True)
