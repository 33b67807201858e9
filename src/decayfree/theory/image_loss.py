"""What does the built-in network lose on a batch of images?

Asked as a model, layer by layer, and as one program for many twins of it at once, which takes half the time.
Trains nothing.
"""

from collections.abc import Mapping
from functools import cache, cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_BATCH_SIZE = 64


def image_network(n_channels: int, n_classes: int, width: int, activation: type[nn.Module]) -> nn.Module:
    """Two convolutions and a linear layer, each before a BatchNorm, and a head; for images of 8×8."""
    return nn.Sequential(
        *(nn.Conv2d(n_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), activation()),
        nn.AvgPool2d(2),
        *(nn.Conv2d(width, width + 2, 3, bias=False), nn.BatchNorm2d(width + 2), activation()),
        nn.Flatten(),
        *(nn.Linear((width + 2) * 4, 12, bias=False), nn.BatchNorm1d(12), activation()),
        nn.Linear(12, n_classes),
    )


class ImageLoss:
    """Cross entropy of a network's outputs for the images of a step, (); equal steps give equal losses.

    Args:
        images: (n, n_channels, 8, 8), float64.
        labels: (n,), int64.
        label_noise: Share of the labels of every batch that are drawn anew.
        activation: Of the network.
        seed: Of batches and noise.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, label_noise: float, activation: type[nn.Module], seed: int
    ) -> None:
        self._images, self._labels = images, labels
        self._label_noise, self._seed = label_noise, seed
        self._activation = activation()
        self._n_classes = int(labels.max()) + 1
        self._batches: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, model: nn.Module, step: int) -> Tensor:
        chosen, wanted = self._batch(step)
        return F.cross_entropy(model(self._images[chosen]), wanted)

    def of_many(self, twins: Mapping[str, Tensor], step: int, eps: float) -> Tensor:
        """Sum of the losses of twins of an `image_network`, (): its gradients are those of each.

        Args:
            twins: Parameters by name, (n_twins, *shape).
            step: As in calls.
            eps: Of the BatchNorms.
        """
        chosen, wanted = self._batch(step)
        (conv1, gain1, shift1), (conv2, gain2, shift2), (linear, gain3, shift3), (head, bias) = (
            [twins[name] for name in twins if name.partition(".")[0] in layers]
            for layers in (("0", "1"), ("4", "5"), ("8", "9"), ("11",))
        )
        n, width = conv1.shape[:2]

        def normalized(z: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
            channels = z.reshape(1, gain.numel(), -1)
            z = F.batch_norm(channels, None, None, gain.view(-1), shift.view(-1), training=True, eps=eps)
            activated: Tensor = self._activation(z)
            return activated

        # Images come last everywhere, so that every layer is one product of matrices and nothing is copied.
        x = self._padded.index_select(3, chosen)
        patches = torch.stack([x[:, row : row + 8, column : column + 8] for row, column in _NINE], 1)
        z = normalized(conv1.reshape(n * width, -1) @ patches.view(len(x) * 9, -1), gain1, shift1)
        z = z.view(n * width, 4, 2, 4, 2, -1).sum(4).sum(2) / 4
        # The second convolution as a matrix from 4×4 places to 2×2.
        entries = F.pad(conv2.reshape(n, -1), (0, 1)).index_select(1, _places(*conv2.shape[1:3]))
        z = entries.view(n, -1, width * 16) @ z.view(n, width * 16, -1)
        z = normalized(z, gain2, shift2).view(n, linear.shape[2], -1)
        z = normalized(linear @ z, gain3, shift3).view(n, head.shape[2], -1)
        scores = torch.baddbmm(bias[:, :, None], head, z)
        return n * F.cross_entropy(scores, wanted.expand(n, -1))

    @cached_property
    def _padded(self) -> Tensor:
        """(n_channels, 10, 10, n)."""
        return F.pad(self._images, (1, 1, 1, 1)).permute(1, 2, 3, 0).contiguous()

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Indices of images, and labels; every training sees the same."""
        if step not in self._batches:
            generator = torch.Generator().manual_seed(1_000_003 * self._seed + step)
            chosen = torch.randint(len(self._images), (_BATCH_SIZE,), generator=generator)
            wanted = self._labels[chosen]
            if self._label_noise:
                draws = torch.rand(_BATCH_SIZE, generator=generator, dtype=torch.float64)
                others = torch.randint(self._n_classes, (_BATCH_SIZE,), generator=generator)
                wanted = torch.where(draws < self._label_noise, others, wanted)
            self._batches[step] = chosen, wanted
        return self._batches[step]


_NINE = [(row, column) for row in range(3) for column in range(3)]


@cache
def _places(n_out: int, n_in: int) -> Tensor:
    """Which number of a 3×3 kernel, or the zero behind all, stands where in the matrix of its convolution."""
    numbers = torch.arange(n_out * n_in * 9).view(n_out, n_in, 3, 3)
    places = torch.full((n_out, 2, 2, n_in, 4, 4), numbers.numel())
    for row in range(2):
        for column in range(2):
            places[:, row, column, :, row : row + 3, column : column + 3] = numbers
    return places.flatten()
