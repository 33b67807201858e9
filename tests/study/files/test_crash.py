"""Kill it anywhere: at every write, at random, on a full disk; what is damaged is set aside and redone."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from decayfree.methods import WRS, WeightDecay
from decayfree.study import DiskFullError, ResultError, StudySpec, read_study, run_study
from decayfree.study.files.checkpoint import RunFiles, load_checkpoint
from decayfree.study.files.results import run_directory
from decayfree.study.training.loop import train
from support.small_study import METHODS, recipe, settings
from support.study_files import assert_same_files

TESTS = Path(__file__).resolve().parents[2]


def environment():
    """For a fresh Python: this one's paths, one thread, no accelerator (its threads survive no fork)."""
    paths = os.pathsep.join([*sys.path, str(TESTS)])
    return {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def try_points(folder, kind, how_many):
    script = TESTS / "support" / "crashing.py"
    printed = subprocess.run(
        [sys.executable, str(script), str(folder), kind, how_many],
        env=environment(),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    return json.loads(printed)


WRITTEN = {f"write {name}" for name in ("last.pt.partial", "metrics.jsonl", "norms.f32", "run.json.partial")}


def test_a_crash_in_a_write_of_every_kind_changes_no_bit(tmp_path):
    tried = try_points(tmp_path, "crash", "few")
    assert tried["wrong"] == []
    assert WRITTEN | {"replace last.pt.partial", "replaced last.pt.partial", "unlink last.pt"} <= set(
        tried["kinds"]
    )
    assert tried["n_tried"] == len(tried["kinds"])


def test_a_disk_that_is_full_at_a_write_of_every_kind_loses_nothing(tmp_path):
    tried = try_points(tmp_path, "full", "few")
    assert tried["wrong"] == []
    assert set(tried["kinds"]) >= WRITTEN


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["crash", "full"])
def test_a_fault_at_each_single_write_changes_no_bit(tmp_path, kind):
    tried = try_points(tmp_path, kind, "all")
    assert tried["wrong"] == []
    assert tried["n_tried"] == tried["n_points"] > 700


RUN = settings(WeightDecay(0.01))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run without anything happening to it."""
    out = tmp_path_factory.mktemp("whole")
    train(RUN, out, record_norms=True)
    return out


@pytest.fixture
def stopped(whole, tmp_path):
    """The run after 9 of 16 steps; the study's folder and the run's."""
    train(RUN, tmp_path, record_norms=True, on_step=lambda n_done: n_done < 9)
    return tmp_path, run_directory(tmp_path, RUN.key)


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)


def cut(path, position):
    path.write_bytes(path.read_bytes()[:position])


@pytest.mark.parametrize("damage", [flip, cut], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", ["last.pt", "metrics.jsonl", "spectra.json", "norms.f32"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_damage_is_set_aside_and_the_run_done_again(whole, stopped, damage, name, share):
    out, directory = stopped
    path = directory / name
    damage(path, int(path.stat().st_size * share))
    damaged = path.read_bytes()
    began_at = []
    train(RUN, out, record_norms=True, on_step=lambda n_done: began_at.append(n_done) or True)
    assert began_at[0] == 1
    assert_same_files(RUN, out, whole)
    assert (directory / "set-aside-1" / name).read_bytes() == damaged
    record = json.loads((directory / "run.json").read_text())
    (reason,) = record["set_aside"]
    assert reason.startswith(f"{path}: ")
    assert (directory / "set-aside-1" / "reason.txt").read_text() == reason + "\n"


def test_a_run_that_begins_anew_drops_its_checkpoint_first_so_that_a_kill_leaves_no_damage(
    stopped, monkeypatch
):
    _, directory = stopped
    real = Path.unlink

    def unlink_and_die(path, **options):
        real(path, **options)
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", unlink_and_die)
        with pytest.raises(RuntimeError, match="killed"):
            RunFiles(directory, keeps_norms=True).begin_anew()
    assert RunFiles(directory, keeps_norms=True).load() is None
    assert not list(directory.glob("set-aside-*"))


def test_what_was_written_after_the_checkpoint_is_no_damage(whole, stopped):
    out, directory = stopped
    for name in ("metrics.jsonl", "norms.f32"):
        with (directory / name).open("ab") as file:
            file.write(b"half a")
    train(RUN, out, record_norms=True)
    assert_same_files(RUN, out, whole)
    assert not list(directory.glob("set-aside-*"))


@pytest.mark.parametrize("name", ["metrics.jsonl", "spectra.json"])
def test_a_run_that_is_done_is_not_read_once_its_files_have_changed(whole, tmp_path, name):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    spec = StudySpec(methods=(RUN.method,), seeds=(0,), recipe=RUN.recipe)
    (out / "study.toml").write_text(spec.to_toml())
    assert read_study(out).runs[0].state == "done"
    path = run_directory(out, RUN.key) / name
    text = path.read_text()
    digit = re.search(r"0\.\d*([1-8])", text)
    path.write_text(text[: digit.start(1)] + str(int(digit[1]) + 1) + text[digit.end(1) :])
    with pytest.raises(ResultError, match=rf"^{re.escape(str(path))}: its content has changed"):
        read_study(out)


def test_what_something_else_does_to_the_metrics_of_a_run_that_trains_is_noticed_at_its_end(tmp_path):
    path = run_directory(tmp_path, RUN.key) / "metrics.jsonl"

    def meddle(n_done):
        if n_done == 13:
            flip(path, 100)
        return True

    with pytest.raises(ResultError, match=rf"{re.escape(str(path))}: its content has changed"):
        train(RUN, tmp_path, on_step=meddle)


STUDY = """
import sys
from pathlib import Path
from decayfree.study import StudySpec, run_study

def tell(progress):
    print(progress.fraction, flush=True)

if __name__ == "__main__":
    out = Path(sys.argv[1])
    outcome = run_study(StudySpec.load(out / "spec.toml"), out, n_jobs=int(sys.argv[2]), on_progress=tell)
    print("over", outcome.n_done, outcome.n_failed, len(outcome.set_aside), flush=True)
"""


def begin(out, *, n_jobs):
    """Run the study in a process group of its own."""
    script = out / "script.py"
    script.write_text(STUDY)
    return subprocess.Popen(
        [sys.executable, str(script), str(out), str(n_jobs)],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill_group_after(process, n_reports):
    """SIGKILL to all processes after so many reports beyond the first steps; the lines so far."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("over"):
            break
        if float(line) > 0 and len(lines) >= n_reports:
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.stdout.close()
    process.wait()
    return lines


def check_kills(tmp_path, spec, *, n_kills, n_jobs, seed):
    out, reference = tmp_path / "killed", tmp_path / "reference"
    out.mkdir()
    (out / "spec.toml").write_text(spec.to_toml())
    moments = random.Random(seed)
    n_killed = 0
    for _ in range(n_kills):
        lines = kill_group_after(begin(out, n_jobs=n_jobs), moments.randint(1, 4))
        n_killed += not lines[-1].startswith("over")
    process = begin(out, n_jobs=n_jobs)
    printed, _ = process.communicate()
    assert printed.splitlines()[-1] == f"over {len(spec.runs())} 0 0"
    replayed = [run.replayed_run for run in spec.runs()]
    for run in spec.runs():  # one thread, as the processes had
        train(run, reference, record_norms=run in replayed)
        assert_same_files(run, out, reference)
    return n_killed


def test_kill_9_to_all_processes_and_running_again_changes_no_bit(tmp_path):
    spec = StudySpec(methods=METHODS[:1], seeds=(0,), recipe=recipe(n_epochs=100, n_samples=50))
    assert check_kills(tmp_path, spec, n_kills=2, n_jobs=1, seed=1) == 2


@pytest.mark.slow
def test_kill_9_at_twenty_random_moments_changes_no_bit(tmp_path):
    spec = StudySpec(methods=METHODS, seeds=(0, 1), recipe=recipe(n_epochs=300, n_samples=60))
    assert check_kills(tmp_path, spec, n_kills=20, n_jobs=2, seed=20210206) == 20


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 kB; needs the rights to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root on Linux")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no file system could be mounted: {done.stderr}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_the_study_with_one_error_and_running_again_goes_on(small_disk, tmp_path):
    spec = StudySpec(methods=(WRS(), METHODS[1]), seeds=(0,), recipe=recipe())
    (run, other) = spec.runs()
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(140_000))
    message = (
        rf"^no room left while writing to {re.escape(str(small_disk))} \(.*No space left on "
        r"device.*\): the study was "
        "stopped. Checkpoints and metrics so far are kept; make room and run the same again, and it goes on$"
    )
    with pytest.raises(DiskFullError, match=message):
        run_study(spec, small_disk, n_jobs=1)
    assert {run.state for run in read_study(small_disk).runs} <= {"running", "done"}
    load_checkpoint(run_directory(small_disk, run.key))
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=2m", str(small_disk)], check=True)
    outcome = run_study(spec, small_disk, n_jobs=1)
    assert (outcome.n_done, outcome.reasons, outcome.set_aside) == (2, (), ())
    for one in (run, other):
        train(one, tmp_path / "reference")
        assert_same_files(one, small_disk, tmp_path / "reference")
