"""Final results, drawn: accuracies with every seed, and differences from the reference as a forest.

It computes no numbers: they are those of the page's tables.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from decayfree.arguments.kinds import checked
from decayfree.display.paper import (
    INK,
    MARKERS,
    MUTED,
    TEXT,
    check_width,
    new_figure,
    paper_style,
    title_below,
)
from decayfree.errors import InvalidInputError
from decayfree.plots.drawn import color_of
from decayfree.plots.source import Source, groups_of, study_of
from decayfree.report.charts.axes import Look
from decayfree.report.charts.views import method_looks
from decayfree.report.numbers.compared import Entries, Entry, compare
from decayfree.report.numbers.groups import StudyGroups, study_groups
from decayfree.report.tables.comparison import strip_axis
from decayfree.report.tables.forest import difference_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW_IN, _HEAD_IN, _FOOT_IN = 0.17, 0.22, 0.5
Rows = Sequence[tuple[str, Sequence[Entry]]]


@checked()
def accuracy(source: Source, *, group: str | None = None, width: float = TEXT) -> "Figure":
    """Test accuracy after the last step: a point a seed, a bar at the mean, a line its 95 % interval.

    Args:
        source: A study, or its folder.
        group: Of a study with axes: only this one, named as on the page; by default all.
        width: In inches. 3.25 is a column of two, 5.5 the text of a page, 6.75 both columns.

    Returns:
        A figure of matplotlib; ``.savefig("accuracy.pdf")`` keeps it.

    Raises:
        InvalidInputError: If no run is done, or there is no such group.
        ResultError: If the folder holds no study, or its files are damaged.
        MissingExtraError: If matplotlib is not installed.
    """
    numbers = study_groups(study_of(source))
    entries = compare(numbers)
    rows = _rows(numbers, [one for one in entries.entries if one.cell.final_test], group)
    axis = strip_axis([entry for _, of_group in rows for entry in of_group])
    looks = method_looks(numbers)
    with paper_style():
        figure, panel, places = _panel(numbers, rows, width)
        for entry, place in places:
            color, marker = _look(entry, looks)
            final = entry.cell.final_test
            assert final is not None
            seeds = [100 * value for value in entry.cell.test.values()]
            if final.interval:
                ends = [100 * end for end in final.interval]
                panel.plot(ends, [place] * 2, color=color, alpha=0.3, linewidth=4, solid_capstyle="butt")
            panel.plot([100 * final.mean], [place], "|", color=INK, markersize=8, markeredgewidth=1.4)
            panel.plot(seeds, [place] * len(seeds), marker, color=color, markersize=3.2, alpha=0.8)
        panel.set_xlim(100 * axis[0], 100 * axis[1])
        title_below(figure, f"test {numbers.metric.name} after the last step, %")
    return figure


@checked()
def forest(
    source: Source, *, reference: str | None = None, group: str | None = None, width: float = TEXT
) -> "Figure":
    """Differences in test accuracy, the reference minus each method, with 95 % intervals.

    Right of the line the reference is higher. Intervals that reach an end of the axis go on beyond it.

    Args:
        source: A study, or its folder.
        reference: Name or label of a method; by default weight rescaling or, without any, weight decay.
        group: Of a study with axes: only this one, named as on the page; by default all.
        width: In inches. 3.25 is a column of two, 5.5 the text of a page, 6.75 both columns.

    Returns:
        A figure of matplotlib; ``.savefig("forest.pdf")`` keeps it.

    Raises:
        InvalidInputError: If there is nothing to compare, or no such group.
        UnknownReferenceError: If no method is called like the reference.
        ResultError: If the folder holds no study, or its files are damaged.
        MissingExtraError: If matplotlib is not installed.
    """
    numbers = study_groups(study_of(source))
    entries = compare(numbers, reference)
    rows = _rows(numbers, [one for one in entries.entries if one.difference is not None], group)
    axis = difference_axis([e.difference for _, of_group in rows for e in of_group if e.difference])
    looks = method_looks(numbers)
    with paper_style():
        figure, panel, places = _panel(numbers, rows, width)
        panel.axvline(0.0, color=MUTED, linewidth=0.8, zorder=0)
        for entry, place in places:
            color, marker = _look(entry, looks)
            difference = entry.difference
            assert difference is not None
            if difference.interval:
                ends = [100 * end for end in difference.interval]
                panel.plot(ends, [place] * 2, color=color, linewidth=1.4, solid_capstyle="butt")
            panel.plot([100 * difference.mean], [place], marker, color=color, markersize=4.5)
        panel.set_xlim(100 * axis[0], 100 * axis[1])
        title_below(figure, _forest_title(numbers, entries))
    return figure


def _forest_title(numbers: StudyGroups, entries: Entries) -> str:
    return f"test {numbers.metric.name} of {entries.reference} minus that of the method, points"


def _rows(numbers: StudyGroups, entries: Sequence[Entry], group: str | None) -> Rows:
    """Group by group, those of the groups to draw."""
    labels = [one.label for one in groups_of(numbers, group, at_most=100)]
    found = [(label, [entry for entry in entries if entry.group.label == label]) for label in labels]
    rows = [(label, own) for label, own in found if own]
    if not rows:
        raise InvalidInputError("no run of this study is done that could be drawn")
    return rows


def _panel(numbers: StudyGroups, rows: Rows, width: float) -> "tuple[Figure, Axes, list[tuple[Entry, int]]]":
    """An empty panel with a line for every entry, below the title of its group."""
    check_width(width)
    n_heads = sum(bool(label) for label, _ in rows)
    n_rows = sum(len(own) for _, own in rows) + n_heads
    figure = new_figure(width, _FOOT_IN + _HEAD_IN + _ROW_IN * n_rows)
    panel = figure.add_subplot()
    places: list[tuple[Entry, int]] = []
    texts: list[tuple[int, str, bool]] = []
    for label, own in rows:
        if label:
            texts.append((len(texts), label, True))
        for entry in own:
            places.append((entry, len(texts)))
            name = entry.cell.label if numbers.are_methods_all or not entry.is_alone else entry.sweep.label
            texts.append((len(texts), name, False))
    panel.set_yticks([place for place, _, _ in texts], [text for _, text, _ in texts])
    for tick, (_, _, is_head) in zip(panel.get_yticklabels(), texts, strict=True):
        tick.set_fontweight("bold" if is_head else "normal")
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)
    panel.set_ylim(n_rows - 0.4, -0.6)
    panel.grid(axis="x")
    return figure, panel, places


def _look(entry: Entry, looks: Mapping[str, Look]) -> tuple[str, str]:
    look = looks.get(entry.sweep.label) or looks[entry.cell.label]
    color, _ = color_of(f"var({look.color})")
    return color, MARKERS[int(look.color[-1])]
