"""What the data and the spec ask of a network: channels in, classes out, and how wide it is.

Builds nothing; how most of them end is here as well.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Sizes:
    """What a network is built for, whatever its family.

    Attributes:
        n_classes: How many logits it gives.
        image_size: Height and width of the images, in pixels.
        n_channels: Channels of the images.
        width_factor: Channels of every layer, as a multiple of the published network's.
    """

    n_classes: int
    image_size: tuple[int, int]
    n_channels: int = 3
    width_factor: float = 1.0

    def scaled(self, n_published: int) -> int:
        """The published number of channels times the width factor, rounded, and at least 1.

        Families scale the width of their first stage and take multiples of that, so that proportions stay
        exact.

        Example:
            >>> sizes = Sizes(n_classes=10, image_size=(28, 28), width_factor=0.125)
            >>> sizes.scaled(64), sizes.scaled(12), sizes.scaled(3)
            (8, 2, 1)
        """
        return max(1, round(n_published * self.width_factor))


class PooledClassifier(nn.Module):
    """A linear layer, ``classifier``, on the mean over the pixels of ``features``, a module or a method."""

    features: Callable[[Tensor], Tensor]
    classifier: nn.Linear

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, height, width) to logits (n, n_classes)."""
        logits: Tensor = self.classifier(self.features(images).mean(dim=(2, 3)))
        return logits


Builder = Callable[[Sizes], nn.Module]
