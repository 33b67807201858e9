"""Paired differences, reference minus method, over all groups of a study, and mean ranks.

It computes no statistics and knows no HTML: a forest is a table whose rows have strips.
"""

from collections.abc import Mapping, Sequence

from decayfree.report.numbers.compared import Entries, Entry, ranks_of
from decayfree.report.numbers.groups import StudyGroups
from decayfree.report.tables.table import Column, Strip, Table, TableCell, TableRow, place, table_of
from decayfree.report.words.wording import (
    SPACE,
    by_method,
    count,
    p_value,
    sentences,
    signed_points,
    significant,
)
from decayfree.study.statistics.estimates import Estimate
from decayfree.study.statistics.ranks import MIN_GROUPS, MIN_METHODS, MeanRanks


def forest_table(numbers: StudyGroups, chosen: Entries, colors: Mapping[str, str]) -> Table:
    """A row for every method and group, with the interval of its difference on a common axis."""
    shown = [entry for entry in chosen.entries if entry.difference is not None]
    axis = difference_axis([entry.difference for entry in shown if entry.difference])
    columns = [
        *Column.of_methods(numbers.axes),
        Column(
            f"{chosen.reference} minus …",
            f"points, 95{SPACE}% interval",
            ends=(signed_points(axis[0]), signed_points(axis[1])),
        ),
        Column("Points", f"95{SPACE}% interval", is_number=True),
        Column("Pairs", is_number=True),
    ]
    rows = [_row(chosen.reference, entry, axis, colors) for entry in shown]
    caption = (
        f"Test {numbers.metric.name} of {chosen.reference} minus that of each method in the same group, "
        f"paired by seed; right of the line, which is at no difference, {chosen.reference} is higher."
    )
    return table_of("forest-table", caption, columns, rows, title="Every difference as a picture")


def forest_note() -> str:
    """What the intervals are about."""
    return (
        "Intervals in the table are within a group: what would happen if the same group were run again. "
        "Bars that reach an end of their strip go on beyond it; the numbers beside them say how far."
    )


def ranks_text(numbers: StudyGroups, chosen: Entries) -> str:
    """What the ranks show, or why they can show nothing."""
    ranks = ranks_of(numbers, chosen)
    n_groups, n_methods = len(numbers.groups), len(numbers.methods)
    if ranks is None:
        return (
            f"Ranks are not tested here: that takes at least {MIN_METHODS} methods with a result in each of "
            f"at least {MIN_GROUPS} groups. There are {count(n_methods, 'method')} and "
            f"{count(n_groups, 'group')}. With so few groups, ranks could not tell methods apart that "
            "do not agree everywhere."
        )
    return sentences(
        f"Mean ranks over {count(ranks.n_groups, 'group')} in which all methods have a result are "
        f"{by_method(ranks.ranks, significant)}.",
        "1 is the highest.",
        f"Friedman's test that all are alike gives p{SPACE}={SPACE}{p_value(ranks.p_value)}.",
        _apart(ranks),
        "A rank forgets by how much a method was better.",
    )


def ranks_table(numbers: StudyGroups, chosen: Entries, colors: Mapping[str, str]) -> Table | None:
    """Mean ranks ± half a critical difference: bars that do not meet are apart. None without ranks."""
    ranks = ranks_of(numbers, chosen)
    if ranks is None:
        return None
    ends = (1.0, float(len(ranks.ranks)))
    half = ranks.critical_difference / 2
    rows = []
    for name, rank in sorted(ranks.ranks.items(), key=lambda item: item[1]):
        bar = place(rank - half, ends), place(rank + half, ends)
        strip = Strip(colors[name], f"{name}: mean rank {significant(rank)}", place(rank, ends), bar)
        shown = TableCell("", strip=strip, sort=rank)
        rows.append(TableRow((TableCell(name), shown, TableCell(significant(rank), sort=rank))))
    columns = [
        Column("Method"),
        Column("Mean rank", "bar: critical difference", ends=("1", f"{len(ranks.ranks)}")),
        Column("Rank", is_number=True),
    ]
    caption = (
        f"Mean ranks over {count(ranks.n_groups, 'group')}; methods whose bars do not overlap differ "
        f"(Nemenyi's test at 5{SPACE}%)."
    )
    return table_of("ranks-table", caption, columns, rows)


def _apart(ranks: MeanRanks) -> str:
    cd = f"the critical difference of Nemenyi's test, {significant(ranks.critical_difference)}"
    if not ranks.pairs_apart:
        return f"No two lie further apart than {cd}: no difference seen."
    pairs = "; ".join(f"{ahead} and {behind}" for ahead, behind in ranks.pairs_apart)
    return f"Further apart than {cd}: {pairs} (the one with the better rank first)."


def _row(base: str, entry: Entry, axis: tuple[float, float], colors: Mapping[str, str]) -> TableRow:
    difference = entry.difference
    assert difference is not None
    shown = TableCell.of_difference(difference, 2)
    spoken = (
        f"{base} minus {entry.sweep.label}, {entry.group.label}: {shown.text} points"
        f" {f'({shown.note})' if shown.note else ''}"
    )
    strip = difference_strip(difference, axis, colors[entry.sweep.label], spoken)
    return TableRow.of(
        entry.sweep.label,
        entry.group.place,
        TableCell("", strip=strip, sort=difference.mean),
        shown,
        TableCell.of_runs(difference.n, entry.cell.begun.values()),
    )


def difference_strip(difference: Estimate, axis: tuple[float, float], color: str, spoken: str) -> Strip:
    """A difference with its interval beside the line of no difference."""
    whisker = tuple(place(end, axis) for end in difference.interval) if difference.interval else None
    return Strip(
        color=color,
        spoken=spoken,
        middle=place(difference.mean, axis),
        whisker=(whisker[0], whisker[1]) if whisker else None,
        zero=place(0.0, axis),
    )


def difference_axis(differences: Sequence[Estimate]) -> tuple[float, float]:
    """Every mean fits, and intervals of three pairs or more up to three times the largest mean."""
    ends = [abs(end) for one in differences if one.interval and one.n > 2 for end in one.interval]
    largest = max((abs(one.mean) for one in differences), default=0.0)
    size = 1.05 * max(largest, min(max(ends, default=0.0), 3 * largest), 0.001)
    return (-size, size)
