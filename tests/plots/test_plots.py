"""Figures have the numbers and colors of pages, from a study, a recorder or a file, or say what they lack."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import decayfree
from decayfree import plots
from decayfree.display.paper import COLORS, MARKERS, paper_style
from decayfree.errors import InvalidInputError
from decayfree.report import compare, study_groups, study_numbers
from decayfree.report.numbers.budget import budgets_of
from decayfree.report.numbers.compared import UnknownReferenceError
from decayfree.report.numbers.series import mean_norm, predicted_angles
from decayfree.study import Axis, ResultError, Study, read_study
from support.available import import_or_skip
from support.synthetic_study import FINAL_TEST, METHODS, WEIGHTS, Writer, axes_spec, bumpy, hot, sweep_spec

import_or_skip("matplotlib")
TWO = ((("name", "sgd"), ("momentum", 0.9)), (("name", "adam"),))
GROUPS = ["SGD, momentum 0.9", "Adam"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return read_study(Writer(tmp_path_factory.mktemp("plain"), n_intervals=10).write())


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Study:
    spec = sweep_spec(axes=(Axis("optimizer", TWO), Axis("learning_rate", (0.03, 0.3))))
    writer = Writer(tmp_path_factory.mktemp("swept"), spec=spec, final_of=bumpy, state_of=hot, n_intervals=4)
    return read_study(writer.write())


def lines_of(panel: Any, color: str) -> list[Any]:
    return [line for line in panel.get_lines() if line.get_color() == color and len(line.get_xdata()) > 1]


def legend_of(figure: Any) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def drawn(figure: Any) -> list[Any]:
    """Panels with something in them."""
    return [panel for panel in figure.axes if panel.has_data()]


def test_norms_are_a_line_a_method_in_its_color_dash_and_marker(plain: Study) -> None:
    figure = plots.norms(plain)
    (panel,) = drawn(figure)
    assert set(legend_of(figure)) == {method.label for method in METHODS}
    numbers = study_numbers(plain)
    curve = numbers.methods[-1].curve(mean_norm, is_logarithmic=True)
    (line,) = lines_of(panel, COLORS[0])
    assert list(line.get_xdata()) == list(curve.steps)
    assert list(line.get_ydata()) == pytest.approx(curve.mean, rel=1e-3)
    shown = panel.get_lines()
    assert len({line.get_color() for line in shown}) == len({line.get_marker() for line in shown}) == 5
    assert len({str(line._unscaled_dash_pattern) for line in shown}) == 5
    assert panel.get_yscale() == "log"
    assert figure.get_figwidth() == 5.5


@pytest.mark.parametrize("draw", [plots.norms, plots.effective_learning_rates])
def test_a_weight_can_have_a_panel(plain: Study, draw: Any) -> None:
    figure = draw(plain, by_weight=True, width=6.75)
    assert [panel.get_title() for panel in drawn(figure)] == list(WEIGHTS)
    assert len({panel.get_ylim() for panel in drawn(figure)}) == 1


def test_angles_are_drawn_with_what_decay_leads_to(plain: Study) -> None:
    figure = plots.angles(plain, width=3.25)
    (panel,) = drawn(figure)
    decaying = next(one for one in study_numbers(plain).methods if one.label == "weight decay 0.0005")
    _, thin = sorted(lines_of(panel, COLORS[2]), key=lambda line: -line.get_linewidth())
    points = predicted_angles(decaying)
    assert list(thin.get_xdata()) == [step for step, _ in points]
    assert list(thin.get_ydata()) == pytest.approx([angle for _, angle in points], rel=1e-3)
    assert legend_of(figure)[-1] == "predicted under decay"
    assert panel.get_ylabel().replace("\n", " ") == "angular update, radians"


def test_off_span_shares_stand_on_their_law(plain: Study) -> None:
    figure = plots.off_span(plain)
    assert "law" in legend_of(figure)
    line, circles = lines_of(drawn(figure)[0], COLORS[0])
    assert list(circles.get_ydata()) == list(line.get_ydata())
    assert circles.get_markerfacecolor() == "none"


def test_accuracy_has_every_seed_and_the_interval(plain: Study) -> None:
    (panel,) = drawn(plots.accuracy(plain))
    names = [label.get_text() for label in panel.get_yticklabels()]
    assert names == list(FINAL_TEST)
    interval, mean, seeds = [line for line in panel.get_lines() if set(line.get_ydata()) == {4}]
    assert list(seeds.get_xdata()) == pytest.approx([100 * one for one in FINAL_TEST["WRS, radius 1"]])
    final = study_numbers(plain).methods[-1].final_test
    assert final is not None
    assert list(interval.get_xdata()) == pytest.approx([100 * end for end in final.interval or ()])
    assert list(mean.get_xdata()) == pytest.approx([100 * final.mean])
    assert seeds.get_marker() == MARKERS[0]


def test_a_forest_has_the_comparisons_of_the_page(plain: Study, swept: Study) -> None:
    (panel,) = drawn(plots.forest(plain))
    dots = [line for line in panel.get_lines() if len(line.get_xdata()) == 1]
    expected = [one.difference for one in compare(study_groups(plain)).entries if one.difference]
    assert [line.get_xdata()[0] for line in dots] == pytest.approx([100 * one.mean for one in expected])
    (panel,) = drawn(plots.forest(swept))
    heads = [label for label in panel.get_yticklabels() if label.get_fontweight() == "bold"]
    assert [label.get_text() for label in heads] == GROUPS
    assert plots.forest(swept).get_supxlabel() == "test accuracy of WRS minus that of the method, points"
    other = plots.forest(plain, reference="none").get_supxlabel()
    assert other == "test accuracy of no decay minus that of the method, points"


def test_of_groups_there_is_a_panel_each_or_the_one_that_is_named(swept: Study) -> None:
    assert [panel.get_title() for panel in drawn(plots.norms(swept))] == GROUPS
    # One setting of each stands for its method: the name is enough.
    assert legend_of(plots.norms(swept)) == ["no decay", "weight decay", "WRS"]
    assert [panel.get_title() for panel in drawn(plots.budget(swept, group="Adam"))] == ["Adam"]
    with pytest.raises(
        InvalidInputError, match=r"group must be one of 'SGD, momentum 0.9', 'Adam', got 'Lion'"
    ):
        plots.angles(swept, group="Lion")


def test_sensitivity_marks_what_diverged(swept: Study) -> None:
    figure = plots.sensitivity(swept, group="Adam", width=6.75)
    titles = [panel.get_title() for panel in drawn(figure)]
    assert titles == ["Adam · learning rate 0.03", "Adam · learning rate 0.3", "Adam"]
    assert "runs diverged" in legend_of(figure)
    crosses = [line for line in drawn(figure)[1].get_lines() if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses] == [[0.1]]
    assert {panel.get_ylabel() for panel in figure.axes} == {"test accuracy", ""}


def test_a_budget_is_that_of_the_page(swept: Study) -> None:
    figure = plots.budget(swept)
    found = budgets_of(study_groups(swept))
    for panel, of_group in zip(drawn(figure), found, strict=True):
        (line,) = lines_of(panel, COLORS[2])
        mean = of_group.methods[1].budget.mean
        assert list(line.get_ydata()) == pytest.approx([1 - one for one in mean], rel=1e-3)
        assert panel.get_xlabel() == "trials"


@pytest.fixture
def recorded(tmp_path: Path) -> decayfree.Recorder:
    model = nn.Sequential(
        *(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = decayfree.watch(model)  # without a search, which takes seconds
    recorder = decayfree.Recorder(optimizer, found, every=1, sink=tmp_path / "dynamics.jsonl")
    for _ in range(3):
        model(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()
    return recorder


def test_a_recorder_and_its_file_are_drawn_alike(recorded: decayfree.Recorder, tmp_path: Path) -> None:
    for draw, instrument in ((plots.norms, "norm"), (plots.angles, "angular_update_rad")):
        figures = [draw(source) for source in (recorded, tmp_path / "dynamics.jsonl")]
        for figure in figures:
            assert legend_of(figure) == ["0.weight", "3.weight", "5.weight"]
            (line,) = lines_of(drawn(figure)[0], COLORS[1])
            means = [sample.weights["3.weight"][instrument]["mean"] for sample in recorded.samples()]
            assert list(line.get_ydata()) == pytest.approx(means, rel=1e-3)


def test_runs_of_one_file_are_thin_weights_and_thick_means(
    recorded: decayfree.Recorder, tmp_path: Path
) -> None:
    file = tmp_path / "dynamics.jsonl"
    text = file.read_text(encoding="utf-8")
    file.write_text(text + text.replace(recorded.run, "another"), encoding="utf-8")
    figure = plots.norms(file)
    assert legend_of(figure) == [
        f"run {run}: {what}"
        for run in (recorded.run, "another")
        for what in ("each weight", "mean of all weights")
    ]
    assert len(drawn(figure)[0].get_lines()) == 8


def test_what_cannot_be_drawn_is_told(recorded: decayfree.Recorder, plain: Study, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    spec = axes_spec(n_seeds=1, axes=(Axis("learning_rate", (0.1,)),))
    lonely = Writer(tmp_path / "lonely", spec=spec, final_of=bumpy, n_intervals=2).write()
    for draw, source, said in (
        (
            plots.norms,
            5,
            "a figure is drawn from a study, a Recorder, a study's folder or a recorder's file, got 5",
        ),
        (plots.norms, tmp_path / "empty.jsonl", "holds no sample: there is nothing to draw"),
        (plots.norms, tmp_path / "none.jsonl", "there is no file"),
        (plots.accuracy, recorded, "this figure needs a study or its folder, got Recorder"),
        (plots.budget, plain, "a method with several settings, and validation data"),
        (plots.sensitivity, lonely, "a method with several settings, to see what they change"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            draw(source)  # type: ignore[operator]
    with pytest.raises(ResultError, match="no study in"):
        plots.norms(tmp_path)
    with pytest.raises(InvalidInputError, match="group and by_weight are for studies"):
        plots.norms(recorded, by_weight=True)
    with pytest.raises(InvalidInputError, match="width must be from 2 to 30 inches"):
        plots.forest(plain, width=1.0)
    with pytest.raises(UnknownReferenceError, match="got 'sgdp'"):
        plots.forest(plain, reference="sgdp")
    (tmp_path / "study.toml").write_text(axes_spec().to_toml(), encoding="utf-8")
    for draw in (plots.norms, plots.off_span, plots.accuracy, plots.forest):
        with pytest.raises(InvalidInputError, match="no run of this study"):
            draw(tmp_path)


def test_nothing_is_cut_and_no_texts_overlap(plain: Study, swept: Study) -> None:
    for figure in (plots.accuracy(plain, width=3.25), plots.sensitivity(swept, width=3.25)):
        check_texts(figure)


@pytest.mark.slow
@pytest.mark.parametrize("width", [3.25, 6.75])
def test_the_same_of_all_figures(plain: Study, swept: Study, width: float) -> None:
    for draw in (plots.norms, plots.angles, plots.off_span, plots.forest):
        check_texts(draw(plain, width=width))
    for draw in (plots.norms, plots.forest, plots.sensitivity, plots.budget):
        check_texts(draw(swept, width=width))
    check_texts(plots.effective_learning_rates(plain, by_weight=True, width=width))


def check_texts(figure: Any) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    canvas = FigureCanvasAgg(figure)
    with paper_style():
        canvas.draw()
    unseen = {id(text) for panel in figure.axes for text in unseen_ticks(panel)}
    texts = [one for one in figure.findobj(Text) if one.get_visible() and one.get_text().strip()]
    texts = [one for one in texts if id(one) not in unseen]
    renderer = canvas.get_renderer()
    whole = figure.bbox.padded(1)
    boxes = []
    for text in texts:
        box = text.get_window_extent(renderer)
        assert whole.x0 <= box.x0 <= box.x1 <= whole.x1, (text.get_text(), figure.get_figwidth())
        assert whole.y0 <= box.y0 <= box.y1 <= whole.y1, (text.get_text(), figure.get_figwidth())
        boxes.append((text.get_text(), box))
    for at, (first, one) in enumerate(boxes):
        for second, other in boxes[at + 1 :]:
            overlap = (
                min(one.x1, other.x1) - max(one.x0, other.x0),
                min(one.y1, other.y1) - max(one.y0, other.y0),
            )
            assert min(overlap) <= 1, (first, second, figure.get_figwidth())


def unseen_ticks(panel: Any) -> list[Any]:
    """Labels of ticks outside the limits of an axis, which are not drawn."""
    found = []
    for axis, (low, high) in ((panel.xaxis, panel.get_xlim()), (panel.yaxis, panel.get_ylim())):
        low, high = sorted((low, high))
        slack = 1e-6 * (high - low)
        ticks = axis.majorTicks + axis.minorTicks
        found += [tick.label1 for tick in ticks if not low - slack <= tick.get_loc() <= high + slack]
        found += [tick.label2 for tick in ticks]
    return found
