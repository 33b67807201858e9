"""From a spec to a data set: which images are taken of which part, and where their pixels lie.

Reads no file format itself; there is a file for each beside this one, and `annotations` for images with more
than a class. Validation images are taken from the
training part behind those to train on, and the test part is taken as its authors made it.
"""

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from decayfree.arguments.address import Address, Args
from decayfree.arguments.kinds import checked
from decayfree.errors import InvalidInputError, faults_of, raise_all
from decayfree.study.data import (
    annotations,
    cifar,
    decoding,
    digits,
    fashion_mnist,
    image_folder,
    opencv_digits,
    own_data,
    svhn,
)
from decayfree.study.data.choice import check_enough, chosen, chosen_of_lists, mixed
from decayfree.study.data.images import N_CHANNELS, Dataset, Images
from decayfree.study.own import source_of
from decayfree.study.run_settings import DATA_OF_TASK, DataSpec

SHARE_OF_GPU = 0.5
"""Pixels go to a GPU if they take at most this share of its free memory; training needs the rest."""


@checked()
def load(
    spec: DataSpec,
    data_dir: str | Path | None = None,
    device: torch.device | str = "cpu",
    *,
    seed: int = 0,
    task: str = "classification",
) -> Dataset:
    """Load ``n_train`` training images, ``n_validation`` more of the same part, and ``n_test`` test images.

    The first ones, those to validate on after those to train on. With ``by_seed`` the last of the pool are to
    validate on, and those to train on are drawn from the others.

    Digits, Fashion-MNIST and CIFAR come in a mixed order, which is kept. SVHN, folders of images and the
    user's own are mixed first, in an order that depends on no seed of a run: the classes of a subset are as
    frequent as in a random draw without replacement, not exactly as in the whole. Both sets of digits have no
    test part of their own: it is what comes after the training and the validation images. Scenes come by
    number, those to validate on being others than those to train on; other sets with masks, boxes or points
    are mixed.

    Pixels stay bytes. On a GPU they lie in its memory, as far as they fit, and else in the computer's, from
    which each batch is moved. Those of a folder of images are decoded once, into a file of the user's cache
    folder that is mapped into memory, so that they may be more than fit there.

    Args:
        spec: What to load; label noise and augmentation are not done here.
        data_dir: The folder with the files; by default a folder in the user's cache folder, and Debian's for
            Fashion-MNIST and OpenCV's digits.
        device: Where the network will be.
        seed: The run's; of consequence with ``by_seed`` only.
        task: What is to be known of the images: their class, or masks, boxes or points (`Truth`).

    Raises:
        InvalidInputError: If the task has no such data, there are not so many images, files are not there or
            are damaged, or augmentation exceeds the images.
        MissingExtraError: If a package that reads the files is not installed.
    """
    if isinstance(task, Address) and not isinstance(spec.name, Address):
        task = "classification"
    if not isinstance(spec.name, Address) and spec.name not in DATA_OF_TASK.get(task, ()):
        known = "; ".join(f"{one} of {', '.join(names)}" for one, names in DATA_OF_TASK.items())
        raise InvalidInputError(f"there is no {task} of {spec.name}, expected {known}")
    same = dataclasses.replace(
        spec,
        label_noise=0.0,
        flip=False,
        crop_padding=0,
        cutout=0,
        n_tasks=1,
        augmentation="",
        augmentation_args=Args(),
    )
    folder = None if data_dir is None else str(data_dir)
    drawn_by = seed if spec.by_seed else None
    dataset = _load(same, folder, str(device), drawn_by, task, source_of(spec.name))
    side = min(dataset.train.pixels.shape[-2:])
    faults = [
        f"{name}: expected less than the {side} pixels of an image, got {getattr(spec, name)}"
        for name in ("crop_padding", "cutout")
        if getattr(spec, name) >= side
    ]
    raise_all(faults_of(InvalidInputError, faults), about=f"{spec.name}: ")
    return dataset


@lru_cache(maxsize=2)
def _load(
    spec: DataSpec, data_dir: str | None, device: str, seed: int | None, task: str, source: object
) -> Dataset:
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    if isinstance(spec.name, Address):
        parts, n_classes = _from_arrays(spec, *own_data.read(spec, data_dir, task), seed, is_mixed=True)
        counts = None
    elif task != "classification":
        read = annotations.read(spec, data_dir, seed, task)
        parts, n_classes, counts = list(read.parts), read.n_classes, read.counts
        class_names, notes = read.class_names, read.notes
    elif spec.name == "image-folder":
        parts, n_classes, counts = _from_folder(spec, data_dir, seed)
    else:
        parts, n_classes = _from_arrays(spec, *_read(spec, data_dir), seed, is_mixed=spec.name == "svhn")
        counts = None
    mean, std = _moments(_counts(parts[0].pixels) if counts is None else counts)
    if spec.blank_channels:
        # Black is zero there: zero padding cuts any other constant into inputs of a convolution.
        seen = (mean if isinstance(mean, tuple) else (mean,) * N_CHANNELS)[: -spec.blank_channels]
        mean = (*seen, *(0.0,) * spec.blank_channels)
    train, validation, test = _placed(_blanked(parts, spec), torch.device(device))
    return Dataset(
        *(train, validation, test),
        n_classes=n_classes,
        mean=mean,
        std=std,
        class_names=class_names,
        notes=notes,
    )


