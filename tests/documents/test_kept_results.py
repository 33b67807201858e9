"""The studies that are kept in results/: they can be read, and every table says what their files say."""

import dataclasses
import re
from pathlib import Path

import pytest

from decayfree.report import study_groups
from decayfree.report.numbers.budget import budgets_of
from decayfree.study import StudySpec, builtin, read_study
from decayfree.study.builtin import BUILTIN, builtin_spec
from support.scripts import script
from support.synthetic_study import Writer, bumpy

RESULTS = Path(__file__).resolve().parents[2] / "results"
SPECS = Path(builtin.__file__).parent
UNDER_WAY = sorted((RESULTS / "under-way").glob("*"))
KEPT = [name for name in BUILTIN if (RESULTS / name / "runs.tar.xz").is_file()]


@pytest.fixture(scope="module")
def keeping():
    return script("results/keep.py")


@pytest.mark.parametrize("name", KEPT)
def test_a_kept_study_is_whole(name):
    study = read_study(RESULTS / name)
    assert len(study.runs) == study.n_planned
    assert {run.state for run in study.runs} <= {"done", "diverged"}
    assert (RESULTS / name / "report.html").is_file()


@pytest.mark.parametrize("name", KEPT)
def test_a_kept_study_is_the_built_in_one(name):
    kept = StudySpec.load(RESULTS / name / "study.toml")
    assert {run.key for run in kept.grid()} == {run.key for run in builtin_spec(name).grid()}


@pytest.mark.parametrize("folder", UNDER_WAY, ids=lambda path: path.name)
def test_a_study_under_way_can_be_gone_on_with(folder):
    begun, built_in = read_study(folder), builtin_spec(folder.name)
    assert {run.key for run in begun.spec.grid()} == {run.key for run in built_in.grid()}
    assert {run.state for run in begun.runs} <= {"done", "diverged"}
    assert not (folder / "report.html").exists()


def test_every_table_says_what_the_files_say(keeping):
    for path, text in keeping.written().items():
        assert path.read_text(encoding="utf-8") == text, path


def test_a_page_says_what_trials_of_the_kept_study_buy():
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
    assert said in " ".join((RESULTS.parent / "docs" / "numbers.md").read_text(encoding="utf-8").split())


def test_every_sentence_that_states_a_figure_stands_on_its_page():
    claiming = script("results/claims.py")
    claims = list(claiming.claims())
    assert len(claims) > 20
    for path, sentence in claims:
        assert sentence in claiming.flat(path), path


@pytest.mark.parametrize("name", KEPT)
def test_what_was_added_after_a_look_is_marked_where_the_file_of_the_study_says_so(name):
    added = script("results/added.py")
    runs = builtin_spec(name).runs()
    says_so = re.search(r"added .*after", (SPECS / f"{name}-small.toml").read_text()) is not None
    assert says_so == bool(added.note(name)) == any(added.is_marked(name, run) for run in runs)
    if name == "optimizers":
        rates = {}
        for run in runs:
            rates.setdefault(run.recipe.optimizer, {})[run.recipe.learning_rate] = added.is_marked(name, run)
        which = {label.label: [marked for _, marked in sorted(of.items())] for label, of in rates.items()}
        smallest = {one for one, marks in which.items() if marks == [True, False, False]}
        assert smallest == {"SGD", "SGD, momentum 0.9", "SGD, Nesterov momentum 0.9", "Adagrad"}
        assert {
            one for one, marks in which.items() if marks == [False, False, True]
        } == which.keys() - smallest


def test_as_planned_the_studies_are_what_they_were_before_the_look(keeping):
    # Sensitivity began with three rates and three seeds: 8 methods, 72 runs.
    groups = script("results/added.py").planned(
        "sensitivity", study_groups(read_study(RESULTS / "sensitivity"))
    )
    assert sum(len(cell.runs) for cell in groups.cells) == 72
    assert {cell.n_planned for cell in groups.cells} == {3}
    networks = script("results/added.py").planned(
        "architectures", study_groups(read_study(RESULTS / "architectures"))
    )
    assert len(networks.groups) == 7


def test_a_study_is_kept_with_its_page_and_its_tables(keeping, tmp_path, monkeypatch):
    root = tmp_path / "root"
    (root / "results").mkdir(parents=True)
    for place in (root, root / "results"):
        (place / "README.md").write_text("Before.\n<!-- results -->\n<!-- /results -->\nAfter.\n")
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
    assert '"archive":"runs.tar.xz"' in (root / "results" / "baselines" / "report.html").read_text()
    assert written[root / "README.md"].startswith("Before.\n<!-- results -->\n| study |")
    first, whole = (written[place / "README.md"].splitlines() for place in (root, root / "results"))
    assert (first[4].count("|"), whole[4].count("|")) == (6, 10)
    assert first[4].startswith("| [baselines](results/baselines) † | ")
    assert whole[4].startswith("| [baselines](baselines) † | 60 |")
    assert ("replication" in first[-3], "replication" in whole[-3]) == (False, True)
    assert "| weight normalization |" in written[root / "results" / "baselines" / "README.md"]


def test_of_a_study_under_way_the_runs_so_far_are_kept_and_nothing_is_shown(keeping, tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "HERE", tmp_path / "results")
    monkeypatch.setattr(keeping, "UNDER_WAY", tmp_path / "results" / "under-way")
    monkeypatch.setattr(keeping, "ROOT", tmp_path)
    out = tmp_path / "baselines"
    Writer(
        out,
        spec=builtin_spec("baselines", seeds=1),
        final_of=bumpy,
        n_intervals=2,
        state_of=lambda run: ("failed", "no memory") if run.method.name == "wrs" else ("done", None),
    ).write()
    keeping.keep_study(out)
    kept = tmp_path / "results" / "under-way" / "baselines"
    assert [path.name for path in sorted(kept.iterdir())] == ["runs.tar.xz", "study.toml"]
    assert keeping.kept() == []
    keeping.go_on(tmp_path / "again" / "baselines")
    assert len(list((tmp_path / "again" / "baselines" / "runs").iterdir())) == 27
    keeping.go_on(tmp_path / "again" / "figure1")
    assert not (tmp_path / "again" / "figure1").exists()


def test_a_study_whose_rules_ask_for_more_is_under_way(keeping, tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "HERE", tmp_path / "results")
    monkeypatch.setattr(keeping, "UNDER_WAY", tmp_path / "results" / "under-way")
    monkeypatch.setattr(keeping, "ROOT", tmp_path)
    spec = dataclasses.replace(builtin_spec("baselines", seeds=1), confirm_seeds=(9,))
    keeping.keep_study(Writer(tmp_path / "baselines", spec=spec, final_of=bumpy, n_intervals=2).write())
    assert (tmp_path / "results" / "under-way" / "baselines" / "runs.tar.xz").is_file()


def test_a_file_without_marks_is_an_error(keeping, tmp_path):
    path = tmp_path / "README.md"
    path.write_text("nothing\n")
    with pytest.raises(SystemExit, match="expected the marks <!-- numbers --> and <!-- /numbers -->"):
        keeping.between(path, "numbers", "text")
