"""Which cells of a study are compared with which, and what the comparisons say together.

The one rule of all tables, pages and texts: a difference is the reference minus the method of the row, and
the reference is weight rescaling wherever there is any. A family of comparisons is corrected by Holm.

It decides nothing by test results: what stands for a method was chosen by validation data, or there was
nothing to choose.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Literal

from decayfree.arguments.kinds import checked
from decayfree.errors import DecayFreeError, closest
from decayfree.report.numbers.groups import Group, StudyGroups, Sweep, study_groups
from decayfree.report.numbers.series import Cell, StudyNumbers
from decayfree.study.files.results import Study
from decayfree.study.statistics.estimates import Comparison, Estimate, mean_interval, paired_difference
from decayfree.study.statistics.ranks import MIN_GROUPS, MIN_METHODS, MeanRanks, mean_ranks
from decayfree.study.statistics.significance import Family, Judgement, family_of
from decayfree.study.statistics.two_way import CrossedEstimate, difference_on_images
from decayfree.study.tasks.metric import Metric

REFERENCES = ("wrs", "weight_decay")
"""What others are compared with unless something else is asked for: the first of these that a group has."""


def reference_of(sweeps: Sequence[Sweep], asked: str | None = None) -> Sweep | None:
    """The method of a group that all differences are taken from: difference = reference minus the other.

    The one of the name or label that was asked for, and no other then; else the first of `REFERENCES` that
    has a finished run; else the first method that has one; where no run is done, the same without asking for
    one. None where the group has no such one.
    """
    if asked is not None:
        return next((sweep for sweep in sweeps if asked in (sweep.name, sweep.label)), None)
    finished = [sweep for sweep in sweeps if any(cell.n for cell in sweep.cells)] or list(sweeps)
    named = [sweep for name in REFERENCES for sweep in finished if sweep.name == name]
    return next(iter([*named, *finished]), None)


@dataclass(frozen=True)
class Entry:
    """A cell, and how its group's reference compares with it; ``judgement`` is None without a comparison."""

    group: Group
    sweep: Sweep
    cell: Cell
    reference: Cell | None
    judgement: Judgement | None
    is_alone: bool
    """Whether it is the only one of its method and group."""

    @property
    def is_anew(self) -> bool:
        """Whether its runs are of seeds that nothing was chosen by."""
        return self.cell is self.sweep.anew

    @property
    def name(self) -> str:
        """What sentences call it within its group."""
        return self.sweep.label if self.is_alone else self.cell.label

    @property
    def is_reference(self) -> bool:
        """Whether it is what the others are compared with."""
        return self.reference is self.cell

    @property
    def difference(self) -> Estimate | None:
        """Mean paired difference in test accuracy, reference minus cell."""
        return self.judgement.comparison.difference if self.judgement else None

    def by_seed(self, part: Literal["test", "validation"]) -> dict[int, float]:
        """Differences in accuracy on these images, reference minus cell, of the seeds that both finished."""
        if self.reference is None or self.is_reference:
            return {}
        first, second = getattr(self.reference, part), getattr(self.cell, part)
        found = {seed: first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())}
        return {seed: one for seed, one in found.items() if math.isfinite(one)}

    @cached_property
    def of_choice(self) -> "Entry | None":
        """Of new seeds the same with those that chose; None where one seed did, which says nothing."""
        if not self.is_anew or self.is_reference:
            return None
        base = next(one.chosen for one in self.group.sweeps if one.anew is self.reference)
        assert self.sweep.chosen
        (entry,) = _judged([(self.group, self.sweep, self.sweep.chosen, base)]).entries
        return entry if entry.judgement and entry.judgement.p_value is not None else None

    @property
    def pairs(self) -> list[float]:
        """Differences in test accuracy, reference minus cell, of the seeds that both finished."""
        return list(self.by_seed("test").values())

    @property
    def validation_difference(self) -> Estimate | None:
        """The same as `difference` on the images of validation, which chose; None where there are none."""
        found = list(self.by_seed("validation").values())
        return mean_interval(found) if found else None


@dataclass(frozen=True)
class Entries:
    """Comparisons that were corrected together."""

    entries: tuple[Entry, ...]
    family: Family[int]

    @property
    def reference(self) -> str:
        """What differences are taken from, as headings and sentences name it."""
        names = dict.fromkeys(entry.cell.short for entry in self.entries if entry.is_reference)
        return next(iter(names)) if len(names) == 1 else "the reference"

    @property
    def metric(self) -> Metric:
        """What scores are called."""
        return self.entries[0].cell.metric

    @property
    def compared(self) -> tuple[Entry, ...]:
        """Those with a p value."""
        return tuple(
            entry for entry in self.entries if entry.judgement and entry.judgement.p_value is not None
        )

    @property
    def is_over_images(self) -> bool:
        """Whether intervals of differences are over test images as well, and not over seeds alone."""
        found = [entry.difference for entry in self.entries if entry.difference is not None]
        return bool(found) and all(isinstance(one, CrossedEstimate) for one in found)

    def of(self, method: str) -> tuple[Entry, ...]:
        """Those of one method, group by group."""
        return tuple(entry for entry in self.entries if entry.sweep.label == method)


class UnknownReferenceError(DecayFreeError, ValueError):
    """Methods were to be compared with one that the study does not have."""


