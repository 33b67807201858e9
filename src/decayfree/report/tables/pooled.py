"""The table of differences over all groups, test images beside those of validation.

It computes no statistics and writes no sentences but its caption.
"""

from collections.abc import Sequence

from decayfree.report.numbers.pooled import Contrast
from decayfree.report.tables.table import NOTHING, Column, Table, TableCell, TableRow, table_of
from decayfree.report.words.wording import SPACE, p_value, signed_interval
from decayfree.study.statistics.estimates import Estimate


def pooled_table(found: Sequence[Contrast]) -> Table | None:
    """A row a contrast: pooled difference, p, with the seeds that chose, on validation images, spread."""
    if not found:
        return None
    interval = f"95{SPACE}% interval"
    has_validation = any(contrast.validation for contrast in found)
    are_such = all(contrast.test.such_groups for contrast in found)
    has_choice = any(contrast.of_choice for contrast in found)
    seeds = "new seeds, " if any(contrast.is_anew for contrast in found) else ""
    columns = [
        Column("Over all groups"),
        Column("On test images", f"{seeds}points, {interval}", is_number=True),
        Column("p", "uncorrected", is_number=True),
        *([Column("… seeds that chose", f"points, {interval}", is_number=True)] if has_choice else []),
        *([Column("On validation images", f"points, {interval}", is_number=True)] if has_validation else []),
        *([Column("These groups alone", f"test images, {interval}", is_number=True)] if are_such else []),
        Column("Spread", "between groups, points", is_number=True),
        Column("Groups", is_number=True),
    ]
    caption = f"{found[0].name}, over all groups: " + (
        "what groups like these would show, each counted once."
        if are_such
        else "in these groups as they are, each counted once; four could be a sample of others."
    )
    return table_of(
        "pooled-table",
        caption,
        columns,
        [_row(contrast, has_validation, are_such, has_choice) for contrast in found],
    )


def _row(contrast: Contrast, has_validation: bool, are_such: bool, has_choice: bool) -> TableRow:
    test, chose = contrast.test, contrast.of_choice
    validation = contrast.validation.primary.difference if contrast.validation else None
    return TableRow(
        (
            TableCell(contrast.name),
            TableCell.of_difference(test.primary.difference, 2),
            _p_cell(contrast),
            *(
                [TableCell.of_difference(chose.primary.difference if chose else None, 2)]
                if has_choice
                else []
            ),
            *([TableCell.of_difference(validation, 2)] if has_validation else []),
            *([_ends(test.these_groups)] if are_such else []),
            TableCell(f"{100 * test.spread:.2f}", sort=test.spread),
            TableCell(str(test.n_groups), sort=float(test.n_groups)),
        )
    )


def _p_cell(contrast: Contrast) -> TableCell:
    p, exact = contrast.test.primary.p_value, contrast.test.sign_flip_p
    if p is None:
        return NOTHING
    return TableCell(p_value(p), "" if exact is None else f"signs {p_value(exact)}", p)


def _ends(estimate: Estimate) -> TableCell:
    if estimate.interval is None:
        return NOTHING
    return TableCell(signed_interval(*estimate.interval, 2), sort=estimate.mean, ends=estimate.interval)
