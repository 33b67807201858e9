"""The page as a file: same bytes, nothing fetched, everything escaped, everything there.

How it looks is tested in `test_browser`, what its sentences say in `test_verdicts` and `test_findings`.
"""

import builtins
import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from decayfree.errors import MissingExtraError
from decayfree.methods import NoTreatment, WeightDecay
from decayfree.report import compare, render, study_groups, study_numbers, write_report
from decayfree.report.page import embedded_json
from decayfree.report.tables import ending
from decayfree.report.words import angles, spans, verdicts
from decayfree.report.words import curves as findings
from decayfree.study import OptimizerSpec, ResultError, read_study
from support.parsed_page import HOSTILE, Parsed, words
from support.synthetic_study import FINAL_TEST, METHODS, SHORT, WEIGHTS, Writer, study_spec


def test_the_same_files_give_the_same_bytes_anywhere(tmp_path: Path) -> None:
    first = write_report(Writer(tmp_path / "one").write())
    content = first.read_bytes()
    assert write_report(tmp_path / "one").read_bytes() == content
    shutil.copytree(tmp_path / "one", tmp_path / "elsewhere")
    assert write_report(tmp_path / "elsewhere").read_bytes() == content
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["report.html", "runs", "study.toml"]


def test_the_page_holds_all_it_needs_and_refuses_the_rest(tmp_path: Path) -> None:
    parsed = Parsed.of(write_report(Writer(tmp_path).write()))
    names = {name for name, _ in parsed.attributes}
    assert not names & {"src", "srcset", "action", "data"}
    linked = {value for name, value in parsed.attributes if name == "href"}
    within = {value for value in linked if not value.startswith("data:text/csv;charset=utf-8,")}
    assert len(linked) > len(within)
    runs = {f"#run-{path.name}" for path in (tmp_path / "runs").iterdir()}
    places = {f"#{value}" for name, value in parsed.attributes if name == "id"}
    assert runs < within
    assert within - runs < places
    assert not {"link", "img", "iframe", "object", "embed", "base"} & set(parsed.elements)
    policy = dict(parsed.attributes)["content"]
    contents = [value for name, value in parsed.attributes if name == "content"]
    assert any(
        (value or "").startswith("default-src 'none'; script-src 'unsafe-inline'") for value in contents
    ), policy
    ours = [script for script in parsed.scripts if "plotly.js (basic" not in script[:200]]
    assert not [script for script in ours if "http" in script or "url(" in script or "@import" in script]


def test_everything_from_outside_is_escaped(tmp_path: Path) -> None:
    weights = (f"layer{HOSTILE}", *WEIGHTS[1:])
    states = {("no decay", 1): ("failed", HOSTILE)}
    writer = Writer(tmp_path, spec=study_spec(title=HOSTILE), weights=weights, states=states)
    parsed = Parsed.of(write_report(writer.write()))
    assert parsed.elements.count("script") == 6
    assert "img" not in parsed.elements
    assert "onerror" not in {name for name, _ in parsed.attributes}
    # Title, heading, reason, chart of the weight: as text, letter for letter.
    assert parsed.text.count(HOSTILE) >= 4
    assert "A processor <with> 2 cores" in parsed.text


def test_embedded_json_holds_no_markup_and_reads_back() -> None:
    value = {"a": [1, None, "</script><!--&\u2028"]}
    text = embedded_json(value)
    assert not set("<>&\u2028") & set(text)
    assert "\\u003c/script" in text
    assert json.loads(text) == value


def test_numbers_that_json_does_not_know_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        embedded_json([float("nan")])


