"""A chart before anything is drawn in it: how methods look, which numbers are shown, with which ticks.

It draws no curves. Ranges come from means and not from intervals, which few seeds can make very wide.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from decayfree.report.numbers.series import Cell, Curve

N_DIGITS = 4
SHARE_FORMAT = ".2~%"  # as many decimals as there are: 98 %, 98.75 %


@dataclass(frozen=True)
class Look:
    """How a method is drawn everywhere: a color of the style sheet, a dash and a width in pixels."""

    color: str
    dash: str
    width: float
    opacity: str = ""
    """Two hexadecimal digits, or nothing for a full color."""

    @property
    def paint(self) -> str:
        """The color as a chart names it, for the page to resolve."""
        return f"var({self.color}){self.opacity}"

    @property
    def line(self) -> dict[str, Any]:
        """A line as a chart describes it."""
        return {"color": self.paint, "width": self.width, "dash": self.dash}

    def shaded(self, index: int, n: int) -> "Look":
        """The look of one of ``n`` settings of the same method, the first one the faintest."""
        if n == 1:
            return self
        return replace(self, opacity=f"{round(255 * (0.3 + 0.7 * index / (n - 1))):02x}", width=1.6)

    @property
    def svg_dashes(self) -> str:
        """The dash as SVG writes it, for the legend."""
        return {"solid": "none", "dash": "7 4", "dot": "2 3", "dashdot": "8 3 2 3", "longdash": "12 4"}[
            self.dash
        ]


Looks = Mapping[str, Look]


@dataclass(frozen=True)
class Chart:
    """One figure: its id in the page, a title, a unit, and what plotly.js gets."""

    id: str
    title: str
    unit: str
    figure: dict[str, Any]

    @property
    def has_points(self) -> bool:
        """Whether anything was measured: predictions alone are no curve."""
        measured = [trace for trace in self.figure["data"] if trace["mode"] in ("lines", "lines+markers")]
        return any(y is not None for trace in measured for y in trace["y"])


def looks(methods: Sequence[Cell]) -> dict[str, Look]:
    """A look for each method by label: the same kind of method has the same color in every study."""
    dashes = ("solid", "dot", "dash", "dashdot", "longdash")
    free = list(range(8))
    chosen: dict[str, Look] = {}
    for method in methods:
        wanted = method.settings.method.color_slot
        slot = min(free, key=lambda candidate: (candidate - wanted) % 8) if free else len(chosen) % 8
        if slot in free:
            free.remove(slot)
        chosen[method.label] = Look(f"--m{slot}", dashes[slot % 5], 3.0 if slot == 0 else 2.0)
    return chosen


def plain_text(text: str) -> str:
    """Text as plotly shows it: it reads names as a small part of HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def trace(mode: str, name: str, x: Sequence[Any], y: Sequence[Any], *, group: str = "") -> dict[str, Any]:
    """What plotly.js draws of one name, in `plain_text`; a click in the legend on its group hides it."""
    legend = {"legendgroup": group} if group else {}
    return {"type": "scatter", "mode": mode, "name": name, **legend, "x": x, "y": y}


def area(look: Look) -> dict[str, Any]:
    """What makes an area of a closed line: an interval around a mean."""
    fill = {"fill": "toself", "fillcolor": f"var({look.color})1f"}
    return {"line": {"width": 0}, **fill, "hoverinfo": "skip"}


@dataclass(frozen=True)
class Scale:
    """How the y axis is drawn, and which numbers do not set its range: they run out of the picture."""

    is_logarithmic: bool = False
    has_geometric_means: bool = False
    """Whether means over seeds are geometric."""
    is_share: bool = True
    """Whether numbers are shown in percent."""
    skipped_start: float = 0.0
    """Share of the training, from its begin."""
    skipped_end: float = 0.0
    """Share of the training, before its end."""
    floor: float = 0.0
    """A logarithmic axis ends here even where means are below."""


# The steep rise of the first steps would flatten all that follows.
ACCURACY = Scale(skipped_start=0.1)
# Under decay the share falls exponentially, without end.
OFF_SPAN = Scale(is_logarithmic=True, floor=1e-4)
NORM = Scale(is_logarithmic=True, has_geometric_means=True, is_share=False)
# A cosine schedule ends at zero, which a logarithm never reaches.
RATE = replace(NORM, skipped_end=0.08)
DISTANCE = Scale()
ENERGY = Scale(is_logarithmic=True, is_share=False, floor=1e-4)


def layout(curves: Sequence[Curve], scale: Scale) -> dict[str, Any]:
    """The layout of a chart over the steps of the training, in the colors of the style sheet."""
    last_step = max((step for curve in curves for step in curve.steps), default=1)
    return _layout(
        {"title": {"text": "step", "standoff": 6}, "nticks": 8, "range": [0, last_step]},
        _y_axis(_range(curves, scale), scale),
    )


