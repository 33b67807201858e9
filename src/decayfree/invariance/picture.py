"""How does a model look in which scale-invariant weights were found? A bar a weight, in the model's order.

Decides nothing; words.py says the same in text.
"""

import math
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from decayfree.blocks import Blocks
from decayfree.display.paper import COLORS, INK, MUTED, legend_below, new_figure, paper_style
from decayfree.errors import listed
from decayfree.invariance.verdict import ScaleInvariantWeight, Verdict
from decayfree.invariance.words import describe, name_with_type

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_WITH_VECTORS = 24
"""Parameters of a model whose vectors are drawn as well."""
MAX_IN_A_COLUMN = 64
_MOST_BLOCKS = 24
"""More than these are drawn as so many: the text says how many there are."""
_ROW_IN, _HEAD_IN, _FOOT_IN, _LETTER_IN = 0.15, 0.4, 0.1, 0.061
# Verdict -> color of the edge, fill, and hatch: no two differ in color alone.
_LOOKS: Mapping[str, tuple[str, str, str]] = {
    "scale-invariant": (COLORS[0], COLORS[0], ""),
    "by request": (COLORS[2], COLORS[2], ""),
    "scale-invariant, left out": (COLORS[6], "white", "\\\\\\\\"),
    "not scale-invariant": (MUTED, "white", ""),
    "undecided": (COLORS[3], "white", "////"),
    "frozen": (COLORS[7], "white", "...."),
}


@dataclass(frozen=True)
class _Row:
    """A bar: where colored blocks begin and end in it, from 0 to 1, and what is said of it."""

    name: str
    kind: str
    blocks: Sequence[tuple[float, float]]
    said: str


def picture_of(
    weights: Sequence[ScaleInvariantWeight],
    verdicts: Mapping[str, Verdict],
    model: nn.Module,
    title: str,
    width: float,
) -> "Figure":
    """Draw it, in as many columns as it takes to stay on a page; see `Invariance.plot`."""
    by_name = {weight.name: weight for weight in weights}
    with_weights = {weight.bias for weight in weights}
    shown = [one for one in verdicts.values() if len(one.shape) > 1 or one.name in by_name]
    if len(verdicts) <= MAX_WITH_VECTORS or not shown:
        shown = [one for one in verdicts.values() if one.name not in with_weights]
    rows = [_row(one, by_name.get(one.name), model) for one in shown]
    n_columns = max(1, min(math.ceil(len(rows) / MAX_IN_A_COLUMN), int(width / 3.2)))
    in_a_column = max(1, math.ceil(len(rows) / n_columns))
    left_out = len(verdicts) - len(rows) - sum(name in verdicts for name in with_weights if name)
    note = f" Not drawn: {left_out} vectors (gains and biases)." if left_out else ""
    with paper_style():
        figure = new_figure(width, _HEAD_IN + _FOOT_IN + _ROW_IN * in_a_column)
        figure.suptitle(textwrap.fill(title + note, int(width / 0.065)), fontsize=8, x=0.01, ha="left")
        panels = figure.subplots(1, n_columns, squeeze=False).ravel()
        for at, panel in enumerate(panels):
            _draw(panel, rows[at * in_a_column : (at + 1) * in_a_column], in_a_column, width / n_columns)
        if rows:
            legend_below(figure, *zip(*_legend(rows), strict=True))
    return figure


def _row(verdict: Verdict, weight: ScaleInvariantWeight | None, model: nn.Module) -> _Row:
    if weight is None:
        kinds = {
            "invariant": "scale-invariant, left out",
            "not_invariant": "not scale-invariant",
        }
        return _Row(verdict.name, kinds.get(verdict.verdict, verdict.verdict), (), f"{verdict.shape}")
    by = listed([_near(verdict.name, name_with_type(layer, model)) for layer in weight.norm_layers], 1)
    said = describe(weight.blocks, verdict.shape) + (", with bias" if weight.bias else "")
    kind = "by request" if weight.by_request else "scale-invariant"
    return _Row(verdict.name, kind, _ends(weight.blocks, verdict.shape), f"{said} · {by}" if by else said)


def _near(name: str, other: str) -> str:
    """How a module is called beside a weight of the same block: bn1 for layer1.0.conv1 and layer1.0.bn1."""
    shared = 0
    for at, (own, its) in enumerate(zip(name, other, strict=False)):
        if own != its:
            break
        shared = at + 1 if own == "." else shared
    return other[shared:]


def _ends(blocks: Blocks, shape: tuple[int, ...]) -> list[tuple[float, float]]:
    """Where blocks begin and end, as shares of all rows; of many, a few that stand for them."""
    if blocks.n_blocks > _MOST_BLOCKS and not blocks.is_partial:
        return [(at / _MOST_BLOCKS, (at + 1) / _MOST_BLOCKS) for at in range(_MOST_BLOCKS)]
    starts = [run.first_row + at * run.size for run in blocks.runs for at in range(run.n_blocks)]
    n_rows = max(shape[blocks.axis] * (blocks.groups if blocks.axis else 1), 1)
    pairs = zip(starts, blocks.block_sizes, strict=True)
    ends = [(start / n_rows, (start + size) / n_rows) for start, size in pairs]
    return ends if len(ends) <= _MOST_BLOCKS else list(_merged(ends))


def _merged(ends: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Neighbors as one."""
    first, last = ends[0]
    for start, end in ends[1:]:
        if start > last + 1e-9:
            yield first, last
            first = start
        last = end
    yield first, last


def _draw(panel: "Axes", rows: Sequence[_Row], n_places: int, width: float) -> None:
    from matplotlib.patches import Rectangle

    names = max((len(row.name) for row in rows), default=0)
    letters = max(16, int((width - names * _LETTER_IN - 0.55) / _LETTER_IN))
    panel.set_xlim(-0.005, 1.005)
    for place, row in enumerate(rows):
        edge, fill, hatch = _LOOKS[row.kind]
        whole: dict[str, Any] = {"edgecolor": edge if not row.blocks else MUTED, "linewidth": 0.5}
        panel.add_patch(Rectangle((0, place - 0.34), 1, 0.68, facecolor="white", hatch=hatch, **whole))
        for start, end in row.blocks:
            block: dict[str, Any] = {"facecolor": fill, "edgecolor": "white", "linewidth": 0.5}
            panel.add_patch(Rectangle((start, place - 0.34), end - start, 0.68, **block))
        text = row.said if len(row.said) <= letters else f"{row.said[: letters - 1]}…"
        beside: dict[str, Any] = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
        panel.annotate(text, (1, place), fontsize=7, color=INK, annotation_clip=False, **beside)
    panel.set_yticks(range(len(rows)), [row.name for row in rows])
    panel.tick_params(axis="y", length=0, pad=2)
    panel.set_xticks([])
    panel.spines[:].set_visible(False)
    panel.set_ylim(n_places - 0.4, -0.6)


def _legend(rows: Sequence[_Row]) -> Iterator[tuple[Any, str]]:
    from matplotlib.patches import Patch

    counts = Counter(row.kind for row in rows)
    for kind, (edge, fill, hatch) in _LOOKS.items():
        if counts[kind]:
            patch: dict[str, Any] = {"edgecolor": edge, "facecolor": fill, "hatch": hatch, "linewidth": 0.6}
            yield Patch(**patch), f"{kind}: {counts[kind]}"
