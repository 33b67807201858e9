"""The charts of several groups, one set a group: the page shows one group at a time and draws no other.

It computes no statistics and writes no sentences of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from decayfree.report.charts import curves as charts
from decayfree.report.charts.axes import Chart, Look, looks
from decayfree.report.charts.sensitivity import over_learning_rate, over_weight_decay, sensitivity_text
from decayfree.report.numbers.compared import drawn_together
from decayfree.report.numbers.groups import Group, StudyGroups, Sweep
from decayfree.report.numbers.series import StudyNumbers


@dataclass(frozen=True)
class View:
    """What is drawn when a group is chosen: text, and figures by the slot that they are drawn in."""

    label: str
    text: str
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Viewed:
    """A section with a choice of views."""

    id: str
    views: tuple[View, ...]

    @property
    def n_slots(self) -> int:
        """The most charts that any view has."""
        return max((len(view.charts) for view in self.views), default=0)

    @property
    def first(self) -> int:
        """The view that is shown before anybody has chosen: the first of those that draw the most."""
        n_traces = [sum(len(chart.figure["data"]) for chart in view.charts) for view in self.views]
        return n_traces.index(max(n_traces))

    @property
    def data(self) -> dict[str, Any]:
        """What the page's script reads."""
        return {
            "first": self.first,
            "views": [
                {
                    "text": view.text,
                    "charts": [
                        {"title": chart.title, "unit": chart.unit, "figure": chart.figure}
                        for chart in view.charts
                    ],
                }
                for view in self.views
            ],
        }


def sensitivity_views(numbers: StudyGroups, looks: Mapping[str, Look]) -> Viewed:
    """Accuracy over what is tuned, a view for every group with a sweep that can be drawn."""
    views = []
    for group in numbers.groups:
        drawn = [*over_weight_decay(group, looks), *over_learning_rate(group, looks)]
        if drawn:
            views.append(View(group.label, sensitivity_text(group), tuple(drawn)))
    return Viewed("sensitivity", tuple(views))


def curve_views(numbers: StudyGroups, looks: Mapping[str, Look]) -> Viewed:
    """Learning curves, norms, effective learning rates, angular updates: a view a group and rate."""
    views = []
    for group in numbers.groups:
        for title, sweeps in _parts(group):
            drawn = _curves(numbers, sweeps, looks)
            if drawn:
                views.append(View(title, "", drawn))
    return Viewed("curves", tuple(views))


def method_looks(numbers: StudyGroups) -> dict[str, Look]:
    """A look, the same everywhere, for every cell where one page shows all of them, else for every method."""
    return looks(numbers.cells) if numbers.are_methods_all else sweep_looks(numbers)


def sweep_looks(numbers: StudyGroups) -> dict[str, Look]:
    """A look for every method, whatever its settings."""
    first = {sweep.label: sweep.cells[0] for group in numbers.groups for sweep in group.sweeps}
    return looks([replace(first[label], label=label) for label in numbers.methods])


def _parts(group: Group) -> list[tuple[str, list[Sweep]]]:
    """What can be drawn together: the cells of a group, or of one learning rate where it is swept as well."""
    if not any(len({cell.learning_rate for cell in sweep.cells}) > 1 for sweep in group.sweeps):
        return [(group.label, list(group.sweeps))]
    parts = []
    for rate in group.learning_rates:
        kept = [(s.label, tuple(c for c in s.cells if c.learning_rate == rate)) for s in group.sweeps]
        title = " · ".join(part for part in (group.label, f"learning rate {rate:g}") if part)
        parts.append((title, [Sweep(label, cells) for label, cells in kept if cells]))
    return parts


def chosen_part(
    numbers: StudyGroups, group: Group, looks: Mapping[str, Look]
) -> tuple[StudyNumbers, dict[str, Look]]:
    """What stands for the methods of a group: the chosen setting of each, else all of them."""
    if numbers.are_methods_all:
        return drawn_together(numbers.study, group.sweeps), dict(looks)
    sweeps = [
        replace(sweep, cells=(sweep.standing,) if sweep.standing else sweep.cells) for sweep in group.sweeps
    ]
    part, drawn = _part(numbers, sweeps, looks)
    if any(len(sweep.cells) > 1 for sweep in sweeps):
        return part, drawn
    # One a method: its name is enough.
    named = {cell.label: sweep.label for sweep in sweeps for cell in sweep.cells}
    cells = {label: replace(cell, label=named[label]) for cell in part.methods if (label := cell.label)}
    base = None if part.reference is None else cells[part.reference.label]
    return replace(part, methods=tuple(cells.values()), reference=base), dict(looks)


def _part(
    numbers: StudyGroups, sweeps: Sequence[Sweep], looks: Mapping[str, Look]
) -> tuple[StudyNumbers, dict[str, Look]]:
    """Sweeps drawn together, and a look for every setting: of several the fainter, the smaller its decay."""
    ordered = [
        Sweep(sweep.label, tuple(sorted(sweep.cells, key=lambda cell: cell.weight_decay or 0.0)))
        for sweep in sweeps
    ]
    drawn = {
        cell.label: looks[sweep.label].shaded(index, len(sweep.cells))
        for sweep in ordered
        for index, cell in enumerate(sweep.cells)
    }
    return drawn_together(numbers.study, ordered), drawn


def _curves(numbers: StudyGroups, sweeps: Sequence[Sweep], looks: Mapping[str, Look]) -> tuple[Chart, ...]:
    part, drawn = _part(numbers, sweeps, looks)
    if not part.shown:
        return ()
    methods = {cell.label: sweep.label for sweep in sweeps for cell in sweep.cells}
    found = (
        charts.score_chart(part, "test", drawn),
        charts.score_chart(part, "train", drawn),
        charts.mean_norm_chart(part, drawn),
        charts.effective_learning_rate_chart(part, drawn),
        charts.angular_update_chart(part, drawn),
    )
    for chart in found:
        for trace in chart.figure["data"]:
            trace["legendgroup"] = methods.get(trace["legendgroup"], trace["legendgroup"])
    return tuple(chart for chart in found if chart.has_points)
