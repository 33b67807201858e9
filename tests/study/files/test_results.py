"""Result files: rows there and back, and damage that is named, never guessed over."""

import dataclasses
import json
import math
import re

import pytest

from decayfree.methods import WRS, NoTreatment
from decayfree.study import ResultError, Row, Spectrum, StudySpec, read_study
from decayfree.study.files.checkpoint import write_record, write_spectra
from decayfree.study.files.results import read_rows, read_spectra, row_to, run_directory
from support.small_study import METHODS, RECIPE, recipe
from support.synthetic_study import Writer


def row(step, **changes):
    values = {
        "step": step,
        "epoch": step / 4,
        "train_loss": 0.1 + 0.2,
        "train_score": 0.5,
        "test_score": 1 / 3,
        "learning_rate": 1e-300,
        "norms": {"a.weight": 1.5},
        "effective_learning_rates": {"a.weight": 0.1},
        "angular_updates": {"a.weight": 0.02},
        "off_span_share": 0.8,
        "off_span_law": 0.8,
    }
    return Row(**{**values, **changes})


def append_row(directory, row):
    with (directory / "metrics.jsonl").open("a") as file:
        file.write(row_to(row))


@pytest.fixture
def study(tmp_path):
    """Two runs of two rows each, done."""
    spec = StudySpec(methods=(NoTreatment(), WRS()), seeds=(0,), recipe=RECIPE)
    (tmp_path / "study.toml").write_text(spec.to_toml())
    for run in spec.runs():
        write_record(
            run_directory(tmp_path, run.key), run, state="done", elapsed_s=1.5, first_layer="a.weight"
        )
        for step in (0, 4):
            append_row(run_directory(tmp_path, run.key), row(step))
    return tmp_path, spec


def test_rows_come_back_bit_for_bit(study):
    out, spec = study
    read = read_study(out)
    assert read.spec == spec
    assert [run.rows for run in read.runs] == [(row(0), row(4))] * 2


def test_a_run_says_its_settings_and_how_it_ended(study):
    out, spec = study
    run = read_study(out).runs[1]
    assert (run.method, run.seed, run.label, run.state, run.reason) == (
        "wrs",
        0,
        "WRS, radius 1",
        "done",
        None,
    )
    assert (run.n_steps, run.elapsed_s, run.first_layer) == (16, 1.5, "a.weight")
    assert run.settings == json.loads(json.dumps(spec.runs()[1].to_dict()))
    assert run.key == spec.runs()[1].key
    assert set(run.versions) == {"decayfree", "torch", "python"}
    assert set(run.hardware) == {"processor", "n_threads"}


def test_rows_from_before_there_were_angles_and_laws_have_none(tmp_path):
    path = tmp_path / "metrics.jsonl"
    record = json.loads(row_to(row(4)))
    del record["angular_updates"], record["off_span_law"]
    path.write_text(json.dumps(record) + "\n")
    (read,) = read_rows(path, may_be_cut=False)
    assert math.isnan(read.angular_updates["a.weight"])
    assert math.isnan(read.off_span_law)
    assert (read.norms, read.off_span_share) == (row(4).norms, row(4).off_span_share)


def test_numbers_that_are_not_finite_are_written_as_null_and_read_as_nan(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(row_to(row(0, train_loss=math.inf, norms={"a.weight": math.nan})))
    record = json.loads(path.read_text())
    assert (record["train_loss"], record["norms"]) == (None, {"a.weight": None})
    (read,) = read_rows(path, may_be_cut=False)
    assert math.isnan(read.train_loss)
    assert math.isnan(read.norms["a.weight"])


def test_runs_that_have_not_begun_are_left_out_but_planned(study):
    out, spec = study
    bigger = StudySpec(methods=METHODS + spec.methods[1:], seeds=(0, 1), recipe=RECIPE)
    (out / "study.toml").write_text(bigger.to_toml())
    read = read_study(out)
    assert [run.label for run in read.runs] == ["no decay", "WRS, radius 1"]
    assert read.n_planned == 10


def test_runs_of_other_settings_in_the_same_folder_are_left_out(study):
    out, spec = study
    other = StudySpec(methods=spec.methods, recipe=recipe(learning_rate=0.7))
    (out / "study.toml").write_text(other.to_toml())
    assert read_study(out).runs == ()


def first_metrics(out, spec):
    return run_directory(out, spec.runs()[0].key) / "metrics.jsonl"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"step": 4, "epoch"', "Expecting"),
        ("[]", "expected the keys"),
        ("3", "not a row of metrics"),
        (row_to(row(4)).replace("0.5", '"0.5"').strip(), "expected a number or null, got '0.5'"),
        (row_to(row(4)).replace("0.5", "true").strip(), "expected a number or null, got True"),
        (row_to(row(4)).replace("train_loss", "loss").strip(), "expected the keys"),
        (row_to(row(4)).replace('"step": 4', '"step": null').strip(), "not a row of metrics"),
        (row_to(row(4)).replace('{"a.weight": 1.5}', "1.5").strip(), "not a row of metrics"),
        (row_to(row(0)).strip(), "step 0 follows step 0"),
        ("\x00\x00", "Expecting value"),
        ("", "Expecting value"),
    ],
)
def test_a_damaged_row_is_named_by_file_and_line(study, line, says):
    out, spec = study
    path = first_metrics(out, spec)
    path.write_text(row_to(row(0)) + line + "\n" + row_to(row(8)))
    with pytest.raises(ResultError, match=rf"^{re.escape(str(path))}, line 2: .*{re.escape(says)}"):
        read_study(out)


