"""The charts of the page, as figures that plotly.js draws: curves per method with a band for the interval.

It computes no statistics and writes no findings. Colors are named, as in ``var(--m0)``: the page resolves
them in its light and its dark scheme, so that a method has one color everywhere.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from decayfree.report.charts import axes
from decayfree.report.charts.axes import RATE, Chart, Look, Looks, Scale, looks, plain_text, trace
from decayfree.report.numbers import series
from decayfree.report.numbers.series import Curve, StudyNumbers, mean_angular_update, predicted_angles
from decayfree.report.numbers.spectra import first_spectrum, last_spectrum
from decayfree.report.words.wording import clipped
from decayfree.study.files.results import Row

MAX_SMALL_MULTIPLES = 8
_HALO = ", ".join(["0 0 3px var(--card)"] * 4)
"""Text stands out from the lines that it crosses."""
MIN_POINTS_OF_LINE = 3
"""Fewer points are marked: one makes no line, two a line of which nobody sees that nothing lies between."""
MIN_SEEDS_OF_BAND = 3
"""With two seeds the t interval is 12.7 times as long as their distance: it would cover the chart."""


def score_chart(numbers: StudyNumbers, which: Literal["train", "test"], drawn: Looks | None = None) -> Chart:
    """Training or test accuracy over training; ``drawn``, here and below: looks given from outside."""

    def value(row: Row) -> float:
        return row.train_score if which == "train" else row.test_score

    name = numbers.methods[0].metric.name
    title = f"{'Training' if which == 'train' else 'Test'} {name}"
    return _chart(numbers, f"{which}-score", title, _unit(numbers), value, axes.ACCURACY, drawn)


def norm_charts(numbers: StudyNumbers, drawn: Looks | None = None) -> list[Chart]:
    """Mean block norm over training, one chart a weight, or their geometric mean where there are many."""
    weights = _weights(numbers)
    if len(weights) > MAX_SMALL_MULTIPLES:
        return [mean_norm_chart(numbers, drawn)]
    return _by_weight(numbers, "norm", series.norm_of, axes.NORM, drawn)


def mean_norm_chart(numbers: StudyNumbers, drawn: Looks | None = None) -> Chart:
    """Geometric mean over the weights of their mean block norm, over training."""
    unit = f"geometric mean over {len(_weights(numbers))} weights, log scale"
    return _chart(numbers, "norm", "Weight norm", unit, series.mean_norm, axes.NORM, drawn)


def effective_learning_rate_chart(numbers: StudyNumbers, drawn: Looks | None = None) -> Chart:
    """Effective learning rate over training, geometric mean over the weights."""
    unit = "geometric mean over the weights, log scale"
    value = series.mean_effective_learning_rate
    return _chart(numbers, "effective-learning-rate", "Effective learning rate", unit, value, RATE, drawn)


def effective_learning_rate_charts(numbers: StudyNumbers, drawn: Looks | None = None) -> list[Chart]:
    """Effective learning rate over training, one small chart a weight; none where there are many."""
    if len(_weights(numbers)) > MAX_SMALL_MULTIPLES:
        return []
    return _by_weight(numbers, "effective-learning-rate", series.rate_of, RATE, drawn)


def angular_update_chart(numbers: StudyNumbers, drawn: Looks | None = None) -> Chart:
    """Angle of a step over training, geometric mean over weights, with the one predicted under decay."""
    unit = "radians a step, geometric mean over the weights, log scale"
    drawn = drawn or looks(numbers.methods)
    chart = _chart(numbers, "angular-update", "Angular update", unit, mean_angular_update, RATE, drawn)
    for method in numbers.shown:
        chart.figure["data"] += _prediction(method.label, drawn[method.label], predicted_angles(method))
    return chart


def off_span_chart(numbers: StudyNumbers, drawn: Looks | None = None) -> Chart:
    """Off-span share of the first layer over training, with what it must be."""
    title, unit = "Off-span share of the first layer", f"{_unit(numbers)}, log scale"
    drawn = drawn or looks(numbers.methods)
    scale = axes.OFF_SPAN
    chart = _chart(numbers, "off-span-share", title, unit, lambda row: row.off_span_share, scale, drawn)
    for method in numbers.shown:
        law = method.curve(lambda row: row.off_span_law)
        chart.figure["data"] += _law(method.label, drawn[method.label], law)
    return chart


def spectrum_charts(numbers: StudyNumbers) -> list[Chart]:
    """Energy of every weight (of many, the first and last) over its inputs' spectrum after the last step."""
    weights = _weights(numbers)
    shown = weights if len(weights) <= MAX_SMALL_MULTIPLES else (weights[0], weights[-1])
    charts = [_spectrum_chart(numbers, f"spectrum-{index}", name) for index, name in enumerate(shown)]
    return [chart for chart in charts if chart is not None]


