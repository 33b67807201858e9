"""One row of metrics from a model in training: scores, norms, effective learning rates, off-span share.

Reads the model and changes nothing. Decides neither when to sample nor where rows go.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from decayfree.blocks import block_norms
from decayfree.invariance import Invariance
from decayfree.methods import AttachedMethod
from decayfree.span import off_span_projector, off_span_share, patch_second_moment
from decayfree.study.data import Dataset, load
from decayfree.study.results import Row
from decayfree.study.spec import DataSpec, Recipe
from decayfree.study.tasks import TASKS

N_SCORED_TRAINING_IMAGES = 2000
"""At most so many training images are scored in a sample, the first ones."""
_N_SPAN_IMAGES = 2000
_IMAGES_AT_ONCE = 500


@dataclass(frozen=True)
class Sampler:
    """All that a sample needs beside the step."""

    model: nn.Module
    found: Invariance
    method: AttachedMethod
    recipe: Recipe
    dataset: Dataset
    train_labels: Tensor
    """(n_train,), int64: the labels that are trained on, noise included."""
    first_layer: str
    """Parameter name of the first convolution's weight."""
    off_span: Tensor
    """(d, d): projector off the span of the first layer's input patches."""

    def row(self, *, step: int, learning_rate: float) -> Row:
        """The metrics after ``step`` steps, at the learning rate of the next one."""
        task, dataset = TASKS[self.recipe.task], self.dataset
        n_scored = min(N_SCORED_TRAINING_IMAGES, len(dataset.train))
        train_pixels = dataset.train.pixels[:n_scored]
        train = task.evaluate(self.model, _batches(dataset, train_pixels, self.train_labels[:n_scored]))
        test = task.evaluate(self.model, _batches(dataset, dataset.test.pixels, dataset.test.labels))
        norms, rates = self._norms_and_rates(learning_rate)
        weight = self.model.get_parameter(self.first_layer).detach()
        return Row(
            step=step,
            epoch=step / self.recipe.n_steps_per_epoch,
            train_loss=train.loss,
            train_accuracy=train.accuracy,
            test_accuracy=test.accuracy,
            learning_rate=learning_rate,
            norms=norms,
            effective_learning_rates=rates,
            off_span_share=float(off_span_share(weight, self.off_span).mean()),
        )

    @torch.no_grad()
    def _norms_and_rates(self, learning_rate: float) -> tuple[dict[str, float], dict[str, float]]:
        """Means over blocks of ‖w‖ and of η/‖w‖², the effective learning rate of the SGD family."""
        parameters: Mapping[str, Tensor] = dict(self.model.named_parameters())
        norms, rates = {}, {}
        for weight in self.found:
            bias = None if weight.bias is None else parameters[weight.bias]
            block = block_norms(parameters[weight.name], weight.blocks, bias)
            block_rates = self.method.learning_rates(weight, learning_rate) / block.square()
            norms[weight.name] = float(block.mean())
            rates[weight.name] = float(block_rates.mean())
        return norms, rates


def first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d]:
    """Parameter name of the first convolution's weight, and the convolution."""
    return next(
        (f"{name}.weight", module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)
    )


def first_layer_projector(spec: DataSpec, data_dir: str | None, convolution: nn.Conv2d) -> Tensor:
    """Projector off the span of the patches that the first layer sees in the training images, (d, d)."""
    return _projector(
        spec,
        data_dir,
        _pair(convolution.kernel_size),
        _pair(convolution.stride),
        _pair(convolution.padding),
        _pair(convolution.dilation),
    )


def sample_steps(n_steps: int, n_samples: int) -> tuple[int, ...]:
    """After how many steps to sample: ``n_samples`` times from 0 to ``n_steps``, evenly, or every step."""
    intervals = min(n_samples - 1, n_steps)
    return tuple(round(index * n_steps / intervals) for index in range(intervals + 1))


@lru_cache(maxsize=2)
def _projector(
    spec: DataSpec,
    data_dir: str | None,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    dataset = load(spec, data_dir)
    images = dataset.to_input(dataset.train.pixels[:_N_SPAN_IMAGES])
    moment = patch_second_moment(
        images, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation
    )
    return off_span_projector(moment)


def _pair(value: object) -> tuple[int, int]:
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, int) for part in value):
        return value
    raise ValueError(f"expected a convolution with two whole numbers for each setting, got {value!r}")


def _batches(dataset: Dataset, pixels: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for part, part_labels in zip(
        torch.split(pixels, _IMAGES_AT_ONCE), torch.split(labels, _IMAGES_AT_ONCE), strict=True
    ):
        yield dataset.to_input(part), part_labels
