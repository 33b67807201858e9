"""Which images with masks, boxes or points does a spec ask for, and what is true of them?

Reads no format itself: `annotated` does, and `scenes` draws.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from decayfree.errors import InvalidInputError
from decayfree.study.data import decoding
from decayfree.study.data.annotated import (
    camvid,
    cityscapes,
    coco,
    coco_stuff,
    coins,
    nuclei,
    points,
    shanghaitech,
    ucf_qnrf,
    voc,
    yolo,
)
from decayfree.study.data.annotated.bringing import truth_of
from decayfree.study.data.annotated.listing import Listing
from decayfree.study.data.choice import check_enough, chosen, chosen_of_lists, mixed
from decayfree.study.data.images import Images
from decayfree.study.data.scenes import faces
from decayfree.study.data.scenes.drawing import draw
from decayfree.study.data.scenes.layout import Kind
from decayfree.study.data.scenes.pool import PartName, Pool, garments
from decayfree.study.run_settings import DataSpec, TaskName

N_SCENES = {"train": 60_000, "test": 10_000}
"""So many scenes there are; each is drawn when it is asked for."""
_PARTS: tuple[PartName, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Annotated:
    """What was asked for."""

    parts: tuple[Images, Images, Images]
    """To train on, to validate on, to test with."""
    n_classes: int
    class_names: tuple[str, ...]
    counts: Tensor | None = None
    """(3, 256), int64: how often each value occurs in the training images, where that is known already."""
    notes: tuple[str, ...] = ()


def read(spec: DataSpec, data_dir: str | None, seed: int | None, task: str) -> Annotated:
    """The images that are asked for, and what is true of them.

    Args:
        spec: Which, and how many.
        data_dir: The folder with the files.
        seed: The run's where it draws the training images, else None.
        task: ``segmentation``, ``detection`` or ``counting``.

    Raises:
        InvalidInputError: If there are not so many images, or files are not there or are damaged.
        MissingExtraError: If a package that has or reads the files is not installed.
    """
    if spec.image_size < 1:
        raise InvalidInputError(f"{spec.name}: image_size: expected at least 1 pixel, got {spec.image_size}")
    which = cast("TaskName", task)
    if spec.name == "scenes":
        return _garments(spec, data_dir, seed, which)
    if spec.name == "faces":
        parts = _drawn("faces", faces.pools(data_dir), spec, seed, which)
        return Annotated(parts, len(faces.CLASS_NAMES), faces.CLASS_NAMES)
    if spec.name in ("nuclei", "coins"):
        return _tiles(spec, data_dir, seed, which)
    return _files(spec, _listing(spec.name, data_dir, which), seed)


def _garments(spec: DataSpec, data_dir: str | None, seed: int | None, task: TaskName) -> Annotated:
    pools, names, notes = garments(data_dir)
    kind: Kind = "crowd" if task == "counting" else "objects"
    names = {"segmentation": ("ground", *names), "detection": names, "counting": ("item",)}[task]
    return Annotated(_drawn(kind, pools, spec, seed, task), len(names), names, notes=notes)


def _drawn(
    kind: Kind, pools: dict[PartName, Pool], spec: DataSpec, seed: int | None, task: TaskName
) -> tuple[Images, Images, Images]:
    """Scenes by their numbers; those to validate on are others than those to train on of the same number."""
    check_enough(spec, N_SCENES["train"], N_SCENES["test"])
    numbers = (*chosen(torch.arange(N_SCENES["train"]), spec, seed), torch.arange(spec.n_test))
    train, validation, test = (
        draw(kind, part, each, pools[part], size=spec.image_size, task=task)
        for part, each in zip(_PARTS, numbers, strict=True)
    )
    return train, validation, test


def _tiles(spec: DataSpec, data_dir: str | None, seed: int | None, task: TaskName) -> Annotated:
    source = nuclei if spec.name == "nuclei" else coins
    train, test = source.read(data_dir, size=spec.image_size, task=task)
    check_enough(spec, len(train), len(test))
    to_train, to_validate = chosen(mixed(len(train), len(train)), spec, seed)
    picked = ((train, to_train), (train, to_validate), (test, mixed(len(test), spec.n_test)))
    first, second, third = (Images(part.pixels[at], part.labels[at]) for part, at in picked)
    return Annotated((first, second, third), len(source.CLASS_NAMES), source.CLASS_NAMES)


def _listing(name: str, data_dir: str | None, task: TaskName) -> Listing:
    if name == "voc":
        return voc.find(data_dir, task)
    find = {
        "cityscapes": cityscapes.find,
        "camvid": camvid.find,
        "coco-stuff": coco_stuff.find,
        "coco": coco.find,
        "yolo": yolo.find,
        "shanghaitech": shanghaitech.find,
        "ucf-qnrf": ucf_qnrf.find,
        "points": points.find,
    }[name]
    return find(data_dir)


def _files(spec: DataSpec, listing: Listing, seed: int | None) -> Annotated:
    taken = chosen_of_lists(listing.train, listing.test, spec, seed)
    size, notes = spec.image_size, list(listing.notes)
    truths = []
    for name, part in zip(_PARTS, taken, strict=True):
        truth, told = truth_of(part, listing, size=size, name=name)
        truths.append(truth)
        notes += told
    decoded = decoding.decode([part.paths for part in taken], size=size, way=decoding.WHOLE)
    train, validation, test = (
        Images(each.pixels, truth) for each, truth in zip(decoded, truths, strict=True)
    )
    return Annotated(
        (train, validation, test), listing.n_classes, listing.class_names, decoded[0].counts, tuple(notes)
    )
