"""What trials buy, drawn: test accuracy of the best by validation over the number of trials.

It computes no statistics.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from decayfree.report.charts.axes import Chart, Look, area, error_axis, error_of, plain_text, trace
from decayfree.report.charts.views import View, Viewed
from decayfree.report.numbers.budget import Bought, GroupBudget
from decayfree.report.words.budget import budget_text
from decayfree.report.words.wording import count, percent, percent_range
from decayfree.study.statistics.budget import TUNERS

TICKS = tuple(step * 10**exponent for exponent in range(4) for step in (1, 2, 5))
MAX_BANDS = 4
"""More of them on top of each other are one grey area."""


def budget_views(groups: Sequence[GroupBudget], looks: Mapping[str, Look]) -> Viewed:
    """A view for every group, with one chart and what it says."""
    views = (View(one.group.label, budget_text(one), (budget_chart(one, looks),)) for one in groups)
    return Viewed("budget", tuple(views))


def budget_chart(found: GroupBudget, looks: Mapping[str, Look]) -> Chart:
    """A line a method with the band of most tuners, of many methods the reference's band alone.

    A method with a single setting is a point.
    """
    drawn = [(bought, *_look(bought, looks)) for bought in found.methods]
    is_full = sum(bought.budget.n > 1 for bought in found.methods) > MAX_BANDS
    of = f" of {found.reference.sweep.label}" if is_full and found.reference else ""
    banded = [one for one in drawn if one[0].budget.n > 1 and (one[0] is found.reference or not is_full)]
    data = [_band(*one) for one in banded] + [_line(*one) for one in drawn]
    errors = [error_of(mean) for bought in found.methods for mean in bought.budget.mean]
    layout, _ = error_axis(errors, _trials_axis(max(bought.budget.n for bought in found.methods)))
    unit = f"of the best by validation, band: {percent(TUNERS, 0)} of tuners{of}"
    return Chart("", f"Test {found.metric.name}", unit, {"data": data, "layout": layout})


def _look(bought: Bought, looks: Mapping[str, Look]) -> tuple[str, Look]:
    """The method's, or that of its first setting where the page's legend has one for each."""
    label = bought.sweep.label if bought.sweep.label in looks else bought.sweep.cells[0].label
    return label, looks[label]


def _trials_axis(n: int) -> dict[str, Any]:
    return {
        "title": {"text": "trials", "standoff": 6},
        "type": "log",
        "range": [-0.05, round(math.log10(max(n, 2)) + 0.05, 4)],
        "tickvals": [tick for tick in TICKS if tick <= n],
        "ticktext": [str(tick) for tick in TICKS if tick <= n],
    }


def _line(bought: Bought, group: str, look: Look) -> dict[str, Any]:
    budget, name = bought.budget, bought.sweep.label
    trials, errors = list(range(1, budget.n + 1)), [error_of(mean) for mean in budget.mean]
    said = [
        f"{name}, {count(k, 'trial')}: {percent(mean, 2)} ({percent_range(low, high, 2)})"
        for k, mean, low, high in zip(trials, budget.mean, budget.low, budget.high, strict=True)
    ]
    return trace("lines+markers", plain_text(name), trials, errors, group=group) | {
        "text": [plain_text(text) for text in said],
        "line": look.line,
        "marker": {"color": look.paint, "size": 5},
        "hovertemplate": "%{text}<extra></extra>",
    }


def _band(bought: Bought, group: str, look: Look) -> dict[str, Any]:
    budget = bought.budget
    trials = list(range(1, budget.n + 1))
    around = [error_of(high) for high in budget.high] + [error_of(low) for low in budget.low[::-1]]
    name = plain_text(bought.sweep.label)
    return trace("lines", name, trials + trials[::-1], around, group=group) | area(look)