@checked()
def compare(numbers: StudyGroups, reference: str | None = None) -> Entries:
    """The first table of a page: every cell where one page shows all, else what validation chose, else all.

    What has run with seeds that nothing was chosen by stands there with these.

    Raises:
        UnknownReferenceError: If no method is called so; names those that there are.
    """
    chosen = compare_chosen(numbers, reference)
    is_chosen = (chosen.entries and not numbers.are_methods_all) or any(one.is_anew for one in chosen.entries)
    return chosen if is_chosen else compare_all(numbers, reference)


def compare_chosen(numbers: StudyGroups, reference: str | None = None) -> Entries:
    """One cell a method and group, the chosen one, each against the chosen one of the reference.

    With the seeds that nothing was chosen by, once both have run with such.
    """
    check_reference(numbers, reference)
    pairs = []
    for group in numbers.groups:
        base = reference_of(group.sweeps, reference)
        for sweep in group.sweeps:
            is_anew = sweep.anew and (base is None or base.anew)
            cell = sweep.anew if is_anew else sweep.chosen
            against = None if base is None else base.anew if is_anew else base.chosen
            if cell is None and numbers.has_validation and not any(cell.n for cell in sweep.cells):
                # A method of which no run ended stays in the table, with what became of it.
                cell = sweep.cells[0]
            if cell is not None:
                pairs.append((group, sweep, cell, against))
    return _judged(pairs)


def compare_all(numbers: StudyGroups, reference: str | None = None) -> Entries:
    """Every cell against its group's reference or, where not chosen, its first cell with the same rate."""
    check_reference(numbers, reference)
    pairs = []
    for group in numbers.groups:
        base = reference_of(group.sweeps, reference)
        for sweep in group.sweeps:
            pairs += [(group, sweep, cell, _counterpart(cell, base)) for cell in sweep.cells]
    return _judged(pairs)


@checked()
def study_numbers(study: Study, reference: str | None = None) -> StudyNumbers:
    """What is drawn and told of a study whose runs differ in nothing but their method.

    Of one with axes, all cells of all groups.

    Raises:
        UnknownReferenceError: If no method is called so; names those that there are.
    """
    groups = study_groups(study)
    check_reference(groups, reference)
    return drawn_together(study, [sweep for group in groups.groups for sweep in group.sweeps], reference)


def drawn_together(study: Study, sweeps: Sequence[Sweep], reference: str | None = None) -> StudyNumbers:
    """Methods of one group with their reference."""
    base = reference_of(sweeps, reference)
    cells = [] if base is None else [cell for cell in (base.chosen, *base.cells) if cell and cell.n]
    return StudyNumbers(
        study, tuple(cell for sweep in sweeps for cell in sweep.cells), next(iter(cells), None)
    )


def check_reference(numbers: StudyGroups, reference: str | None) -> None:
    """Raise an `UnknownReferenceError` where no method of the study is called so."""
    if reference is None or any(reference_of(group.sweeps, reference) for group in numbers.groups):
        return
    names = dict.fromkeys(sweep.name for group in numbers.groups for sweep in group.sweeps)
    raise UnknownReferenceError(
        f"expected a method to compare with, one of {', '.join(names)}; got {reference!r}"
        f"{closest(reference, names)}"
    )


def ranks_of(numbers: StudyGroups, chosen: Entries) -> MeanRanks | None:
    """Mean ranks over the groups in which all methods have a result; None with too few of either."""
    scores: dict[str, list[float]] = {method: [] for method in numbers.methods}
    for group in numbers.groups:
        results = {entry.sweep.label: entry.cell.test for entry in chosen.entries if entry.group is group}
        common = set.intersection(*map(set, results.values())) if results else set()
        means = {label: fmean(test[seed] for seed in common) for label, test in results.items() if common}
        if means.keys() == scores.keys():
            for method, mean in means.items():
                scores[method].append(mean)
    n_groups = len(next(iter(scores.values()), []))
    if len(scores) < MIN_METHODS or n_groups < MIN_GROUPS:
        return None
    return mean_ranks(scores)


def _counterpart(cell: Cell, base: Sweep | None) -> Cell | None:
    if base is None or base.chosen:
        return base.chosen if base else None
    return next((other for other in base.cells if other.learning_rate == cell.learning_rate), base.cells[0])


def _kept_images(*cells: Cell) -> bool:
    """Whether all runs that are done say which test images are right; older ones do not."""
    return all(cell.of_images.keys() == cell.runs.keys() for cell in cells)


def _judged(pairs: Sequence[tuple[Group, Sweep, Cell, Cell | None]]) -> Entries:
    comparisons: dict[int, Comparison] = {}
    for index, (_, _, cell, base) in enumerate(pairs):
        if base is not None and base is not cell:
            comparison = (
                difference_on_images(base.of_images, cell.of_images) if _kept_images(base, cell) else None
            )
            comparison = comparison or paired_difference(base.test, cell.test)
            if comparison is not None:
                comparisons[index] = comparison
    family = family_of(comparisons)
    sweeps = [id(sweep) for _, sweep, _, _ in pairs]
    entries = tuple(
        Entry(group, sweep, cell, base, family.judgements.get(index), sweeps.count(id(sweep)) == 1)
        for index, (group, sweep, cell, base) in enumerate(pairs)
    )
    return Entries(entries, family)
