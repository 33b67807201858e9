"""A study page with axes: it says what the numbers say, no more, and every number leads to its runs.

How it looks is tested in `test_overview_browser`, how runs are sorted in `test_groups`.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from decayfree.methods import WRS, NoTreatment, WeightDecay
from decayfree.report import render, write_report
from decayfree.report.charts.sensitivity import (
    decay_axis,
    over_learning_rate,
    over_weight_decay,
    sensitivity_text,
)
from decayfree.report.charts.views import method_looks
from decayfree.report.numbers.compared import UnknownReferenceError
from decayfree.report.numbers.groups import study_groups
from decayfree.study import Axis, Override, RunSettings, StudySpec, read_study
from decayfree.study.builtin import BUILTIN, builtin_spec
from support.parsed_page import HOSTILE, Parsed, words
from support.synthetic_study import AXES_METHODS, OPTIMIZERS, Writer, axes_spec, bumpy, hot, sweep_spec

SPACE = "\N{NO-BREAK SPACE}"
FLAT = {"none": 0.90, "weight_decay": 0.92, "wrs": 0.92}


def page_of(out: Path, spec: StudySpec, *, reference: str | None = None, **changes: Any) -> Path:
    writer = Writer(out, spec=spec, **{"final_of": bumpy, "n_intervals": 3, **changes})
    return write_report(writer.write(), reference=reference)


def text_of(page: Path) -> str:
    return words(Parsed.of(page).text.replace(SPACE, " "))


def stepped(settings: RunSettings) -> float:
    """For all optimizers: decay and WRS alike up to a scatter of 0.1 points, no decay 2 below with 0.11."""
    scatter = (0.001, -0.001, 0.0005, -0.0005)[(settings.seed + (settings.method.name == "wrs")) % 4]
    return FLAT[settings.method.name] + scatter * (1.1 if settings.method.name == "none" else 1)


def rows_of(page: Path, table: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    found = re.search(rf'<table id="{table}".*?<tbody>(.*?)</tbody>', text, re.DOTALL)
    assert found, f"there is no {table}"
    return re.findall(r"<tr.*?</tr>", found[1], re.DOTALL)


def data_of(page: Path) -> dict[str, Any]:
    parsed = Parsed.of(page)
    found: dict[str, Any] = json.loads(next(script for script in parsed.scripts if script.startswith('{"')))
    return found


def test_the_group_that_draws_the_most_is_shown_first(tmp_path: Path) -> None:
    # Hyperball alone has the smallest rate, so that the first group would show one method of ten.
    page = page_of(tmp_path, builtin_spec("baselines", seeds=2))
    curves = data_of(page)["views"]["curves"]
    n_traces = [sum(len(chart["figure"]["data"]) for chart in view["charts"]) for view in curves["views"]]
    assert n_traces[0] < n_traces[1] == max(n_traces)
    assert curves["first"] == 1
    assert re.search(r'data-label="curves">learning rate 0\.01<', page.read_text(encoding="utf-8"))


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    first = page_of(tmp_path, axes_spec(n_seeds=2)).read_bytes()
    assert write_report(tmp_path).read_bytes() == first


def test_the_summary_counts_what_was_seen(tmp_path: Path) -> None:
    text = text_of(page_of(tmp_path, axes_spec(), final_of=stepped))
    for said in (
        "With which optimizers do the methods differ?",
        "3 methods (no decay, weight decay and WRS) over optimizer (SGD, momentum 0.9, SGD, Adam, AdamW and "
        "Lion), with 4 seeds each. 60 of 60 runs are done.",
        "Over 5 groups no difference is seen between WRS and weight decay (0.00 points, p",
        "Beside no decay, WRS is higher in 5 of 5 groups.",
        "WRS is not seen to differ from weight decay in any of 5 groups.",
        "points: smaller ones are not ruled out.",
        "for the family of all 10 comparisons",
        "Every difference is WRS minus the method of the row, in the same group and seed by seed: "
        "above zero, WRS is higher.",
        "Over all groups each counts once.",
    ):
        assert said in text, said


def test_words_follow_the_numbers_whichever_way_they_come_out(tmp_path: Path) -> None:
    def reversed_(settings: RunSettings) -> float:
        return 1.8 - stepped(settings)

    text = text_of(page_of(tmp_path, axes_spec(), final_of=reversed_))
    assert "Beside no decay, WRS is lower in 5 of 5 groups." in text


def test_every_row_has_its_statistics_and_its_runs(tmp_path: Path) -> None:
    page = page_of(tmp_path, axes_spec(), final_of=stepped)
    rows = rows_of(page, "comparison-table")
    assert len(rows) == 15
    assert rows[0].startswith(
        '<tr><th scope="row">no decay</th><td data-label="Optimizer">SGD, momentum 0.9</td>'
    )
    assert f"90.00{SPACE}%" in rows[0]
    assert "+2.00" in rows[0]
    assert '<td data-label="Seen">higher<br><small>exact sign-flip p' in rows[0]
    assert "no difference seen<small>" in rows[1].replace("<br>", "")
    assert f"80{SPACE}% power:" in rows[1]
    assert f"exact sign-flip p{SPACE}={SPACE}0.12" in rows[0]
    assert '<tr class="ours"><th scope="row">WRS' in rows[2]
    assert '<td data-label="Seen">the one compared with</td>' in rows[2]
    for row, settings in zip(rows, read_study(tmp_path).spec.runs(), strict=False):
        assert row.count('href="#run-') == 4
        assert f'<a href="#run-{settings.key}">seed 0</a>' in row
    assert "exact sign-flip test, alone</i> p" in rows[0]
    assert "true difference seen with a probability of 80" in rows[1]
    assert f"<i>difference</i> WRS minus no decay (4{SPACE}pairs)" in rows[0]


def test_the_difference_stands_on_validation_images_as_well(tmp_path: Path) -> None:
    def validate(settings: RunSettings, row: dict[str, Any]) -> None:
        row["validation_score"] = 0.8 + 0.01 * (settings.method.name == "wrs") + 0.001 * settings.seed

    page = page_of(tmp_path / "kept", axes_spec(), final_of=stepped, change_row=validate)
    assert ">+1.00<br><small>+1.00 to +1.00</small></td>" in rows_of(page, "comparison-table")[0]
    assert "The same difference on the validation images is a replication" in text_of(page)
    without = page_of(tmp_path / "none", axes_spec(n_validation=0), final_of=stepped)
    assert "on validation" not in text_of(without)


def test_every_run_is_linked_and_every_link_to_a_run_has_its_view(tmp_path: Path) -> None:
    page = page_of(tmp_path, sweep_spec(), state_of=hot)
    parsed = Parsed.of(page)
    links = {str(value) for name, value in parsed.attributes if name == "href"}
    keys = {link.removeprefix("#run-") for link in links if link.startswith("#run-")}
    assert keys == {path.name for path in (tmp_path / "runs").iterdir()}
    data = json.loads(page.read_text(encoding="utf-8").split('id="run-data">')[1].split("</script>")[0])
    assert data["runs"].keys() == keys
    assert data["archive"] is None
    study = read_study(tmp_path)
    run = next(run for run in study.runs if run.state == "diverged")
    told = data["runs"][run.key]
    assert told["state"].startswith(f"diverged at step {run.rows[-1].step:,} of {run.n_steps:,}, test score")
    assert told["state"].endswith(": the loss was not finite at step 17")
    assert data["steps"][told["steps"]] == [row.step for row in run.rows]
    assert told["curves"][0] == [pytest.approx(row.test_score, rel=1e-3) for row in run.rows]
    assert [len(curve) for curve in told["curves"]] == [len(run.rows)] * 5
    settings = dict(zip(data["names"], told["settings"], strict=True))
    assert (settings["method.name"], settings["learning_rate"]) == ("weight_decay", "0.3")
    assert told["files"] == ["run.json", "metrics.jsonl", "spectra.json"]


def test_another_reference_can_be_asked_for(tmp_path: Path) -> None:
    page = page_of(tmp_path, axes_spec(n_seeds=2), reference="none")
    assert "Every difference is no decay minus the method of the row" in text_of(page)
    with pytest.raises(UnknownReferenceError, match="expected a method to compare with, one of none"):
        write_report(tmp_path, reference="nothing like it")


def test_the_detailed_page_takes_a_reference_too(tmp_path: Path) -> None:
    study = read_study(Writer(tmp_path).write())
    assert "no decay minus …" in render(study, reference="none")
    with pytest.raises(UnknownReferenceError, match="got 'adamp'"):
        render(study, reference="adamp")


def test_diverged_runs_are_marked_counted_and_never_dropped(tmp_path: Path) -> None:
    page = page_of(tmp_path, sweep_spec(), state_of=hot)
    text = text_of(page)
    for said in (
        "61 of 63 runs are done. 2 diverged.",
        "2 of 63 runs diverged: weight decay 0.1, learning rate 0.3.",
        "1 setting with fewer finished seeds than others of the same sweep could not be chosen",
        "the loss was not finite at step 17",
    ):
        assert said in text, said
    row = next(row for row in rows_of(page, "everything-table") if "0.1, learning rate 0.3" in row)
    assert f"2{SPACE}diverged" in row
    crosses = [
        trace
        for chart in data_of(page)["views"]["sensitivity"]["views"][0]["charts"]
        for trace in chart["figure"]["data"]
        if trace["name"] == "diverged"
    ]
    assert [trace["x"] for trace in crosses] == [[0.1], [0.3]], (
        "over the coefficient, and over the learning rate"
    )
    chart = data_of(page)["views"]["sensitivity"]["views"][0]["charts"][2]["figure"]
    foot, top = chart["layout"]["yaxis"]["range"]
    height = (foot - math.log10(crosses[0]["y"][0])) / (foot - top)
    assert 0 < height < 0.05, "just above the foot of the chart"
    assert crosses[0]["text"] == ["weight decay 0.1, learning rate 0.3: 2 of 3 runs diverged"]


def test_a_method_whose_runs_all_diverged_has_a_row_and_a_cross(tmp_path: Path) -> None:
    def burning(settings: RunSettings) -> tuple[str, str | None]:
        is_large = getattr(settings.method, "weight_decay", 0.0) == 0.1
        return ("diverged", "the loss was not finite") if is_large else ("done", None)

    page = page_of(tmp_path, sweep_spec(n_seeds=2), state_of=burning)
    lost = [row for row in rows_of(page, "everything-table") if "weight decay 0.1," in row]
    assert len(lost) == 3
    assert all('<td data-label="Seen">every run diverged</td>' in row for row in lost)


def test_best_of_a_sweep_is_told_with_what_choosing_is_worth(tmp_path: Path) -> None:
    page = page_of(tmp_path, sweep_spec())
    text = text_of(page)
    assert (
        "In 3 sweeps of 21 settings in all, the setting with the highest mean validation accuracy "
        "over the seeds was chosen"
    ) in text
    row = rows_of(page, "choices-table")[1]
    assert "weight decay 0.001, learning rate 0.1<br><small>of 15" in row
    assert len(rows_of(page, "comparison-table")) == 3
    assert len(rows_of(page, "everything-table")) == 21


def test_what_a_trial_buys_has_a_section_with_a_chart_a_sentence_and_a_table(tmp_path: Path) -> None:
    page = page_of(tmp_path / "swept", sweep_spec())
    (view,) = data_of(page)["views"]["budget"]["views"]
    assert len(view["charts"]) == 1
    assert view["text"].startswith("In the mean, one trial leads to")
    text = text_of(page)
    assert "What does a trial buy?" in text
    assert view["text"].replace(SPACE, " ") in text, "without JavaScript, too"
    assert "A run that diverged is a trial that ends at 0 %." in text
    assert [re.findall(r"<td[^>]*>(\d+)", row)[0] for row in rows_of(page, "budget-table")] == [
        "3",
        "15",
        "3",
    ]
    for name, spec in (("blind", sweep_spec(n_validation=0)), ("single", axes_spec(n_seeds=2))):
        assert "What does a trial buy?" not in text_of(page_of(tmp_path / name, spec))


def test_the_page_of_one_network_draws_what_trials_buy_in_the_colors_of_its_legend(tmp_path: Path) -> None:
    page = page_of(tmp_path, builtin_spec("figure1", seeds=2))
    data = data_of(page)
    (view,) = data["views"]["budget"]["views"]
    drawn = {trace["legendgroup"] for trace in view["charts"][0]["figure"]["data"]}
    buttons = {value for name, value in Parsed.of(page).attributes if name == "data-group"}
    assert drawn < buttons
    assert "weight decay 0.0005" in drawn, "the first of its two settings stands for weight decay"


def test_without_validation_data_the_page_says_that_nothing_is_chosen(tmp_path: Path) -> None:
    page = page_of(tmp_path, sweep_spec(n_validation=0))
    text = text_of(page)
    assert "No images were kept for validation, so nothing is chosen here" in text
    assert "each row is compared with its first setting of the same learning rate" in text
    assert len(rows_of(page, "comparison-table")) == 21
    assert "choices-table" not in page.read_text(encoding="utf-8")


def test_ranks_are_told_with_what_they_can_show(tmp_path: Path) -> None:
    text = text_of(page_of(tmp_path / "five", axes_spec()))
    assert "Mean ranks over 5 groups in which all methods have a result are" in text
    assert "the critical difference of Nemenyi's test, 1.48" in text
    tables = tuple((("name", one.name),) for one in OPTIMIZERS[2:])
    text = text_of(page_of(tmp_path / "three", axes_spec(n_seeds=2, axes=(Axis("optimizer", tables),))))
    assert (
        "Ranks are not tested here: that takes at least 3 methods with a result in each of at least 5 groups"
        in text
    )


def test_costs_are_ratios_of_the_same_seed(tmp_path: Path) -> None:
    page = page_of(tmp_path / "known", axes_spec(n_seeds=2))
    assert "Beside no decay, an epoch takes ×1.00 (weight decay) and ×1.04 (WRS) of the time." in text_of(
        page
    )
    assert "methods keep at most 1.0 % (WRS) of the parameters' bytes." in text_of(page)
    row = rows_of(page, "costs-table")[2]
    assert all(said in row for said in ("15.6", "×1.04", "×0.0100"))
    old = page_of(tmp_path / "old", axes_spec(n_seeds=2), cost=False)
    assert "costs-table" not in old.read_text(encoding="utf-8")


def test_sensitivity_is_drawn_over_both_with_zero_apart(tmp_path: Path) -> None:
    numbers = study_groups(
        read_study(Writer(tmp_path, spec=sweep_spec(), final_of=bumpy, n_intervals=2).write())
    )
    (group,), looks = numbers.groups, method_looks(numbers)
    over_decay, over_rate = over_weight_decay(group, looks), over_learning_rate(group, looks)
    assert [chart.title for chart in over_decay] == [f"learning rate {rate:g}" for rate in (0.03, 0.1, 0.3)]
    for chart in over_decay:
        lines = {trace["name"]: trace for trace in chart.figure["data"] if "fill" not in trace}
        assert len(lines["weight decay"]["x"]) == 5
        assert lines["no decay"]["x"] == [pytest.approx(1e-5 / 8)]
        assert len(set(lines["WRS"]["y"])) == 1, "no coefficient, so a level"
        axis = chart.figure["layout"]["xaxis"]
        assert axis["ticktext"] == ["0", "1e−5", "0.0001", "0.001", "0.01", "0.1"]
    (chart,) = over_rate
    assert len(chart.figure["data"]) == 1 + 5 + 1
    middle = {cell.weight_decay: cell for cell in group.sweeps[1].cells if cell.learning_rate == 0.1}[1e-3]
    line = {trace["name"]: trace for trace in over_decay[1].figure["data"]}["weight decay"]
    final = middle.final_test
    assert final is not None
    assert line["y"][2] == pytest.approx(1 - final.mean, rel=1e-3)
    assert line["y"][2] - line["error_y"]["arrayminus"][2] == pytest.approx(1 - (final.high or 0), rel=1e-2)
    assert "No run diverged." in sensitivity_text(group)


def test_an_axis_without_zero_has_no_place_for_it() -> None:
    axis, where = decay_axis([1e-4, 1e-2])
    assert axis["tickvals"] == [1e-4, 1e-2]
    assert where(1e-2) == 1e-2


def test_curves_are_embedded_group_by_group_with_one_color_a_method(tmp_path: Path) -> None:
    views = data_of(page_of(tmp_path, axes_spec(n_seeds=3)))["views"]["curves"]["views"]
    assert len(views) == 5
    for view in views:
        titles = [chart["title"] for chart in view["charts"]]
        assert titles == [
            "Test accuracy",
            "Training accuracy",
            "Weight norm",
            "Effective learning rate",
            "Angular update",
        ]
        colors = {
            trace["legendgroup"]: trace["line"].get("color")
            for chart in view["charts"]
            for trace in chart["figure"]["data"]
            if "fill" not in trace
        }
        assert colors == {"no decay": "var(--m1)", "weight decay": "var(--m2)", "WRS": "var(--m0)"}


def test_what_was_not_recorded_is_left_out(tmp_path: Path) -> None:
    def forget(settings: RunSettings, row: dict[str, Any]) -> None:
        row["effective_learning_rates"] = dict.fromkeys(row["norms"])
        row["angular_updates"] = dict.fromkeys(row["norms"])

    view = data_of(page_of(tmp_path, axes_spec(n_seeds=2), change_row=forget))["views"]["curves"]["views"][0]
    assert [chart["title"] for chart in view["charts"]] == [
        "Test accuracy",
        "Training accuracy",
        "Weight norm",
    ]


def test_twenty_seeds_have_a_bootstrap_interval_as_well(tmp_path: Path) -> None:
    rows = rows_of(page_of(tmp_path, axes_spec(n_seeds=20), n_intervals=2), "comparison-table")
    assert "bootstrap interval (BCa)</i>" in rows[0]


def test_a_study_with_axes_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    everything = frozenset((method.label, seed) for method in AXES_METHODS for seed in range(2))
    text = text_of(page_of(tmp_path, axes_spec(n_seeds=2), not_begun=everything))
    assert "0 of 30 runs are done." in text
    assert "There is no comparison yet" in text
    assert "30 runs of the study have not begun" in text


def test_one_seed_says_nothing(tmp_path: Path) -> None:
    text = text_of(page_of(tmp_path, axes_spec(n_seeds=1)))
    assert "There is no comparison yet: it takes two seeds" in text
    assert "one seed: nothing can be said" in text
    assert "Below each p" not in text


def test_everything_from_outside_is_escaped(tmp_path: Path) -> None:
    states = {("no decay", 1): ("failed", HOSTILE)}
    spec = axes_spec(n_seeds=2, title=HOSTILE, question=HOSTILE)
    parsed = Parsed.of(page_of(tmp_path, spec, states=states, weights=(HOSTILE, "b")))
    assert parsed.elements.count("script") == 6
    assert not {"img", "iframe"} & set(parsed.elements)
    assert parsed.text.count(HOSTILE) >= 3


def test_what_differs_and_what_all_runs_share_is_stated(tmp_path: Path) -> None:
    text = text_of(page_of(tmp_path, sweep_spec(n_seeds=1)))
    assert "What differs between runs learning_rate 0.03, 0.1, 0.3" in text
    assert "batch_size 64" in text
    assert "n_steps 300" in text


def test_a_difference_points_one_way_in_tables_forests_and_texts(tmp_path: Path) -> None:
    """WRS is 2 points above no decay: so say the table, the forest, its caption and the sentences."""
    page = page_of(tmp_path, axes_spec(), final_of=stepped)
    headings = page.read_text(encoding="utf-8")
    assert headings.count("WRS minus …<br>") == 2
    assert "Seen<br><small>WRS is</small>" in headings
    for table in ("comparison-table", "forest-table"):
        row = rows_of(page, table)[0]
        assert "no decay" in row
        assert "+2.00" in row
        assert "−2.00" not in row
    assert (
        'aria-label="WRS minus no decay, SGD, momentum 0.9: +2.00 points' in rows_of(page, "forest-table")[0]
    )


def test_methods_of_several_kinds_keep_their_settings_apart(tmp_path: Path) -> None:
    methods = (NoTreatment(), WeightDecay(1e-3), WRS(), WRS(radius=2.0))
    numbers = study_groups(
        read_study(
            Writer(
                tmp_path, spec=axes_spec(n_seeds=1, methods=methods), final_of=bumpy, n_intervals=2
            ).write()
        )
    )
    assert numbers.methods == ("no decay", "weight decay", "WRS, radius 1", "WRS, radius 2")


@pytest.mark.parametrize("name", BUILTIN)
def test_every_built_in_study_has_a_page(tmp_path, name):
    page = page_of(tmp_path, builtin_spec(name, seeds=2))
    assert builtin_spec(name).title in text_of(page)


def test_a_method_of_which_every_run_diverged_stays_in_the_first_table(tmp_path: Path) -> None:
    def hopeless(settings: RunSettings) -> tuple[str, str | None]:
        return ("diverged", "not finite") if settings.method.name == "wrs" else ("done", None)

    page = page_of(tmp_path, sweep_spec(), state_of=hopeless)
    assert [row for row in rows_of(page, "comparison-table") if "WRS" in row and "every run diverged" in row]


def test_runs_that_an_override_makes_longer_get_the_page_that_tells(tmp_path: Path) -> None:
    override = Override((("method.name", "wrs"),), (("n_epochs", 7),))
    spec = StudySpec(methods=(NoTreatment(), WRS()), seeds=(0, 1), overrides=(override,))
    writer = Writer(tmp_path, spec=spec, final_of=bumpy, n_intervals=3)
    assert not study_groups(read_study(writer.write())).are_methods_all
