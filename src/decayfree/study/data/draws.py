"""Random choices about data: the order of images, the labels that are wrong.

Reads no images. Every choice is a function of a purpose, a seed and a step, so that equal seeds see equal
data whatever the method and the device, and a resumed run needs no position but its step.
"""

import hashlib
from functools import lru_cache

import torch
from torch import Tensor


def with_label_noise(labels: Tensor, *, share: float, n_classes: int, seed: int) -> Tensor:
    """Draw anew, uniformly from all classes, the labels of a random ``share`` of the images.

    Args:
        labels: (n,), int64.
        share: From 0 to 1; ``round(share·n)`` labels are drawn, of which about 1 in ``n_classes`` stays
            right.
        n_classes: How many classes there are.
        seed: The run's seed.

    Returns:
        (n,), int64, a copy.

    References:
        Zhang et al., "Understanding deep learning requires rethinking generalization", 2017, arXiv
        1611.03530.
    """
    generator = generator_for("label noise", seed)
    chosen = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    drawn = torch.randint(n_classes, (len(chosen),), generator=generator)
    noisy = labels.clone()
    noisy[chosen.to(labels.device)] = drawn.to(labels.device)
    return noisy


def names_in_task(task: int, *, n_classes: int, seed: int, device: torch.device | str = "cpu") -> Tensor:
    """(n_classes,), int64: what each class is called in a task of a sequence; its own name in the first."""
    return _names(task, n_classes, seed, str(device))


def batch_indices(
    *, n_images: int, batch_size: int, seed: int, step: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Which training images step number ``step`` sees: each epoch is a new permutation, its rest is dropped.

    Args:
        n_images: How many there are to choose from.
        batch_size: How many a step sees.
        seed: The run's seed.
        step: Counted from 0.
        device: Where the answer is wanted; it is the same on every device.

    Returns:
        (batch_size,), int64. A view: do not change it.
    """
    epoch, position = divmod(step, n_images // batch_size)
    order = _permutation(n_images, seed, epoch, str(device))
    return order[position * batch_size : (position + 1) * batch_size]


def generator_for(purpose: str, *numbers: int) -> torch.Generator:
    """A generator of its own for each purpose and numbers, the same on every machine; it draws on the CPU."""
    digest = hashlib.sha256(f"{purpose} {numbers}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@lru_cache(maxsize=2)
def _permutation(n_images: int, seed: int, epoch: int, device: str) -> Tensor:
    return torch.randperm(n_images, generator=generator_for("order", seed, epoch)).to(device)


@lru_cache(maxsize=2)
def _names(task: int, n_classes: int, seed: int, device: str) -> Tensor:
    own = torch.arange(n_classes)
    drawn = torch.randperm(n_classes, generator=generator_for("task", seed, task)) if task else own
    return drawn.to(device)
