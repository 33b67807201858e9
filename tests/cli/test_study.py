"""``decayfree study``: help texts, what is printed, exit codes, Ctrl-C, and what is refused.

Trainings are replaced by result files that are written at once, but for two tests that really train and are
really stopped.
"""

import dataclasses
import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from decayfree.errors import InvalidInputError
from decayfree.methods import WRS, WeightDecay
from decayfree.study import StudySpec
from decayfree.study.builtin import BUILTIN, builtin_spec, builtin_text
from decayfree.study.runner.run_study import StudyOutcome
from decayfree.study.spec.axes import Axis
from support.command_line import SNAPSHOTS, call, unboxed
from support.stopping import stopped
from support.study_stand_in import FINAL, SPEC, Runner, written
from support.synthetic_study import Writer, axes_spec


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A study's file."""
    path = tmp_path / "mine.toml"
    path.write_text(SPEC.to_toml(), encoding="utf-8")
    return path


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    return use(monkeypatch, Runner())


def use(monkeypatch: pytest.MonkeyPatch, runner: Runner) -> Runner:
    monkeypatch.setattr("decayfree.study.runner.run_study.run_study", runner)
    return runner


@pytest.mark.parametrize("command", ["", "new", "schema", "run", "list", "show", "report", "tune"])
def test_the_help_text_is_the_one_that_was_looked_at(command: str) -> None:
    code, text, _ = call("study", *command.split(), "--help")
    assert code == 0
    expected = (SNAPSHOTS / f"help-study{'-' * bool(command)}{command}.txt").read_text(encoding="utf-8")
    assert unboxed(text) == expected


def test_a_file_is_run_and_its_page_written(file: Path, tmp_path: Path, runner: Runner) -> None:
    code, text, errors = call("study", "run", str(file), "--out", str(tmp_path / "out"), "--jobs", "3")
    assert (code, errors) == (0, "")
    assert (runner.spec, runner.out, runner.options["n_jobs"]) == (SPEC, tmp_path / "out", 3)
    assert runner.options.get("ray_address") is None
    assert f"The page: {tmp_path / 'out' / 'report.html'}" in text
    assert (tmp_path / "out" / "report.html").is_file()
    assert "87.5\N{NO-BREAK SPACE}%" in text
    assert "holds another spec" not in text


