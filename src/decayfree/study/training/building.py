"""What a run is made of, from its settings: data, network, found weights, optimizer, method, sampler.

Takes no step and writes no file. Equal seeds get equal weights, labels and batches, whatever the method.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from decayfree.arguments.address import Address, Args
from decayfree.errors import InvalidInputError
from decayfree.invariance.discovery import find_invariant
from decayfree.invariance.result import Invariance
from decayfree.methods.method import AttachedMethod, ParamGroups, RunLength
from decayfree.study.data.draws import generator_for, with_label_noise
from decayfree.study.data.images import N_CHANNELS, Dataset, Images
from decayfree.study.data.loading import load
from decayfree.study.files.norm_log import read_norms
from decayfree.study.files.results import NORMS_FILE, run_directory
from decayfree.study.models.sizes import Sizes
from decayfree.study.optimizers import build_optimizer
from decayfree.study.own import source_of
from decayfree.study.own_method import OwnMethod
from decayfree.study.run_settings import ModelSpec, Recipe, RunSettings, TaskName
from decayfree.study.tasks.table import task_of
from decayfree.study.tasks.task import Task
from decayfree.study.training.first_layer import first_layer
from decayfree.study.training.sampling import Sampler, family_or_none
from decayfree.study.training.strides_first import take_strides_first

_RATE_FACTOR = "rate_factor"
"""The setting of a parameter group: its learning rate over the recipe's."""
_N_PROBE_IMAGES = 32
"""With 8, a few kernels of the narrowest layers of deep networks on tiny images stayed undecided."""


@dataclass(frozen=True)
class Parts:
    """A run before its first step."""

    task: Task
    dataset: Dataset
    model: nn.Module
    found: Invariance
    optimizer: Optimizer
    method: AttachedMethod
    sampler: Sampler


def build(settings: RunSettings, out: Path, *, data_dir: str | None) -> Parts:
    """Make everything; the method is attached.

    Raises:
        InvalidInputError: If the data is not there, or this torch does not see the device.
        MismatchError: If the norms to replay do not fit.
    """
    recipe = settings.recipe
    # The user's own is made once, so that what it remembers from one call is there in the next.
    method = settings.method.made() if isinstance(settings.method, OwnMethod) else settings.method
    task = task_of(recipe)
    device = device_of(recipe)
    dataset = load(recipe.data, data_dir, device, seed=settings.seed, task=recipe.task)
    if recipe.data.label_noise:
        noisy = with_label_noise(
            dataset.train.classes,
            share=recipe.data.label_noise,
            n_classes=dataset.n_classes,
            seed=settings.seed,
        )
        dataset = dataclasses.replace(dataset, train=Images(dataset.train.pixels, noisy))
    model, found = _model_and_found(settings, task, dataset)
    found = method.prepare(model, found)
    groups = method.param_groups(model, found, rest_weight_decay=recipe.rest_weight_decay)
    if recipe.rest_learning_rate:
        _set_rates_apart(groups, found, recipe.rest_learning_rate / recipe.learning_rate)
    optimizer = build_optimizer(recipe.optimizer, groups, learning_rate=recipe.learning_rate, method=method)
    replayed = _replayed_norms(settings, out, found)
    attached = method.attach(optimizer, found, replayed=replayed, length=length_of(recipe))
    first = None
    if recipe.off_span:
        first = first_layer(
            model,
            optimizer,
            found,
            settings.method,
            recipe=recipe,
            data_dir=data_dir,
            seed=settings.seed,
            replayed=replayed,
        )
    if device.type == "cpu" and (recipe.channels_last or recipe.compile):
        take_strides_first(model)  # after all that asks convolutions for their strides
    family = family_or_none(optimizer)
    sampler = Sampler(model, found, attached, recipe, settings.seed, task, dataset, family, first)
    return Parts(task, dataset, model, found, optimizer, attached, sampler)


def set_rates(optimizer: Optimizer, learning_rate: float) -> None:
    """Give every group its learning rate of a step."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get(_RATE_FACTOR, 1.0)


def length_of(recipe: Recipe) -> RunLength:
    """How long a run is, as methods are told."""
    return RunLength(recipe.n_steps_per_epoch, recipe.n_steps)


def device_of(recipe: Recipe) -> torch.device:
    """The device that the recipe names.

    Raises:
        InvalidInputError: If torch does not know it, or does not see one here.
    """
    try:
        device = torch.device(recipe.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise InvalidInputError(f"device: {recipe.device} cannot be used here: {reason}") from error
    return device


def _set_rates_apart(groups: ParamGroups, found: Invariance, factor: float) -> None:
    held = {id(tensor) for part in found.parts().values() for tensor in part.tensors}
    for group in groups:
        if held.isdisjoint(map(id, group["params"])):
            group[_RATE_FACTOR] = factor


def _model_and_found(settings: RunSettings, task: Task, dataset: Dataset) -> tuple[nn.Module, Invariance]:
    """The network and its scale-invariant weights: found once for all seeds."""
    recipe = settings.recipe
    height, width = dataset.train.pixels.shape[-2:]
    sizes = Sizes(
        n_classes=dataset.n_classes, image_size=(height, width), width_factor=recipe.model.width_factor
    )
    model = task.build(recipe.model, sizes, settings.seed)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.to(recipe.device)
    sources = source_of(recipe.task), source_of(recipe.model.name)
    record = _found_record(recipe.task, recipe.task_args, recipe.model, sizes, sources)
    return model, Invariance.from_dict(record, model)


@lru_cache(maxsize=16)
def _found_record(
    name: TaskName | Address, args: Args, spec: ModelSpec, sizes: Sizes, sources: object
) -> dict[str, Any]:
    task = task_of(Recipe(name, task_args=args))
    model = task.build(spec, sizes, 0)
    inputs = torch.randn(_N_PROBE_IMAGES, N_CHANNELS, *sizes.image_size, generator=generator_for("probe"))
    return find_invariant(model, inputs, forward=task.outputs).to_dict()


def _replayed_norms(settings: RunSettings, out: Path, found: Invariance) -> Mapping[str, Tensor] | None:
    replayed = settings.replayed_run
    if replayed is None:
        return None
    path = run_directory(out, replayed.key) / NORMS_FILE
    return read_norms(path, found, n_steps=replayed.recipe.n_steps)
