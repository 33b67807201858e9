"""The pool: the same results as one process, going on after Ctrl-C, and failures that stop nothing else."""

import dataclasses
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from decayfree.errors import InvalidInputError
from decayfree.methods import WRS, LearningRateScaling, NoTreatment, WeightDecay
from decayfree.study import StudyOutcome, StudySpec, read_study, run_study
from decayfree.study.files.checkpoint import load_checkpoint, write_failure
from decayfree.study.files.norm_log import FILE_NAME
from decayfree.study.files.results import run_directory
from decayfree.study.runner.cores import threads_each
from decayfree.study.training.loop import train
from support.small_study import METHODS, RECIPE, recipe, settings

SPEC = StudySpec(methods=METHODS, seeds=(0, 1), recipe=RECIPE)
ALL_DONE = StudyOutcome(n_done=8, n_total=8, n_failed=0, reasons=(), interrupted=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study that has been run once, its outcome and its progress."""
    out = tmp_path_factory.mktemp("finished")
    progress = []
    outcome = run_study(SPEC, out, n_jobs=2, on_progress=progress.append)
    return out, outcome, progress


def test_a_study_runs_to_its_end_and_leaves_what_can_be_read(finished):
    out, outcome, _ = finished
    assert outcome == ALL_DONE
    study = read_study(out)
    assert study.spec == SPEC
    assert [(run.method, run.seed) for run in study.runs] == [
        (m.name, seed) for seed in (0, 1) for m in METHODS
    ]
    assert {run.state for run in study.runs} == {"done"}
    assert {len(run.rows) for run in study.runs} == {5}
    assert {run.hardware["n_threads"] for run in study.runs} == {threads_each(2)}


def test_processes_compute_what_one_process_computes(finished, tmp_path):
    out, _, _ = finished
    threads = torch.get_num_threads()
    torch.set_num_threads(threads_each(2))
    for run in SPEC.runs()[:4]:
        train(run, tmp_path, record_norms=run.method == METHODS[1])
        ours, theirs = run_directory(out, run.key), run_directory(tmp_path, run.key)
        assert (ours / "metrics.jsonl").read_bytes() == (theirs / "metrics.jsonl").read_bytes()
    torch.set_num_threads(threads)


def test_only_norms_that_are_replayed_are_kept(finished):
    out, _, _ = finished
    kept = {run.key for run in SPEC.runs() if (run_directory(out, run.key) / FILE_NAME).exists()}
    assert kept == {run.key for run in SPEC.runs() if run.method == METHODS[1]}


def test_progress_goes_from_nothing_to_all(finished):
    _, _, progress = finished
    first, last = progress[0], progress[-1]
    assert (first.n_done, first.n_total, first.fraction, first.seconds_left) == (0, 8, 0.0, None)
    assert first.label == "no decay, seed 0; weight decay 0.01, seed 0"
    assert (last.n_done, last.fraction, last.label, last.seconds_left) == (8, 1.0, "", 0.0)
    fractions = [one.fraction for one in progress]
    assert fractions == sorted(fractions)


def times_of_files(out):
    return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != ".lock"}


def test_a_study_that_is_done_is_not_run_again(finished):
    out, _, _ = finished
    before = times_of_files(out)
    progress = []
    assert run_study(SPEC, out, on_progress=progress.append) == ALL_DONE
    assert times_of_files(out) == before
    assert [one.fraction for one in progress] == [1.0]


def hear_ctrl_c() -> None:
    """A shell starts background jobs deaf to it, and their children stay so."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


INTERRUPTED = """
import sys
from pathlib import Path
from decayfree.study import StudySpec, run_study

def tell(progress):
    if 0 < progress.fraction < 1:
        print("is running", flush=True)

if __name__ == "__main__":
    out = Path(sys.argv[1])
    print(run_study(StudySpec.load(out / "spec.toml"), out, n_jobs=1, on_progress=tell), flush=True)
"""


def test_a_script_that_its_processes_import_is_told_where_the_call_belongs(tmp_path):
    spec = StudySpec(methods=(WRS(),), seeds=(0,), recipe=recipe(n_epochs=1))
    (tmp_path / "spec.toml").write_text(spec.to_toml())
    unguarded = INTERRUPTED.replace('if __name__ == "__main__":', "if True:")
    (tmp_path / "script.py").write_text(unguarded)
    process = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert 'put the call under if __name__ == "__main__":' in process.stderr
    assert "FolderInUseError" not in process.stderr


def test_ctrl_c_stops_cleanly_and_the_same_again_goes_on(tmp_path):
    spec = StudySpec(methods=(WRS(),), seeds=(0,), recipe=recipe(n_epochs=500))
    out = tmp_path / "out"
    out.mkdir()
    (out / "spec.toml").write_text(spec.to_toml())
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    process = subprocess.Popen(
        [sys.executable, str(script), str(out)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a terminal's Ctrl-C goes to all processes of a group
        preexec_fn=hear_ctrl_c,
    )
    assert process.stdout.readline() == "is running\n"
    os.killpg(process.pid, signal.SIGINT)
    printed, errors = process.communicate()
    assert process.returncode == 0
    assert errors == ""
    assert "StudyOutcome(n_done=0, n_total=1, n_failed=0, reasons=(), interrupted=True, " in printed
    (run,) = spec.runs()
    directory = run_directory(out, run.key)
    stopped_at = load_checkpoint(directory)["n_done"]
    assert 0 < stopped_at < 2000
    began_at = []
    train(run, out, on_step=began_at.append)  # None is false: it stops after one step
    assert began_at == [stopped_at + 1]


def test_a_failing_run_stops_only_the_runs_that_need_it(tmp_path):
    spec = dataclasses.replace(SPEC, seeds=(0,))
    directory = run_directory(tmp_path, settings(WeightDecay(0.01)).key)
    in_the_way = directory / "metrics.jsonl"
    in_the_way.mkdir(parents=True)
    outcome = run_study(spec, tmp_path, n_jobs=1)
    assert (outcome.n_done, outcome.n_failed, outcome.interrupted) == (2, 2, False)
    assert re.match(r"weight decay 0\.01, seed 0: IsADirectoryError: ", outcome.reasons[0])
    assert outcome.reasons[1] == (
        "learning-rate scaling (as 0.01), seed 0: "
        "it replays the norms of weight decay 0.01, seed 0, which has none"
    )
    assert "Traceback (most recent call last):" in (directory / "error.txt").read_text()
    in_the_way.rmdir()  # a reader takes it for damage
    states = {run.method: run.state for run in read_study(tmp_path).runs}
    assert states == {
        "none": "done",
        "weight_decay": "failed",
        "learning_rate_scaling": "failed",
        "wrs": "done",
    }


def open_files(pid):
    """Where the system tells."""
    links = Path(f"/proc/{pid}/fd")
    return [link.readlink() for link in links.iterdir()] if links.is_dir() else []


def test_a_process_that_is_killed_loses_nothing(tmp_path):
    spec = StudySpec(methods=(NoTreatment(), WRS()), seeds=(0,), recipe=recipe(n_epochs=100))
    killed, held = [], []

    def kill_the_first(progress):
        if progress.fraction > 0 and not killed:
            (child,) = multiprocessing.active_children()
            held.extend(path for path in open_files(child.pid) if path.name == ".lock")
            os.kill(child.pid, signal.SIGKILL)
            killed.append(progress.label)

    outcome = run_study(spec, tmp_path, n_jobs=1, on_progress=kill_the_first)
    assert killed == ["no decay, seed 0"]
    assert held == [tmp_path / ".lock"] or not Path("/proc").is_dir()
    assert outcome == StudyOutcome(n_done=2, n_total=2, n_failed=0, reasons=(), interrupted=False)
    assert multiprocessing.active_children() == []


def test_a_diverged_run_is_a_result_that_is_not_run_again_and_that_nothing_can_replay(tmp_path):
    methods = (WeightDecay(0.01), LearningRateScaling(0.01))
    spec = StudySpec(methods=methods, seeds=(0,), recipe=recipe(learning_rate=1e38))
    assert train(spec.runs()[0], tmp_path, record_norms=True) == "diverged"
    outcome = run_study(spec, tmp_path, n_jobs=1)
    assert (outcome.n_done, outcome.n_failed) == (1, 1)
    assert "which has none" in outcome.reasons[0]
    assert [run.state for run in read_study(tmp_path).runs] == ["diverged", "failed"]


def test_a_failed_run_is_tried_again_and_norms_that_are_missing_are_made_again(finished):
    out, _, _ = finished
    failed = settings(LearningRateScaling(0.01))
    write_failure(run_directory(out, failed.key), failed, "it was ill", details="the long story")
    log = run_directory(out, settings(WeightDecay(0.01)).key) / FILE_NAME
    before = log.read_bytes()
    log.unlink()
    assert run_study(SPEC, out, n_jobs=1) == ALL_DONE
    assert log.read_bytes() == before
    assert not (run_directory(out, failed.key) / "error.txt").exists()


@pytest.mark.parametrize("n_jobs", [0, -1])
def test_at_least_one_process_is_needed(tmp_path, n_jobs):
    with pytest.raises(InvalidInputError, match=f"n_jobs must be .*, got {n_jobs}"):
        run_study(SPEC, tmp_path / "out", n_jobs=n_jobs)
    assert not (tmp_path / "out").exists()