def sample_layout(points: Sequence[tuple[int, float]], scale: Scale) -> dict[str, Any]:
    """The layout of a chart of values at steps; what is nearest to the pointer is told."""
    steps, values = [step for step, _ in points], [value for _, value in points]
    if scale.is_logarithmic:
        known = [value for value in values if value > scale.floor]
        ends = _logarithmic_ends(known) if known else None
    else:
        margin = max(0.06 * (max(values) - min(values)), 0.05)
        ends = [round(min(values) - margin, N_DIGITS), round(max(values) + margin, N_DIGITS)]
    x_axis = {
        "title": {"text": "step", "standoff": 6},
        "nticks": 8,
        "range": [0, round(1.02 * max(steps), N_DIGITS)],
    }
    return {**_layout(x_axis, _y_axis(ends, scale)), "hovermode": "closest"}


def run_layout(is_share: bool) -> dict[str, Any]:
    """The layout of a chart of a single run, whose numbers set its ranges."""
    y_axis: dict[str, Any] = (
        {"tickformat": SHARE_FORMAT} if is_share else {"type": "log", "exponentformat": "power"}
    )
    x_axis = {"title": {"text": "step", "standoff": 6}, "nticks": 8, "rangemode": "tozero"}
    return _layout(x_axis, {**_AXIS, "nticks": 6, **y_axis})


def rank_layout(values: Sequence[float], scale: Scale) -> dict[str, Any]:
    """The layout of a chart of these values over ranks from 0 to 1."""
    shown = [value for value in values if value > scale.floor]
    ends = _logarithmic_ends(shown) if shown else None
    x_axis = {
        "title": {"text": "rank of the direction", "standoff": 6},
        "dtick": 0.25,
        "range": [0, 1],
        "tickformat": SHARE_FORMAT,
    }
    return _layout(x_axis, _y_axis(ends, scale))


