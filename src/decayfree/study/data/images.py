"""Images in memory, as bytes, and what a network is fed of them: standardized, three channels, float32.

Reads no files and draws no numbers of its own. The pixels may lie elsewhere than the network: where they do
not fit on its device, they stay where they are, and what is asked for is moved.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from decayfree.study.data.augmentation import are_flipped, cropped_and_cut_out, flipped
from decayfree.study.data.truth import Truth, mirrored
from decayfree.study.run_settings import DataSpec

N_CHANNELS = 3
"""Of what a network is fed, whether the images are grey or in color."""


@dataclass(frozen=True)
class Images:
    """Labelled images as they are stored; `Dataset.to_input` makes of them what a network takes."""

    pixels: Tensor
    """(n, height, width) of grey images, (n, 3, height, width) of red, green and blue ones, uint8."""
    labels: Truth
    """What is true of them, as their task has it, on the device on which the network is."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> Tensor:
        """(n,), int64: the labels of images to classify."""
        assert isinstance(self.labels, Tensor)
        return self.labels


@dataclass(frozen=True)
class Dataset:
    """Images to train on, to choose settings by and to test with, and how the first are standardized."""

    train: Images
    validation: Images
    """Of the training part too, but none of ``train``; may be empty."""
    test: Images
    n_classes: int
    mean: float | tuple[float, ...]
    """Of the training pixels, from 0 to 255: a number for grey images, three for red, green and blue."""
    std: float | tuple[float, ...]
    """Standard deviation of the training pixels, of each color by itself."""
    class_names: tuple[str, ...] = ()
    """What the classes are called, as far as the data says so."""
    notes: tuple[str, ...] = ()
    """What was left out or taken in place of something else, a sentence with a count each."""

    @property
    def device(self) -> torch.device:
        """Where inputs come out: where the labels are."""
        return self.train.labels.device

    def to_input(self, pixels: Tensor, *, channels_last: bool = True) -> Tensor:
        """Standardized channels; a grey image becomes three equal ones, for a color network.

        Args:
            pixels: (n, height, width) or (n, 3, height, width), uint8, on any device.
            channels_last: The memory format; else it is contiguous.

        Returns:
            (n, 3, height, width), float32, in standard deviations of the training pixels; on the dataset's
            device.
        """
        return _three_channels(self._standardized(_with_channels(pixels)), channels_last)

    def batch(
        self, chosen: Tensor, spec: DataSpec, *, seed: int, step: int, channels_last: bool = True
    ) -> Tensor:
        """``augmented(to_input(train.pixels[chosen]), ...)`` for a step, bit by bit, in a third of the time.

        Args:
            chosen: (batch_size,), int64: which training images.
            spec: What is done to them.
            seed: The run's seed.
            step: The step that sees them.
            channels_last: The memory format; else it is contiguous.

        Returns:
            (batch_size, 3, height, width), float32, on the dataset's device.
        """
        # What can be done while a pixel is a byte and a grey image has one channel is done then: memory is
        # what it costs.
        pixels = _with_channels(_selected(self.train.pixels, chosen))
        if spec.flip:
            pixels = flipped(pixels, seed=seed, step=step)
        inputs = cropped_and_cut_out(self._standardized(pixels), spec, seed=seed, step=step)
        return _three_channels(inputs, channels_last)

    def truth(self, chosen: Tensor, spec: DataSpec, *, seed: int, step: int) -> Truth:
        """What is true of `batch`: of the images as they are after what is done to them."""
        truth = self.train.labels[chosen.to(self.device)]
        if not spec.flip:
            return truth
        which = are_flipped(len(chosen), seed=seed, step=step)
        return mirrored(truth, which, width=self.train.pixels.shape[-1])

    def _standardized(self, pixels: Tensor) -> Tensor:
        """(n, 1 or 3, height, width), uint8 -> float32."""
        size = (pixels.shape[-2], pixels.shape[-1])
        values = _moved(pixels, self.device).to(torch.float32)
        return values.sub_(_operand(self.mean, size, self.device)).div_(_operand(self.std, size, self.device))


def _with_channels(pixels: Tensor) -> Tensor:
    """(n, 1 or 3, height, width) of pixels as they are stored."""
    return pixels.unsqueeze(1) if pixels.ndim == 3 else pixels


def _three_channels(inputs: Tensor, channels_last: bool) -> Tensor:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return inputs.expand(-1, N_CHANNELS, -1, -1).contiguous(memory_format=memory_format)


def _selected(pixels: Tensor, chosen: Tensor) -> Tensor:
    """``pixels[chosen]`` in the same order in memory; ten times as fast where this is channels_last."""
    chosen = chosen.to(pixels.device)
    if pixels.ndim == 3:
        return pixels.index_select(0, chosen)
    return pixels.permute(0, 2, 3, 1).index_select(0, chosen).permute(0, 3, 1, 2)


def _moved(pixels: Tensor, device: torch.device) -> Tensor:
    if pixels.device == device:
        return pixels
    if device.type == "cuda":
        return pixels.pin_memory().to(device, non_blocking=True)
    return pixels.to(device)


@lru_cache(maxsize=8)
def _operand(value: float | tuple[float, ...], size: tuple[int, int], device: torch.device) -> float | Tensor:
    """A number as it is; colors as (1, n_colors, *size), channels_last, since spreading each time is slow."""
    if not isinstance(value, tuple):
        return value
    plane = torch.tensor(value, dtype=torch.float32).view(1, -1, 1, 1).expand(-1, -1, *size)
    return plane.contiguous(memory_format=torch.channels_last).to(device)
