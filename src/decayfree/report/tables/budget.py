"""The table of what trials buy: a row for every method and group.

It computes no statistics and draws nothing.
"""

import math
from collections.abc import Sequence

from decayfree.report.numbers.budget import Bought, GroupBudget
from decayfree.report.tables.table import NOTHING, Column, Table, TableCell, TableRow, table_of
from decayfree.report.words.wording import percent, percent_range
from decayfree.study.statistics.budget import FAR_DOWN, TUNERS


def budget_table(groups: Sequence[GroupBudget], axes: Sequence[str]) -> Table:
    """The score after one trial and after all, trials to the published default, share that is far down."""
    has_default = any(found.default for found in groups)
    band = f"{percent(TUNERS, 0)} of tuners"
    columns = [
        *Column.of_methods(axes),
        Column("Settings", is_number=True),
        Column("One trial", f"mean, {band}", is_number=True),
        Column("All trials", f"mean, {band}", is_number=True),
        *([Column("Trials to the default", "of weight decay", is_number=True)] if has_default else []),
        Column("Far down", f"more than {100 * FAR_DOWN:g} points", is_number=True),
    ]
    rows = [_row(found, bought, has_default) for found in groups for bought in found.methods]
    caption = f"Test {groups[0].metric.name} that trials lead to, and what share of them ends far down."
    return table_of("budget-table", caption, columns, rows, title="Every budget")


def _row(found: GroupBudget, bought: Bought, has_default: bool) -> TableRow:
    budget = bought.budget
    return TableRow.of(
        bought.sweep.label,
        found.group.place,
        TableCell(str(budget.n), sort=float(budget.n)),
        _after(bought, 0),
        _after(bought, -1),
        *([_to_default(found, bought)] if has_default else []),
        TableCell(percent(bought.far_down, 0), sort=bought.far_down),
        is_reference=bought is found.reference,
    )


def _after(bought: Bought, index: int) -> TableCell:
    budget = bought.budget
    mean, band = budget.mean[index], (budget.low[index], budget.high[index])
    return TableCell(percent(mean, 2), percent_range(*band, 2), mean, ends=band)


def _to_default(found: GroupBudget, bought: Bought) -> TableCell:
    if found.default is None:
        return NOTHING
    aim = percent(found.default.accuracy, 2)
    needed = bought.budget.trials_to_reach(found.default.accuracy)
    if needed is None:
        return TableCell("never", aim, math.inf)
    return TableCell(str(needed), aim, float(needed))
