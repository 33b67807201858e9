"""The command line: help texts, what is printed, exit codes, Ctrl-C.

Trainings are replaced by result files that are written at once, but for one test that really trains and is
really stopped.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import decayfree
from decayfree.study import StudySpec
from decayfree.study.runner.run_study import Progress, StudyOutcome
from support.available import import_or_skip
from support.command_line import SNAPSHOTS, call, unboxed
from support.stopping import stopped
from support.synthetic_study import FINAL_TEST, Writer

MODEL = """
from torch import nn

def net():
    features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(8 * 36, 10))

def token_model():
    return nn.Sequential(nn.Embedding(11, 16), nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 11))

def plain():
    return nn.Linear(4, 2)
"""


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that lies in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "models_of_a_test", raising=False)
    (tmp_path / "models_of_a_test.py").write_text(MODEL, encoding="utf-8")
    return "models_of_a_test"


def study_that_is_written(
    *, interrupted: bool = False, reasons: tuple[str, ...] = (), **options: Any
) -> Callable[..., StudyOutcome]:
    """A stand-in for `run_study` that writes chosen results and trains nothing."""

    def run_study(
        spec: StudySpec,
        out: Path,
        *,
        n_jobs: int,
        on_progress: Callable[[Progress], None],
        on_stopping: Callable[[], None],
    ) -> StudyOutcome:
        on_progress(Progress(n_done=0, n_total=25, fraction=0.1, label="no decay, seed 0", seconds_left=61.2))
        final = {method.label: FINAL_TEST[method.label] for method in spec.methods}
        Writer(out, spec=spec, final_test=final, **options).write()
        n = len(spec.runs())
        n_done = n - len(reasons) - 20 * interrupted
        return StudyOutcome(
            n_done=n_done, n_total=n, n_failed=len(reasons), reasons=reasons, interrupted=interrupted
        )

    return run_study


@pytest.mark.parametrize("command", ["", "demo", "inspect", "verify", "watch"])
def test_the_help_text_is_the_one_that_was_looked_at(command: str) -> None:
    code, text, _ = call(*command.split(), "--help")
    assert code == 0
    expected = (SNAPSHOTS / f"help{'-' * bool(command)}{command}.txt").read_text(encoding="utf-8")
    assert unboxed(text) == expected


def test_the_version_is_the_packages() -> None:
    assert call("--version") == (0, f"decayfree {decayfree.__version__}\n", "")


def test_without_a_command_the_help_is_shown_and_nothing_was_done() -> None:
    code, *texts = call()
    assert code == 2
    assert "inspect" in "".join(texts)


def test_python_m_decayfree_is_the_same_command_line() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "decayfree", "--version"],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.stdout == f"decayfree {decayfree.__version__}\n"


def test_help_loads_no_plots_no_data_and_no_models() -> None:
    code = (
        "import sys\nfrom decayfree.cli.app import main\nsys.argv = ['decayfree', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'jinja2', 'sklearn', 'scipy', 'timm', 'torchvision'}\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & heavy))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_a_missing_command_line_package_is_named_with_its_extra() -> None:
    code = "import sys; sys.modules['typer'] = None; from decayfree.__main__ import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120
    )
    assert result.returncode != 0
    assert result.stderr == (
        "The command line needs typer, which is not installed: pip install 'decayfree[study]'\n"
    )


def test_the_demo_prints_final_accuracies_and_where_the_page_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decayfree.study.runner.run_study.run_study", study_that_is_written())
    code, text, errors = call("demo", "--out", str(tmp_path / "out"))
    assert (code, errors) == (0, "")
    assert f"The page: {tmp_path / 'out' / 'report.html'}" in text
    assert (tmp_path / "out" / "report.html").stat().st_size > 1e6
    rows = {line.split("  ")[0]: line for line in text.splitlines() if "\N{NO-BREAK SPACE}%" in line}
    assert list(rows) == [
        "no decay",
        "weight decay 0.0005",
        "weight decay 0.005",
        "learning-rate scaling",
        "WRS",
    ]
    for short, label in {
        "WRS": "WRS, radius 1",
        "learning-rate scaling": "learning-rate scaling (as 0.0005)",
    }.items():
        mean = 100 * sum(FINAL_TEST[label]) / 5
        assert f"{mean:.1f}\N{NO-BREAK SPACE}%" in rows[short]
    assert max(len(line.rstrip()) for line in rows.values()) <= 80


def test_the_demo_passes_on_what_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def run_study(
        spec: StudySpec, out: Path, *, n_jobs: int, on_progress: object, on_stopping: Any = None
    ) -> StudyOutcome:
        asked.update(
            seeds=spec.seeds,
            epochs=spec.recipe.n_epochs,
            width=64 * spec.recipe.model.width_factor,
            out=out,
            jobs=n_jobs,
        )
        return StudyOutcome(n_done=0, n_total=15, n_failed=0, reasons=(), interrupted=True)

    monkeypatch.setattr("decayfree.study.runner.run_study.run_study", run_study)
    out = tmp_path / "somewhere else"
    code, text, _ = call(
        "demo", "--seeds", "3", "--epochs", "7", "--width", "4", "--out", str(out), "--jobs", "1"
    )
    assert asked == {"seeds": (0, 1, 2), "epochs": 7, "width": 4, "out": out, "jobs": 1}
    assert code == 130
    again = shlex.split(text.splitlines()[-1])
    assert again == [
        "decayfree",
        "demo",
        "--seeds",
        "3",
        "--epochs",
        "7",
        "--width",
        "4",
        "--out",
        str(out),
        "--jobs",
        "1",
    ]
    assert "Stopped; 0 of 15 runs are done." in text


def test_failed_runs_are_told_and_the_page_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = (
        *tuple(f"no decay, seed {seed}: RuntimeError: [red]no memory[/red]" for seed in range(5)),
        "WRS: why",
    )
    states = {("no decay", seed): ("failed", "no memory") for seed in range(5)}
    stand_in = study_that_is_written(reasons=reasons, states=states)
    monkeypatch.setattr("decayfree.study.runner.run_study.run_study", stand_in)
    code, text, errors = call("demo", "--out", str(tmp_path / "out"))
    assert code == 1
    assert "Error: 6 of 25 runs failed:" in errors
    assert "no decay, seed 4: RuntimeError: [red]no memory[/red]" in errors
    assert "and 1 more, all of them on the page" in errors
    assert (tmp_path / "out" / "report.html").exists()
    assert "no decay" in text


def test_a_package_that_the_demo_lacks_is_named_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    code, text, errors = call("demo", "--out", str(tmp_path / "out"))
    assert (code, text) == (2, "")
    assert errors == "Error: the demo needs jinja2, not installed here: pip install 'decayfree[study]'\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "mnist"], "mnist"),
        (["--seeds", "0"], "--seeds"),
        (["--data", "fashion-mnist", "--data-dir", "/nowhere"], "Fashion-MNIST was not found"),
    ],
)
def test_a_demo_that_cannot_be_is_refused(words: list[str], said: str, tmp_path: Path) -> None:
    code, _, errors = call("demo", *words, "--out", str(tmp_path / "out"))
    assert code == 2
    assert said in errors
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    code, _, errors = call("demo", "--out", str(tmp_path / "file" / "out"))
    assert code == 2
    assert errors.startswith("Error: ")
    assert str(tmp_path / "file") in errors


@pytest.mark.slow
def test_ctrl_c_stops_a_real_demo_and_the_same_command_ends_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["demo", "--seeds", "1", "--epochs", "2", "--width", "2", "--out", str(out), "--jobs", "1"]
    command = [sys.executable, "-m", "decayfree", *words]
    code, text, errors = stopped(command, out)
    assert code == 130, errors
    assert "Stopping: " in text
    assert "Stopped; " in text
    assert text.splitlines()[-1].strip() == shlex.join(["decayfree", *words])
    assert "Traceback" not in errors
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert f"The page: {out / 'report.html'}" in result.stdout
    states = {json.loads(path.read_text(encoding="utf-8"))["state"] for path in out.glob("runs/*/run.json")}
    assert states <= {"done", "diverged"}
    assert len(list(out.glob("runs/*/run.json"))) == 5


def test_inspect_prints_the_table_that_python_prints(zoo: str) -> None:
    code, text, errors = call("inspect", f"{zoo}:net", "--input", "4,3,8,8")
    assert (code, errors) == (0, "")
    assert "0.weight  (8, 3, 3, 3)  8 kernels" in text
    assert "4.weight (10, 288): " in text


def test_inspect_prints_json_that_reads_back(zoo: str) -> None:
    code, text, _ = call("inspect", f"{zoo}:net", "--input", "4,3,8,8", "--json")
    record = json.loads(text)
    assert code == 0
    assert [weight["name"] for weight in record["weights"]] == ["0.weight"]
    assert {verdict["name"] for verdict in record["verdicts"]} == {
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
        "4.weight",
        "4.bias",
    }
    model = __import__(zoo).net()
    assert [weight.name for weight in decayfree.Invariance.from_dict(record, model)] == ["0.weight"]


def test_inspect_twice_is_the_same(zoo: str) -> None:
    words = ["inspect", f"{zoo}:net", "--input", "4,3,8,8", "--json"]
    assert call(*words) == call(*words)
    assert call(*words) != call(*words, "--seed", "1")


def test_inspect_feeds_tokens(zoo: str) -> None:
    code, text, _ = call("inspect", f"{zoo}:token_model", "--input", "8,16", "--tokens", "11", "--json")
    assert code == 0
    assert "1.weight" in [weight["name"] for weight in json.loads(text)["weights"]]


def test_inspect_leaves_out_what_is_excluded(zoo: str) -> None:
    words = ["inspect", f"{zoo}:net", "--input", "4,3,8,8", "--json"]
    assert json.loads(call(*words, "--exclude", "0.*")[1])["weights"] == []
    assert len(json.loads(call(*words, "--include", "0.*")[1])["weights"]) == 1


def test_a_model_without_a_normalization_is_no_error(zoo: str) -> None:
    code, text, _ = call("inspect", f"{zoo}:plain", "--input", "4,4")
    assert code == 0
    assert "No scale-invariant weight" in text


@pytest.mark.parametrize(
    ("model", "words", "said"),
    [
        ("net", ["--input", "4,3,9,9"], "do not fit Sequential"),
        ("net", ["--input", "4,x"], "expected a shape such as 4,3,64,64, got '4,x'"),
        ("net", ["--input", "4,3,8,8", "--include", "nothing.*"], "nothing.*"),
        ("token_model", ["--input", "8,16"], "do not fit Sequential"),
        ("nett", ["--input", "4,3,8,8"], "there is no 'nett'; did you mean net?"),
        ("net", [], "--input"),
    ],
)
def test_what_cannot_be_inspected_is_refused(zoo: str, model: str, words: list[str], said: str) -> None:
    code, text, errors = call("inspect", f"{zoo}:{model}", *words)
    assert (code, text) == (2, "")
    assert said in errors


def test_a_warning_of_the_library_is_shown(zoo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    find = decayfree.find_invariant

    def find_and_warn(*arguments: Any, **options: Any) -> decayfree.Invariance:
        warnings.warn("mind the gap", UserWarning, stacklevel=2)
        return find(*arguments, **options)

    monkeypatch.setattr("decayfree.invariance.discovery.find_invariant", find_and_warn)
    code, text, errors = call("inspect", f"{zoo}:net", "--input", "4,3,8,8")
    assert (code, errors) == (0, "Warning: mind the gap\n")
    assert "0.weight" in text


def test_a_torchvision_model_is_inspected() -> None:
    import_or_skip("torchvision.models")
    code, text, _ = call("inspect", "torchvision:resnet18", "--input", "4,3,32,32", "--json")
    names = [weight["name"] for weight in json.loads(text)["weights"]]
    assert code == 0
    assert len(names) == 20  # all convolutions
    assert "fc.weight" not in names