def _from_arrays(
    spec: DataSpec, train: Images, test: Images, n_classes: int, seed: int | None, *, is_mixed: bool
) -> tuple[list[Images], int]:
    """The three parts of data that is read whole, and how many classes it has."""
    check_enough(spec, len(train), len(test))
    order = mixed(len(train), len(train)) if is_mixed else torch.arange(len(train))
    of_test = mixed(len(test), spec.n_test) if is_mixed else torch.arange(spec.n_test)
    to_train, to_validate = chosen(order, spec, seed)
    return [_taken(train, to_train), _taken(train, to_validate), _taken(test, of_test)], n_classes


def _read(spec: DataSpec, data_dir: str | None) -> tuple[Images, Images, int]:
    if spec.name in ("digits", "opencv-digits"):
        is_opencv = spec.name == "opencv-digits"
        all_digits = opencv_digits.read(opencv_digits.locate(data_dir)) if is_opencv else digits.read()
        n_seen = spec.first + (spec.n_pool or spec.n_train + spec.n_validation)
        train = Images(all_digits.pixels[:n_seen], all_digits.labels[:n_seen])
        return train, Images(all_digits.pixels[n_seen:], all_digits.labels[n_seen:]), digits.N_CLASSES
    if spec.name == "fashion-mnist":
        arrays = fashion_mnist.read(fashion_mnist.locate(data_dir))
        train = Images(arrays["train_images"], arrays["train_labels"].long())
        return train, Images(arrays["test_images"], arrays["test_labels"].long()), fashion_mnist.N_CLASSES
    if spec.name == "svhn":
        return *svhn.read(data_dir), svhn.N_CLASSES
    edition = cifar.CIFAR10 if spec.name == "cifar10" else cifar.CIFAR100
    return *cifar.read(edition, data_dir), edition.n_classes


def _from_folder(spec: DataSpec, data_dir: str | None, seed: int | None) -> tuple[list[Images], int, Tensor]:
    """The three parts of a folder of images, its number of classes, and the training pixels' counts."""
    tree = image_folder.find(data_dir)
    listed = chosen_of_lists(tree.train, tree.test, spec, seed)
    decoded = decoding.decode([part.paths for part in listed], size=spec.image_size)
    parts = [
        Images(images.pixels, torch.tensor(part.labels, dtype=torch.int64))
        for part, images in zip(listed, decoded, strict=True)
    ]
    return parts, len(tree.classes), decoded[0].counts


def _taken(part: Images, positions: Tensor) -> Images:
    first = int(positions[0]) if len(positions) else 0
    if torch.equal(positions, torch.arange(first, first + len(positions))):
        run = slice(first, first + len(positions))
        return Images(part.pixels[run], part.labels[run])
    if part.pixels.ndim == 3:
        return Images(part.pixels[positions], part.labels[positions])
    pixels = part.pixels.permute(0, 2, 3, 1).index_select(0, positions).permute(0, 3, 1, 2)
    return Images(pixels, part.labels[positions])


def _blanked(parts: list[Images], spec: DataSpec) -> list[Images]:
    """All parts but the last without what the spec blanks; grey images have three channels if it is one."""
    border, n_blank = spec.blank_border, spec.blank_channels
    side = min(parts[0].pixels.shape[-2:])
    if 2 * border >= side:
        raise InvalidInputError(
            f"{spec.name}: blank_border: expected less than half of the {side} pixels of an image, got "
            f"{border}"
        )
    if not (border or n_blank):
        return parts
    *seen, test = (_in_color(part) if n_blank else part for part in parts)
    blanked = []
    for part in seen:
        pixels = part.pixels.clone()
        if border:
            pixels[..., :border] = pixels[..., -border:] = 0
            pixels[..., :border, :] = pixels[..., -border:, :] = 0
        if n_blank:
            pixels[:, N_CHANNELS - n_blank :] = 0
        blanked.append(Images(pixels, part.labels))
    return [*blanked, test]


def _in_color(part: Images) -> Images:
    if part.pixels.ndim == 4:
        return part
    color = part.pixels.unsqueeze(1).expand(-1, N_CHANNELS, -1, -1)
    return Images(color.contiguous(memory_format=torch.channels_last), part.labels)


def _counts(pixels: Tensor) -> Tensor:
    """(1 or 3, 256), int64: how many pixels have each value, for each color."""
    colors = [pixels] if pixels.ndim == 3 else pixels.unbind(1)
    return torch.stack([torch.bincount(color.flatten(), minlength=256) for color in colors])


def _moments(counts: Tensor) -> tuple[float | tuple[float, ...], float | tuple[float, ...]]:
    """Exact mean and standard deviation of all pixels, by histograms; a number for grey, else one a color."""
    moments = [_moments_of(color.double()) for color in counts]
    if len(moments) == 1:
        return moments[0]
    return tuple(mean for mean, _ in moments), tuple(std for _, std in moments)


def _moments_of(counts: Tensor) -> tuple[float, float]:
    values = torch.arange(256, dtype=torch.float64)
    mean = (counts @ values) / counts.sum()
    variance = (counts @ (values - mean).square()) / counts.sum()
    return float(mean), max(float(variance.sqrt()), 1e-6)


def _placed(parts: Sequence[Images], device: torch.device) -> list[Images]:
    """Labels on the device, and the pixels of all parts too where they fit."""
    fits = _fits(sum(part.pixels.numel() for part in parts), device)
    return [Images(part.pixels.to(device) if fits else part.pixels, part.labels.to(device)) for part in parts]


def _fits(n_bytes: int, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    n_free, _ = torch.cuda.mem_get_info(device)
    return n_bytes <= SHARE_OF_GPU * n_free