def test_a_built_in_study_is_run_by_its_name_in_the_size_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = use(monkeypatch, Runner(interrupted=True))
    monkeypatch.setattr("decayfree.cli.study._look_for_data", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    assert call("study", "run", "figure1")[0] == 130
    assert (runner.spec, runner.out) == (builtin_spec("figure1"), Path("figure1"))
    words = ["--size", "paper", "--device", "cuda:1", "--seeds", "2", "--data-dir", "images"]
    assert call("study", "run", "figure1", *words)[0] == 130
    folder = str((tmp_path / "images").resolve())
    assert runner.spec == builtin_spec("figure1", "paper", device="cuda:1", seeds=2, data_dir=folder)


COUNTING = """
seeds = [0]
[recipe]
task = "counting"
n_epochs = 1
batch_size = 4
n_samples = 1
off_span = false
[recipe.data]
name = "scenes"
image_size = 32
n_train = 8
n_test = 4
[recipe.model]
name = "mcnn-bn"
width_factor = 0.25
[[methods]]
name = "wrs"
"""


def test_another_task_is_trained_and_told_by_its_score(tmp_path: Path) -> None:
    (tmp_path / "crowds.toml").write_text(COUNTING)
    code, text, _ = call("study", "run", str(tmp_path / "crowds.toml"), "--out", str(tmp_path / "out"))
    assert code == 0
    assert "Test counting accuracy after the last step" in text
    assert "MAE, items" in (tmp_path / "out" / "report.html").read_text()


def test_data_of_another_task_that_is_not_there_is_told_before_any_run(
    tmp_path: Path, runner: Runner
) -> None:
    text = COUNTING.replace('"scenes"', '"shanghaitech"')
    (tmp_path / "crowds.toml").write_text(text)
    words = ["--out", str(tmp_path / "out"), "--data-dir", str(tmp_path)]
    code, _, said = call("study", "run", str(tmp_path / "crowds.toml"), *words)
    assert code == 2
    assert "ShanghaiTech" in said
    assert not (tmp_path / "out").exists()


def test_the_folder_is_named_after_the_file(
    file: Path, tmp_path: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("study", "run", str(file))[0] == 0
    assert (tmp_path / "mine" / "report.html").is_file()


def test_a_cluster_is_passed_on_and_its_data_is_not_looked_for_here(
    file: Path, tmp_path: Path, runner: Runner
) -> None:
    words = ["--ray", "auto", "--device", "cuda:7", "--out", str(tmp_path / "out")]
    assert call("study", "run", str(file), *words)[0] == 0
    assert runner.options["ray_address"] == "auto"


def test_ctrl_c_says_how_to_go_on(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Runner(interrupted=True))
    words = ["study", "run", str(file), "--out", str(tmp_path / "an out"), "--seeds", "2"]
    code, text, _ = call(*words)
    assert code == 130
    assert "Stopping: the runs save where they are." in text
    assert "Stopped; 3 of 4 runs are done. To go on:" in text
    typed = shlex.split(text.splitlines()[-1])
    assert typed[:3] == ["decayfree", "study", "run"]
    assert sorted(typed[3:]) == sorted(words[2:])
    assert not (tmp_path / "an out" / "report.html").exists()


def test_failed_runs_are_told_and_the_page_is_written_all_the_same(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Runner(reasons=("no decay, seed 1: RuntimeError: no [memory]",)))
    code, _, errors = call("study", "run", str(file), "--out", str(tmp_path / "out"))
    assert code == 1
    assert errors == "Error: 1 of 4 runs failed:\n  no decay, seed 1: RuntimeError: no [memory]\n"
    assert (tmp_path / "out" / "report.html").is_file()


def test_all_faults_of_a_file_are_told_at_once_and_nothing_is_written(tmp_path: Path, runner: Runner) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('title = 3\n[recipe]\nlearning_rat = 0.1\n[[methods]]\nname = "wds"\n', encoding="utf-8")
    code, text, errors = call("study", "run", str(path), "--out", str(tmp_path / "out"))
    assert (code, text) == (2, "")
    assert f"Error: {path}: 3 faults in the study's spec:" in errors
    assert "recipe.learning_rat: no such key; known keys: task, learning_rate" in errors
    assert "title: expected a text" in errors
    assert "methods[0].name: expected one of none, weight_decay" in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["run", "tune"])
def test_missing_images_are_found_out_before_any_run_starts(
    command: str, tmp_path: Path, runner: Runner
) -> None:
    words = ["--trials", "1"] if command == "tune" else []
    folder = tmp_path / "images"
    code, _, errors = call(
        "study", command, "figure1", *words, "--data-dir", str(folder), "--out", str(tmp_path / "out")
    )
    assert code == 2
    assert "was not found" in errors
    assert str(folder) in errors
    assert runner.spec is None
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there_is_found_out_before_any_run_starts(
    file: Path, tmp_path: Path, runner: Runner
) -> None:
    code, _, errors = call("study", "run", str(file), "--device", "abacus", "--out", str(tmp_path / "out"))
    assert code == 2
    assert "device: abacus cannot be used here" in errors
    assert runner.spec is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "figure2"], "figure2 is neither a file nor a built-in study, which are figure1, optimizers"),
        (["run", "figure2"], "; did you mean figure1 or figure1-tuned?"),
        (["run", "FILE", "--size", "small"], "--size is for built-in studies"),
        (["run", "figure1", "--size", "huge"], "huge"),
        (["run", "figure1", "--seeds", "0"], "--seeds"),
        (["run"], "Missing argument"),
        (["show", "figure2"], "figure2 is neither a file nor a built-in study, which are figure1"),
        (["report", "nowhere"], "no study in nowhere"),
        (["list", "nowhere"], "no study in nowhere"),
        (["tune", "FILE"], "--trials"),
        (
            ["tune", "FILE", "--trials", "2", "--lr", "0.1"],
            "--lr: expected two numbers such as 0.01,1; got '0.1'",
        ),
        (["tune", "FILE", "--trials", "2", "--lr", "1,0.1"], "the smaller first, got 1,0.1"),
        (["tune", "FILE", "--trials", "2", "--weight-decay", "a,b"], "--weight-decay: expected two numbers"),
    ],
)
def test_what_cannot_be_done_is_refused(
    words: list[str], said: str, file: Path, tmp_path: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, text, errors = call("study", *[str(file) if word == "FILE" else word for word in words])
    assert (code, text) == (2, "")
    assert said in " ".join(unboxed(errors).split())
    assert {path.name for path in tmp_path.iterdir()} == {"mine.toml"}


def test_the_folder_of_a_study_says_how_to_go_on_there(file: Path) -> None:
    own = file.rename(file.with_name("study.toml"))
    code, _, errors = call("study", "run", str(own.parent))
    assert code == 2
    assert f"whose file is {own}: to go on there, add --out {own.parent}" in " ".join(unboxed(errors).split())


def test_a_folder_that_cannot_be_written_is_one_clear_error(file: Path, tmp_path: Path) -> None:
    code, _, errors = call("study", "run", str(file), "--out", str(file / "out"))
    assert code == 2
    assert errors.startswith("Error: ")
    assert str(file) in errors


@pytest.mark.parametrize("command", ["run", "report"])
def test_a_package_that_is_lacking_is_named_before_anything_is_trained(
    command: str, file: Path, tmp_path: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    code, text, errors = call("study", command, str(file))
    assert (code, text) == (2, "")
    assert errors.endswith(" needs jinja2, not installed here: pip install 'decayfree[study]'\n")
    assert runner.spec is None


def test_a_changed_spec_says_what_becomes_of_the_runs_that_are_there(
    file: Path, tmp_path: Path, runner: Runner
) -> None:
    out = tmp_path / "out"
    call("study", "run", str(file), "--out", str(out))
    changed = dataclasses.replace(SPEC, methods=(WRS(), WeightDecay(0.01)), seeds=(1, 2))
    file.write_text(changed.to_toml(), encoding="utf-8")
    written(
        out,
        spec=dataclasses.replace(changed, methods=(WRS(),), seeds=(2,)),
        final_test={"WRS, radius 1": (0.5,) * 3},
    )
    written(
        out,
        spec=dataclasses.replace(changed, methods=(WeightDecay(0.01),)),
        final_test={"weight decay 0.01": (0.5,) * 3},
    )
    (out / "study.toml").write_text(SPEC.to_toml(), encoding="utf-8")
    code, text, _ = call("study", "run", str(file), "--out", str(out))
    assert code == 0
    told = " ".join(text.split())
    assert "holds another spec, which this one replaces: 4 of its 4 runs are done already." in told
    assert "3 runs of the spec before are no part of it; they stay where they are" in told


def test_report_writes_the_page_again_and_prints_the_table(tmp_path: Path) -> None:
    written(tmp_path, spec=SPEC, final_test=FINAL)
    code, text, errors = call("study", "report", str(tmp_path))
    assert (code, errors) == (0, "")
    assert f"The page: {tmp_path / 'report.html'}" in text
    assert (tmp_path / "report.html").is_file()
    assert "WRS" in text


@pytest.mark.parametrize("command", ["report", "list"])
def test_runs_that_a_changed_spec_leaves_out_are_named(command: str, tmp_path: Path) -> None:
    written(tmp_path, spec=SPEC, final_test=FINAL)
    changed = dataclasses.replace(SPEC, seeds=(0,))
    (tmp_path / "study.toml").write_text(changed.to_toml(), encoding="utf-8")
    code, _, errors = call("study", command, str(tmp_path))
    gone = sorted(f"{run.key} ({run.label}, seed 1)" for run in SPEC.runs() if run.seed == 1)
    assert code == 0
    assert errors == (
        f"Warning: 2 finished runs in {tmp_path} are no part of its study.toml, and the page leaves them "
        f"out: {', '.join(gone)}. With the spec that they were made by they are back.\n"
    )


def test_a_spec_in_the_folder_that_is_no_text_is_replaced(
    file: Path, tmp_path: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "out", spec=SPEC, final_test=FINAL)
    (tmp_path / "out" / "study.toml").write_bytes(b"\xff")
    real = Runner.__call__

    def replacing_the_spec(self: Runner, spec: StudySpec, out: Path, **options: Any) -> StudyOutcome:
        (out / "study.toml").write_text(spec.to_toml(), encoding="utf-8")
        return real(self, spec, out, **options)

    monkeypatch.setattr(Runner, "__call__", replacing_the_spec)
    code, text, errors = call("study", "run", str(file), "--out", str(tmp_path / "out"))
    assert "holds another spec, which this one replaces" in " ".join(text.split())
    assert (code, errors) == (0, "")


def test_report_compares_with_the_method_that_is_named(tmp_path: Path) -> None:
    written(tmp_path, spec=SPEC, final_test=FINAL)
    text = " ".join(call("study", "report", str(tmp_path), "--reference", "none")[1].split())
    assert "no no decay decay Method Accuracy n minus is" in text
    code, _, errors = call("study", "report", str(tmp_path), "--reference", "sgdp")
    assert code == 2
    assert "sgdp" in errors


def test_a_study_with_axes_has_a_row_for_each_method_and_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    spec = dataclasses.replace(SPEC, axes=(Axis("optimizer.momentum", (0.0, 0.9)),))
    written(tmp_path, spec=spec, final_test=FINAL)
    code, text, errors = call("study", "report", str(tmp_path))
    assert (code, errors) == (0, "")
    rows = [line for line in text.splitlines() if line.startswith(("no decay", "WRS"))]
    assert len(rows) == 4
    assert ["reference" in row for row in rows] == [False, True, False, True]
    assert ["87.5" in row for row in rows] == [False, True, False, True]


def test_list_without_a_folder_names_the_built_in_studies_and_their_size() -> None:
    code, text, _ = call("study", "list")
    assert code == 0
    told = " ".join(text.split())
    assert all(name in told for name in BUILTIN)
    assert "30 × 2,028" in told
    assert "decayfree study show NAME" in told


def test_list_without_a_folder_has_json() -> None:
    records = json.loads(call("study", "list", "--json")[1])
    assert [(record["name"], record["size"]) for record in records[:2]] == [
        ("figure1", "small"),
        ("figure1", "paper"),
    ]
    assert records[0]["n_runs"] == 30
    assert records[0]["n_steps"] == 30 * 2028
    assert records[0]["question"].endswith("?")


def test_list_shows_where_every_run_stands(tmp_path: Path) -> None:
    written(
        tmp_path,
        spec=SPEC,
        final_test=FINAL,
        states={("WRS, radius 1", 1): ("failed", "RuntimeError: no [memory]")},
        not_begun=frozenset({("no decay", 1)}),
    )
    code, text, _ = call("study", "list", str(tmp_path))
    assert code == 0
    states = [line.split()[0] for line in text.splitlines() if line.startswith(("done", "failed", "waiting"))]
    assert states == ["done", "done", "waiting", "failed"]
    assert "WRS, radius 1, seed 1, failed: RuntimeError: no [memory]" in text
    assert "4 runs: 2 done, 1 waiting, 1 failed" in text
    assert "nobody is running it." in text
    record = json.loads(call("study", "list", str(tmp_path), "--json")[1])
    assert [run["state"] for run in record["runs"]] == states


def test_list_says_that_rules_may_add_more(tmp_path: Path) -> None:
    spec = axes_spec(n_seeds=2, confirm_seeds=(7,))
    Writer(tmp_path, spec=spec, final_of=lambda run: 0.8, n_intervals=2).write()
    text = call("study", "list", str(tmp_path))[1]
    assert "30 runs: 30 done; its rules may add more; nobody is running it." in text


def test_show_prints_a_built_in_study_that_runs_as_a_file(tmp_path: Path) -> None:
    code, text, _ = call("study", "show", "sensitivity")
    assert (code, text) == (0, builtin_text("sensitivity"))
    assert StudySpec.from_toml(text) == builtin_spec("sensitivity")
    resolved = call("study", "show", "sensitivity", "--size", "paper", "--resolved")[1]
    assert "label_smoothing = 0.0" in resolved
    assert StudySpec.from_toml(resolved) == builtin_spec("sensitivity", "paper")


def test_what_the_library_refuses_while_it_runs_is_one_line(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_study(*_: Any, **__: Any) -> StudyOutcome:
        raise InvalidInputError("no cluster at auto")

    monkeypatch.setattr("decayfree.study.runner.run_study.run_study", run_study)
    code, _, errors = call("study", "run", str(file), "--ray", "auto", "--out", str(tmp_path / "out"))
    assert (code, errors) == (2, "Error: no cluster at auto\n")


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_real_study_is_stopped_and_the_same_command_ends_it(
    file: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    spec = dataclasses.replace(
        SPEC, recipe=dataclasses.replace(SPEC.recipe, n_epochs=60, n_samples=20), seeds=(0,)
    )
    file.write_text(spec.to_toml(), encoding="utf-8")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "decayfree", "study", "run", str(file), "--out", str(out), "--jobs", "1"]
    code, text, errors = stopped(command, out, sent)
    assert code == 130, errors
    assert "Traceback" not in errors
    assert text.splitlines()[-1].strip().startswith("decayfree study run ")
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert f"The page: {out / 'report.html'}" in result.stdout
    states = {json.loads(path.read_text(encoding="utf-8"))["state"] for path in out.glob("runs/*/run.json")}
    assert states <= {"done", "diverged"}


def test_files_that_were_set_aside_are_told(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Damaged(Runner):
        def __call__(self, *args: Any, **options: Any) -> StudyOutcome:
            told = ("no decay, seed 0: metrics.jsonl was cut off",)
            return dataclasses.replace(super().__call__(*args, **options), set_aside=told)

    monkeypatch.setattr("decayfree.study.runner.run_study.run_study", Damaged())
    code, text, _ = call("study", "run", str(file), "--out", str(tmp_path / "out"))
    assert code == 0
    assert "Files of 1 run were set aside in their folders, and the runs begun anew:" in text
    assert "no decay, seed 0: metrics.jsonl was cut off" in text
