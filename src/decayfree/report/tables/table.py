"""A table of the page as data: columns, cells and what they are sorted by, linked runs, small strips.

It knows no HTML and computes no statistics. The same table is plain without JavaScript, and sorted, searched
and filtered with it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from decayfree.report.words.wording import (
    Figures,
    clipped,
    percent,
    percent_range,
    signed_interval,
    signed_points,
)
from decayfree.study.files.results import Run
from decayfree.study.statistics.estimates import Estimate

MAX_SHOWN = 12
"""Rows; longer tables are unfolded on demand."""


@dataclass(frozen=True)
class Column:
    """A heading, a second line below it, and what its cells are."""

    title: str
    note: str = ""
    is_number: bool = False
    is_filter: bool = False
    """Whether rows can be chosen by the values in it."""
    ends: tuple[str, str] = ("", "")
    """Of a column of strips: what stands at both ends of its axis."""

    @staticmethod
    def of_methods(axes: Iterable[str]) -> "list[Column]":
        """The first columns of most tables: the method, and each axis of the study."""
        of_axes = (Column(axis[0].upper() + axis[1:], is_filter=True) for axis in axes)
        return [Column("Method", is_filter=True), *of_axes]


@dataclass(frozen=True)
class RunLink:
    """A run: what it is called where its cell is known, its key, and how it ended."""

    text: str
    key: str
    result: str


@dataclass(frozen=True)
class Strip:
    """A small picture in a cell; places are in percent of its width."""

    color: str
    spoken: str
    middle: float | None
    whisker: tuple[float, float] | None
    dots: tuple[float, ...] = ()
    zero: float | None = None
    """Where a line is drawn to compare with."""


@dataclass(frozen=True)
class TableCell:
    """A text, a smaller second line, and what the cell is sorted by: by default its text; NaN comes last."""

    text: str
    note: str = ""
    sort: float | str | None = None
    strip: Strip | None = None
    runs: tuple[RunLink, ...] = ()
    link: RunLink | None = None
    """Instead of a text."""
    facts: tuple[tuple[str, str], ...] = ()
    """More, unfolded on demand: names and values."""
    ends: tuple[float, float] | None = None
    """Of the interval that the note tells, in the unit of ``sort``; where the note clips it, unclipped."""

    @property
    def key(self) -> str:
        """What a script sorts by; empty goes last."""
        if isinstance(self.sort, float):
            return "" if math.isnan(self.sort) else repr(self.sort)
        return self.text if self.sort is None else self.sort

    @staticmethod
    def of_runs(
        n: int, runs: Iterable[Run], note: str = "", facts: tuple[tuple[str, str], ...] = ()
    ) -> "TableCell":
        """How many runs a row is about, with each seed's result and a link to its view."""
        ordered = sorted(runs, key=lambda run: run.seed)
        links = tuple(RunLink(f"seed {run.seed}", run.key, _result(run)) for run in ordered)
        return TableCell(str(n), note, float(n), runs=links, facts=facts)

    @staticmethod
    def of_share(final: Estimate | None, decimals: int) -> "TableCell":
        """A mean accuracy with its interval below, within 0 to 100 %; a dash where no run is done."""
        if final is None:
            return NOTHING
        ends = clipped(final.interval, final.mean) if final.interval else None
        interval = percent_range(*ends, decimals) if ends else ""
        return TableCell(percent(final.mean, decimals), interval, final.mean, ends=final.interval)

    @staticmethod
    def of_difference(difference: Estimate | None, decimals: int) -> "TableCell":
        """A difference in points with its sign and its interval below; a dash where there is none."""
        if difference is None:
            return NOTHING
        interval = signed_interval(*difference.interval, decimals) if difference.interval else ""
        return TableCell(
            signed_points(difference.mean, decimals), interval, difference.mean, ends=difference.interval
        )


NOTHING = TableCell("–", sort=math.nan)


@dataclass(frozen=True)
class TableRow:
    """Cells in the order of the columns; the first one names the row."""

    cells: tuple[TableCell, ...]
    is_reference: bool = False

    @staticmethod
    def of(method: str, place: Mapping[str, str], *more: TableCell, is_reference: bool = False) -> "TableRow":
        """A row below `Column.of_methods`: the method, its place on each axis, and more cells."""
        return TableRow((TableCell(method), *map(TableCell, place.values()), *more), is_reference)


@dataclass(frozen=True)
class Table:
    """A table; one that is long gets a search field."""

    id: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    title: str = ""
    """What a folded one is called."""
    filters: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """Index of a column -> the values that rows can be chosen by."""

    @property
    def is_long(self) -> bool:
        """Whether it is worth searching."""
        return len(self.rows) > 8

    @property
    def is_folded(self) -> bool:
        """Whether it is longer than a page wants to show unasked."""
        return len(self.rows) > MAX_SHOWN


def table_of(
    id: str, caption: str, columns: Sequence[Column], rows: Sequence[TableRow], *, title: str = "Table"
) -> Table:
    """A table with its filters: the columns marked for it that have several values."""
    filters = {}
    for index, column in enumerate(columns):
        values = tuple(dict.fromkeys(row.cells[index].text for row in rows))
        if column.is_filter and len(values) > 1:
            filters[index] = values
    return Table(id, caption, tuple(columns), tuple(rows), title, filters)


def table_behind(id: str, caption: str, figures: Figures) -> Table | None:
    """The numbers behind a paragraph: a row a method, a column a quantity; None without any."""
    shown = {title: of for title, of in figures.items() if of}
    names = dict.fromkeys(name for of in shown.values() for name in of)
    if not names:
        return None
    columns = [Column("Method"), *(Column(title, is_number=True) for title in shown)]
    rows = [
        TableRow((TableCell(name), *(_figure(of[name]) if name in of else NOTHING for of in shown.values())))
        for name in names
    ]
    return table_of(id, caption, columns, rows)


def _figure(figure: tuple[float, str]) -> TableCell:
    return TableCell(figure[1], sort=float(figure[0]))


def place(value: float, axis: tuple[float, float]) -> float:
    """Where a value lies on an axis, in percent of its length; what lies beyond is put on the nearer end."""
    share = (value - axis[0]) / (axis[1] - axis[0])
    return round(100 * min(max(share, 0.0), 1.0), 2)


def _result(run: Run) -> str:
    return percent(run.rows[-1].test_score, 2) if run.state == "done" and run.rows else run.state
