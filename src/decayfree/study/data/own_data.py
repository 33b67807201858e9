"""Images of the user's own, as a function gives them: are they what they must be, and how many classes?

Chooses none of them; `loading` does.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from decayfree.arguments.address import Address
from decayfree.errors import InvalidInputError
from decayfree.study.data.images import N_CHANNELS, Images
from decayfree.study.data.truth import IGNORED, Ragged, Truth
from decayfree.study.own import OWN, own
from decayfree.study.run_settings import DataSpec

_DIMENSIONS = {"classification": 1, "segmentation": 3}
_COLUMNS = {"detection": 6, "counting": 2}


def read(spec: DataSpec, data_dir: str | None, task: str) -> tuple[Images, Images, int]:
    """To train on, to test with, and the number of classes: one more than the largest.

    Args:
        spec: Whose name is an address.
        data_dir: Told where it is asked for.
        task: What is to be known of the images; of one of the user's own, whatever that wants.

    Raises:
        InvalidInputError: If it is not what it must be.
    """
    name = spec.name
    assert isinstance(name, Address)
    pair = own("data.name", name, args=spec.args, also={"data_dir": data_dir})
    if len(pair) != 2 or not all(isinstance(part, tuple | list) and len(part) == 2 for part in pair):
        raise InvalidInputError(f"data.name: {name}: expected to give {OWN['data.name'].gives}")
    train, test = (
        _images(part, task, f"data.name: {name}: the images to {what}")
        for part, what in zip(pair, ("train on", "test with"), strict=True)
    )
    if train.pixels.shape[1:] != test.pixels.shape[1:]:
        raise InvalidInputError(
            f"data.name: {name}: expected images of one size, got {tuple(train.pixels.shape)} and "
            f"{tuple(test.pixels.shape)}"
        )
    return train, test, max(_n_classes(part.labels, task) for part in (train, test))


def _images(part: Sequence[Any], task: str, where: str) -> Images:
    try:
        pixels, truth = torch.as_tensor(part[0]), _truth(part[1])
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInputError(f"{where}: expected tensors or arrays: {error}") from error
    is_grey_or_color = pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[1] == N_CHANNELS)
    if pixels.dtype != torch.uint8 or not is_grey_or_color:
        raise InvalidInputError(
            f"{where}: expected uint8, from 0 to 255, (n, height, width) or (n, 3, height, width), got "
            f"{pixels.dtype}, {tuple(pixels.shape)}"
        )
    if len(truth) != len(pixels):
        raise InvalidInputError(f"{where} are {len(pixels)}, but what is true is told of {len(truth)}")
    fault = _truth_fault(truth, task)
    if fault:
        raise InvalidInputError(f"{where}: {fault}")
    if pixels.ndim == 4:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    return Images(pixels, truth)


def _truth(given: Any) -> Truth:
    """Rows of each image where these are listed, else a tensor; whole numbers are int64, but for masks."""
    if isinstance(given, Ragged):
        return given
    if isinstance(given, list | tuple) and given and isinstance(given[0], Tensor) and given[0].ndim == 2:
        return Ragged.of_lists([rows.float() for rows in given])
    truth = torch.as_tensor(given)
    if truth.is_floating_point():
        return truth.float()
    return truth.to(torch.uint8) if truth.ndim == 3 else truth.long()


def _truth_fault(truth: Truth, task: str) -> str:
    if task in _COLUMNS:
        n = _COLUMNS[task]
        is_right = isinstance(truth, Ragged) and truth.rows.ndim == 2 and truth.rows.shape[1] == n
        return "" if is_right else f"expected a list of rows of {n} numbers for {task}, one entry an image"
    if task not in _DIMENSIONS:
        return ""
    n = _DIMENSIONS[task]
    if isinstance(truth, Ragged) or truth.ndim != n or truth.is_floating_point() or int(truth.min()) < 0:
        what = "one whole number from 0 an image" if n == 1 else "a mask of whole numbers, (n, height, width)"
        got = "rows" if isinstance(truth, Ragged) else f"{truth.dtype}, {tuple(truth.shape)}"
        return f"expected {what} for {task}, got {got}"
    return ""


def _n_classes(truth: Truth, task: str) -> int:
    """Of numbers that are no classes: how many an image has."""
    if isinstance(truth, Ragged):
        is_boxes = truth.rows.shape[1] == _COLUMNS["detection"] and len(truth.rows)
        return int(truth.rows[:, 4].max()) + 1 if is_boxes else 1
    if truth.is_floating_point():
        return truth[0].numel()
    known = truth[truth != IGNORED] if truth.ndim == _DIMENSIONS["segmentation"] else truth
    return int(known.max()) + 1 if known.numel() else 1
