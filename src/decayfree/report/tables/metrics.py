"""The field's own numbers beside the score: IoU of each class, mAP50, errors of counts, by method.

It compares nothing: that is the score's.
"""

import math

from decayfree.report.numbers.groups import Group, StudyGroups
from decayfree.report.numbers.series import Cell
from decayfree.report.tables.table import NOTHING, Column, Table, TableCell, TableRow, table_of
from decayfree.report.words.wording import SPACE, significant
from decayfree.study.tasks.metric import is_share

CAPTION = "Test images after the last step, at the setting that stands for the method; mean over seeds."


def metrics_table(numbers: StudyGroups) -> Table | None:
    """A row for each method and group, a column a metric; None where runs have none."""
    cells = standing(numbers)
    names = list(dict.fromkeys(name for _, _, cell in cells for name in _metrics(cell)))
    if not names:
        return None
    columns = [
        *Column.of_methods(numbers.axes),
        *(Column(name, f"95{SPACE}% interval", is_number=True) for name in names),
    ]
    rows = [
        TableRow.of(label, group.place, *(_cell(cell, name) for name in names))
        for group, label, cell in cells
    ]
    return table_of("metrics-table", CAPTION, columns, rows, title="Every metric")


def standing(numbers: StudyGroups) -> list[tuple[Group, str, Cell]]:
    """The cell that stands for each method in each group, all where nothing was chosen; those with runs."""
    found = []
    for group in numbers.groups:
        for sweep in group.sweeps:
            cells = sweep.cells if sweep.standing is None else (sweep.standing,)
            found += [
                (group, cell.short if len(cells) > 1 else sweep.label, cell) for cell in cells if cell.n
            ]
    return found


def _metrics(cell: Cell) -> tuple[str, ...]:
    return tuple(name for run in cell.runs.values() for name in run.rows[-1].test_metrics)


def _cell(cell: Cell, name: str) -> TableCell:
    final = cell.final(lambda row: row.test_metrics.get(name, math.nan))
    if final is None or is_share(name):
        return TableCell.of_share(final, 1) if final else NOTHING
    low, high = final.interval or (math.nan, math.nan)
    interval = f"{significant(low)} to {significant(high)}" if final.interval else ""
    return TableCell(significant(final.mean), interval, final.mean, ends=final.interval)
