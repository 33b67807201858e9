"""How does a figure look on paper? As wide as a column, readable in print, and the same for the color-blind.

Draws nothing: it makes the empty figure, and says how its lines look.
"""

import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from decayfree.errors import InvalidInputError, extra_needed, number_faults

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN, TEXT, PAGE = 3.25, 5.5, 6.75
"""Inches: a column of a page with two, the text of a page with one, both columns."""
COLORS = ("#0a4fc0", "#6f7488", "#cd8301", "#98260a", "#06a08c", "#713158", "#3f8fc8", "#6b6a12")
"""``--m0`` to ``--m7`` of page.css in its light scheme."""
INK, MUTED, GRID = "#1b1e25", "#5d6470", "#e9ebee"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
MARGIN_IN = 0.2
"""What an entry of a legend needs beside its text and its line."""
_POINT, _SMALL = 8.0, 7.0
_INCHES_A_LETTER = 0.6 * _SMALL / 72
_LEAST_PANEL_IN, _LEGEND_LINE_IN = 1.6, 0.15
_SETTINGS: Any = {
    "font.size": _POINT,
    **{f"axes.{name}size": _POINT for name in ("title", "label")},
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), _SMALL),
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.dpi": 150,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "text.parse_math": False,  # a "$" in a name is one
    # Fonts go into the file, as outlines that publishers take; equal figures are equal bytes.
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "decayfree",
}


@contextmanager
def paper_style() -> Iterator[None]:
    """Settings of matplotlib in which figures are drawn and saved; the font is the user's.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    with extra_needed("plots", "figures need {}, which is not installed"):
        from matplotlib import rc_context
    with rc_context(_SETTINGS):
        yield


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches that looks the same wherever it is saved.

    Raises:
        InvalidInputError: If no figure is so wide.
    """
    check_width(width)
    figure = _figure_class()(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.04)
    return figure  # type: ignore[no-any-return]


def check_width(width: float) -> None:
    """Raise an `InvalidInputError` where no figure is so many inches wide."""
    if number_faults("width", width, least=2) or width > 30:
        raise InvalidInputError(
            f"width must be from 2 to 30 inches, such as {COLUMN:g}, {TEXT:g} or {PAGE:g}; got {width!r}"
        )


def panels_of(n: int, width: float) -> tuple["Figure", list["Axes"]]:
    """A figure with ``n`` panels in rows as full as each other, none too narrow to be read."""
    check_width(width)
    n_rows = math.ceil(n / max(1, int(width / _LEAST_PANEL_IN)))
    n_columns = math.ceil(n / n_rows)
    height = min(0.75 * width / n_columns + 0.45, 2.4)
    figure = new_figure(width, n_rows * height)
    panels = list(figure.subplots(n_rows, n_columns, squeeze=False).ravel())
    for panel in panels[n:]:
        panel.set_axis_off()
    return figure, panels[:n]


def title_panel(panel: "Axes", text: str, width: float) -> None:
    """A title in as many lines as it needs, above a panel of a figure of this width."""
    columns = panel.get_subplotspec().get_gridspec().ncols  # type: ignore[union-attr]
    letters = max(12, int((width / columns - 0.45) / (_INCHES_A_LETTER * _POINT / _SMALL)))
    panel.set_title(textwrap.fill(text, letters, break_long_words=False), fontsize=_POINT)


def title_below(figure: "Figure", text: str) -> None:
    """What the axis of a single panel says, in as many lines as the whole figure needs."""
    letters = int(figure.get_figwidth() / (_INCHES_A_LETTER * _POINT / _SMALL))
    figure.supxlabel(textwrap.fill(text, letters), fontsize=_POINT)


def legend_below(figure: "Figure", handles: Sequence[Any], names: Sequence[str]) -> None:
    """One legend for all panels, in as many columns as fit; the figure grows by its lines."""
    if not names:
        return
    widest = max(map(len, names)) * _INCHES_A_LETTER + 0.35 + MARGIN_IN
    columns = max(1, min(len(names), int(figure.get_figwidth() / widest)))
    figure.set_figheight(figure.get_figheight() + _LEGEND_LINE_IN * math.ceil(len(names) / columns) + 0.08)
    figure.legend(handles, names, loc="outside lower center", ncols=columns, handlelength=2.6)


@cache
def _figure_class() -> Any:
    from matplotlib.figure import Figure

    class PaperFigure(Figure):
        """A figure that is saved in the settings in which it was drawn, without the time of day."""

        def savefig(self, fname: Any, **settings: Any) -> None:
            ending = settings.get("format") or str(fname).rpartition(".")[2].lower()
            clock = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(ending, {})
            settings["metadata"] = {**clock, **(settings.get("metadata") or {})}
            with paper_style():
                super().savefig(fname, **settings)

        def _repr_png_(self) -> bytes:
            """What a notebook shows."""
            from io import BytesIO

            file = BytesIO()
            self.savefig(file, format="png", dpi=150)
            return file.getvalue()

    return PaperFigure