def test_the_page_has_its_paragraphs_and_charts(tmp_path: Path) -> None:
    page = write_report(Writer(tmp_path).write())
    parsed, numbers = Parsed.of(page), study_numbers(read_study(tmp_path))
    text = words(parsed.text)
    for paragraph in (
        findings.test_score,
        findings.train_score,
        findings.norms,
        findings.effective_learning_rates,
        angles.angular_updates,
        spans.off_span,
        spans.spectrum,
    ):
        assert words(paragraph(numbers)) in text
    groups = study_groups(read_study(tmp_path))
    main = compare(groups)
    for paragraph in (*verdicts.summary(groups, main), verdicts.results(main), verdicts.reference_text(main)):
        assert words(paragraph) in text
    assert words(verdicts.verdict(groups, main)) in text
    for note in (
        *verdicts.statistics_notes(groups, main),
        verdicts.table_note(),
        *findings.effective_learning_rate_notes(numbers),
        *angles.angular_update_notes(numbers),
        *spans.off_span_notes(numbers),
        *spans.spectrum_notes(numbers),
    ):
        assert words(note) in text
    for key in (
        "what it must be, in the color of the method",
        "before training",
        "variance of the inputs after",
    ):
        assert key in text
    figures = json.loads(next(script for script in parsed.scripts if script.startswith('{"')))["figures"]
    ids = {value for name, value in parsed.attributes if name == "id"}
    assert set(figures) < ids
    assert len(figures) == 5 + 3 * len(WEIGHTS)


def test_runs_from_before_angles_laws_and_spectra_were_kept_have_a_page(tmp_path: Path) -> None:
    def forget(settings: object, row: dict[str, Any]) -> None:
        del row["angular_updates"], row["off_span_law"]

    writer = Writer(tmp_path, change_row=forget, change_spectra=lambda _, spectra: spectra.clear())
    text = words(Parsed.of(write_report(writer.write())).text)
    for said in (
        "No angular update was recorded.",
        "Its law was not recorded with these runs.",
        "No spectrum was recorded.",
    ):
        assert said in text


def test_what_was_not_recorded_is_told_and_neither_drawn_nor_explained(tmp_path: Path) -> None:
    def forget(settings: object, row: dict[str, Any]) -> None:
        row["off_span_share"] = row["off_span_law"] = None
        row["effective_learning_rates"] = row["angular_updates"] = dict.fromkeys(row["norms"])

    writer = Writer(tmp_path, change_row=forget, change_spectra=lambda _, spectra: spectra.clear())
    parsed = Parsed.of(write_report(writer.write()))
    figures = json.loads(next(script for script in parsed.scripts if script.startswith('{"')))["figures"]
    assert set(figures) == {
        "test-score",
        "train-score",
        *(f"norm-{index}" for index in range(len(WEIGHTS))),
    }
    text = words(parsed.text)
    for said in (
        "No effective learning rate was recorded",
        "No angular update was recorded.",
        "No off-span share of",
    ):
        assert said in text
    assert "The circles are what must be" not in text


def test_the_effective_learning_rate_is_that_of_the_optimizer(tmp_path: Path) -> None:
    adam = dataclasses.replace(study_spec(n_seeds=2).recipe, optimizer=OptimizerSpec("adam"))
    spec = dataclasses.replace(study_spec(methods=(NoTreatment(), WeightDecay(5e-4)), n_seeds=2), recipe=adam)
    assert "of a block is η/‖w‖:" in words(
        Parsed.of(write_report(Writer(tmp_path / "adam", spec=spec).write())).text
    )
    assert "of a block is η/‖w‖²:" in words(Parsed.of(write_report(Writer(tmp_path / "sgd").write())).text)


def test_the_table_has_a_row_and_a_strip_for_each_method(tmp_path: Path) -> None:
    page = write_report(Writer(tmp_path).write()).read_text(encoding="utf-8")
    table = re.findall(r"<tbody>(.*?)</tbody>", page, re.DOTALL)[0]
    rows = re.findall(r"<tr.*?</tr>", table, re.DOTALL)
    assert len(rows) == len(METHODS)
    for row, name in zip(rows, SHORT.values(), strict=True):
        assert f'<th scope="row">{name}</th>' in row
        assert row.count("<circle") == 5
    for row, values in zip(rows, FINAL_TEST.values(), strict=True):
        assert f"{100 * sum(values) / 5:.1f}\N{NO-BREAK SPACE}%" in row
    assert [row.startswith('<tr class="ours"') for row in rows] == [False] * 4 + [True]


