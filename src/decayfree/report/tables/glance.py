"""The result as one small picture: seeds of every method, or differences over all groups and in each.

It computes no statistics. What it leaves out stands in the tables below it on the page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from decayfree.report.numbers.compared import Entries, Entry
from decayfree.report.numbers.groups import StudyGroups
from decayfree.report.numbers.pooled import Contrast
from decayfree.report.tables.comparison import seeds_strip, strip_axis, verdict
from decayfree.report.tables.forest import difference_axis, difference_strip
from decayfree.report.tables.table import Column, Table, TableCell, TableRow, table_of
from decayfree.report.words.verdicts import decimals
from decayfree.report.words.wording import SPACE, count, percent, signed_points
from decayfree.study.statistics.estimates import Estimate

MAX_ROWS = 14
"""More do not fit on a first screen."""


def glance_table(
    numbers: StudyGroups, main: Entries, found: Sequence[Contrast], colors: Mapping[str, str]
) -> Table | None:
    """Of one group a row a method, of several a row a group, of many a row a contrast; None before runs."""
    if len(numbers.groups) == 1:
        return _seeds(numbers, main, colors)
    if not found:
        return _groups(numbers, main, colors)
    first = found[0]
    if len(first.entries) >= MAX_ROWS:
        rows = [
            _Difference(one.name, one.test.primary.difference, colors[one.method]) for one in found[:MAX_ROWS]
        ]
        over = f"Over {count(len(first.entries), 'group')}, in test {_score(numbers)}"
        return _forest("Difference", over, rows)
    over_all = f"all {count(len(first.entries), 'group')}"
    rows = [_Difference(over_all, first.test.primary.difference, colors[first.method], is_over_all=True)]
    rows += [_of_entry(entry, colors) for entry in first.entries]
    return _forest(first.name, f"{first.name} in test {_score(numbers)}", rows)


@dataclass(frozen=True)
class _Difference:
    label: str
    estimate: Estimate
    color: str
    is_over_all: bool = False


def _score(numbers: StudyGroups) -> str:
    return numbers.metric.name


def _of_entry(entry: Entry, colors: Mapping[str, str]) -> _Difference:
    assert entry.difference is not None
    return _Difference(entry.group.label, entry.difference, colors[entry.sweep.label])


def _groups(numbers: StudyGroups, main: Entries, colors: Mapping[str, str]) -> Table | None:
    """Of the first method that is compared at all, group by group."""
    methods = [method for method in numbers.methods if any(e in main.compared for e in main.of(method))]
    if not methods:
        return None
    name = f"{main.reference} minus {methods[0]}"
    entries = [entry for entry in main.of(methods[0]) if entry in main.compared][:MAX_ROWS]
    return _forest(name, f"{name} in test {_score(numbers)}", [_of_entry(one, colors) for one in entries])


def _forest(title: str, caption: str, found: Sequence[_Difference]) -> Table:
    axis = difference_axis([one.estimate for one in found])
    rows = []
    for one in found:
        shown = TableCell.of_difference(one.estimate, 2)
        spoken = f"{one.label}: {shown.text} points{f' ({shown.note})' if shown.note else ''}"
        strip = difference_strip(one.estimate, axis, one.color, spoken)
        cells = (TableCell(one.label), TableCell("", strip=strip, sort=one.estimate.mean), shown)
        rows.append(TableRow(cells, is_reference=one.is_over_all))
    columns = [
        Column(""),
        Column(title, ends=(signed_points(axis[0]), signed_points(axis[1]))),
        Column("Points", f"95{SPACE}% interval", is_number=True),
    ]
    return table_of("glance", f"{caption}, points with 95{SPACE}% intervals.", columns, rows)


def _seeds(numbers: StudyGroups, main: Entries, colors: Mapping[str, str]) -> Table | None:
    entries = [entry for entry in main.entries if entry.cell.final_test]
    if not entries:
        return None
    if len(entries) > MAX_ROWS:
        entries = sorted(entries, key=_mean, reverse=True)[:MAX_ROWS]
    digits, axis = decimals(entries), strip_axis(entries)
    rows = []
    for entry in entries:
        color = colors.get(entry.cell.label) or colors[entry.sweep.label]
        cells = (
            TableCell(entry.name),
            seeds_strip(entry.cell, color, axis, digits),
            TableCell.of_share(entry.cell.final_test, digits),
            TableCell(verdict(entry)),
        )
        rows.append(TableRow(cells, entry.is_reference))
    columns = [
        Column("Method"),
        Column("Each seed", ends=(percent(axis[0], digits), percent(axis[1], digits))),
        Column("Mean", f"95{SPACE}% interval", is_number=True),
        Column(f"{main.reference} is"),
    ]
    some = f", the {MAX_ROWS} highest" if len(entries) < sum(bool(e.cell.n) for e in main.entries) else ""
    caption = f"Test {_score(numbers)} after the last step: a dot a seed, the mean and its interval{some}."
    return table_of("glance", caption, columns, rows)


def _mean(entry: Entry) -> float:
    assert entry.cell.final_test is not None
    return entry.cell.final_test.mean
