"""A study to begin from: a task, data, a network and an optimizer, with the settings that suit them here.

Settings are those of the built-in study that has the same task and data, as far as there is one.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from decayfree.arguments.address import Address
from decayfree.arguments.kinds import checked
from decayfree.errors import closest
from decayfree.methods.method import Method
from decayfree.methods.table import METHODS
from decayfree.optimizers import in_studies
from decayfree.study.builtin.specs import BUILTIN, SIZES, builtin_spec
from decayfree.study.own_method import OwnMethod
from decayfree.study.run_settings import (
    DATA_OF_TASK,
    HAVE_A_SIZE,
    DataSpec,
    ModelSpec,
    OptimizerSpec,
    Recipe,
    library_of,
)
from decayfree.study.spec.study_spec import StudySpec, first_seeds, spec_error
from decayfree.study.spec.told import Fault

METHODS_TO_COMPARE = ("none", "weight_decay", "wrs")
_DECAYS = 5e-4, 5e-3
"""Conventional coefficients of weight decay, for settings that have no default; others get the first."""
_RATES = {"sgd": 0.1, "adam": 1e-3, "sign": 1e-4}
"""Learning rate to begin with, by the family of the optimizer."""
_SIZE = 32


@checked()
def start_spec(
    *,
    task: str = "classification",
    data: str | None = None,
    model: str | None = None,
    optimizer: str | None = None,
    methods: Sequence[str] = METHODS_TO_COMPARE,
    learning_rate: float | None = None,
    n_epochs: int | None = None,
    seeds: int = 3,
) -> StudySpec:
    """A study of these methods; what is None is what suits the rest.

    Args:
        task: A task's name, or one's own, as in a study's file; so are the next four.
        data: By default what is embedded.
        model: By default that of the built-in study.
        optimizer: Likewise.
        methods: Those that need a coefficient get a conventional one, weight decay two.
        learning_rate: By default that of the built-in study, or a usual one of the optimizer.
        n_epochs: By default those of the built-in study.
        seeds: How many, counted from 0.

    Raises:
        SpecError: If there is no such name, or a value is out of range; all faults at once.
    """
    data = data or DATA_OF_TASK.get(task, ("digits",))[0]
    base = _base(task, data)
    told: dict[str, Any] = {"task": _named(task), "data": _data(base.data, data)}
    if model is not None and model != base.model.name:
        told["model"] = ModelSpec(_named(model))
    if optimizer is not None and optimizer != base.optimizer.name:
        told["optimizer"] = OptimizerSpec(name=_named(optimizer))
        row = in_studies().get(optimizer)
        told["learning_rate"] = _RATES.get((row and row.family) or "sgd", base.learning_rate)
    given = {"learning_rate": learning_rate, "n_epochs": n_epochs}
    told |= {key: value for key, value in given.items() if value is not None}
    recipe = dataclasses.replace(base, **told)
    return StudySpec(
        methods=tuple(one for index, name in enumerate(methods) for one in _methods(index, name)),
        seeds=first_seeds(seeds),
        recipe=recipe,
        title=f"{', '.join(methods)} on {data}",
        question="What is expected, written before the first run?",
    )


def _base(task: str, data: str) -> Recipe:
    """The settings of a study of the same task and, if there is one, the same data; small ones first."""
    if (task, data) == (Recipe().task, DataSpec().name):
        return Recipe()
    specs = [builtin_spec(name, size) for size in SIZES for name in BUILTIN]
    of_task = [one for one in specs if one.recipe.task == task]
    if not of_task:
        return Recipe(task=_named(task))
    # Of its runs the first, since a network may be set by an axis.
    return next((one for one in of_task if one.recipe.data.name == data), of_task[0]).runs()[0].recipe


def _data(base: DataSpec, name: str) -> DataSpec:
    if name == base.name:
        return base
    has_a_size = name in HAVE_A_SIZE or isinstance(_named(name), Address)
    size = 0 if has_a_size else base.image_size or _SIZE
    # What is left out and drawn from is a matter of the study that it was taken from.
    return dataclasses.replace(base, name=_named(name), image_size=size, first=0, n_pool=0, by_seed=False)


def _named(name: str) -> Any:
    """An address where it is one."""
    return str(name) if library_of(name) else Address.taken(name)


def _methods(index: int, name: str) -> Sequence[Method]:
    if name in METHODS:
        fields = dataclasses.fields(METHODS[name])  # type: ignore[arg-type]
        needed = [entry.name for entry in fields if entry.default is dataclasses.MISSING]
        values = _DECAYS if name == "weight_decay" else _DECAYS[:1]
        return [METHODS[name](**dict.fromkeys(needed, one)) for one in values]
    address = _named(name)
    if isinstance(address, Address):
        return [OwnMethod(address)]
    known = f"one of {', '.join(METHODS)}, package.module:NAME or ./file.py:NAME"
    raise spec_error([Fault(f"methods[{index}].name", known, name, closest(name, METHODS))])
