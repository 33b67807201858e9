"""Charts of the page for papers: the same figures as SVG or PDF.

It computes no statistics: matplotlib draws what plotly.js would have got, in the page's light colors.
"""

import html
import re
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decayfree.arguments.kinds import checked
from decayfree.errors import InvalidInputError, extra_needed
from decayfree.report.charts.axes import Chart
from decayfree.report.charts.budget import budget_views
from decayfree.report.charts.views import method_looks
from decayfree.report.numbers.budget import budgets_of
from decayfree.report.numbers.groups import study_groups
from decayfree.study.disk import as_path, replacing
from decayfree.study.files.results import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".svg", ".pdf")
PANEL_INCHES = (3.4, 2.6)
MAX_COLUMNS = 3
_DASHES: dict[str, Any] = {
    "solid": "-",
    "dash": "--",
    "dot": ":",
    "dashdot": "-.",
    "longdash": (0, (8, 3)),
}


@checked()
def draw_budget(study: Study, path: str | Path, *, group: str | None = None) -> Path:
    """Draw what trials buy, as on the page of the study, for a paper: one panel a group, one legend.

    Args:
        study: One in which some method has several settings, chosen by validation data.
        path: A file that ends in ``.svg`` or ``.pdf``; what is there is replaced. Same rows, same bytes.
        group: Only this one, named as on the page.

    Returns:
        The path.

    Raises:
        InvalidInputError: If the study has nothing to choose or no such group, or the file another ending.
        MissingExtraError: If matplotlib is not installed.
    """
    path = as_path("path", path)
    if path.suffix not in FORMATS:
        raise InvalidInputError(f"path must end in {' or '.join(FORMATS)}, got {path.name!r}")
    numbers = study_groups(study)
    views = budget_views(budgets_of(numbers), method_looks(numbers)).views
    labels = [view.label for view in views]
    if not views:
        raise InvalidInputError(
            "the study must have a method with several settings, and validation data that choose between "
            "them: a single trial is all that there is"
        )
    if group is not None and group not in labels:
        raise InvalidInputError(f"group must be one of {', '.join(map(repr, labels))}, got {group!r}")
    draw([(view.label, view.charts[0]) for view in views if group in (None, view.label)], path)
    return path


def draw(titled: list[tuple[str, Chart]], path: Path) -> None:
    """Charts side by side, each with a title above it, and one legend below for all."""
    with extra_needed("docs", "figures for papers need {}, which is not installed"):
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    n_columns = min(len(titled), MAX_COLUMNS)
    n_rows = -(-len(titled) // n_columns)
    settings: Any = {"svg.hashsalt": "decayfree", "svg.fonttype": "none", "pdf.fonttype": 42, "font.size": 8}
    with rc_context(settings | {"text.parse_math": False}):  # a "$" in a name is one
        size = PANEL_INCHES[0] * n_columns, PANEL_INCHES[1] * n_rows
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        named: dict[str, Any] = {}
        for panel, (title, chart) in zip(panels, titled, strict=False):
            panel.set_title(title, fontsize=8)
            panel.set_ylabel(chart.title.lower())
            _draw_chart(panel, chart)
            handles, names = panel.get_legend_handles_labels()
            named |= dict(zip(names, handles, strict=True))
        for panel in panels[len(titled) :]:
            panel.set_axis_off()
        handles, names = list(named.values()), list(named)
        figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 4), frameon=False)
        # No clock inside.
        metadata = {"Date": None} if path.suffix == ".svg" else {"CreationDate": None}
        with replacing(path) as file:
            figure.savefig(file, format=path.suffix[1:], metadata=metadata)


def _draw_chart(panel: "Axes", chart: Chart) -> None:
    for trace in chart.figure["data"]:
        if "fill" in trace:
            color, opacity = _color(trace["fillcolor"])
            panel.fill(trace["x"], trace["y"], color=color, alpha=opacity, linewidth=0)
            continue
        (color, opacity), line = _color(trace["line"]["color"]), trace["line"]
        panel.plot(
            trace["x"],
            trace["y"],
            color=color,
            alpha=opacity,
            marker="o",
            markersize=2.5,
            linestyle=_DASHES[line["dash"]],
            linewidth=line["width"] / 1.8,
            label=html.unescape(trace["name"]),
        )
    layout = chart.figure["layout"]
    for name, axis in (("x", layout["xaxis"]), ("y", layout["yaxis"])):
        panel.set(**{f"{name}scale": "log", f"{name}lim": [10**end for end in axis["range"]]})
        of_axis = getattr(panel, f"{name}axis")
        of_axis.set_ticks(axis["tickvals"], labels=axis["ticktext"])
        of_axis.set_ticks([], minor=True)
    panel.set_xlabel(layout["xaxis"]["title"]["text"])
    panel.grid(axis="y", color=_color("var(--grid)")[0], linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def _color(paint: str) -> tuple[str, float]:
    """A color of the light style sheet, and its opacity: ``var(--m0)1f`` is #0a4fc0 and 0.12."""
    found = re.fullmatch(r"var\((--\w+)\)([0-9a-f]{2})?", paint)
    assert found, paint
    style = files("decayfree.report").joinpath("page.css").read_text(encoding="utf-8")
    color = re.search(rf"{found[1]}: (#[0-9a-f]{{6}})", style)  # the light scheme stands first
    assert color, paint
    return color[1], int(found[2] or "ff", 16) / 255