def _layout(x_axis: dict[str, Any], y_axis: dict[str, Any]) -> dict[str, Any]:
    return {
        "showlegend": False,  # the page has one legend for all charts
        "hovermode": "x unified",
        "hoverlabel": {
            "bgcolor": "var(--card)",
            "bordercolor": "var(--rule)",
            "font": {"color": "var(--ink)", "size": 12},
            "namelength": -1,
        },
        "margin": {"l": 8, "r": 20, "t": 10, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {
            "family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
            "size": 12,
            "color": "var(--muted)",
        },
        "xaxis": {**_AXIS, **x_axis, "showgrid": False},
        "yaxis": y_axis,
    }


def setting_axis(values: Sequence[float], title: str, *, zero_at: float | None = None) -> dict[str, Any]:
    """A logarithmic axis of a setting's values, each with its tick; ``zero_at`` is where a 0 stands apart."""
    ticks = sorted(values)
    texts = [_setting_tick(value) for value in ticks]
    if zero_at is not None:
        ticks, texts = [zero_at, *ticks], ["0", *texts]
    low, high = (math.log10(value) for value in (ticks[0], ticks[-1]))
    margin = max(0.06 * (high - low), 0.1)
    return {
        "title": {"text": title, "standoff": 6},
        "type": "log",
        "range": [round(low - margin, N_DIGITS), round(high + margin, N_DIGITS)],
        "tickvals": ticks,
        "ticktext": texts,
    }


def error_axis(errors: Sequence[float], x_axis: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """The layout of a chart of errors that is read as accuracies: logarithmic, the smallest error on top.

    Returns:
        The layout, and an error just above the foot of the chart: plotly draws no point that lies outside,
        were it by rounding.
    """
    known = [math.log10(error) for error in errors] or [-1.0, 0.0]
    low, high = min(known), max(known)
    margin = max(0.12 * (high - low), 0.02)
    ends = [round(min(high + 1.5 * margin, 0.02), N_DIGITS), round(low - margin, N_DIGITS)]
    ticks = _error_ticks(10 ** ends[1], 10 ** ends[0])
    y_axis = {
        **_AXIS,
        "type": "log",
        "range": ends,
        "tickvals": ticks,
        "ticktext": [f"{100 * (1 - tick):.4g}%" for tick in ticks],
    }
    return {**_layout(x_axis, y_axis), "hovermode": "closest"}, float(
        f"{10 ** (ends[0] - 0.03 * (ends[0] - ends[1])):.4g}"
    )


def error_of(accuracy: float) -> float:
    """What is missing to 100 %; a perfect score is drawn as 0.01 %, which a logarithm can show."""
    return float(f"{max(1 - accuracy, 1e-4):.{N_DIGITS}g}")


def share_range(layouts: Sequence[dict[str, Any]], scale: Scale) -> None:
    """Give charts one y axis, so that they can be compared."""
    known = [layout["yaxis"]["range"] for layout in layouts if "range" in layout["yaxis"]]
    if not known:
        return
    ends = [min(low for low, _ in known), max(high for _, high in known)]
    for each in layouts:
        each["yaxis"] = _y_axis(ends, scale)


def logarithmic_ticks(ends: Sequence[float], *, is_share: bool = False) -> dict[str, Any]:
    """Ticks at 1, 2 and 5 times powers of ten; at the powers alone where there are many, at more where few.

    Of the ends of the axis, these are the decadic logarithms; of shares, percentages are written.
    """
    exponents = range(math.floor(ends[0]), math.ceil(ends[1]) + 1)

    def at(steps: Sequence[float]) -> list[float]:
        return [float(f"{step}e{exponent}") for exponent in exponents for step in steps]

    ticks = at((1, 2, 5) if ends[1] - ends[0] < 2.2 else (1,))
    if sum(ends[0] <= math.log10(tick) <= ends[1] for tick in ticks) < 2:
        ticks = at((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8))
    if sum(ends[0] <= math.log10(tick) <= ends[1] for tick in ticks) < 2:
        ticks = _even_ticks(10 ** ends[0], 10 ** ends[1])
    return {"tickvals": ticks, "ticktext": [_tick_text(tick, is_share) for tick in ticks]}


_AXIS = {
    "gridcolor": "var(--grid)",
    "linecolor": "var(--rule)",
    "zeroline": False,
    "automargin": True,
    "ticks": "",
}


def _y_axis(ends: Sequence[float] | None, scale: Scale) -> dict[str, Any]:
    axis: dict[str, Any] = dict(_AXIS)
    if scale.is_logarithmic:
        axis |= {"type": "log"}
    else:
        axis |= {"tickformat": SHARE_FORMAT, "nticks": 7}
    if ends is None:
        return axis
    ticks = logarithmic_ticks(ends, is_share=scale.is_share) if scale.is_logarithmic else {}
    return {**axis, "range": list(ends), **ticks}


def _setting_tick(value: float) -> str:
    mantissa, _, exponent = f"{value:g}".partition("e")
    return f"{mantissa}e\N{MINUS SIGN}{abs(int(exponent))}" if exponent.startswith("-") else f"{value:g}"


def _error_ticks(low: float, high: float) -> list[float]:
    """Errors of round accuracies: 1, 2, 5 times powers of ten over a wide range, else even steps."""
    if high / low >= 6:
        ticks = [float(f"{step}e{exponent}") for exponent in range(-4, 0) for step in (1, 2, 5)]
        return [tick for tick in (*ticks, 0.9) if low <= tick <= high]
    return [tick for tick in _even_ticks(low, high) if tick]


def _even_ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, at most six."""
    raw = (high - low) / 5
    exponent = math.floor(math.log10(raw))
    step = next(s for s in (float(f"{m}e{exponent}") for m in (1, 2, 5, 10)) if s >= raw)
    first = math.ceil(low / step - 1e-9)
    found = (float(f"{index * step:.10g}") for index in range(first, first + 8))
    return [tick for tick in found if tick <= high]


def _range(curves: Sequence[Curve], scale: Scale) -> list[float] | None:
    """Ends of the y axis, decadic logarithms where it is logarithmic; None where there is nothing to show."""
    means = [
        mean
        for curve in curves
        for step, mean in curve.points
        if scale.skipped_start <= step / max(1, *curve.steps) <= 1 - scale.skipped_end
        and (mean > scale.floor or not scale.is_logarithmic)
    ]
    if not means:
        return None
    if scale.is_logarithmic:
        return _logarithmic_ends(means)
    low, high = min(means), max(means)
    margin = max(0.06 * (high - low), 0.005)
    return [round(max(low - margin, -0.005), N_DIGITS), round(min(high + margin, 1.005), N_DIGITS)]


def _logarithmic_ends(values: Sequence[float]) -> list[float]:
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = max(0.06 * (high - low), 0.05)
    return [round(low - margin, N_DIGITS), round(high + margin, N_DIGITS)]


def _tick_text(tick: float, is_share: bool) -> str:
    number = 100 * tick if is_share else tick
    if 1e-4 <= number < 1e5:
        return f"{number:g}{'%' * is_share}"
    exponent = math.floor(math.log10(number) + 1e-9)
    times = number / 10**exponent
    return f"{'' if round(times, 3) == 1 else f'{times:.3g}·'}10<sup>{exponent}</sup>{'%' * is_share}"
