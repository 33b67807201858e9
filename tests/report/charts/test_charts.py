"""The figures that plotly.js gets: valid, one look a method, and axes that show what matters.

How a browser draws them is tested in `test_browser`.
"""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from decayfree.methods import WRS, NoTreatment, WeightDecay
from decayfree.report import StudyNumbers, study_numbers
from decayfree.report.charts import axes
from decayfree.report.charts import curves as charts
from decayfree.report.numbers.series import Cell, predicted_angles
from decayfree.study import RunSettings, read_study
from decayfree.study.tasks.metric import METRICS
from support.synthetic_study import METHODS, WEIGHTS, Writer, study_spec

ACCURACY = METRICS["classification"]
SETTINGS = study_spec().runs()[0]


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> StudyNumbers:
    return study_numbers(read_study(Writer(tmp_path_factory.mktemp("study")).write()))


def all_charts(numbers: StudyNumbers) -> list[charts.Chart]:
    return [
        charts.score_chart(numbers, "train"),
        charts.score_chart(numbers, "test"),
        *charts.norm_charts(numbers),
        charts.effective_learning_rate_chart(numbers),
        *charts.effective_learning_rate_charts(numbers),
        charts.angular_update_chart(numbers),
        charts.off_span_chart(numbers),
        *charts.spectrum_charts(numbers),
    ]


def lines(chart: charts.Chart) -> dict[str, dict[str, Any]]:
    """What was measured: a line a method."""
    return {
        trace["legendgroup"]: trace
        for trace in chart.figure["data"]
        if "legendgroup" in trace and "fill" not in trace and trace["mode"] == "lines"
    }


def bands(chart: charts.Chart) -> dict[str, dict[str, Any]]:
    return {t["legendgroup"]: t for t in chart.figure["data"] if "legendgroup" in t and "fill" in t}


def theory(chart: charts.Chart) -> dict[str, dict[str, Any]]:
    """What is predicted: dashed lines with text, or circles."""
    return {t["legendgroup"]: t for t in chart.figure["data"] if t["mode"] in ("lines+text", "markers")}


def grays(chart: charts.Chart) -> dict[str, dict[str, Any]]:
    """What belongs to no method."""
    return {trace["name"]: trace for trace in chart.figure["data"] if "legendgroup" not in trace}


def test_plotly_knows_every_property_that_is_used(numbers: StudyNumbers) -> None:
    for chart in all_charts(numbers):
        # The page replaces names of colors by colors; in a band, two digits of opacity follow.
        go.Figure(json.loads(re.sub(r"var\(--\w+\)", "#123456", json.dumps(chart.figure))))


def test_a_method_looks_the_same_in_every_chart(numbers: StudyNumbers) -> None:
    first = {name: trace["line"] for name, trace in lines(all_charts(numbers)[0]).items()}
    assert len({json.dumps(line) for line in first.values()}) == len(METHODS)
    for chart in all_charts(numbers):
        assert {name: trace["line"] for name, trace in lines(chart).items()} == first
        of_bands = {name: trace["fillcolor"][:-2] for name, trace in bands(chart).items()}
        has_bands = not chart.id.startswith("spectrum")  # their lines would not be seen for the bands
        assert of_bands == ({name: line["color"] for name, line in first.items()} if has_bands else {})


def test_colors_and_dashes_both_tell_methods_apart(numbers: StudyNumbers) -> None:
    looks = charts.looks(numbers.methods).values()
    assert len({look.color for look in looks}) == len({look.dash for look in looks}) == len(METHODS)


def test_a_kind_of_method_keeps_its_color_in_other_studies(tmp_path: Path, numbers: StudyNumbers) -> None:
    spec = study_spec(methods=(WRS(), NoTreatment()))
    final = {"no decay": (0.9,) * 5, "WRS, radius 1": (0.9,) * 5}
    other = study_numbers(read_study(Writer(tmp_path, spec=spec, final_test=final).write()))
    here, there = charts.looks(numbers.methods), charts.looks(other.methods)
    assert {name: here[name] for name in there} == there


def test_a_study_of_many_methods_still_gives_each_a_look() -> None:
    methods = [Cell(SETTINGS, {}, 1, f"decay {n}", f"decay {n}", ACCURACY) for n in range(10)]
    assert len({look.color for look in charts.looks(methods).values()}) == 8


def test_the_reference_is_drawn_on_top(numbers: StudyNumbers) -> None:
    assert all(list(lines(chart))[-1] == "WRS, radius 1" for chart in all_charts(numbers))


def test_a_line_is_the_mean_and_a_band_is_the_interval(numbers: StudyNumbers) -> None:
    chart = charts.score_chart(numbers, "test")
    curve = numbers.methods[0].curve(lambda row: row.test_score)
    line, band = lines(chart)["no decay"], bands(chart)["no decay"]
    n = len(curve.steps)
    assert line["x"] == list(curve.steps)
    assert line["y"] == pytest.approx(list(curve.mean), rel=1e-3)
    assert band["x"] == [*curve.steps, *curve.steps[::-1]]
    assert band["y"][:n] == pytest.approx(list(curve.high), rel=1e-3)
    assert band["y"][n:] == pytest.approx(list(curve.low[::-1]), rel=1e-3)