def test_damage_in_several_runs_is_reported_at_once(study):
    out, spec = study
    for run in spec.runs():
        (run_directory(out, run.key) / "metrics.jsonl").write_text("?\n")
    with pytest.raises(ResultError) as caught:
        read_study(out)
    assert all(run.key in str(caught.value) for run in spec.runs())


@pytest.mark.parametrize("state", ["running", "failed"])
def test_a_last_line_that_a_killed_run_left_half_written_is_left_out(study, state):
    out, spec = study
    write_record(run_directory(out, spec.runs()[0].key), spec.runs()[0], state=state)
    with first_metrics(out, spec).open("a") as file:
        file.write(row_to(row(8))[:20])
    assert read_study(out).runs[0].rows == (row(0), row(4))


def test_a_run_that_is_done_has_no_half_line(study):
    out, spec = study
    with first_metrics(out, spec).open("a") as file:
        file.write(row_to(row(8))[:20])
    with pytest.raises(ResultError, match="line 3: cut off"):
        read_study(out)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"state": "fine"}'])
def test_a_damaged_record_is_named(study, text):
    out, spec = study
    path = run_directory(out, spec.runs()[0].key) / "run.json"
    path.write_text(text)
    with pytest.raises(ResultError, match=rf"{re.escape(str(path))}: not the record of a run"):
        read_study(out)


def test_a_folder_without_a_study_is_an_error(tmp_path):
    with pytest.raises(ResultError, match=rf"no study in {re.escape(str(tmp_path))}: there is no study.toml"):
        read_study(tmp_path)


SPECTRUM = Spectrum(edges=(0, 1, 3), energy=(0.6, 0.4), variance=(1.0, 0.0), n_main=1, main_energy=0.6)


def test_spectra_come_back_bit_for_bit(study):
    out, spec = study
    spectra = {
        0: {"a.weight": SPECTRUM},
        16: {"a.weight": dataclasses.replace(SPECTRUM, main_energy=0.1 + 0.2)},
    }
    write_spectra(run_directory(out, spec.runs()[1].key), spectra)
    read = read_study(out)
    assert [run.spectra for run in read.runs] == [{}, spectra]
    assert read.runs[1].spectra[0]["a.weight"].n_directions == 3


def test_shares_of_nothing_are_written_as_null_and_read_as_nan(tmp_path):
    write_spectra(tmp_path, {0: {"a.weight": dataclasses.replace(SPECTRUM, variance=(math.nan, math.nan))}})
    assert '"variance": [null, null]' in (tmp_path / "spectra.json").read_text()
    assert all(map(math.isnan, read_spectra(tmp_path)[0]["a.weight"].variance))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("{", "", "Extra data"),
        ('"0"', '"zero"', "invalid literal"),
        ('"n_main"', '"main"', "n_main"),
        ("[0, 1, 3]", "[0, 3, 1]", "expected ranks that rise from 0, got (0, 3, 1)"),
        ("[0, 1, 3]", "[1, 2, 3]", "expected ranks that rise from 0, got (1, 2, 3)"),
        ("[0, 1, 3]", "[]", "expected ranks that rise from 0, got ()"),
        ("[0, 1, 3]", "[0]", "expected 0 bins, got 2 and 2"),
        ("[0, 1, 3]", "[0, 1.5, 3]", "expected whole numbers as ranks, got [0, 1.5, 3] and 1"),
        ('"n_main": 1', '"n_main": null', "expected whole numbers as ranks"),
        ("[0.6, 0.4]", "[1.0]", "expected 2 bins, got 1 and 2"),
        ("[0.6, 0.4]", '[0.6, "0.4"]', "expected a number or null, got '0.4'"),
        ("[0.6, 0.4]", "0.6", "not iterable"),
    ],
)
def test_damaged_spectra_are_named_by_their_file(study, old, new, says):
    out, spec = study
    directory = run_directory(out, spec.runs()[0].key)
    write_spectra(directory, {0: {"a.weight": SPECTRUM}})
    path = directory / "spectra.json"
    record = json.loads(path.read_text())
    del record["crc32"]  # it would notice all of these first
    text = json.dumps(record)
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(
        ResultError, match=rf"^{re.escape(str(path))}: not the spectra of a run \(.*{re.escape(says)}"
    ):
        read_study(out)


def test_a_study_prints_as_a_line(tmp_path):
    study = read_study(Writer(tmp_path).write())
    done = sum(run.state == "done" for run in study.runs)
    assert repr(study) == f"Study({study.spec.title!r}, {done} of {study.n_planned} runs done)"