def test_runs_that_did_not_finish_are_listed_with_their_reasons(tmp_path: Path) -> None:
    states = {
        ("weight decay 0.005", 3): ("diverged", "the loss was not finite at step 312"),
        ("no decay", 1): ("failed", "RuntimeError: no memory"),
        ("WRS, radius 1", 2): ("running", None),
    }
    text = words(Parsed.of(write_report(Writer(tmp_path, states=states).write())).text)
    assert "weight decay 0.005 seed 3 diverged 288 the loss was not finite at step 312" in text
    assert "no decay seed 1 failed 288 RuntimeError: no memory" in text
    assert "WRS, radius 1 seed 2 running 288 not done yet" in text
    assert "22 of 25 runs are done" in text


def test_that_all_runs_finished_is_said_too(tmp_path: Path) -> None:
    text = words(Parsed.of(write_report(Writer(tmp_path).write())).text)
    assert "None: all 25 runs finished, none diverged and none failed." in text


def test_runs_that_have_not_begun_are_counted(tmp_path: Path) -> None:
    writer = Writer(tmp_path, not_begun=frozenset({("no decay", 4), ("WRS, radius 1", 4)}))
    text = words(Parsed.of(write_report(writer.write())).text)
    assert "No run has diverged or failed; 2 runs of the study have not begun." in text


@pytest.mark.parametrize("seeds", [(0, 1, 2, 3), (0,)])
def test_finished_runs_that_a_changed_spec_leaves_out_are_told(
    tmp_path: Path, seeds: tuple[int, ...]
) -> None:
    whole = study_spec(methods=METHODS[:2])
    out = Writer(tmp_path, spec=whole, states={("no decay", 4): ("failed", "why")}).write()
    assert "no part of study.toml" not in words(write_report(out).read_text(encoding="utf-8"))
    (out / "study.toml").write_text(dataclasses.replace(whole, seeds=seeds).to_toml(), encoding="utf-8")
    gone = sorted(
        f"{run.key} ({run.label}, seed {run.seed})"
        for run in whole.runs()
        if run.seed not in seeds and (run.label, run.seed) != ("no decay", 4)
    )
    is_are = (
        "finished run beside these, no part of study.toml, is"
        if len(gone) == 1
        else ("finished runs beside these, no part of study.toml, are")
    )
    text = words(write_report(out).read_text(encoding="utf-8"))
    assert f"{len(gone)} {is_are} not on this page: " in text
    assert all(name in text for name in gone)


def test_of_many_runs_that_are_left_out_the_first_are_named(tmp_path: Path) -> None:
    study = dataclasses.replace(
        read_study(Writer(tmp_path).write()), left_out=tuple(f"run {number}" for number in range(1234))
    )
    assert ending.left_out(study).endswith("run 98, run 99 and 1,134 more.")


def test_settings_versions_and_hardware_are_stated(tmp_path: Path) -> None:
    text = words(Parsed.of(write_report(Writer(tmp_path).write())).text)
    for said in (
        "learning_rate 0.1",
        "batch_size 64",
        "data.label_noise 0.2",
        "optimizer.momentum 0.9",
        "n_steps 1,200",
        "rest_weight_decay 0",
        "weight decay 0.005 weight_decay: weight_decay = 0.005",
        "seeds 0, 1, 2, 3, 4",
        "decayfree 0.1.0",
        "torch 2.9.0",
        "n_threads 1",
        "training time, all runs 162 s",  # 25 runs of 6.5 s
        (
            "Gains γ and biases β of the normalizations and the last layer get no weight "
            "decay under every method"
        ),
        f"the 4 scale-invariant weights ({', '.join(WEIGHTS[:3])} and {WEIGHTS[3]})",
    ):
        assert said in text


def test_a_study_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    spec = study_spec(methods=(NoTreatment(), WeightDecay(5e-4)), n_seeds=1)
    everything = frozenset({("no decay", 0), ("weight decay 0.0005", 0)})
    text = words(Parsed.of(write_report(Writer(tmp_path, spec=spec, not_begun=everything).write())).text)
    assert "Nothing can be said before a run is done." in text
    assert "2 runs of the study have not begun" in text


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="no study"):
        write_report(tmp_path)


def test_without_jinja2_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = read_study(Writer(tmp_path).write())
    real_import = builtins.__import__

    def refuse_jinja2(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("jinja2"):
            raise ImportError(name, name=name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse_jinja2)
    with pytest.raises(MissingExtraError, match=r"jinja2.*pip install 'decayfree\[study\]'"):
        render(study)