@pytest.mark.parametrize(("n_seeds", "n_bands"), [(1, 0), (2, 0), (3, len(METHODS))])
def test_bands_begin_with_three_seeds(tmp_path: Path, n_seeds: int, n_bands: int) -> None:
    chart = charts.score_chart(
        study_numbers(read_study(Writer(tmp_path, spec=study_spec(n_seeds=n_seeds)).write())), "test"
    )
    assert len(bands(chart)) == n_bands
    assert ("no interval" in chart.unit) == (n_bands == 0)


def test_the_first_rise_does_not_flatten_an_score_chart(numbers: StudyNumbers) -> None:
    chart = charts.score_chart(numbers, "test")
    low, high = chart.figure["layout"]["yaxis"]["range"]
    everything = [y for trace in lines(chart).values() for y in trace["y"]]
    later = [y for t in lines(chart).values() for x, y in zip(t["x"], t["y"], strict=True) if x >= 120]
    assert min(everything) < low < min(later)
    assert high > max(later)


def test_norms_share_an_axis_so_that_they_can_be_compared(numbers: StudyNumbers) -> None:
    drawn = charts.norm_charts(numbers)
    assert [chart.title for chart in drawn] == list(WEIGHTS)
    assert len({json.dumps(chart.figure["layout"]["yaxis"]) for chart in drawn}) == 1
    low, high = drawn[0].figure["layout"]["yaxis"]["range"]
    norms = [y for chart in drawn for trace in lines(chart).values() for y in trace["y"]]
    assert low < math.log10(min(norms))
    assert math.log10(max(norms)) < high


def test_every_weight_has_a_chart_of_its_effective_learning_rate(numbers: StudyNumbers) -> None:
    drawn = charts.effective_learning_rate_charts(numbers)
    assert [chart.title for chart in drawn] == list(WEIGHTS)
    assert len({json.dumps(chart.figure["layout"]["yaxis"]) for chart in drawn}) == 1
    curve = numbers.methods[0].curve(
        lambda row: row.effective_learning_rates[WEIGHTS[2]], is_logarithmic=True
    )
    assert lines(drawn[2])["no decay"]["y"][:-1] == pytest.approx(list(curve.mean[:-1]), rel=1e-3)


def test_predicted_angles_are_thin_dashed_lines_in_the_color_of_their_method(numbers: StudyNumbers) -> None:
    chart = charts.angular_update_chart(numbers)
    drawn = theory(chart)
    assert list(drawn) == ["weight decay 0.0005", "weight decay 0.005"]
    for method in numbers.methods[1:3]:
        trace, measured = drawn[method.label], lines(chart)[method.label]
        assert trace["line"]["color"] == measured["line"]["color"]
        assert trace["line"]["width"] < measured["line"]["width"]
        assert [text for text in trace["text"] if text] == ["predicted"]
        assert len(trace["text"]) == len(trace["x"]) == len(trace["y"])
        assert trace["y"] == pytest.approx([angle for _, angle in predicted_angles(method)], rel=1e-3)


def test_the_law_of_the_off_span_share_is_circles_in_the_color_of_their_method(numbers: StudyNumbers) -> None:
    chart = charts.off_span_chart(numbers)
    assert theory(chart).keys() == lines(chart).keys()
    for label, circles in theory(chart).items():
        measured = lines(chart)[label]
        assert (circles["x"], circles["y"]) == (measured["x"], measured["y"])
        assert circles["marker"]["color"] == measured["line"]["color"]


def test_runs_without_angles_and_laws_have_charts_without_them(tmp_path: Path) -> None:
    def forget(settings: RunSettings, row: dict[str, Any]) -> None:
        del row["angular_updates"], row["off_span_law"]

    numbers = study_numbers(read_study(Writer(tmp_path, change_row=forget).write()))
    assert theory(charts.off_span_chart(numbers)) == {}
    assert all(set(line["y"]) == {None} for line in lines(charts.angular_update_chart(numbers)).values())


def test_spectra_show_every_method_over_what_was_before_the_training(numbers: StudyNumbers) -> None:
    drawn = charts.spectrum_charts(numbers)
    assert [chart.title for chart in drawn] == list(WEIGHTS)
    assert {chart.unit for chart in drawn} == {"8 directions"}
    for chart in drawn:
        assert list(grays(chart)) == ["input variance", "before training"]
        assert grays(chart)["before training"]["y"] == [1.0, 1.0, 1.0, 1.0]
        assert grays(chart)["input variance"]["y"] == [2.8, 1.0, 0.18, 0.02]
        assert len(lines(chart)) == len(METHODS)
        low, high = (10**end for end in chart.figure["layout"]["yaxis"]["range"])
        assert low < 0.02
        assert high > 2.8
        assert chart.figure["layout"]["xaxis"]["range"] == [0, 1]
    assert lines(drawn[0])["WRS, radius 1"]["y"] == pytest.approx([1.48, 1.0, 1.0, 0.52])


