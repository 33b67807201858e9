"""What was added to the kept studies after a look at what had run: what rests on it is exploratory.

The comments of the studies' files say the same in words. It reads no result.
"""

import dataclasses
from collections.abc import Mapping

from decayfree.report.numbers.groups import Group, StudyGroups, Sweep
from decayfree.report.numbers.series import Cell
from decayfree.study.run_settings import Recipe, RunSettings

SEEDS: Mapping[str, frozenset[int]] = {
    "optimizers": frozenset({3, 4}),
    "architectures": frozenset({3, 4}),
    "sensitivity": frozenset({3, 4}),
}
"""By study: seeds that every setting got afterwards."""
MARK = "†"


def note(study: str) -> str:
    """What the mark and the seeds of a study mean; empty where nothing was added."""
    rate = "this learning rate was added after a look at the others, and is among those that are chosen from"
    network = "this network was added after a look at the others"
    marked = {"optimizers": rate, "sensitivity": rate, "baselines": rate, "architectures": network}.get(study)
    if marked is None:
        return ""
    seeds = " and ".join(map(str, sorted(SEEDS.get(study, ()))))
    return f"{MARK} Exploratory: {marked}." + (
        f" Seeds {seeds} of every row were added after a look at the others as well." if seeds else ""
    )


def is_marked(study: str, settings: RunSettings) -> bool:
    """Whether a setting, seed aside, was added: its learning rate, or its network."""
    recipe = settings.recipe
    if study == "architectures":
        return recipe.model.name == "densenet-bc-40-12"
    if study == "optimizers":
        return recipe.learning_rate == _added_rate(recipe)
    if study == "baselines":
        return recipe.learning_rate == (0.003 if settings.method.name == "hyperball" else 0.01)
    return study == "sensitivity" and recipe.learning_rate == 0.01


def planned(study: str, groups: StudyGroups) -> StudyGroups:
    """The study without what was added."""
    seeds = SEEDS.get(study, frozenset())
    kept = []
    for group in groups.groups:
        sweeps = [
            Sweep(sweep.label, cells)
            for sweep in group.sweeps
            if (cells := tuple(_without(c, seeds) for c in sweep.cells if not is_marked(study, c.settings)))
        ]
        kept += [Group(group.place, tuple(sweeps))] if sweeps else []
    return dataclasses.replace(groups, groups=tuple(kept))


def _without(cell: Cell, seeds: frozenset[int]) -> Cell:
    begun = {seed: run for seed, run in cell.begun.items() if seed not in seeds}
    return dataclasses.replace(cell, begun=begun, n_planned=cell.n_planned - len(cell.begun) + len(begun))


def _added_rate(recipe: Recipe) -> float:
    """The largest of three for Adam, its relatives, Lion and Muon, the smallest for the others."""
    optimizer = recipe.optimizer
    if optimizer.name == "sgd":
        return 0.01 if optimizer.momentum else 0.03
    return 0.003 if optimizer.name in ("adagrad", "lion") else 0.01
