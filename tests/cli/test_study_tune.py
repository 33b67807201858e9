"""``decayfree study tune``: prints, exit codes, Ctrl-C. Optuna is real, a formula replaces trainings."""

import dataclasses
import shlex
from pathlib import Path

import pytest

from decayfree.cli.study_tables import tuned_budgets
from decayfree.methods import WeightDecay
from decayfree.study import StudySpec
from decayfree.study.run_settings import RunSettings
from decayfree.study.runner.run_study import StudyOutcome
from decayfree.study.search.searches import Search, Trial
from support.available import import_or_skip
from support.command_line import call
from support.study_stand_in import SPEC


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


def tuned_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches whose runs are not trained, but have an accuracy that grows with the learning rate."""
    import_or_skip("optuna")
    monkeypatch.setattr(
        "decayfree.study.search.tuning.run_study",
        lambda *_, **__: StudyOutcome(1, 1, 0, (), interrupted=False),
    )

    def accuracy(run: RunSettings) -> float:
        return 0.5 + run.recipe.learning_rate / 10

    from decayfree.study.search import tuning

    def trial(number: int, proposed: RunSettings, seeds: object, out: Path) -> tuning.Trial:
        out.mkdir(parents=True, exist_ok=True)
        decay = proposed.flat().get("method.weight_decay")
        return tuning.Trial(number, proposed.recipe.learning_rate, decay, accuracy(proposed), ("key",))

    monkeypatch.setattr("decayfree.study.search.tuning._trial", trial)


def test_tune_prints_the_best_settings_and_how_to_test_them(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned_by(monkeypatch)
    out = tmp_path / "out"
    code, text, errors = call(
        "study", "tune", str(file), "--trials", "3", "--out", str(out), "--lr", "0.05,1", "--test-seeds", "4"
    )
    assert (code, errors) == (0, "")
    best = StudySpec.load(out / "best.toml")
    assert best.seeds == (2, 3, 4, 5)
    rows = {line.split("  ")[0]: line for line in text.splitlines()}
    for run in best.runs():
        name = run.method.name
        assert f"{run.recipe.learning_rate:g}" in rows[name]
        assert "of 3" in rows[name]
    assert shlex.split(text.splitlines()[-1]) == [
        "decayfree",
        "study",
        "run",
        str(out / "best.toml"),
        "--out",
        str(out),
    ]
    assert "on new seeds" in " ".join(text.split())
    assert "What fewer of these trials, drawn at random, lead to in the mean" in text
    assert text.count("one of its 3 trials reaches") == len(best.methods)


def test_tune_says_what_fewer_trials_would_have_led_to() -> None:
    start = SPEC.runs()[0]
    accuracies = (0.5, 0.84, 0.9, 0.86)
    trials = tuple(Trial(k, 0.1, None, accuracy, ("key",)) for k, accuracy in enumerate(accuracies))
    alone = Search("alone", start, trials[:1])
    # One: 3.1/4. The best of three is 0.9 in three of four cases, and else 0.86.
    assert tuned_budgets((alone, Search("no decay", start, trials))) == [
        "no decay: one of its 4 trials reaches 77.5\N{NO-BREAK SPACE}%, the best of 3 "
        "89.0\N{NO-BREAK SPACE}%; 75\N{NO-BREAK SPACE}% end more than 2 points below the best."
    ]


def test_tune_searches_for_the_methods_that_are_named(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned_by(monkeypatch)
    out = tmp_path / "out"
    words = ["study", "tune", str(file), "--trials", "1", "--out", str(out), "--method", "wrs"]
    assert call(*words)[0] == 0
    assert [method.name for method in StudySpec.load(out / "best.toml").methods] == ["wrs"]


@pytest.mark.parametrize("interrupted", [True, False])
def test_a_search_that_is_stopped_says_how_to_go_on_and_one_with_a_failed_run_why(
    interrupted: bool, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_or_skip("optuna")
    reasons = () if interrupted else ("no decay, seed 0: OSError: gone",)
    ended = StudyOutcome(0, 2, len(reasons), reasons, interrupted=interrupted)
    monkeypatch.setattr("decayfree.study.search.tuning.run_study", lambda *_, **__: ended)
    words = [
        "study",
        "tune",
        str(file),
        "--trials",
        "3",
        "--method",
        "wrs",
        "--method",
        "none",
        "--out",
        str(tmp_path / "out"),
    ]
    code, text, errors = call(*words)
    assert code == (130 if interrupted else 1)
    if interrupted:
        assert "Stopped; 0 trials are done. To go on:" in text
        assert sorted(shlex.split(text.splitlines()[-1])) == sorted(["decayfree", *words])
    else:
        assert errors == "Error: 1 of 2 runs failed:\n  no decay, seed 0: OSError: gone\n"


def test_a_search_says_which_methods_it_leaves_out(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from decayfree.methods import LearningRateScaling

    tuned_by(monkeypatch)
    spec = dataclasses.replace(SPEC, methods=(WeightDecay(0.01), LearningRateScaling(0.01)))
    file.write_text(spec.to_toml(), encoding="utf-8")
    text = call("study", "tune", str(file), "--trials", "1", "--out", str(tmp_path / "out"))[1]
    assert "Left out, since it replays another run at that run's settings: learning_rate_scaling" in " ".join(
        text.split()
    )


def test_a_method_that_is_not_in_the_spec_cannot_be_searched_for(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, _, errors = call(
        "study", "tune", str(file), "--trials", "2", "--method", "adamp", "--out", str(out)
    )
    assert (code, errors) == (2, "Error: adamp: not among the spec's methods, which are none, wrs\n")
    assert not out.exists()
