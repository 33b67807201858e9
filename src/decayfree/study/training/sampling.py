"""One row of metrics from a model in training: scores, norms, effective rates, angles, off-span share.

Reads the model and changes nothing. Decides neither when to sample nor where rows go.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from decayfree.dynamics.families import update_family
from decayfree.dynamics.measures import angular_update_rad, effective_learning_rate
from decayfree.errors import InvalidInputError
from decayfree.invariance.result import Invariance
from decayfree.methods.method import AttachedMethod
from decayfree.methods.parametrizing import plain_name
from decayfree.optimizers import UpdateFamily
from decayfree.study.data.draws import names_in_task
from decayfree.study.data.images import Dataset, Images
from decayfree.study.data.truth import Truth
from decayfree.study.files.of_images import text_of_images
from decayfree.study.files.results import Row, Spectrum
from decayfree.study.run_settings import Recipe
from decayfree.study.tasks.task import Score, Task
from decayfree.study.training.examples import examples_of
from decayfree.study.training.first_layer import IMAGES_AT_ONCE, FirstLayer
from decayfree.study.training.spectra import spectra_of

N_SCORED_TRAINING_IMAGES = 2000
"""At most so many training images are scored in a sample, the first ones.

In other tasks than classification no more than are tested or validated with, whichever are more: their
metrics are no means over images, to compare over any number of them.
"""
N_SPECTRUM_IMAGES = 256
"""So many training images at most, the first ones, make the spectra of a sample."""


@dataclass(frozen=True)
class Sampler:
    """What a sample needs beside the step; weights have the names they have without parametrization."""

    model: nn.Module
    found: Invariance
    method: AttachedMethod
    recipe: Recipe
    seed: int
    task: Task
    dataset: Dataset
    family: UpdateFamily | Literal["none"]
    """What an effective learning rate is; with ``none`` there is none."""
    first_layer: FirstLayer | None

    def row(self, *, step: int, learning_rate: float, before: Mapping[str, Tensor] | None = None) -> Row:
        """The metrics after ``step`` steps, in the task of the last one, at the next one's learning rate.

        The weights ``before`` the last step are as `weights` gave them; None where they are not known.
        """
        dataset, is_last = self.dataset, step == self.recipe.n_steps
        n_scored = min(N_SCORED_TRAINING_IMAGES, len(dataset.train))
        if self.recipe.task != "classification":
            n_scored = min(n_scored, max(len(dataset.validation), len(dataset.test)))
        some = slice(n_scored)
        train = self._score(Images(dataset.train.pixels[some], dataset.train.labels[some]), step)
        validation = self._score(dataset.validation, step)
        test = self._score(dataset.test, step, each=is_last)
        norms, rates = self._norms_and_rates(learning_rate)
        first = self.first_layer
        return Row(
            step=step,
            epoch=step / self.recipe.n_steps_per_epoch,
            train_loss=train.loss,
            train_score=train.score,
            validation_loss=validation.loss,
            validation_score=validation.score,
            test_loss=test.loss,
            test_score=test.score,
            learning_rate=learning_rate,
            norms=norms,
            effective_learning_rates=rates,
            angular_updates=self._angular_updates(before),
            off_span_share=math.nan if first is None else first.share(),
            off_span_law=math.nan if first is None else first.predicted_share(),
            test_images=text_of_images(_centered(test).numpy()) if is_last else "",
            test_metrics={self._said(name): value for name, value in test.metrics.items()},
            test_examples=examples_of(dataset.test, test.predictions) if is_last else {},
        )

    def renamed(self, truth: Truth, step: int) -> Truth:
        """With the names that classes have in step ``step``, counted from 0, of a sequence of tasks."""
        if not isinstance(truth, Tensor) or self.recipe.data.n_tasks == 1:
            return truth
        task, n_classes = self.recipe.task_at(step), self.dataset.n_classes
        return names_in_task(task, n_classes=n_classes, seed=self.seed, device=truth.device)[truth]

    def _said(self, metric: str) -> str:
        """With the class by its name where the data has one: "IoU, class 3" -> "IoU, dress"."""
        names = self.dataset.class_names
        return re.sub(r"class (\d+)$", lambda found: names[int(found[1])] if names else found[0], metric)

    def weights(self) -> dict[str, Tensor]:
        """Copies of the scale-invariant weights, and of biases that go with one, by parameter name."""
        names = [name for weight in self.found for name in weight.names]
        return {name: self.model.get_parameter(name).detach().clone() for name in names}

    def spectra(self) -> dict[str, Spectrum]:
        """Where the energy of every weight lies over the spectrum of its inputs, now."""
        inputs = self.dataset.to_input(self.dataset.train.pixels[:N_SPECTRUM_IMAGES])
        spectra = spectra_of(self.model, self.found, inputs, self.task.outputs)
        return {plain_name(name): spectrum for name, spectrum in spectra.items()}

    def _score(self, images: Images, step: int, *, each: bool = False) -> Score:
        """Of the model after ``step`` steps, in the task of the last one."""
        if not len(images):
            return Score(math.nan, math.nan)
        images = Images(images.pixels, self.renamed(images.labels, max(step - 1, 0)))
        return self.task.evaluate(self.model, self._batches(images), each=each)

    def _batches(self, images: Images) -> Iterator[tuple[Tensor, Truth]]:
        for start in range(0, len(images), IMAGES_AT_ONCE):
            some = slice(start, start + IMAGES_AT_ONCE)
            pixels = self.dataset.to_input(images.pixels[some], channels_last=self.recipe.channels_last)
            yield pixels, images.labels[some]

    @torch.no_grad()
    def _angular_updates(self, before: Mapping[str, Tensor] | None) -> dict[str, float]:
        """Means over blocks, without those of zeros, which have no direction."""
        if before is None:
            return dict.fromkeys((plain_name(weight.name) for weight in self.found), math.nan)
        angles = {}
        for name, after in self.found.parts(self.model).items():
            old = self.found[name].part(before)
            angle = angular_update_rad(old.weight, after.weight, after.blocks, old.bias, after.bias)
            angles[plain_name(name)] = float(angle.nanmean())
        return angles

    @torch.no_grad()
    def _norms_and_rates(self, learning_rate: float) -> tuple[dict[str, float], dict[str, float]]:
        """Means over blocks of ‖w‖ and of the effective rate: η/‖w‖² in the SGD family, else η/‖w‖."""
        norms, rates = {}, {}
        for weight, part in zip(self.found, self.found.parts(self.model).values(), strict=True):
            block = part.norms()
            name = plain_name(weight.name)
            norms[name] = float(block.mean())
            rates[name] = math.nan
            if self.family != "none":
                rate = self.method.learning_rates(weight, learning_rate)
                rates[name] = float(effective_learning_rate(block, rate, self.family).mean())
        return norms, rates


def _centered(score: Score) -> Tensor:
    """What each image adds, with the score as its mean to the last digit: pseudo-values are off by O(1/n).

    Nothing where one of them is not known, since all that there is to score is in that image.
    """
    values = score.of_images
    if values.dtype == torch.bool:
        return values
    return values + (score.score - values.mean()) if values.isfinite().all() else values[:0]


def family_or_none(optimizer: Optimizer) -> UpdateFamily | Literal["none"]:
    """The optimizer's family, or ``none`` where no effective rate that depends on the norm is known."""
    try:
        return update_family(optimizer)
    except InvalidInputError:
        return "none"


def sample_steps(n_steps: int, n_samples: int) -> tuple[int, ...]:
    """After how many steps to sample: ``n_samples`` times from 0 to ``n_steps``, evenly, or every step.

    Once is after the last one.
    """
    if n_samples == 1:
        return (n_steps,)
    intervals = min(n_samples - 1, n_steps)
    return tuple(round(index * n_steps / intervals) for index in range(intervals + 1))
