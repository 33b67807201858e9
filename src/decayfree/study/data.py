"""Images and labels of a study: loading, splitting, label noise, and the batches of a step.

Does not train. Every random choice is a function of a seed and a purpose, so that equal seeds see equal data
whatever the method, and a resumed run needs no position but its step.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from decayfree.errors import InvalidInputError, MissingExtraError
from decayfree.study import fashion_mnist
from decayfree.study.spec import DataSpec

N_CHANNELS = 3


@dataclass(frozen=True)
class Images:
    """Labelled images as they are stored; `to_input` makes of them what a network takes."""

    pixels: Tensor
    """(n, height, width), uint8, grey."""
    labels: Tensor
    """(n,), int64."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Training and test images, and the pixel mean and standard deviation of the training images."""

    train: Images
    test: Images
    n_classes: int
    mean: float
    std: float

    def to_input(self, pixels: Tensor) -> Tensor:
        """Grey pixels as three equal, standardized channels, as a color network is fed grey images.

        Args:
            pixels: (n, height, width), uint8.

        Returns:
            (n, 3, height, width), float32, channels_last; in standard deviations of the training pixels.
        """
        grey = pixels.to(torch.float32).sub_(self.mean).div_(self.std).unsqueeze(1)
        return grey.expand(-1, N_CHANNELS, -1, -1).contiguous(memory_format=torch.channels_last)


@lru_cache(maxsize=2)
def load(spec: DataSpec, data_dir: str | None = None) -> Dataset:
    """Load the data and take the first ``n_train`` and ``n_test`` images of each part.

    Raises:
        InvalidInputError: If there are not so many images, or the files are not there.
        MissingExtraError: If the package with the embedded digits is not installed.
    """
    if spec.name == "digits":
        train, test = _digits(spec.n_train)
    else:
        train, test = fashion_mnist_parts(data_dir)
    if spec.n_train > len(train) or spec.n_test > len(test):
        raise InvalidInputError(
            f"{spec.name} has {len(train)} training and {len(test)} test images here, "
            f"but n_train={spec.n_train} and n_test={spec.n_test} are asked for"
        )
    train = Images(train.pixels[: spec.n_train], train.labels[: spec.n_train])
    test = Images(test.pixels[: spec.n_test], test.labels[: spec.n_test])
    mean, std = _moments(train.pixels)
    return Dataset(train=train, test=test, n_classes=10, mean=mean, std=std)


def with_label_noise(labels: Tensor, *, share: float, n_classes: int, seed: int) -> Tensor:
    """Draw anew, uniformly from all classes, the labels of a random ``share`` of the images.

    Args:
        labels: (n,), int64.
        share: From 0 to 1; ``round(share·n)`` labels are drawn, of which about 1 in ``n_classes`` stays right.
        n_classes: How many classes there are.
        seed: The run's seed.

    Returns:
        (n,), int64, a copy.

    References:
        Zhang et al., "Understanding deep learning requires rethinking generalization", 2017, arXiv 1611.03530.
    """
    generator = generator_for("label noise", seed)
    chosen = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    noisy = labels.clone()
    noisy[chosen] = torch.randint(n_classes, (len(chosen),), generator=generator)
    return noisy


def batch_indices(*, n_images: int, batch_size: int, seed: int, step: int) -> Tensor:
    """Which training images step number ``step`` sees: each epoch is a new permutation, its rest is dropped.

    Returns:
        (batch_size,), int64.
    """
    epoch, position = divmod(step, n_images // batch_size)
    return _permutation(n_images, seed, epoch)[position * batch_size : (position + 1) * batch_size]


def flipped(inputs: Tensor, *, seed: int, step: int) -> Tensor:
    """Mirror each image left to right with probability 1/2.

    Args:
        inputs: (n, n_channels, height, width).
        seed: The run's seed.
        step: The step that sees them.
    """
    chosen = torch.rand(len(inputs), generator=generator_for("flip", seed, step)) < 0.5
    return torch.where(chosen.view(-1, 1, 1, 1), inputs.flip(-1), inputs)


def generator_for(purpose: str, *numbers: int) -> torch.Generator:
    """A generator of its own for each purpose and numbers, the same on every machine."""
    digest = hashlib.sha256(f"{purpose} {numbers}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def fashion_mnist_parts(data_dir: str | None) -> tuple[Images, Images]:
    """Fashion-MNIST's own training and test part."""
    arrays = fashion_mnist.read(fashion_mnist.locate(data_dir))
    return (
        Images(arrays["train_images"], arrays["train_labels"].long()),
        Images(arrays["test_images"], arrays["test_labels"].long()),
    )


@lru_cache(maxsize=2)
def _permutation(n_images: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n_images, generator=generator_for("order", seed, epoch))


def _digits(n_train: int) -> tuple[Images, Images]:
    """The 1,797 scans in an order that is the same for all seeds: first those to train on, the rest to test."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError(
            "the digits come with scikit-learn, which is not installed: pip install 'decayfree[study]'"
        ) from error
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=generator_for("split"))
    pixels = torch.from_numpy(digits.images).to(torch.uint8)[order]
    labels = torch.from_numpy(digits.target).long()[order]
    return Images(pixels[:n_train], labels[:n_train]), Images(pixels[n_train:], labels[n_train:])


def _moments(pixels: Tensor) -> tuple[float, float]:
    """Mean and standard deviation over all pixels, exactly, from their histogram."""
    counts = torch.bincount(pixels.flatten(), minlength=256).double()
    values = torch.arange(256, dtype=torch.float64)
    mean = (counts @ values) / counts.sum()
    variance = (counts @ (values - mean).square()) / counts.sum()
    return float(mean), max(float(variance.sqrt()), 1e-6)
