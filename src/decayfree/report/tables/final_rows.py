"""The rows of final test accuracies, as texts for the page and the terminal, and what the page's strips show.

It computes no statistics and knows no HTML.
"""

from dataclasses import dataclass

from decayfree.report.numbers.compared import Entry, compare_all, compare_chosen
from decayfree.report.numbers.groups import study_groups
from decayfree.report.numbers.series import MethodSeries, StudyNumbers
from decayfree.report.tables.comparison import decimals as entry_decimals
from decayfree.report.tables.comparison import verdict
from decayfree.report.words.verdicts import decimals
from decayfree.report.words.wording import percent, percent_range, points, signed_interval, signed_points
from decayfree.study.statistics.significance import Judgement


@dataclass(frozen=True)
class FinalRow:
    """One method's row: texts, empty where there is nothing to say, and the accuracies behind them."""

    label: str
    short: str
    is_reference: bool
    n: int
    mean: str
    interval: str
    difference: str
    """Mean difference to the reference with its sign, in percentage points."""
    difference_interval: str
    seen: str
    smallest_visible: str
    spoken: str
    """The accuracies of all seeds, for those who hear the page."""
    accuracies: tuple[float, ...]
    """Final test accuracy of each seed; shares from 0 to 1."""
    mean_accuracy: tuple[float, ...]
    """The mean; empty where no run is done."""
    ends: tuple[float, ...]
    """Both ends of the interval; empty where there is none."""
    difference_share: float | None = None
    """The mean difference as a share, None where there is none."""


def final_rows(numbers: StudyNumbers) -> list[FinalRow]:
    """A row for every method of the study, in the order of its spec.

    For every group and method where runs differ in more.

    There, settings that validation data could choose between have one row, and the others one each.
    """
    groups = study_groups(numbers.study)
    if groups.are_methods_all:
        return [_row(numbers, method, decimals(numbers)) for method in numbers.methods]
    chosen = compare_chosen(groups, numbers.compared_with)
    entries = chosen if chosen.entries else compare_all(groups, numbers.compared_with)
    return [_entry_row(entry, entry_decimals(entries.entries)) for entry in entries.entries]


def strip_axis(numbers: StudyNumbers) -> tuple[float, float]:
    """Ends of the strips' common axis: every seed fits, and every interval of three seeds or more."""
    ends = [end for method in numbers.shown for end in _extent(method)]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    margin = max(0.04 * (high - low), 0.001)
    return max(low - margin, 0.0), min(high + margin, 1.0)


def _row(numbers: StudyNumbers, method: MethodSeries, digits: int) -> FinalRow:
    final, comparison = method.final_test, numbers.comparison(method)
    accuracies = tuple(method.final_test_accuracies.values())
    difference = comparison.difference if comparison else None
    interval = final.interval if final else None
    return FinalRow(
        label=method.label,
        short=method.short,
        is_reference=method is numbers.reference,
        n=method.n,
        mean=percent(final.mean, digits) if final else "",
        interval=percent_range(*interval, digits) if interval else "",
        difference=signed_points(difference.mean, digits) if difference else "",
        difference_interval=signed_interval(*difference.interval, digits)
        if difference and difference.interval
        else "",
        seen=_seen(numbers, method, comparison),
        smallest_visible=_smallest_visible(comparison, digits),
        spoken=", ".join(percent(accuracy, digits) for accuracy in accuracies),
        accuracies=accuracies,
        mean_accuracy=(final.mean,) if final else (),
        ends=interval or (),
        difference_share=difference.mean if difference else None,
    )


def _entry_row(entry: Entry, digits: int) -> FinalRow:
    cell, difference = entry.cell, entry.difference
    final = cell.series.final_test
    interval = final.interval if final else None
    accuracies = tuple(cell.test.values())
    label = " · ".join(part for part in (cell.series.label, entry.group.label) if part)
    smallest = entry.judgement.smallest_visible if entry.judgement else None
    return FinalRow(
        label=label,
        short=label,
        is_reference=entry.is_reference,
        n=cell.n,
        mean=percent(final.mean, digits) if final else "",
        interval=percent_range(*interval, digits) if interval else "",
        difference=signed_points(difference.mean, digits) if difference else "",
        difference_interval=signed_interval(*difference.interval, digits)
        if difference and difference.interval
        else "",
        seen=verdict(entry),
        smallest_visible="" if smallest is None else points(smallest, digits),
        spoken=", ".join(percent(accuracy, digits) for accuracy in accuracies),
        accuracies=accuracies,
        mean_accuracy=(final.mean,) if final else (),
        ends=interval or (),
        difference_share=difference.mean if difference else None,
    )


def _seen(numbers: StudyNumbers, method: MethodSeries, comparison: Judgement | None) -> str:
    reference = numbers.reference
    if not method.n or reference is None:
        return "no finished run"
    if method is reference:
        return "the one compared with"
    if comparison is None:
        return "no seed in common"
    if comparison.verdict == "too few seeds":
        return "one seed in common: nothing can be said"
    if comparison.verdict == "no difference seen":
        return comparison.verdict
    return f"{comparison.verdict} than {reference.short}"


def _smallest_visible(comparison: Judgement | None, digits: int) -> str:
    if comparison is None or comparison.smallest_visible is None:
        return ""
    return points(comparison.smallest_visible, digits)


def _extent(method: MethodSeries) -> list[float]:
    final, seeds = method.final_test, list(method.final_test_accuracies.values())
    if final is None or final.interval is None or final.n < 3:
        return seeds
    return [*seeds, *final.interval]
