"""One row of metrics from a model in training: scores, norms, effective learning rates, angles, off-span share.

Reads the model and changes nothing. Decides neither when to sample nor where rows go.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from decayfree.blocks import block_norms
from decayfree.dynamics import angular_update_rad
from decayfree.invariance import Invariance
from decayfree.methods import AttachedMethod
from decayfree.span import InputSpan, LayerSpan
from decayfree.study.data import Dataset, load
from decayfree.study.laws import OffSpanLaw
from decayfree.study.results import Row, Spectrum
from decayfree.study.spec import DataSpec, Recipe
from decayfree.study.spectra import spectra_of
from decayfree.study.tasks import TASKS

N_SCORED_TRAINING_IMAGES = 2000
"""At most so many training images are scored in a sample, the first ones."""
N_SPECTRUM_IMAGES = 256
"""So many training images at most, the first ones, make the spectra of a sample."""
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
    span: LayerSpan
    """Of the patches that the first layer sees in the training images."""
    law: OffSpanLaw
    """Of the first layer, followed step by step by the training loop."""

    def row(self, *, step: int, learning_rate: float, before: Mapping[str, Tensor] | None = None) -> Row:
        """The metrics after ``step`` steps, at the learning rate of the next one.

        Args:
            step: How many steps are done.
            learning_rate: Of the next step.
            before: The weights before the last step, as `weights` gave them; None where they are not known.
        """
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
            angular_updates=self._angular_updates(before),
            off_span_share=float(self.span.off_span_share(weight).mean()),
            off_span_law=float(
                (self.law.lengths / torch.linalg.vector_norm(weight.double().flatten(1), dim=1)).mean()
            ),
        )

    def weights(self) -> dict[str, Tensor]:
        """Copies of the scale-invariant weights, and of biases that work together with one, by parameter name."""
        names = [name for weight in self.found for name in (weight.name, weight.bias) if name is not None]
        return {name: self.model.get_parameter(name).detach().clone() for name in names}

    def spectra(self) -> dict[str, Spectrum]:
        """Where the energy of every weight lies over the spectrum of its inputs, now."""
        return spectra_of(
            self.model, self.found, self.dataset.to_input(self.dataset.train.pixels[:N_SPECTRUM_IMAGES])
        )

    @torch.no_grad()
    def _angular_updates(self, before: Mapping[str, Tensor] | None) -> dict[str, float]:
        """Means over blocks, without those of zeros, which have no direction."""
        if before is None:
            return dict.fromkeys((weight.name for weight in self.found), math.nan)
        after: Mapping[str, Tensor] = dict(self.model.named_parameters())
        return {
            weight.name: float(
                angular_update_rad(
                    before[weight.name],
                    after[weight.name].detach(),
                    weight.blocks,
                    *(() if weight.bias is None else (before[weight.bias], after[weight.bias].detach())),
                ).nanmean()
            )
            for weight in self.found
        }

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


def first_layer_span(spec: DataSpec, data_dir: str | None, convolution: nn.Conv2d) -> LayerSpan:
    """The span of the patches that the first layer sees in the training images."""
    c = convolution
    settings = (c.in_channels, c.out_channels, c.kernel_size, c.stride, c.padding, c.dilation, c.groups)
    return _span(spec, data_dir, (*settings, False, c.padding_mode))


def sample_steps(n_steps: int, n_samples: int) -> tuple[int, ...]:
    """After how many steps to sample: ``n_samples`` times from 0 to ``n_steps``, evenly, or every step."""
    intervals = min(n_samples - 1, n_steps)
    return tuple(round(index * n_steps / intervals) for index in range(intervals + 1))


@lru_cache(maxsize=2)
def _span(spec: DataSpec, data_dir: str | None, settings: tuple[Any, ...]) -> LayerSpan:
    """The span for a convolution with these settings, in the order in which torch takes them."""
    dataset = load(spec, data_dir)
    images = dataset.to_input(dataset.train.pixels[:_N_SPAN_IMAGES])
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        alike = nn.Conv2d(*settings)
        with InputSpan(alike, centered="overall") as span:
            for part in torch.split(images, _IMAGES_AT_ONCE):
                alike(part)
    return span["weight"]


def _batches(dataset: Dataset, pixels: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for part, part_labels in zip(
        torch.split(pixels, _IMAGES_AT_ONCE), torch.split(labels, _IMAGES_AT_ONCE), strict=True
    ):
        yield dataset.to_input(part), part_labels
