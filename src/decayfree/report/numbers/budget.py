"""What does a trial of a method buy, group by group, and beside a recipe that nobody tuned?

It draws nothing and writes no sentences. A trial is one run: a setting of the study's grid, with one seed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from decayfree.report.numbers.compared import reference_of
from decayfree.report.numbers.groups import Group, StudyGroups, Sweep
from decayfree.report.numbers.series import Cell
from decayfree.study.statistics.budget import Budget, expected_best, share_far_down
from decayfree.study.tasks.metric import Metric


@dataclass(frozen=True)
class Published:
    """A learning rate and a weight decay that many take as they are."""

    learning_rate: float
    weight_decay: float
    source: str


PUBLISHED = {
    "sgd": (
        Published(0.1, 1e-4, "He et al. 2016, arXiv 1512.03385"),
        Published(0.1, 5e-4, "Zagoruyko and Komodakis 2016, arXiv 1605.07146"),
    ),
    "adamw": (Published(1e-3, 1e-2, "torch.optim.AdamW"),),
}
"""By optimizer, SGD's with a momentum of 0.9. Others have no decay by default, or no recipe in common use."""


@dataclass(frozen=True)
class Default:
    """A published recipe that the study has run as it is."""

    published: Published
    accuracy: float
    """Mean test score over seeds."""


@dataclass(frozen=True)
class Bought:
    """What trials of one method buy."""

    sweep: Sweep
    budget: Budget
    far_down: float
    """Share of its trials that end more than 2 points below the best of the group."""
    n_left_out: int
    """Settings of which a run has no result yet."""


@dataclass(frozen=True)
class GroupBudget:
    """All methods of a group beside each other."""

    group: Group
    methods: tuple[Bought, ...]
    default: Default | None
    """The best by validation of the published recipes that were run."""
    reference: Bought | None
    """What others are compared with."""

    @property
    def metric(self) -> Metric:
        """What scores are called."""
        return self.methods[0].sweep.cells[0].metric

    @property
    def best(self) -> Bought:
        """The method with which all trials buy the most."""
        return max(self.methods, key=lambda bought: bought.budget.mean[-1])


def budgets_of(numbers: StudyGroups, reference: str | None = None) -> list[GroupBudget]:
    """One for every group in which a method has several settings and validation data to choose by."""
    found = []
    for group in numbers.groups:
        known = [(sweep, _with_results(sweep.cells)) for sweep in group.sweeps]
        tables = {sweep.label: _tables(cells) for sweep, cells in known if cells}
        bought = {label: expected_best(*table) for label, table in tables.items()}
        if not any(budget.n > 1 for budget in bought.values()):
            continue
        best = max(budget.mean[-1] for budget in bought.values())
        methods = tuple(
            Bought(
                sweep,
                bought[sweep.label],
                share_far_down(tables[sweep.label][1], best),
                len(sweep.cells) - len(cells),
            )
            for sweep, cells in known
            if cells
        )
        base = reference_of([method.sweep for method in methods], reference)
        compared = next((method for method in methods if method.sweep is base), None)
        found.append(GroupBudget(group, methods, _default(group), compared))
    return found


def _with_results(cells: Sequence[Cell]) -> list[Cell]:
    """Those of which every run is done, with validation data, or diverged."""
    return [cell for cell in cells if len(_results(cell)) == cell.n_planned]


def _results(cell: Cell) -> dict[int, tuple[float, float]]:
    """Validation and test accuracy by seed, NaN where it diverged."""
    validation, test = cell.validation, cell.test
    known = {seed: (validation[seed], test[seed]) for seed in test if math.isfinite(validation[seed])}
    diverged = [seed for seed, run in cell.begun.items() if run.state == "diverged"]
    return known | dict.fromkeys(diverged, (math.nan, math.nan))


def _tables(cells: Sequence[Cell]) -> tuple[list[list[float]], list[list[float]]]:
    """A row a seed with a number a setting: validation and test accuracies."""
    results = [_results(cell) for cell in cells]
    first, second = (
        [[of_cell[seed][index] for of_cell in results] for seed in sorted(results[0])] for index in (0, 1)
    )
    return first, second


def _default(group: Group) -> Default | None:
    found = [
        (validation.mean, Default(one, final.mean))
        for sweep in group.sweeps
        if sweep.name == "weight_decay"
        for cell in sweep.cells
        if (one := _published(cell)) and (final := cell.final_test)
        if (validation := cell.final(lambda row: row.validation_score)) and not cell.n_diverged
    ]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _published(cell: Cell) -> Published | None:
    """The recipe that a setting of weight decay is."""
    optimizer = cell.settings.recipe.optimizer
    if optimizer.name == "sgd" and optimizer.momentum != 0.9:
        return None
    if getattr(cell.settings.method, "form", "own") != "own":
        return None
    setting = cell.learning_rate, cell.weight_decay
    known = PUBLISHED.get(optimizer.name, ())
    return next((one for one in known if (one.learning_rate, one.weight_decay) == setting), None)
