"""Charts of the page as figures for paper: what plotly.js would have got, matplotlib draws.

It computes no numbers; only places of ticks and of markers are its own.
"""

import html
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from decayfree.display.paper import (
    COLORS,
    GRID,
    MARKERS,
    MUTED,
    legend_below,
    panels_of,
    paper_style,
    title_panel,
)
from decayfree.report.charts.axes import SHARE_FORMAT, Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES: Mapping[str, Any] = {
    "solid": "-",
    "dash": (0, (5, 2)),
    "dot": (0, (1.2, 1.4)),
    "dashdot": (0, (6, 1.6, 1.2, 1.6)),
    "longdash": (0, (9, 2.5)),
}
_RAISED = str.maketrans("0123456789-\N{MINUS SIGN}", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁻")
_N_MARKERS = 6
_LEAST_TICK_IN = 0.2


def figure_of(
    titled: Sequence[tuple[str, Chart]], width: float, *, y_title: str = "", key: str = ""
) -> "Figure":
    """Charts in panels, each below its title, with one legend for all.

    Args:
        titled: At least one title and chart.
        width: In inches.
        y_title: What is measured; by default the title of the first chart.
        key: What thin dashed lines or circles are, for the legend.
    """
    with paper_style():
        figure, panels = panels_of(len(titled), width)
        named: dict[str, Any] = {}
        for panel, (title, chart) in zip(panels, titled, strict=True):
            title_panel(panel, title, width)
            _draw(panel, chart, named, key)
        for panel in panels:
            spec = panel.get_subplotspec()
            assert spec is not None
            if spec.is_first_col():
                rows = figure.get_figheight() / spec.get_gridspec().nrows
                panel.set_ylabel(textwrap.fill(y_title or _y_title(titled[0][1]), int(rows / 0.09)))
        legend_below(figure, list(named.values()), list(named))
    return figure


def _y_title(chart: Chart) -> str:
    unit = ", radians" if chart.unit.startswith("radians") else ""
    return chart.title[0].lower() + chart.title[1:] + unit


def _draw(panel: "Axes", chart: Chart, named: dict[str, Any], key: str) -> None:
    from matplotlib.lines import Line2D

    for index, trace in enumerate(chart.figure["data"]):
        if trace.get("fill") == "toself":
            color, opacity = color_of(trace["fillcolor"])
            panel.fill(trace["x"], trace["y"], color=color, alpha=opacity, linewidth=0)
            continue
        name = html.unescape(trace["name"])
        if trace.get("fill") == "tozeroy":
            color, opacity = color_of(trace["fillcolor"])
            named[name] = panel.fill_between(trace["x"], trace["y"], color=color, alpha=opacity, linewidth=0)
            continue
        if name == "diverged":
            named["runs diverged"] = _draw_crosses(panel, trace)
        elif name.startswith(("predicted, ", "law, ")):
            _draw_beside(panel, trace)
            named[key] = Line2D([], [], color=MUTED, **_beside(is_law=name.startswith("law, ")))
        else:
            named.setdefault(name, _draw_line(panel, trace, index))
    _draw_axes(panel, chart.figure["layout"])


def _draw_line(panel: "Axes", trace: Mapping[str, Any], index: int) -> Any:
    (color, opacity), line = color_of(trace["line"]["color"]), trace["line"]
    x, y = trace["x"], [math.nan if value is None else value for value in trace["y"]]
    markers = trace.get("marker", {}).get("symbol")
    is_marked = color in COLORS and line["width"] > 1 and trace.get("meta") != "level"
    (drawn,) = panel.plot(
        x,
        y,
        color=color,
        alpha=opacity,
        linestyle=_DASHES[line.get("dash", "solid")],
        linewidth=max(line["width"] / 2, 0.6),
        marker=MARKERS[COLORS.index(color)] if is_marked else None,
        markersize=3.5,
        markeredgewidth=0.5,
        # Where each number counts all are marked, else a few, apart from those of other lines.
        markevery=None if markers or len(x) <= 2 * _N_MARKERS else (index % 5 / 40, 1 / _N_MARKERS),
    )
    errors = trace.get("error_y")
    if errors:
        ends = [[-min(0.0, one) or abs(one) for one in errors[side]] for side in ("arrayminus", "array")]
        panel.errorbar(x, y, yerr=ends, fmt="none", ecolor=color, elinewidth=0.7, capsize=1.5, alpha=opacity)
    return drawn


def _draw_beside(panel: "Axes", trace: Mapping[str, Any]) -> None:
    """What is predicted of a line: thin and dashed, or circles."""
    color, _ = color_of(trace["marker" if "marker" in trace else "line"]["color"])
    panel.plot(trace["x"], trace["y"], color=color, **_beside(is_law="marker" in trace))


def _beside(*, is_law: bool) -> dict[str, Any]:
    if not is_law:
        return {"linestyle": "--", "linewidth": 0.8}
    circle = {"marker": "o", "markersize": 6, "markerfacecolor": "none", "markeredgewidth": 0.6}
    return {"linestyle": "", **circle}


def _draw_crosses(panel: "Axes", trace: Mapping[str, Any]) -> Any:
    from matplotlib.lines import Line2D

    color, _ = color_of(trace["marker"]["color"])
    style: dict[str, Any] = {"linestyle": "", "marker": "x", "markersize": 5, "markeredgewidth": 1.2}
    panel.plot(trace["x"], trace["y"], color=color, clip_on=False, **style)
    return Line2D([], [], color=MUTED, **style)


def _draw_axes(panel: "Axes", layout: Mapping[str, Any]) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    for name in ("x", "y"):
        axis, of_panel = layout[f"{name}axis"], getattr(panel, f"{name}axis")
        is_log = axis.get("type") == "log"
        panel.set(**{f"{name}scale": "log" if is_log else "linear"})
        if "range" in axis:
            panel.set(**{f"{name}lim": [10**end if is_log else end for end in axis["range"]]})
        if "tickvals" in axis:
            ticks = _thinned(panel, name, axis)
            of_panel.set_ticks([tick for tick, _ in ticks], labels=[text for _, text in ticks])
            of_panel.set_ticks([], minor=True)
        elif not is_log:
            room = _room(panel, name, 0.3 if name == "y" else 0.35)
            of_panel.set_major_locator(MaxNLocator(min(room, 7), steps=[1, 2, 5, 10]))
        if axis.get("tickformat") == SHARE_FORMAT:
            of_panel.set_major_formatter(PercentFormatter(1.0, decimals=None))
    panel.set_xlabel(layout["xaxis"].get("title", {}).get("text", ""))
    panel.grid(axis="y", color=GRID)


def _thinned(panel: "Axes", name: str, axis: Mapping[str, Any]) -> list[tuple[float, str]]:
    """Ticks with their texts, as many as there is room for."""
    low, high = sorted(axis["range"])
    ticks = [
        (tick, _plain(text))
        for tick, text in zip(axis["tickvals"], axis["ticktext"], strict=True)
        if low <= math.log10(tick) <= high
    ]
    longest = max((len(text) for _, text in ticks), default=1)
    room = _room(panel, name, _LEAST_TICK_IN if name == "y" else 0.062 * longest + 0.1)
    places = [(math.log10(tick) - low) / (high - low) for tick, _ in ticks]
    kept: list[int] = []
    # A power of ten goes before others; then from the first on, where there is room beside those kept.
    by_rank = sorted(range(len(ticks)), key=lambda at: (not math.log10(ticks[at][0]).is_integer(), at))
    for at in by_rank:
        if all(abs(places[at] - places[other]) >= 1 / (room + 1) for other in kept):
            kept.append(at)
    return [ticks[at] for at in sorted(kept)]


def _room(panel: "Axes", name: str, inches: float) -> int:
    """How many texts of this size stand beside an axis."""
    figure, spec = panel.get_figure(), panel.get_subplotspec()
    assert figure is not None
    assert spec is not None
    n_rows, n_columns = spec.get_gridspec().get_geometry()
    width, height = figure.get_size_inches()  # type: ignore[union-attr]
    length = width / n_columns - 0.6 if name == "x" else height / n_rows - 0.7
    return max(2, int(length / inches))


def _plain(text: str) -> str:
    """Exponents as raised digits, where plotly reads HTML."""
    return re.sub(r"<sup>(.*?)</sup>", lambda found: found[1].translate(_RAISED), text)


def color_of(paint: str) -> tuple[str, float]:
    """A color of the light style sheet, and its opacity: ``var(--m0)1f`` is #0a4fc0 and 0.12."""
    found = re.fullmatch(r"var\(--(?:m([0-7])|(\w+))\)([0-9a-f]{2})?", paint)
    assert found, paint
    color = COLORS[int(found[1])] if found[1] else {"muted": MUTED, "grid": GRID}[found[2]]
    return color, int(found[3] or "ff", 16) / 255
