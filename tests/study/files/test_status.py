"""How far a study is: told from the files, beside a runner at work, with a pace computed by hand."""

import dataclasses
import json
import os
import time

import pytest

from decayfree.study import ResultError, StudySpec
from decayfree.study.files.checkpoint import set_aside, write_failure, write_record
from decayfree.study.files.folder_lock import FolderLock
from decayfree.study.files.integrity import Seal
from decayfree.study.files.results import run_directory
from decayfree.study.files.status import study_status
from support.small_study import METHODS, RECIPE

SPEC = StudySpec(methods=METHODS, seeds=(0,), recipe=RECIPE)
NONE, DECAY, SCALING, RESCALING = SPEC.runs()


@pytest.fixture
def out(tmp_path):
    (tmp_path / "study.toml").write_text(SPEC.to_toml())
    return tmp_path


def leave(out, run, state, *, n_done, elapsed_s=0.0, ago_s=0.0):
    """What a run leaves after ``n_done`` steps; its record was written ``ago_s`` seconds ago."""
    directory = run_directory(out, run.key)
    write_record(directory, run, state=state, elapsed_s=elapsed_s)
    (directory / "metrics.jsonl").write_text(json.dumps({"step": n_done}) + '\n{"step": 1')
    written_s = time.time() - ago_s
    os.utime(directory / "run.json", (written_s, written_s))


def test_before_it_begins_all_runs_wait_and_no_pace_is_known(out):
    status = study_status(out)
    assert [run.settings for run in status.runs] == list(SPEC.runs())
    assert {(run.state, run.n_done, run.fraction, run.seconds_left) for run in status.runs} == {
        ("waiting", 0, 0.0, None)
    }
    assert (status.holder, status.seconds_left) == (None, None)


def test_runs_that_have_ended_make_the_pace_of_those_that_wait(out):
    leave(out, NONE, "done", n_done=16, elapsed_s=8.0)
    leave(out, DECAY, "diverged", n_done=3, elapsed_s=100.0)
    write_failure(run_directory(out, SCALING.key), SCALING, "it was ill")
    none, decay, scaling, rescaling = study_status(out).runs
    assert (none.state, none.fraction, none.elapsed_s, none.seconds_left) == ("done", 1.0, 8.0, None)
    assert (decay.state, decay.fraction, decay.seconds_left) == ("diverged", 1.0, None)
    assert (scaling.state, scaling.reason) == ("failed", "it was ill")
    assert (rescaling.state, rescaling.seconds_left) == ("waiting", 8.0)
    assert study_status(out).seconds_left == 8.0


def test_a_run_is_running_while_a_runner_holds_the_folder_and_waits_once_it_was_killed(out):
    leave(out, NONE, "running", n_done=4, elapsed_s=10.0, ago_s=10.0)
    with FolderLock(out):
        status = study_status(out)
        assert status.holder.pid == os.getpid()
    (run, waiting, *_) = status.runs
    assert (run.state, run.n_done, run.fraction) == ("running", 4, 0.25)
    assert run.elapsed_s == pytest.approx(20, abs=5)
    assert run.seconds_left == pytest.approx(60, abs=15)
    assert waiting.seconds_left == pytest.approx(80, abs=20)
    assert status.seconds_left == pytest.approx(300, abs=75)
    assert study_status(out).runs[0].state == "waiting"


def test_runs_at_a_time_share_what_is_left(out):
    for run in (NONE, DECAY):
        leave(out, run, "running", n_done=8, elapsed_s=1000.0)
    with FolderLock(out):
        assert study_status(out).seconds_left == pytest.approx((2 * 1000 + 2 * 2000) / 2, rel=0.1)


def test_a_damaged_record_waits_and_what_was_set_aside_is_told(out):
    leave(out, NONE, "done", n_done=16)
    set_aside(run_directory(out, NONE.key), "a bit had flipped")
    leave(out, NONE, "done", n_done=16)
    assert study_status(out).runs[0].set_aside == ("a bit had flipped",)
    (run_directory(out, NONE.key) / "run.json").write_text("{")
    (run, *_) = study_status(out).runs
    assert run.state == "waiting"
    assert run.reason.startswith("damaged, and to be made again when the study is run: ")
    assert "run.json" in run.reason


@pytest.mark.parametrize("state", ["done", "diverged"])
@pytest.mark.parametrize("name", ["metrics.jsonl", "spectra.json"])
def test_a_run_that_has_ended_with_damaged_files_waits_and_says_why(out, name, state):
    directory = run_directory(out, NONE.key)
    rows = b'{"step": 16}\n'
    seals = {"metrics.jsonl": Seal.of_bytes(rows), "spectra.json": Seal.of_bytes(rows)}
    write_record(directory, NONE, state=state, elapsed_s=8.0, seals=seals)
    for file in seals:
        (directory / file).write_bytes(rows)
    assert study_status(out).runs[0].state == state
    (directory / name).write_bytes(rows[:-3])
    run = study_status(out).runs[0]
    assert (run.state, run.n_done, run.elapsed_s) == ("waiting", 0, 0.0)
    assert run.reason.startswith("damaged, and to be made again when the study is run: ")
    assert run.reason.endswith(f"{name}: 10 bytes long, expected 13")


@pytest.mark.parametrize("text", ["", "\n", "?\n", "[]\n"])
def test_metrics_that_say_no_step_are_none(out, text):
    leave(out, NONE, "done", n_done=16)
    (run_directory(out, NONE.key) / "metrics.jsonl").write_text(text)
    assert study_status(out).runs[0].n_done == 0


def test_looking_changes_nothing(out):
    leave(out, NONE, "done", n_done=16)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    study_status(out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_bigger_network_has_a_pace_of_its_own(out):
    wide = dataclasses.replace(RECIPE, model=dataclasses.replace(RECIPE.model, width_factor=0.5))
    other = StudySpec(methods=METHODS[:1], seeds=(0,), recipe=wide)
    leave(out, NONE, "done", n_done=16, elapsed_s=8.0)
    (out / "study.toml").write_text(other.to_toml())
    assert study_status(out).seconds_left is None


def test_a_folder_without_a_study_is_an_error(tmp_path):
    with pytest.raises(ResultError, match=r"there is no study\.toml"):
        study_status(tmp_path)
