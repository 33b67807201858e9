"""How test accuracy depends on what is tuned: coefficient of weight decay and learning rate, by group.

It chooses no setting. Runs that diverged have no accuracy: they are marked at the foot of a chart and counted
in its text.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from decayfree.report.charts.axes import (
    Chart,
    Look,
    area,
    error_axis,
    error_of,
    plain_text,
    setting_axis,
    trace,
)
from decayfree.report.numbers.groups import Group, Sweep
from decayfree.report.numbers.series import Cell
from decayfree.report.words.wording import SPACE, by_method, listing, percent, points, sentences

Point = tuple[float, Cell]


def over_weight_decay(group: Group, looks: Mapping[str, Look]) -> list[Chart]:
    """Test accuracy over the coefficient, one chart a rate; none where no method has two coefficients."""
    swept = [sweep for sweep in group.sweeps if len(_decays(sweep)) > 1]
    if not swept:
        return []
    charts = []
    for rate in group.learning_rates:
        if not any(decay > 0 for sweep in swept for decay, _ in _points(sweep, rate)):
            continue  # a rate of methods without a coefficient alone
        cells = [
            (sweep, cell) for sweep in group.sweeps for cell in sweep.cells if cell.learning_rate == rate
        ]
        lines = {sweep.label: _points(sweep, rate) for sweep in swept}
        lines |= {sweep.label: _points(sweep, rate) for sweep in group.sweeps if not sweep.is_treatment}
        levels = {sweep.label: cell for sweep, cell in cells if cell.weight_decay is None}
        charts.append(_decay_chart(f"learning rate {rate:g}", lines, levels, looks))
    _share_axes(charts)
    return charts


def over_learning_rate(group: Group, looks: Mapping[str, Look]) -> list[Chart]:
    """Test accuracy over the learning rate, a line a method and coefficient; none for a single rate."""
    if not any(len({cell.learning_rate for cell in sweep.cells}) > 1 for sweep in group.sweeps):
        return []
    traces: list[dict[str, Any]] = []
    diverged: list[tuple[float, Cell, Look]] = []
    for sweep in group.sweeps:
        by_decay: dict[float | None, list[Point]] = {}
        for cell in sweep.cells:
            by_decay.setdefault(cell.weight_decay, []).append((cell.learning_rate, cell))
        for index, (decay, line) in enumerate(sorted(by_decay.items(), key=lambda item: item[0] or 0.0)):
            look = looks[sweep.label].shaded(index, len(by_decay))
            name = sweep.label if len(by_decay) == 1 else f"{sweep.label} {decay:g}"
            traces.append(_line(name, sweep.label, line, look, has_bars=len(by_decay) == 1))
            diverged += [(rate, cell, look) for rate, cell in line if cell.n_diverged]
    rates = list(group.learning_rates)
    chart = _finished(
        "over the learning rate, log scale", traces, diverged, setting_axis(rates, "learning rate")
    )
    _share_axes([chart])
    return [chart]


def sensitivity_text(group: Group) -> str:
    """How far the means of each method lie apart over its settings, and how many runs diverged."""
    widths = {sweep.label: width for sweep in group.sweeps if (width := _width(sweep)) is not None}
    wide = (
        f"From the worst to the best mean of their settings it is {by_method(widths, points)}."
        if widths
        else ""
    )
    return sentences(wide, _diverged(group))


def sensitivity_notes() -> list[str]:
    """What is shown, and on which scale."""
    return [
        "The vertical axis is logarithmic in the error, so that both a collapse and a tenth of a point near "
        f"the top can be seen. Points are means over finished runs with 95{SPACE}% t intervals, which are "
        "drawn from three runs on.",
        "Methods that have no coefficient are drawn as a level with the band of its interval. No decay is "
        "drawn at 0, apart from the logarithmic axis.",
        "A cross at the foot marks a setting of which runs diverged; its mean, where there is one, is over "
        "those that did not and is flattering.",
    ]


def _decays(sweep: Sweep) -> set[float]:
    return {cell.weight_decay for cell in sweep.cells if cell.weight_decay}


def _points(sweep: Sweep, rate: float) -> list[Point]:
    cells = [cell for cell in sweep.cells if cell.learning_rate == rate and cell.weight_decay is not None]
    return sorted(((cell.weight_decay or 0.0, cell) for cell in cells), key=lambda point: point[0])


def _decay_chart(
    title: str, lines: Mapping[str, Sequence[Point]], levels: Mapping[str, Cell], looks: Mapping[str, Look]
) -> Chart:
    decays = sorted({decay for line in lines.values() for decay, _ in line})
    axis, where = decay_axis(decays)
    traces = [
        trace for label, cell in levels.items() for trace in _level(label, cell, looks[label], axis["range"])
    ]
    diverged = [(where(decays[-1]), cell, looks[label]) for label, cell in levels.items() if cell.n_diverged]
    for label, line in lines.items():
        placed = [(where(decay), cell) for decay, cell in line]
        traces.append(_line(label, label, placed, looks[label], has_bars=True))
        diverged += [(x, cell, looks[label]) for x, cell in placed if cell.n_diverged]
    return _finished(title, traces, diverged, axis)


def decay_axis(decays: Sequence[float]) -> tuple[dict[str, Any], Callable[[float], float]]:
    """A logarithmic axis with 0 apart, and what gives a coefficient its place on it."""
    positive = [decay for decay in decays if decay > 0]
    at_zero = min(positive) / 8
    return setting_axis(positive, "weight decay", zero_at=at_zero if 0.0 in decays else None), (
        lambda decay: decay or at_zero
    )


def _line(name: str, group: str, line: Sequence[Point], look: Look, *, has_bars: bool) -> dict[str, Any]:
    known = [(x, cell, cell.final_test) for x, cell in line]
    shown = [(x, cell, final) for x, cell, final in known if final is not None]
    errors = [error_of(final.mean) for _, _, final in shown]
    symbols = ["circle-open" if cell.n_diverged else "circle" for _, cell, _ in shown]
    drawn = trace(
        "lines+markers", plain_text(name), [float(f"{x:.6g}") for x, _, _ in shown], errors, group=group
    ) | {
        "text": [plain_text(f"{name}: {_spoken(cell)}") for _, cell, _ in shown],
        "line": look.line,
        "marker": {"color": look.paint, "size": 7, "symbol": symbols},
        "hovertemplate": "%{text}<extra></extra>",
    }
    if has_bars:
        ends = [final.interval if final.n > 2 else None for _, _, final in shown]
        drawn["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [error_of(e[0]) - y if e else 0 for e, y in zip(ends, errors, strict=True)],
            "arrayminus": [y - error_of(e[1]) if e else 0 for e, y in zip(ends, errors, strict=True)],
            "color": look.paint,
            "thickness": 1.2,
            "width": 3,
        }
    return drawn


def _level(label: str, cell: Cell, look: Look, ends: Sequence[float]) -> list[dict[str, Any]]:
    """A method without a coefficient, as a line across the chart with the band of its interval."""
    final = cell.final_test
    if final is None:
        return []
    x = [float(f"{10 ** (ends[0] + share * (ends[1] - ends[0])):.6g}") for share in (0, 0.25, 0.5, 0.75, 1)]
    common = {"type": "scatter", "name": plain_text(label), "legendgroup": label}
    level = {
        **common,
        "meta": "level",
        "mode": "lines",
        "x": x,
        "y": [error_of(final.mean)] * len(x),
        "line": look.line,
        "text": [plain_text(f"{label}: {_spoken(cell)}")] * len(x),
        "hovertemplate": "%{text}<extra></extra>",
    }
    if final.interval is None or final.n < 3:
        return [level]
    low, high = (error_of(end) for end in final.interval)
    band = {
        **common,
        "mode": "lines",
        "x": [x[0], x[-1], x[-1], x[0]],
        "y": [high, high, low, low],
        **area(look),
    }
    return [band, level]


def _finished(
    title: str,
    traces: list[dict[str, Any]],
    diverged: Sequence[tuple[float, Cell, Look]],
    x_axis: dict[str, Any],
) -> Chart:
    crosses = [
        # The foot of the chart is known when all charts of the group are.
        trace("markers", "diverged", [float(f"{x:.6g}")], [None])
        | {
            "text": [plain_text(f"{cell.label}: {cell.n_diverged} of {cell.n_planned} runs diverged")],
            "marker": {
                "color": look.paint,
                "size": 10,
                "symbol": "x-thin",
                "line": {"width": 2.5, "color": look.paint},
            },
            "cliponaxis": False,
            "hovertemplate": "%{text}<extra></extra>",
        }
        for x, cell, look in diverged
    ]
    return Chart("", title, "", {"data": traces + crosses, "layout": {"xaxis": x_axis}})


def _share_axes(charts: Sequence[Chart]) -> None:
    """One vertical axis for all, that ends below the worst mean; crosses are put on its foot."""
    errors = [
        y
        for chart in charts
        for drawn in chart.figure["data"]
        if "fill" not in drawn
        for y in drawn["y"]
        if y is not None
    ]
    for chart in charts:
        layout, foot = error_axis(errors, chart.figure["layout"]["xaxis"])
        chart.figure["layout"] = layout
        for drawn in chart.figure["data"]:
            drawn["y"] = [foot if y is None else y for y in drawn["y"]]


def _spoken(cell: Cell) -> str:
    final = cell.final_test
    if final is None:
        return "no finished run"
    interval = f" ({percent(final.low or 0.0)} to {percent(final.high or 0.0)})" if final.interval else ""
    lost = f", {cell.n_diverged} diverged" if cell.n_diverged else ""
    return f"{percent(final.mean, 2)}{interval}, n = {final.n}{lost}"


def _means(cells: Sequence[Cell]) -> list[tuple[Cell, float]]:
    return [(cell, cell.final_test.mean) for cell in cells if cell.final_test]


def _width(sweep: Sweep) -> float | None:
    """From the worst to the best mean of its settings; None of fewer than two."""
    means = [mean for _, mean in _means(sweep.cells)]
    return max(means) - min(means) if len(means) > 1 else None


def _diverged(group: Group) -> str:
    lost = [(cell.label, cell.n_diverged) for cell in group.cells if cell.n_diverged]
    if not lost:
        return "No run diverged."
    n_lost, n_runs = sum(n for _, n in lost), sum(len(cell.begun) for cell in group.cells)
    named = listing([label for label, _ in lost[:6]]) + (", and others" if len(lost) > 6 else "")
    return f"{n_lost} of {n_runs} runs diverged: {named}."
