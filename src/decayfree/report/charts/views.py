"""The charts of a study with axes, one set a group: the page shows one group at a time and draws no other.

It computes no statistics and writes no sentences of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from decayfree.report.charts import curves as charts
from decayfree.report.charts.curves import Chart, Look
from decayfree.report.charts.sensitivity import over_learning_rate, over_weight_decay, sensitivity_text
from decayfree.report.numbers.groups import Cell, Group, StudyGroups, Sweep
from decayfree.report.numbers.series import MethodSeries, StudyNumbers


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
    """Learning curves, norms, effective learning rates and angular updates.

    A view for every group and learning rate.
    """
    views = []
    for group in numbers.groups:
        for title, sweeps in _parts(group):
            drawn = _curves(numbers, sweeps, looks)
            if drawn:
                views.append(View(title, "", drawn))
    return Viewed("curves", tuple(views))


def method_looks(numbers: StudyGroups) -> dict[str, Look]:
    """A look for every method, the same in all groups."""
    names = {sweep.label: sweep.cells[0] for group in numbers.groups for sweep in group.sweeps}
    return charts.looks([replace(names[label].series, label=label) for label in numbers.methods])


def _parts(group: Group) -> list[tuple[str, list[tuple[Sweep, list[Cell]]]]]:
    """What can be drawn together.

    The cells of a group or, where the learning rate is swept as well, those of one rate.
    """
    rates = group.learning_rates
    is_apart = any(len({cell.learning_rate for cell in sweep.cells}) > 1 for sweep in group.sweeps)
    if not is_apart:
        return [(group.label, [(sweep, list(sweep.cells)) for sweep in group.sweeps])]
    return [
        (
            " · ".join(part for part in (group.label, f"learning rate {rate:g}") if part),
            [(sweep, [c for c in sweep.cells if c.learning_rate == rate]) for sweep in group.sweeps],
        )
        for rate in rates
    ]


def _curves(
    numbers: StudyGroups, sweeps: Sequence[tuple[Sweep, list[Cell]]], looks: Mapping[str, Look]
) -> tuple[Chart, ...]:
    series: list[MethodSeries] = []
    drawn: dict[str, Look] = {}
    groups: dict[str, str] = {}
    for sweep, cells in sweeps:
        ordered = sorted(cells, key=lambda cell: cell.weight_decay or 0.0)
        for index, cell in enumerate(ordered):
            series.append(cell.series)
            drawn[cell.series.label] = looks[sweep.label].shaded(index, len(ordered))
            groups[cell.series.label] = sweep.label
    part = StudyNumbers(numbers.study, tuple(series))
    if not part.shown:
        return ()
    found = (
        charts.accuracy_chart(part, "test", drawn),
        charts.accuracy_chart(part, "train", drawn),
        charts.mean_norm_chart(part, drawn),
        charts.effective_learning_rate_chart(part, drawn),
        charts.angular_update_chart(part, drawn),
    )
    for chart in found:
        for trace in chart.figure["data"]:
            trace["legendgroup"] = groups.get(trace["legendgroup"], trace["legendgroup"])
    return tuple(chart for chart in found if chart.has_points)
