"""What a recorder saw, as a page: a chart an instrument, a line a weight, and a table of where they are.

It computes no statistics but means over weights, and writes no HTML.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from decayfree.dynamics.samples import Sample
from decayfree.report.charts import axes
from decayfree.report.charts.axes import NORM, Chart, Look, plain_text, trace
from decayfree.report.tables.table import NOTHING, Column, Table, TableCell, TableRow, table_of
from decayfree.report.words.wording import count, significant

INSTRUMENTS: Mapping[str, tuple[str, str]] = {
    "norm": ("Norm", "of the weight, mean over its blocks, log scale"),
    "effective_learning_rate": ("Effective learning rate", "mean over blocks, log scale"),
    "angular_update_rad": ("Angular update", "radians a step, mean over blocks, log scale"),
    "relative_update": ("Relative update", "share of the norm, mean over blocks, log scale"),
    "radial_share": ("Radial share of the gradient", "0 without a scale; mean over blocks, log scale"),
    "gradient_norm_at_unit_radius": ("Gradient norm at unit radius", "mean over blocks, log scale"),
    "distance_to_equilibrium": ("Distance to equilibrium", "angle / predicted angle − 1, mean over blocks"),
}
"""What is drawn, in this order: a title, and a unit."""
_TOLD = ("norm", "angular_update_rad", "effective_learning_rate")


def contents(samples: Sequence[Sample]) -> dict[str, Any]:
    """What the page shows, for its template."""
    runs = list(dict.fromkeys(sample.run for sample in samples))
    looks = {run: Look(f"--m{index % 8}", "solid", 3.0) for index, run in enumerate(runs)}
    charts = [chart for name in INSTRUMENTS if (chart := instrument_chart(samples, name, looks)) is not None]
    weights = {name for sample in samples for name in sample.weights}
    steps = [sample.step for sample in samples]
    about = (
        f"{count(len(samples), 'sample')} of {count(len(runs), 'run')} and {count(len(weights), 'weight')}"
    )
    return {
        "title": "What weights do while a model trains",
        "kicker": f"{about}, step {min(steps)} to {max(steps)}",
        "runs": [{"label": f"run {run}", "look": looks[run]} for run in runs],
        "charts": charts,
        "figures": {chart.id: chart.figure for chart in charts},
        "table": _table(samples, runs),
    }


def means(samples: Sequence[Sample], instrument: str) -> dict[str, list[tuple[int, float]]]:
    """By weight, its steps and the means over its blocks, where they are finite."""
    found: dict[str, list[tuple[int, float]]] = {}
    for sample in samples:
        for name, seen in sample.weights.items():
            mean = seen.get(instrument, {}).get("mean", math.nan)
            if math.isfinite(mean):
                found.setdefault(name, []).append((sample.step, mean))
    return found


def over_weights(of: Mapping[str, Sequence[tuple[int, float]]]) -> list[tuple[int, float]]:
    """The mean over all weights at each step.

    Example:
        >>> over_weights({"a": [(10, 1.0), (20, 2.0)], "b": [(10, 3.0)]})
        [(10, 2.0), (20, 2.0)]
    """
    by_step: dict[int, list[float]] = {}
    for points in of.values():
        for step, mean in points:
            by_step.setdefault(step, []).append(mean)
    return [(step, fmean(by_step[step])) for step in sorted(by_step)]


def instrument_chart(samples: Sequence[Sample], instrument: str, looks: Mapping[str, Look]) -> Chart | None:
    """A thin line a weight and a thick one for the mean of all, by run; None where nobody measured it."""
    data, drawn = [], []
    for run, look in looks.items():
        of = means([sample for sample in samples if sample.run == run], instrument)
        lines = [(name, points, Look(look.color, "solid", 1.0, "59")) for name, points in of.items()]
        lines += [("mean of all weights", over_weights(of), look)] if len(of) > 1 else []
        for name, points, own in lines:
            drawn += points
            steps, values = [step for step, _ in points], [float(f"{mean:.4g}") for _, mean in points]
            line = trace("lines+markers", plain_text(name), steps, values, group=f"run {run}")
            data.append(line | {"line": own.line, "marker": {"color": own.paint, "size": 3}})
    if not drawn:
        return None
    is_logarithmic = instrument != "distance_to_equilibrium"
    figure = {"data": data, "layout": axes.sample_layout(drawn, NORM if is_logarithmic else axes.DISTANCE)}
    return Chart(instrument.replace("_", "-"), *INSTRUMENTS[instrument], figure)


def _table(samples: Sequence[Sample], runs: Sequence[str]) -> Table:
    """Where each weight is at the last sample of each run."""
    columns = [Column("Run", is_filter=True), Column("Weight"), Column("Step", is_number=True)]
    columns += [Column(INSTRUMENTS[name][0], is_number=True) for name in _TOLD]
    rows = []
    for run in runs:
        last = [sample for sample in samples if sample.run == run][-1]
        for name, seen in last.weights.items():
            values = [seen.get(instrument, {}).get("mean", math.nan) for instrument in _TOLD]
            told = [
                TableCell(significant(one), sort=one) if math.isfinite(one) else NOTHING for one in values
            ]
            cells = (TableCell(run), TableCell(name), TableCell(str(last.step), sort=float(last.step)), *told)
            rows.append(TableRow(cells))
    return table_of("weights", "Mean over the blocks of each weight at the last sample.", columns, rows)


def _cell(value: float) -> TableCell:
    return TableCell(significant(value), sort=value) if math.isfinite(value) else NOTHING
