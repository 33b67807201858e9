"""The tables of a study with axes.

Every cell's accuracy, its difference from the reference, and what that shows.

It computes no statistics: `compared` does. Whether a table shows chosen cells or all of them is for its
caller.
"""

from collections.abc import Sequence

from decayfree.report.numbers.compared import Entries, Entry
from decayfree.report.numbers.groups import StudyGroups
from decayfree.report.tables.table import Column, Table, TableCell, TableRow, run_links, table_of
from decayfree.report.words.wording import (
    SPACE,
    count,
    p_value,
    percent,
    percent_range,
    points,
    signed_interval,
    signed_points,
)
from decayfree.study.statistics.bootstrap import MIN_FOR_BOOTSTRAP, bootstrap_interval
from decayfree.study.statistics.estimates import CONFIDENCE
from decayfree.study.statistics.power import POWER, detectable_difference
from decayfree.study.statistics.significance import MAX_SIGN_FLIPS, sign_flip_p

NAN = float("nan")


def comparison_table(numbers: StudyGroups, entries: Entries, id: str, caption: str) -> Table:
    """A row a cell: method, group, setting, accuracy, runs, difference, adjusted p value and verdict."""
    has_settings = any(entry.cell.setting for entry in entries.entries)
    digits = decimals(entries.entries)
    columns = [
        Column("Method", is_filter=True),
        *(Column(axis[0].upper() + axis[1:], is_filter=True) for axis in numbers.axes),
        *([Column("Setting")] if has_settings else []),
        Column("Test accuracy", f"95{SPACE}% interval", is_number=True),
        Column("n", "runs", is_number=True),
        Column("Difference", f"points, 95{SPACE}% interval", is_number=True),
        Column("p", "Holm", is_number=True),
        Column("Seen", is_filter=True),
    ]
    rows = [_row(numbers, entry, has_settings, digits) for entry in entries.entries]
    return table_of(id, caption, columns, rows)


def decimals(entries: Sequence[Entry]) -> int:
    """Decimals of a percentage: two where one would hide half of the intervals."""
    finals = [entry.cell.series.final_test for entry in entries]
    widths = sorted(final.half_width for final in finals if final and final.half_width is not None)
    return 2 if widths and widths[len(widths) // 2] < 0.005 else 1


def verdict(entry: Entry) -> str:
    """What a comparison shows, in the words of the page."""
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


def _row(numbers: StudyGroups, entry: Entry, has_settings: bool, digits: int) -> TableRow:
    cell = entry.cell
    final = cell.series.final_test
    accuracy = TableCell(
        percent(final.mean, digits) if final else "–",
        percent_range(*final.interval, digits) if final and final.interval else "",
        final.mean if final else NAN,
    )
    return TableRow(
        (
            TableCell(entry.sweep.label),
            *(TableCell(entry.group.place[axis]) for axis in numbers.axes),
            *([TableCell(cell.setting or "–")] if has_settings else []),
            accuracy,
            TableCell(
                str(cell.n),
                _lost(entry),
                float(cell.n),
                runs=run_links(cell.runs.values()),
                facts=_facts(entry),
            ),
            _difference(entry, digits),
            _p_cell(entry),
            TableCell(verdict(entry), _smallest(entry, digits)),
        ),
        is_reference=entry.is_reference,
    )


def _lost(entry: Entry) -> str:
    """Runs that a mean over finished runs does not show."""
    cell = entry.cell
    failed = sum(run.state == "failed" for run in cell.runs.values())
    left = cell.n_planned - cell.n - cell.n_diverged - failed
    parts = ((cell.n_diverged, "diverged"), (failed, "failed"), (left, "not done"))
    return ", ".join(f"{n}{SPACE}{word}" for n, word in parts if n)


def _difference(entry: Entry, digits: int) -> TableCell:
    difference = entry.difference
    if difference is None:
        return TableCell("–", sort=NAN)
    interval = signed_interval(*difference.interval, digits) if difference.interval else ""
    return TableCell(signed_points(difference.mean, digits), interval, difference.mean)


def _p_cell(entry: Entry) -> TableCell:
    if entry.judgement is None or entry.judgement.adjusted_p is None or entry.judgement.p_value is None:
        return TableCell("–", sort=NAN)
    alone = p_value(entry.judgement.p_value)
    return TableCell(p_value(entry.judgement.adjusted_p), f"alone {alone}", entry.judgement.adjusted_p)


def _smallest(entry: Entry, digits: int) -> str:
    if entry.judgement is None or entry.judgement.smallest_visible is None:
        return ""
    if entry.judgement.verdict != "no difference seen":
        return ""
    return f"smallest visible: {points(entry.judgement.smallest_visible, digits)}"


def _facts(entry: Entry) -> tuple[tuple[str, str], ...]:
    """What else the runs say about the difference; empty where there is none."""
    difference, reference = entry.difference, entry.reference
    if difference is None or reference is None or difference.n < 2:
        return ()
    seeds = sorted(entry.cell.test.keys() & reference.test.keys())
    pairs = [entry.cell.test[seed] - reference.test[seed] for seed in seeds]
    facts = [("minus", f"{reference.series.label} ({count(len(pairs), 'pair')})")]
    if len(pairs) <= MAX_SIGN_FLIPS:
        facts.append(("exact sign-flip test, alone", f"p{SPACE}={SPACE}{p_value(sign_flip_p(pairs))}"))
    if len(pairs) >= MIN_FOR_BOOTSTRAP:
        ends = bootstrap_interval(pairs)
        facts.append((f"{percent(CONFIDENCE, 0)} bootstrap interval (BCa)", signed_interval(*ends, 2)))
    detectable = detectable_difference(difference)
    if detectable:
        facts.append(
            (f"true difference seen with a probability of {percent(POWER, 0)}", points(detectable, 2))
        )
    return tuple(facts)