def _weights(numbers: StudyNumbers) -> tuple[str, ...]:
    return numbers.shown[0].weights if numbers.shown else ()


def _by_weight(
    numbers: StudyNumbers,
    id: str,
    value_of: Callable[[str], Callable[[Row], float]],
    scale: Scale,
    drawn: Looks | None,
) -> list[Chart]:
    """One small chart a weight; all have one y axis."""
    charts = [
        _chart(numbers, f"{id}-{index}", name, "", value_of(name), scale, drawn)
        for index, name in enumerate(_weights(numbers))
    ]
    axes.share_range([chart.figure["layout"] for chart in charts], scale)
    return charts


def _unit(numbers: StudyNumbers) -> str:
    if any(method.n >= MIN_SEEDS_OF_BAND for method in numbers.shown):
        return "mean over seeds, 95 % interval"
    return "mean over seeds, no interval drawn for so few"


def _chart(
    numbers: StudyNumbers,
    id: str,
    title: str,
    unit: str,
    value: Callable[[Row], float],
    scale: Scale,
    drawn: Looks | None = None,
) -> Chart:
    drawn = drawn or looks(numbers.methods)
    curves = {
        method.label: method.curve(value, is_logarithmic=scale.has_geometric_means)
        for method in numbers.shown
    }
    # The reference comes last, on top of the others.
    methods = [method for method in (*numbers.others, numbers.reference) if method is not None]
    bands = [
        _band(method.label, curves[method.label], drawn[method.label], scale)
        for method in methods
        if method.n >= MIN_SEEDS_OF_BAND
    ]
    lines = [_line(m.label, curves[m.label], drawn[m.label], scale) for m in methods]
    data = [trace for trace in bands if trace] + lines
    return Chart(id, title, unit, {"data": data, "layout": axes.layout(list(curves.values()), scale)})


def _line(label: str, curve: Curve, look: Look, scale: Scale) -> dict[str, Any]:
    number = ".3~p" if scale.is_share and scale.is_logarithmic else ".1%" if scale.is_share else ".3~g"
    has_interval = any(low is not None for low in curve.low)
    interval = f" (%{{customdata[0]:{number}}} to %{{customdata[1]:{number}}})" if has_interval else ""
    drawn = trace("lines", plain_text(label), list(curve.steps), _rounded(curve.mean), group=label)
    drawn |= {"line": look.line, "hovertemplate": f"%{{y:{number}}}{interval}"}
    if sum(mean is not None for mean in curve.mean) < MIN_POINTS_OF_LINE:
        drawn |= {"mode": "lines+markers", "marker": {"color": look.paint, "size": 7}}
    if has_interval:
        ends = zip(*_ends(curve, scale), strict=True)
        drawn["customdata"] = [list(pair) for pair in ends]
    return drawn


