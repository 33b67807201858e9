"""The queue: what it takes from files, what waits for what, and what becomes of runs without a process."""

import dataclasses

import pytest

from decayfree.study import StudySpec
from decayfree.study.files.checkpoint import read_reason, read_state, write_record
from decayfree.study.files.integrity import Seal
from decayfree.study.files.results import run_directory
from decayfree.study.runner.process_pool import Report
from decayfree.study.runner.queue import Queue
from support.small_study import METHODS, RECIPE

SPEC = StudySpec(methods=METHODS, seeds=(0,), recipe=RECIPE)
NONE, DECAY, SCALING, RESCALING = SPEC.runs()


def queue_in(out, spec=SPEC):
    return Queue(spec, out, n_threads=3)


def begin_all(queue):
    jobs = []
    while (job := queue.next_job()) is not None:
        jobs.append(job)
    return jobs


def test_runs_go_in_the_order_of_the_spec_but_for_those_that_replay_another(tmp_path):
    queue = queue_in(tmp_path)
    jobs = begin_all(queue)
    assert [job.settings for job in jobs] == [NONE, DECAY, RESCALING]
    assert [job.record_norms for job in jobs] == [False, True, False]
    assert {job.n_threads for job in jobs} == {3}
    assert [run.label for run in queue.running()] == ["no decay", "weight decay 0.01", "WRS, radius 1.5"]
    write_record(run_directory(tmp_path, DECAY.key), DECAY, state="done")
    queue.note(Report(DECAY.key, 16, is_over=True), n_tries=2)
    assert queue.next_job().settings == SCALING
    assert queue.fraction() == 1 / 4
    assert (queue.n_ended, queue.n_total, queue.is_over) == (1, 4, False)


def test_reports_of_steps_make_the_fraction(tmp_path):
    queue = queue_in(tmp_path)
    begin_all(queue)
    queue.note(Report(NONE.key, 8, is_over=False), n_tries=2)
    assert queue.fraction() == 8 / 64


def test_a_run_that_is_lost_waits_again_and_fails_with_the_last_try(tmp_path):
    queue = queue_in(tmp_path, dataclasses.replace(SPEC, methods=(METHODS[0],)))
    lost = Report(NONE.key, 0, is_over=True, lost="its process was killed by SIGKILL")
    for _ in range(2):
        assert queue.next_job().settings == NONE
        assert queue.next_job() is None
        queue.note(lost, n_tries=3)
        assert not queue.is_over
    queue.next_job()
    queue.note(lost, n_tries=3)
    assert queue.is_over
    directory = run_directory(tmp_path, NONE.key)
    assert read_state(directory) == "failed"
    assert read_reason(directory) == "its process was killed by SIGKILL (3 times)"


def test_a_run_goes_on_with_the_number_of_threads_that_it_began_with(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 7)
    write_record(run_directory(tmp_path, DECAY.key), DECAY, state="running")
    jobs = begin_all(queue_in(tmp_path))
    assert [job.n_threads for job in jobs] == [3, 7, 3]


def ended(out, run, *, state="done"):
    """A run as it is left at its end, all but its checkpoint."""
    directory = run_directory(out, run.key)
    directory.mkdir(parents=True)
    files = {"metrics.jsonl": b"rows", "spectra.json": b"spectra", "norms.f32": b"norms"}
    for name, content in files.items():
        (directory / name).write_bytes(content)
    seals = {name: Seal.of_bytes(content) for name, content in files.items()}
    write_record(directory, run, state=state, seals=seals)
    return directory


@pytest.mark.parametrize("state", ["done", "diverged"])
def test_a_run_that_has_ended_is_not_begun(tmp_path, state):
    ended(tmp_path, NONE, state=state)
    queue = queue_in(tmp_path)
    assert [job.settings for job in begin_all(queue)] == [DECAY, RESCALING]
    assert queue.set_aside == ()


@pytest.mark.parametrize("name", ["metrics.jsonl", "spectra.json", "norms.f32"])
@pytest.mark.parametrize("damage", ["cut", "changed", "grown"])
def test_an_ended_run_whose_files_have_changed_is_set_aside_and_begun_anew(tmp_path, name, damage):
    directory = ended(tmp_path, NONE)
    path = directory / name
    content = path.read_bytes()
    damaged = {"cut": content[:-1], "changed": content[:-1] + b"?", "grown": content + b"?"}[damage]
    path.write_bytes(damaged)
    queue = queue_in(tmp_path)
    assert begin_all(queue)[0].settings == NONE
    (reason,) = queue.set_aside
    says = {
        "cut": "bytes long, expected",
        "changed": "its content has changed",
        "grown": "bytes long, expected",
    }
    assert reason.startswith(f"no decay, seed 0: {path}: ")
    assert says[damage] in reason
    assert (directory / "set-aside-1" / name).read_bytes() == damaged
    assert [child.name for child in directory.iterdir()] == ["set-aside-1"]


def test_an_ended_run_whose_checkpoint_is_damaged_is_set_aside(tmp_path):
    (ended(tmp_path, NONE) / "last.pt").write_bytes(b"PK")
    (reason,) = queue_in(tmp_path).set_aside
    assert "last.pt: cut off, or not a checkpoint of ours" in reason


@pytest.mark.parametrize("name", ["metrics.jsonl", "spectra.json"])
def test_an_ended_run_needs_its_metrics_and_spectra(tmp_path, name):
    (ended(tmp_path, NONE) / name).unlink()
    assert len(queue_in(tmp_path).set_aside) == 1


def test_a_record_that_is_damaged_is_set_aside_with_all_that_lies_beside_it(tmp_path):
    directory = ended(tmp_path, NONE)
    record = directory / "run.json"
    record.write_text(record.read_text().replace('"seed": 0', '"seed": 1'))
    queue = queue_in(tmp_path)
    assert begin_all(queue)[0].settings == NONE
    assert "run.json: not the record of a run" in queue.set_aside[0]
    assert not (directory / "metrics.jsonl").exists()


def test_what_was_set_aside_before_is_not_told_again_and_not_overwritten(tmp_path):
    for n in (1, 2):
        directory = run_directory(tmp_path, NONE.key)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "run.json").write_text(f"damage {n}")
        assert len(queue_in(tmp_path).set_aside) == 1
    assert [(directory / f"set-aside-{n}" / "run.json").read_text() for n in (1, 2)] == [
        "damage 1",
        "damage 2",
    ]
    assert queue_in(tmp_path).set_aside == ()


def test_norms_and_checkpoint_of_an_ended_run_may_be_deleted_unless_they_are_replayed(tmp_path):
    for run in (NONE, DECAY):
        (ended(tmp_path, run) / "norms.f32").unlink()
    queue = queue_in(tmp_path)
    assert [job.settings for job in begin_all(queue)] == [DECAY, RESCALING]
    assert queue.set_aside == ()


def test_runs_that_the_spec_does_not_name_are_left_alone(tmp_path):
    directory = ended(tmp_path, NONE)
    (directory / "metrics.jsonl").write_bytes(b"damaged")
    queue = queue_in(tmp_path, dataclasses.replace(SPEC, methods=METHODS[3:]))
    assert [job.settings for job in begin_all(queue)] == [RESCALING]
    assert (directory / "metrics.jsonl").read_bytes() == b"damaged"
