"""Is what a study takes from its user what it must be, and is it what ended runs had?

Looked at before anything runs, and every fault told at once. Trains nothing.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import nn

from decayfree.arguments.address import Address, looking_in
from decayfree.errors import DecayFreeError, InvalidInputError
from decayfree.methods.none import NoTreatment
from decayfree.study.data.images import Dataset
from decayfree.study.data.loading import load
from decayfree.study.files.integrity import ResultError
from decayfree.study.files.results import ENDED, read_record, run_directory
from decayfree.study.files.sources import change
from decayfree.study.models.sizes import Sizes
from decayfree.study.optimizers import build_optimizer
from decayfree.study.own import OWN
from decayfree.study.own_method import OwnMethod
from decayfree.study.run_settings import OptimizerSpec, Recipe, RunSettings
from decayfree.study.spec.study_spec import StudySpec, spec_error
from decayfree.study.tasks.table import task_of


def check_own(spec: StudySpec, *, with_data: bool = True) -> None:
    """Import all that is the user's own, and try it: modules run.

    Args:
        spec: What names it.
        with_data: Also load data, and try on it what needs some: models and augmentation.

    Raises:
        SpecError: If it is not what it must be; lists all faults.
    """
    faults: dict[str, None] = {}
    with looking_in(spec.source_dir):
        for try_out in _trials(spec, with_data=with_data):
            try:
                try_out()
            except DecayFreeError as error:
                faults[str(error)] = None
    if faults:
        raise spec_error(faults)


def changed_sources(spec: StudySpec, out: str | Path) -> tuple[str, ...]:
    """What ended runs in a folder had another source of than there is now, a sentence each; runs nothing."""
    if not spec.own():
        return ()
    counts: Counter[str] = Counter()
    with looking_in(spec.source_dir):
        for run in spec.runs():
            try:
                record = read_record(run_directory(Path(out), run.key))
            except ResultError:
                continue
            if record["state"] in ENDED:
                counts[change(record["sources"], run.sources())] += 1
    return tuple(f"{said} since {n} of the runs ended" for said, n in counts.items() if said)


def _trials(spec: StudySpec, *, with_data: bool) -> Iterator[Callable[[], object]]:
    """One for each thing of the user's own with what it is called with."""
    seen: set[Hashable] = set()
    data_dir = None if spec.data_dir is None else str(spec.data_dir)
    for run in spec.runs():
        for path in run.addresses():
            key, try_out = _trial(run, path, data_dir, with_data=with_data)
            if (path, key) not in seen:
                seen.add((path, key))
                yield partial(_find, run.at(path), path)
                yield try_out


def _trial(
    run: RunSettings, path: str, data_dir: str | None, *, with_data: bool
) -> tuple[Hashable, Callable[[], object]]:
    """What it hangs on, and how it is tried."""
    recipe = run.recipe
    if path == "method.name":
        return (run.method, recipe.optimizer.name), lambda: _try_method(run)
    if path == "optimizer.name":
        return recipe.optimizer, lambda: _try_optimizer(recipe.optimizer)
    if path == "schedule":
        return (recipe.schedule, recipe.schedule_args), lambda: _try_schedule(recipe)
    if path == "task":
        return (recipe.task, recipe.task_args), lambda: task_of(recipe)
    key = (recipe.task, recipe.task_args, recipe.data, recipe.model)
    if not with_data:
        return run.at(path), lambda: None
    if path == "model.name":
        return key, lambda: try_model(recipe, _loaded(recipe, data_dir))
    if path == "data.augmentation":
        return key, lambda: _loaded(recipe, data_dir).batch(torch.arange(2), recipe.data, seed=0, step=0)
    return key, lambda: _loaded(recipe, data_dir)


def _find(address: Address, path: str) -> None:
    try:
        address.thing()
    except InvalidInputError as error:  # as `own` says it
        raise InvalidInputError(f"{path}: {error}") from error


def _loaded(recipe: Recipe, data_dir: str | None) -> Dataset:
    return load(recipe.data, data_dir, task=recipe.task)


def _try_method(run: RunSettings) -> None:
    assert isinstance(run.method, OwnMethod)
    made, name = run.method.made(), run.method.name
    optimizer = run.recipe.optimizer.name
    faults = [*made.faults(), *made.optimizer_faults(optimizer)]
    if made.replays is not None:
        faults.append("it replays the norms of another run, which only methods that are built in can")
    if faults:
        raise InvalidInputError(f"method.name: {name}: {'; '.join(faults)}")


def _try_optimizer(spec: OptimizerSpec) -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(2, 2))], "weight_decay": 0.0}]
    build_optimizer(spec, groups, learning_rate=0.1, method=NoTreatment())


def _try_schedule(recipe: Recipe) -> None:
    steps = (0, recipe.n_steps // 2, max(recipe.n_steps - 1, 0))
    rates = [recipe.learning_rate_at(step) for step in steps]
    if not all(0 <= rate < math.inf for rate in rates):
        factors = ", ".join(f"{rate / recipe.learning_rate:g}" for rate in rates)
        raise InvalidInputError(
            f"schedule: {recipe.schedule}: expected to give {OWN['schedule'].gives}, got {factors} at the "
            "beginning, halfway and at the end"
        )


def try_model(recipe: Recipe, dataset: Dataset) -> None:
    """Build a network of a library, or one's own, for these images: it may not be there, or not take them."""
    height, width = dataset.train.pixels.shape[-2:]
    sizes = Sizes(n_classes=dataset.n_classes, image_size=(height, width))
    task_of(recipe).build(recipe.model, sizes, 0)