def _band(label: str, curve: Curve, look: Look, scale: Scale) -> dict[str, Any] | None:
    """The interval as a closed area; None where there is none."""
    ends = zip(curve.steps, *_ends(curve, scale), strict=True)
    known = [(step, low, high) for step, low, high in ends if low is not None and high is not None]
    if not known:
        return None
    steps = [step for step, _, _ in known]
    around = [high for _, _, high in known] + [low for _, low, _ in known[::-1]]
    closed = [max(end, scale.floor) for end in around]
    return trace("lines", plain_text(label), steps + steps[::-1], closed, group=label) | axes.area(look)


def _ends(curve: Curve, scale: Scale) -> tuple[list[float | None], list[float | None]]:
    """Lower and upper ends of the interval; those of shares lie within 0 and 1."""
    found = [
        (low, high)
        if low is None or high is None or mean is None or not scale.is_share
        else clipped((low, high), mean)
        for low, high, mean in zip(curve.low, curve.high, curve.mean, strict=True)
    ]
    return _rounded([low for low, _ in found]), _rounded([high for _, high in found])


def _rounded(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else float(f"{value:.{axes.N_DIGITS}g}") for value in values]


def _prediction(label: str, look: Look, points: Sequence[tuple[int, float]]) -> list[dict[str, Any]]:
    """A thin dashed line with a name beside it; none where nothing is predicted."""
    if not points:
        return []
    named = round(0.75 * len(points))
    steps, angles = [step for step, _ in points], _rounded([angle for _, angle in points])
    return [
        trace("lines+text", plain_text(f"predicted, {label}"), steps, angles, group=label)
        | {
            "text": ["predicted" if index == named else "" for index in range(len(points))],
            "textposition": "top right",
            "textfont": {"color": look.paint, "size": 12, "shadow": _HALO},
            "line": {"color": look.paint, "width": 1.2, "dash": "dash"},
            "hovertemplate": "%{y:.3~g}",
        }
    ]


def _law(label: str, look: Look, law: Curve) -> list[dict[str, Any]]:
    """Circles at what a share must be; none where it was not recorded."""
    if not law.points:
        return []
    steps, shares = [step for step, _ in law.points], _rounded([share for _, share in law.points])
    return [
        trace("markers", plain_text(f"law, {label}"), steps, shares, group=label)
        | {
            "marker": {"color": look.paint, "size": 7, "symbol": "circle-open"},
            "cliponaxis": False,
            "hoverinfo": "skip",
        }
    ]


def _spectrum_chart(numbers: StudyNumbers, id: str, weight: str) -> Chart | None:
    """In gray the start and the inputs, in color the end; None where it was not recorded."""
    drawn = looks(numbers.methods)
    ordered = [method for method in (*numbers.others, numbers.reference) if method is not None]
    before, after = first_spectrum(ordered, weight), last_spectrum(ordered, weight)
    found = {method.label: last_spectrum([method], weight) for method in ordered}
    if before is None or after is None:
        return None
    data = [
        _rank_line("input variance", after.ranks, after.variance, Look("--muted", "solid", 0.0)) | _AREA,
        _rank_line("before training", before.ranks, before.energy, Look("--muted", "solid", 1.2)),
    ]
    for label, mean in found.items():
        if mean is not None:
            data.append(_rank_line(label, mean.ranks, mean.energy, drawn[label]) | {"legendgroup": label})
    values = [value for mean in (before, *found.values()) if mean is not None for value in mean.energy]
    figure = {"data": data, "layout": axes.rank_layout([*values, *after.variance], axes.ENERGY)}
    return Chart(id, weight, f"{after.n_directions} directions", figure)


_AREA = {"fill": "tozeroy", "fillcolor": "var(--muted)26"}


def _rank_line(name: str, ranks: Sequence[float], values: Sequence[float], look: Look) -> dict[str, Any]:
    shown = _rounded([max(value, axes.ENERGY.floor / 10) for value in values])
    return trace("lines", plain_text(name), _rounded(ranks), shown) | {
        "line": look.line,
        "hovertemplate": "%{y:.3~g}",
    }