def test_directions_without_any_energy_do_not_stretch_the_axis(tmp_path: Path) -> None:
    def clean(settings: RunSettings, spectra: dict[str, Any]) -> None:
        spectra["1200"][WEIGHTS[0]]["energy"] = [0.5, 0.5, 1e-9, 0.0]

    numbers = study_numbers(read_study(Writer(tmp_path, change_spectra=clean).write()))
    chart = charts.spectrum_charts(numbers)[0]
    assert chart.figure["layout"]["yaxis"]["range"][0] > -2
    assert all(y > 0 for line in lines(chart).values() for y in line["y"])  # a logarithm has no zero


def test_many_weights_get_spectra_of_the_first_and_the_last(tmp_path: Path) -> None:
    weights = tuple(f"layers.{index}.weight" for index in range(9))
    numbers = study_numbers(read_study(Writer(tmp_path, weights=weights).write()))
    assert [chart.title for chart in charts.spectrum_charts(numbers)] == [weights[0], weights[-1]]
    assert charts.effective_learning_rate_charts(numbers) == []


def test_spectra_that_were_not_recorded_have_no_chart(tmp_path: Path) -> None:
    writer = Writer(tmp_path, change_spectra=lambda _, spectra: spectra.clear())
    assert charts.spectrum_charts(study_numbers(read_study(writer.write()))) == []


def test_many_weights_get_one_chart_of_their_mean(tmp_path: Path) -> None:
    weights = tuple(f"layers.{index}.weight" for index in range(9))
    drawn = charts.norm_charts(study_numbers(read_study(Writer(tmp_path, weights=weights).write())))
    assert len(drawn) == 1
    assert drawn[0].unit == "geometric mean over 9 weights, log scale"


@pytest.mark.parametrize(
    ("low", "high", "is_share", "texts"),
    [
        (0.5, 2.0, False, ["0.1", "0.2", "0.5", "1", "2", "5", "10", "20", "50"]),
        (1e-5, 1e-1, False, ["10<sup>-5</sup>", "0.0001", "0.001", "0.01", "0.1"]),
        (1e-4, 1.0, True, ["0.01%", "0.1%", "1%", "10%", "100%"]),
    ],
)
def test_logarithmic_axes_are_labelled_in_plain_numbers(
    low: float, high: float, is_share: bool, texts: list[str]
) -> None:
    ticks = axes.logarithmic_ticks([math.log10(low), math.log10(high)], is_share=is_share)
    assert ticks["ticktext"] == texts
    assert len(ticks["tickvals"]) == len(texts)


def test_an_off_span_share_that_vanishes_does_not_stretch_its_axis(tmp_path: Path) -> None:
    def vanish(settings: RunSettings, row: dict[str, Any]) -> None:
        if settings.method.name == "weight_decay":
            row["off_span_share"] = 0.8 * math.exp(-row["step"] / 20)

    chart = charts.off_span_chart(study_numbers(read_study(Writer(tmp_path, change_row=vanish).write())))
    axis = chart.figure["layout"]["yaxis"]
    assert axis["type"] == "log"
    assert -4.5 < axis["range"][0] < -3.0
    assert all(y >= 1e-4 for band in bands(chart).values() for y in band["y"])


def test_the_end_of_a_schedule_does_not_stretch_the_axis_of_the_rates(numbers: StudyNumbers) -> None:
    chart = charts.effective_learning_rate_chart(numbers)
    low = 10 ** chart.figure["layout"]["yaxis"]["range"][0]
    rates = [
        (x, y) for t in lines(chart).values() for x, y in zip(t["x"], t["y"], strict=True) if y is not None
    ]
    assert min(y for _, y in rates) < low < min(y for x, y in rates if x <= 1200 * 0.9)


def test_names_are_escaped_as_plotly_reads_them(tmp_path: Path) -> None:
    method = Cell(SETTINGS, {}, 1, "a <b> & c", "a", ACCURACY)
    assert charts.looks([method]).keys() == {"a <b> & c"}
    assert charts.plain_text(method.label) == "a &lt;b&gt; &amp; c"


def test_decay_methods_take_neighboring_colors() -> None:
    decays = [replace(SETTINGS, method=WeightDecay(d)) for d in (5e-4, 5e-3)]
    methods = [Cell(settings, {}, 1, settings.label, "", ACCURACY) for settings in decays]
    assert [look.color for look in charts.looks(methods).values()] == ["--m2", "--m3"]


def test_ticks_of_shares_have_the_decimals_that_they_need(numbers: StudyNumbers) -> None:
    for chart in (charts.score_chart(numbers, "test"), charts.score_chart(numbers, "train")):
        assert chart.figure["layout"]["yaxis"]["tickformat"] == ".2~%"
