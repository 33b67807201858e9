"""Figures for papers: what the page draws, in its colors, the same bytes every time.

The numbers are tested in `test_budget`.
"""

from pathlib import Path

import pytest

from decayfree.errors import InvalidInputError
from decayfree.report import draw_budget
from decayfree.report.charts.budget import budget_chart
from decayfree.report.charts.views import method_looks
from decayfree.report.numbers.budget import budgets_of
from decayfree.report.numbers.groups import study_groups
from decayfree.study import Axis, Study, read_study
from decayfree.study.builtin import builtin_spec
from support.available import import_or_skip
from support.synthetic_study import Writer, axes_spec, bumpy, sweep_spec

RATES = Axis("learning_rate", (0.03, 0.1))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Two optimizers, two rates."""
    tables = ((("name", "sgd"), ("momentum", 0.9)), (("name", "adam"),))
    spec = sweep_spec(n_seeds=2, axes=(Axis("optimizer", tables), RATES))
    return read_study(Writer(tmp_path / "study", spec=spec, final_of=bumpy, n_intervals=2).write())


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


@pytest.mark.parametrize(("ending", "beginning"), [(".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_a_figure_is_drawn_with_the_same_bytes_each_time(
    ending: str, beginning: bytes, study: Study, tmp_path: Path
) -> None:
    import_or_skip("matplotlib")
    path = draw_budget(study, tmp_path / f"trials{ending}")
    first = path.read_bytes()
    assert first.startswith(beginning)
    assert draw_budget(study, str(path)).read_bytes() == first


def test_a_figure_has_a_panel_a_group_and_one_legend_in_the_colors_of_the_page(
    study: Study, tmp_path: Path
) -> None:
    import_or_skip("matplotlib")
    text = draw_budget(study, tmp_path / "all.svg").read_text(encoding="utf-8")
    for said, n in ((">SGD, momentum 0.9<", 1), (">Adam<", 1), (">weight decay<", 1), (">trials<", 2)):
        assert text.count(said) == n, said
    assert "#0a4fc0" in text
    assert "#cd8301" in text
    text = draw_budget(study, tmp_path / "one.svg", group="Adam").read_text(encoding="utf-8")
    assert (text.count(">Adam<"), text.count(">trials<"), text.count("SGD")) == (1, 1, 0)


def test_what_cannot_be_drawn_is_refused(study: Study, tmp_path: Path) -> None:
    import_or_skip("matplotlib")
    with pytest.raises(InvalidInputError, match=r"path must end in .svg or .pdf, got 'trials.png'"):
        draw_budget(study, tmp_path / "trials.png")
    with pytest.raises(
        InvalidInputError, match=r"group must be one of .SGD, momentum 0.9., .Adam., got .Lion."
    ):
        draw_budget(study, tmp_path / "trials.svg", group="Lion")
    alone = axes_spec(n_seeds=1, axes=(Axis("learning_rate", (0.1,)),))
    lonely = read_study(Writer(tmp_path / "alone", spec=alone, final_of=bumpy, n_intervals=2).write())
    with pytest.raises(InvalidInputError, match="a method with several settings, and validation data"):
        draw_budget(lonely, tmp_path / "trials.svg")
    assert not list(tmp_path.glob("trials*"))
