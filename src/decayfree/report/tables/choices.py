"""Best of a sweep: what validation data chose, its test score, and how much choosing matters.

It draws nothing. Where no images were kept for validation it says so and chooses nothing.
"""

import math

from decayfree.report.numbers.groups import Group, StudyGroups, Sweep
from decayfree.report.tables.table import NOTHING, Column, Table, TableCell, TableRow, table_of
from decayfree.report.words.wording import SPACE, by_method, count, percent, points, sentences
from decayfree.study.statistics.estimates import mean_interval
from decayfree.study.statistics.sweeps import Spread, spread_of

NO_VALIDATION = (
    "No images were kept for validation, so nothing is chosen here: to choose by test images would flatter "
    "whatever has more settings. Every setting stands in the table for itself."
)


def choices_text(numbers: StudyGroups) -> str:
    """How settings were chosen, how many, and for which method the choice matters most."""
    sweeps, name = _swept(numbers), numbers.metric.name
    if not numbers.has_validation:
        return NO_VALIDATION
    n_runs = sum(len(sweep.cells) for _, sweep in sweeps)
    left_out = sum(len(sweep.choice.left_out) for _, sweep in sweeps)
    return sentences(
        f"In {count(len(sweeps), 'sweep')} of {n_runs} settings in all, the setting with the highest mean "
        f"validation {name} over the seeds was chosen; test images had no part in it. The runs that were "
        "chosen are those that are tested, so that a method with more settings has a little more of the luck "
        f"of its runs in its test {name}.",
        (
            f"{count(left_out, 'setting')} with fewer finished seeds than others of the same sweep could not "
            "be chosen: a mean over the runs that did not diverge is flattering."
        )
        if left_out
        else "",
        _spans(numbers),
    )


def choices_table(numbers: StudyGroups) -> Table:
    """A row a sweep: what was chosen, its scores, and the worst, median and best test score of all."""
    name = numbers.metric.name
    columns = [
        *Column.of_methods(numbers.axes),
        Column("Chosen", "of so many settings"),
        Column(f"Validation {name}", "mean", is_number=True),
        Column(f"Test {name}", f"95{SPACE}% interval", is_number=True),
        Column("n", "runs", is_number=True),
        Column("Worst", f"mean test {name}", is_number=True),
        Column("Median", is_number=True),
        Column("Best", "had the test chosen", is_number=True),
    ]
    rows = [_row(group, sweep) for group, sweep in _swept(numbers)]
    return table_of(
        "choices-table", "One row for each method with several settings.", columns, rows, title="Every choice"
    )


def _swept(numbers: StudyGroups) -> list[tuple[Group, Sweep]]:
    return [(group, sweep) for group in numbers.groups for sweep in group.sweeps if len(sweep.cells) > 1]


def _row(group: Group, sweep: Sweep) -> TableRow:
    chosen = sweep.chosen
    spread = _spread(sweep)
    validation = mean_interval(list(chosen.validation.values())).mean if chosen else math.nan
    return TableRow.of(
        sweep.label,
        group.place,
        TableCell(chosen.setting if chosen else "–", f"of {count(len(sweep.cells), 'setting')}"),
        TableCell(percent(validation, 2) if chosen else "–", sort=validation),
        TableCell.of_share(chosen.final_test if chosen else None, 2),
        TableCell.of_runs(chosen.n, chosen.begun.values()) if chosen else TableCell.of_runs(0, ()),
        *(_share(getattr(spread, name) if spread else None) for name in ("worst", "median", "best")),
    )


def _share(share: float | None) -> TableCell:
    return NOTHING if share is None else TableCell(percent(share, 2), sort=share)


def _spread(sweep: Sweep) -> Spread | None:
    return spread_of([cell.final_test.mean for cell in sweep.cells if cell.final_test])


def _spans(numbers: StudyGroups) -> str:
    """Best minus worst of each method's sweeps: how much it is worth to choose."""
    widest: dict[str, float] = {}
    for _, sweep in _swept(numbers):
        spread = _spread(sweep)
        if spread is not None:
            widest[sweep.label] = max(widest.get(sweep.label, 0.0), spread.best - spread.worst)
    if not widest:
        return ""
    where = "at most " if len(numbers.groups) > 1 else ""
    name = numbers.metric.name
    return f"From the worst to the best mean test {name} of a sweep it is {where}{by_method(widest, points)}."
