"""What a method costs beside no treatment: seconds of an epoch and bytes of memory that runs recorded.

It measures nothing. Runs from before costs were kept have none, and a study of such runs has no section.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from decayfree.report.numbers.groups import Group, StudyGroups
from decayfree.report.numbers.series import Cell, geometric_mean
from decayfree.report.tables.table import NOTHING, Column, Table, TableCell, TableRow, table_of
from decayfree.report.words.wording import SPACE, by_method, factor, sentences, significant
from decayfree.study.files.results import Run

SECONDS, PARAMETERS = "seconds_per_epoch", "parameter_bytes"
OPTIMIZER, METHOD, PEAK = "optimizer_state_bytes", "method_state_bytes", "peak_memory_bytes"
NOTE = (
    "Seconds are those of the training steps alone, without evaluation; runs that trained side by side share "
    "the machine, and with different hardware they cannot be compared. Memory is what optimizer and method "
    "keep between two steps. Ratios are geometric means over pairs of runs of the same group and seed."
)


@dataclass(frozen=True)
class Priced:
    """The finished runs of one method in one group, and those with one of the same seed to compare with."""

    method: str
    place: Mapping[str, str]
    runs: Sequence[Run]
    pairs: Sequence[tuple[Run, Run]]
    """A run, and the one without treatment."""


def priced(numbers: StudyGroups) -> tuple[str, list[Priced]]:
    """What costs are compared with, no treatment where it is there, and the runs of every method and group.

    Where one page shows all settings together, each of them counts as a method.
    """
    rows = [
        (group, name, cells)
        for group in numbers.groups
        for name, cells in _methods(group, numbers.are_methods_all)
    ]
    untreated = [name for _, name, cells in rows if not cells[0].settings.method.is_treatment]
    base = next(iter([*untreated, *(name for _, name, _ in rows)]))
    found = []
    for group, name, cells in rows:
        bases = [cell for other, label, own in rows if other is group and label == base for cell in own]
        pairs = [
            (run, other.runs[seed])
            for cell in cells
            for other in bases
            if other.learning_rate == cell.learning_rate
            for seed, run in cell.runs.items()
            if seed in other.runs
        ]
        found.append(Priced(name, group.place, [run for cell in cells for run in cell.runs.values()], pairs))
    return base, found


def _methods(group: Group, is_each_cell: bool) -> list[tuple[str, tuple[Cell, ...]]]:
    if is_each_cell:
        return [(cell.short, (cell,)) for cell in group.cells]
    return [(sweep.label, sweep.cells) for sweep in group.sweeps]


def costs_table(costs: Sequence[Priced], axes: Sequence[str], base: str) -> Table | None:
    """A row for every method and group; None where no run has recorded what it cost."""
    known = [one for one in costs if any(run.cost for run in one.runs)]
    if not known:
        return None
    has_peak = any(PEAK in run.cost for one in known for run in one.runs)
    columns = [
        *Column.of_methods(axes),
        Column("Time of an epoch", "seconds, mean", is_number=True),
        Column(f"Over {base}", "ratio of times", is_number=True),
        Column("Optimizer's state", "of the parameters' bytes", is_number=True),
        Column("Method's state", "of the parameters' bytes", is_number=True),
        *([Column("Peak memory", "MiB", is_number=True)] if has_peak else []),
        Column("n", "runs", is_number=True),
    ]
    rows = [_row(one, has_peak) for one in known]
    return table_of(
        "costs-table", f"Training time and memory; ratios to {base}.", columns, rows, title="Every cost"
    )


def costs_text(costs: Sequence[Priced], base: str) -> str:
    """How much longer epochs take by method, over all groups, and which methods keep memory of their own."""
    ratios: dict[str, list[float]] = {}
    kept: dict[str, float] = {}
    for one in costs:
        ratios.setdefault(one.method, []).extend(_time_ratios(one))
        share = _share(one, METHOD)
        if share > 0:
            kept[one.method] = max(kept.get(one.method, 0.0), share)
    items = {m: geometric_mean(values) for m, values in ratios.items() if values and m != base}
    if not items and not kept:
        return "No run has recorded what it cost beside another of the same seed."
    return sentences(
        f"Beside {base}, an epoch takes {by_method(items, factor)} of the time." if items else "",
        f"Of their own, methods keep at most {by_method(kept, _percent)} of the parameters' bytes."
        if kept
        else "No method keeps memory of its own.",
    )


def _percent(share: float) -> str:
    return f"{significant(100 * share, 2)}{SPACE}%"


def _row(one: Priced, has_peak: bool) -> TableRow:
    seconds = _mean(one.runs, SECONDS)
    ratio = geometric_mean(_time_ratios(one))
    peak = _mean(one.runs, PEAK) / 2**20
    return TableRow.of(
        one.method,
        one.place,
        _number(seconds, significant),
        _number(ratio, factor),
        _number(_share(one, OPTIMIZER), factor),
        _number(_share(one, METHOD), factor),
        *([_number(peak, significant)] if has_peak else []),
        TableCell.of_runs(len(one.runs), one.runs),
    )


def _number(value: float, wording: Callable[[float], str]) -> TableCell:
    if not math.isfinite(value):
        return NOTHING
    return TableCell("0" if value == 0 else wording(value), sort=value)


def _time_ratios(one: Priced) -> list[float]:
    times = [(mine.cost.get(SECONDS, 0.0), base.cost.get(SECONDS, 0.0)) for mine, base in one.pairs]
    return [mine / base for mine, base in times if mine > 0 and base > 0]


def _share(one: Priced, name: str) -> float:
    """Bytes of this kind over those of the parameters; equal in all runs of a row."""
    shares = [
        run.cost[name] / run.cost[PARAMETERS]
        for run in one.runs
        if name in run.cost and run.cost.get(PARAMETERS)
    ]
    return max(shares, default=math.nan)


def _mean(runs: Sequence[Run], name: str) -> float:
    values = [run.cost[name] for run in runs if name in run.cost]
    return math.fsum(values) / len(values) if values else math.nan
