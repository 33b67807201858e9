"""The tables of comparisons: every cell's accuracy, the reference minus it, and what that shows.

It computes no statistics: `compared` does. Whether a table shows chosen cells or all of them is for its
caller.
"""

from collections.abc import Sequence

from decayfree.report.numbers.compared import Entries, Entry
from decayfree.report.numbers.groups import StudyGroups
from decayfree.report.numbers.pooled import shrunk_differences
from decayfree.report.numbers.series import Cell
from decayfree.report.tables.table import NOTHING, Column, Strip, Table, TableCell, TableRow, place, table_of
from decayfree.report.words.verdicts import decimals, exact_p
from decayfree.report.words.wording import (
    SPACE,
    clipped,
    count,
    detectable_points,
    p_value,
    percent,
    signed_interval,
)
from decayfree.study.statistics.bootstrap import MIN_FOR_BOOTSTRAP, bootstrap_interval
from decayfree.study.statistics.estimates import CONFIDENCE
from decayfree.study.statistics.power import POWER, detectable_difference


def comparison_table(numbers: StudyGroups, entries: Entries, id: str, caption: str) -> Table:
    """A row a cell: method, group, setting, accuracy, runs, differences, adjusted p value and verdict."""
    has_settings = not numbers.are_methods_all and any(entry.cell.setting for entry in entries.entries)
    shrunk = shrunk_differences(entries)
    is_shrunk = any(shrunk)
    chose = [entry.of_choice for entry in entries.entries]
    seeds = "new seeds, " if any(entry.is_anew for entry in entries.entries) else ""
    digits = decimals(entries.entries)
    columns = [
        *Column.of_methods(numbers.axes),
        *([Column("Setting")] if has_settings else []),
        Column(f"Test {numbers.metric.name}", f"95{SPACE}% interval", is_number=True),
        Column("n", "runs", is_number=True),
        Column(f"{entries.reference} minus …", f"{seeds}points, 95{SPACE}% interval", is_number=True),
        *([Column("… shrunk", "by all groups", is_number=True)] if is_shrunk else []),
        *([Column("… on validation", "the same", is_number=True)] if numbers.has_validation else []),
        *([Column("… of the choice", "seeds that chose", is_number=True)] if any(chose) else []),
        Column("p", "Holm", is_number=True),
        Column("Seen", f"{entries.reference} is", is_filter=True),
    ]
    rows = []
    for entry, estimate, first in zip(entries.entries, shrunk, chose, strict=True):
        drawn = (TableCell.of_difference(estimate, digits),) if is_shrunk else ()
        of_choice = (
            (TableCell.of_difference(first.difference if first else None, digits),) if any(chose) else ()
        )
        rows.append(_row(numbers, entry, has_settings, digits, drawn, of_choice))
    return table_of(id, caption, columns, rows, title="Every comparison")


def strip_axis(entries: Sequence[Entry]) -> tuple[float, float]:
    """Ends of the strips' common axis: every seed fits, and every interval of three seeds or more."""
    ends = [end for entry in entries for end in _extent(entry.cell)]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    margin = max(0.04 * (high - low), 0.001)
    return max(low - margin, 0.0), min(high + margin, 1.0)


def seeds_strip(cell: Cell, color: str, axis: tuple[float, float], digits: int) -> TableCell:
    """A dot a seed on an axis that all rows have in common, with the mean and its interval."""
    final, seeds = cell.final_test, list(cell.test.values())
    if final is None:
        return NOTHING
    ends = clipped(final.interval, final.mean) if final.interval else None
    strip = Strip(
        color,
        f"{cell.label}: {', '.join(percent(accuracy, digits) for accuracy in seeds)}",
        place(final.mean, axis),
        (place(ends[0], axis), place(ends[1], axis)) if ends else None,
        tuple(place(accuracy, axis) for accuracy in seeds),
    )
    return TableCell("", strip=strip, sort=final.mean)


