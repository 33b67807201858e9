"""The studies that are kept in results/: they can be read, and every table says what their files say."""

import importlib.util
from pathlib import Path

import pytest

from decayfree.report import study_groups
from decayfree.report.numbers.budget import budgets_of
from decayfree.study import StudySpec, read_study
from decayfree.study.builtin import BUILTIN, builtin_spec
from support.synthetic_study import Writer, bumpy

RESULTS = Path(__file__).resolve().parents[2] / "results"
KEPT = [name for name in BUILTIN if (RESULTS / name / "runs.tar.xz").is_file()]


@pytest.fixture(scope="module")
def keeping():
    specification = importlib.util.spec_from_file_location("keep", RESULTS / "keep.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", KEPT)
def test_a_kept_study_is_whole(name):
    study = read_study(RESULTS / name)
    assert len(study.runs) == study.n_planned
    assert {run.state for run in study.runs} <= {"done", "diverged"}
    assert (RESULTS / name / "report.html").is_file()


@pytest.mark.parametrize("name", KEPT)
def test_a_kept_study_is_the_built_in_one(name):
    kept = StudySpec.load(RESULTS / name / "study.toml")
    assert {run.key for run in kept.runs()} == {run.key for run in builtin_spec(name).runs()}


def test_every_table_says_what_the_files_say(keeping):
    for path, text in keeping.written().items():
        assert path.read_text(encoding="utf-8") == text, path


def test_readme_says_what_trials_of_the_kept_study_buy():
    (found,) = budgets_of(study_groups(read_study(RESULTS / "sensitivity")))
    none, decay, ours = (method.budget for method in found.methods)
    one, four, last = (
        [f"{100 * budget.mean[index]:.1f}" for budget in (decay, none, ours)] for index in (0, 3, -1)
    )
    said = (
        f"ends at {one[0]} % with weight decay, {one[1]} % with no decay and {one[2]} % with WRS, the best "
        f"of four by validation at {four[0]}, {four[1]} and {four[2]} %, for which weight decay takes "
        f"{decay.trials_to_reach(ours.mean[-1])}; all its {decay.n} lead to {last[0]} %."
    )
    assert (none.n, ours.n) == (4, 4)
    assert said in " ".join((RESULTS.parent / "README.md").read_text(encoding="utf-8").split())


def test_a_study_is_kept_with_its_page_and_its_tables(keeping, tmp_path, monkeypatch):
    root = tmp_path / "root"
    (root / "results").mkdir(parents=True)
    (root / "README.md").write_text("Before.\n<!-- results -->\n<!-- /results -->\nAfter.\n")
    monkeypatch.setattr(keeping, "ROOT", root)
    monkeypatch.setattr(keeping, "HERE", root / "results")
    out = tmp_path / "baselines"
    Writer(out, spec=builtin_spec("baselines", seeds=2), final_of=bumpy, n_intervals=2).write()
    keeping.keep_study(out)
    written = keeping.written()
    assert {path.name for path in (root / "results" / "baselines").iterdir()} == {
        "study.toml",
        "runs.tar.xz",
        "report.html",
        "README.md",
    }
    assert "runs.tar.xz#runs/" in (root / "results" / "baselines" / "report.html").read_text()
    assert written[root / "README.md"].startswith("Before.\n<!-- results -->\n| study |")
    assert "| [baselines](results/baselines) | 60 |" in written[root / "README.md"]
    assert "| weight normalization |" in written[root / "results" / "baselines" / "README.md"]


def test_a_study_that_is_not_whole_is_not_kept(keeping, tmp_path):
    out = tmp_path / "baselines"
    Writer(
        out,
        spec=builtin_spec("baselines", seeds=1),
        final_of=bumpy,
        n_intervals=2,
        state_of=lambda run: ("failed", "no memory") if run.method.name == "wrs" else ("done", None),
    ).write()
    with pytest.raises(SystemExit, match="3 of 30 runs have no result; only whole studies are kept"):
        keeping.keep_study(out)


def test_a_file_without_marks_is_an_error(keeping, tmp_path):
    path = tmp_path / "README.md"
    path.write_text("nothing\n")
    with pytest.raises(SystemExit, match="expected the marks <!-- numbers --> and <!-- /numbers -->"):
        keeping.between(path, "numbers", "text")
