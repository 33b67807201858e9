"""The chart of what trials buy has a line a method, and a band where there is a choice.

The numbers are tested in `test_budget`.
"""

from pathlib import Path

import pytest

from decayfree.report.charts.budget import budget_chart
from decayfree.report.charts.views import method_looks
from decayfree.report.numbers.budget import budgets_of
from decayfree.report.numbers.groups import study_groups
from decayfree.study import Axis, read_study
from decayfree.study.builtin import builtin_spec
from support.synthetic_study import Writer, bumpy, sweep_spec


def test_a_chart_has_a_line_a_method_and_a_band_where_there_is_a_choice(tmp_path: Path) -> None:
    spec = sweep_spec(n_seeds=2, axes=(Axis("learning_rate", (0.1,)),))  # no decay and WRS have one setting
    numbers = study_groups(read_study(Writer(tmp_path, spec=spec, final_of=bumpy, n_intervals=2).write()))
    (found,) = budgets_of(numbers)
    chart = budget_chart(found, method_looks(numbers))
    bands = [trace for trace in chart.figure["data"] if "fill" in trace]
    lines = {trace["name"]: trace for trace in chart.figure["data"] if "fill" not in trace}
    assert [band["name"] for band in bands] == ["weight decay"]
    assert list(lines) == ["no decay", "weight decay", "WRS"]
    assert lines["weight decay"]["x"] == [1, 2, 3, 4, 5]
    budget = found.methods[1].budget
    assert lines["weight decay"]["y"] == pytest.approx([1 - mean for mean in budget.mean], rel=1e-3)
    assert bands[0]["y"][:5] == pytest.approx([1 - high for high in budget.high], rel=1e-3)
    assert bands[0]["y"][5:] == pytest.approx([1 - low for low in budget.low[::-1]], rel=1e-3)
    assert lines["WRS"]["x"] == [1]


def test_of_many_methods_only_the_reference_has_a_band(tmp_path: Path) -> None:
    spec = builtin_spec("baselines", seeds=1)
    numbers = study_groups(read_study(Writer(tmp_path, spec=spec, final_of=bumpy, n_intervals=2).write()))
    (found,) = budgets_of(numbers)
    chart = budget_chart(found, method_looks(numbers))
    assert [trace["name"] for trace in chart.figure["data"] if "fill" in trace] == ["WRS"]
    assert chart.unit.endswith("of tuners of WRS")
    assert sum("fill" not in trace for trace in chart.figure["data"]) == 9