def verdict(entry: Entry) -> str:
    """What a comparison shows: whether the reference is higher or lower, or why nothing is said."""
    if not entry.cell.n:
        return "every run diverged" if entry.cell.n_diverged == entry.cell.n_planned else "no finished run"
    if entry.is_reference:
        return "the one compared with"
    if entry.reference is None:
        return "nothing to compare with"
    if entry.judgement is None:
        return "no seed in common"
    if entry.judgement.verdict == "too few seeds":
        return "one seed: nothing can be said"
    return entry.judgement.verdict


def _extent(cell: Cell) -> list[float]:
    final, seeds = cell.final_test, list(cell.test.values())
    return [*seeds, *final.interval] if final and final.interval and final.n >= 3 else seeds


def _row(
    numbers: StudyGroups,
    entry: Entry,
    has_settings: bool,
    digits: int,
    shrunk: tuple[TableCell, ...],
    of_choice: tuple[TableCell, ...],
) -> TableRow:
    cell = entry.cell
    return TableRow.of(
        cell.label if numbers.are_methods_all else entry.sweep.label,
        entry.group.place,
        *([TableCell(cell.setting or "–")] if has_settings else []),
        TableCell.of_share(cell.final_test, digits),
        TableCell.of_runs(cell.n, cell.begun.values(), _lost(entry), _facts(entry)),
        TableCell.of_difference(entry.difference, digits),
        *shrunk,
        *([TableCell.of_difference(entry.validation_difference, digits)] if numbers.has_validation else []),
        *of_choice,
        _p_cell(entry),
        TableCell(verdict(entry), _support(entry, digits)),
        is_reference=entry.is_reference,
    )


def _lost(entry: Entry) -> str:
    """Runs that a mean over finished runs does not show."""
    cell = entry.cell
    failed = sum(run.state == "failed" for run in cell.begun.values())
    left = cell.n_planned - cell.n - cell.n_diverged - failed
    parts = ((cell.n_diverged, "diverged"), (failed, "failed"), (left, "not done"))
    return ", ".join(f"{n}{SPACE}{word}" for n, word in parts if n)


def _p_cell(entry: Entry) -> TableCell:
    if entry.judgement is None or entry.judgement.adjusted_p is None or entry.judgement.p_value is None:
        return NOTHING
    alone = p_value(entry.judgement.p_value)
    return TableCell(p_value(entry.judgement.adjusted_p), f"alone {alone}", entry.judgement.adjusted_p)


def _support(entry: Entry, digits: int) -> str:
    """Beside what is seen a p that assumes no normality, beside what is not the power."""
    if entry.judgement is None or entry.judgement.verdict == "too few seeds":
        return ""
    if entry.judgement.verdict != "no difference seen":
        exact = exact_p(entry)
        return "" if exact is None else f"exact sign-flip p{SPACE}={SPACE}{p_value(exact)}"
    if entry.judgement.detectable is None:
        return ""
    return f"{percent(POWER, 0)} power: {detectable_points(entry.judgement.detectable, digits)}"


def _facts(entry: Entry) -> tuple[tuple[str, str], ...]:
    """What else the runs say about the difference; empty where there is none."""
    difference, reference = entry.difference, entry.reference
    if difference is None or reference is None or difference.n < 2:
        return ()
    pairs, exact = entry.pairs, exact_p(entry)
    facts = [("difference", f"{reference.label} minus {entry.cell.label} ({count(len(pairs), 'pair')})")]
    if exact is not None:
        facts.append(("exact sign-flip test, alone", f"p{SPACE}={SPACE}{p_value(exact)}"))
    if len(pairs) >= MIN_FOR_BOOTSTRAP:
        ends = bootstrap_interval(pairs)
        facts.append((f"{percent(CONFIDENCE, 0)} bootstrap interval (BCa)", signed_interval(*ends, 2)))
    detectable = detectable_difference(difference)
    if detectable:
        facts.append(
            (
                f"true difference seen with a probability of {percent(POWER, 0)}, alone",
                detectable_points(detectable, 2),
            )
        )
    return tuple(facts)
