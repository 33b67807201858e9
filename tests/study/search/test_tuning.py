"""The search: what it asks for and keeps, that it goes on where it was killed, what it never looks at.

Optuna is real; trainings are replaced by results that a formula gives, but for one search that really trains
on digits.
"""

import dataclasses
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from decayfree.errors import InvalidInputError, MissingExtraError
from decayfree.methods import WRS, LearningRateScaling, Method, NoTreatment, WeightDecay
from decayfree.study import DataSpec, StudySpec
from decayfree.study.files.checkpoint import write_record
from decayfree.study.files.results import Row, row_to, run_directory
from decayfree.study.run_settings import RunSettings
from decayfree.study.runner.run_study import Progress, StudyOutcome
from decayfree.study.search.searches import best_spec, searched_for
from decayfree.study.search.tuning import Ranges, tune
from decayfree.study.spec.axes import Axis, Override
from support.available import import_or_skip
from support.small_study import RECIPE

optuna = import_or_skip("optuna")
DATA = DataSpec(n_train=64, n_validation=40, n_test=40)


def study(*methods: Method, **changes: Any) -> StudySpec:
    recipe = dataclasses.replace(RECIPE, data=DATA)
    settings: dict[str, Any] = {"recipe": recipe, "seeds": (0, 1), "title": "A search", **changes}
    return StudySpec(methods=methods or (NoTreatment(), WeightDecay(1e-3), WRS()), **settings)


def accuracy_by_formula(run: RunSettings) -> float:
    """Best at a learning rate of 0.2 and, for weight decay, at a decay of 0.01; 0.9 there."""
    off = abs(math.log10(run.recipe.learning_rate / 0.2))
    decay = run.flat().get("method.weight_decay")
    if decay is not None:
        off += abs(math.log10(decay / 0.01))
    return 0.9 - 0.1 * off + 0.01 * run.seed


class Trained:
    """A stand-in for `run_study` that writes results by a formula and remembers what it was asked for."""

    def __init__(self, accuracy: Callable[[RunSettings], float] = accuracy_by_formula) -> None:
        self.accuracy = accuracy
        self.asked: list[RunSettings] = []
        self.trained: list[str] = []
        self.dies_after: int | None = None

    def __call__(
        self,
        spec: StudySpec,
        out: Path,
        *,
        on_progress: Callable[[Progress], None],
        on_stopping: object = None,
        n_jobs: int,
    ) -> StudyOutcome:
        runs = spec.runs()
        self.asked += runs
        new = [run for run in runs if not (out / "runs" / run.key).exists()]
        for index, run in enumerate(new):
            if self.dies_after is not None and len(self.trained) == self.dies_after:
                raise RuntimeError("killed")
            on_progress(Progress(index, len(runs), index / len(runs), "", None))
            self.trained.append(run.key)
            self._write(run, out)
        on_progress(Progress(len(runs), len(runs), 1.0, "", None))
        return StudyOutcome(len(runs), len(runs), 0, (), interrupted=False)

    def _write(self, run: RunSettings, out: Path) -> None:
        accuracy = self.accuracy(run)
        row = Row(
            step=run.recipe.n_steps,
            epoch=float(run.recipe.n_epochs),
            train_loss=0.1,
            train_score=0.5,
            test_score=1 - accuracy,
            learning_rate=0.0,
            norms={},
            effective_learning_rates={},
            angular_updates={},
            off_span_share=math.nan,
            off_span_law=math.nan,
            validation_score=accuracy,
        )
        directory = run_directory(out, run.key)
        write_record(directory, run, state="done" if math.isfinite(accuracy) else "diverged")
        (directory / "metrics.jsonl").write_text(row_to(row), encoding="utf-8")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    stand_in = Trained()
    monkeypatch.setattr("decayfree.study.search.tuning.run_study", stand_in)
    return stand_in


def test_the_search_finds_the_best_settings_and_never_looks_at_the_test(
    tmp_path: Path, trained: Trained
) -> None:
    outcome = tune(study(WeightDecay(1e-3)), tmp_path, n_trials=40)
    (search,) = outcome.searches
    assert 0.1 < search.best.learning_rate < 0.4
    assert search.best.weight_decay is not None
    assert 0.003 < search.best.weight_decay < 0.03
    assert len(search.trials) == 40
    assert search.trials[0].validation_score < search.best.validation_score <= 0.905 + 1e-9


def test_the_first_trial_is_the_specs_own_setting_and_its_value_the_mean_over_seeds(
    tmp_path: Path, trained: Trained
) -> None:
    outcome = tune(study(), tmp_path, n_trials=1)
    first = [search.trials[0] for search in outcome.searches]
    assert [trial.learning_rate for trial in first] == [RECIPE.learning_rate] * 3
    assert [trial.weight_decay for trial in first] == [None, 1e-3, None]
    off = math.log10(2)
    assert first[0].validation_score == pytest.approx(0.9 - 0.1 * off + 0.005)
    assert first[1].validation_score == pytest.approx(0.9 - 0.1 * (off + 1) + 0.005)


def test_a_start_outside_the_ranges_is_not_tried(tmp_path: Path, trained: Trained) -> None:
    ranges = Ranges(learning_rate=(0.5, 1.0))
    (search,) = tune(study(WRS()), tmp_path, n_trials=6, ranges=ranges).searches
    assert all(0.5 <= trial.learning_rate <= 1.0 for trial in search.trials)


def test_proposals_have_three_digits_and_differ(tmp_path: Path, trained: Trained) -> None:
    (search,) = tune(study(WeightDecay(1e-3)), tmp_path, n_trials=8).searches
    rates = [trial.learning_rate for trial in search.trials]
    assert len(set(rates)) == 8
    assert all(float(f"{rate:.3g}") == rate for rate in rates)
    assert all(1e-5 <= trial.weight_decay <= 1e-1 for trial in search.trials if trial.weight_decay)


def test_a_killed_search_goes_on_as_if_it_had_not_been_and_trains_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed, resumed = Trained(), Trained(), Trained()
    monkeypatch.setattr("decayfree.study.search.tuning.run_study", whole)
    expected = tune(study(), tmp_path / "whole", n_trials=9)
    killed.dies_after = 31
    monkeypatch.setattr("decayfree.study.search.tuning.run_study", killed)
    with pytest.raises(RuntimeError, match="killed"):
        tune(study(), tmp_path / "killed", n_trials=9)
    assert not (tmp_path / "killed" / "best.toml").exists()
    monkeypatch.setattr("decayfree.study.search.tuning.run_study", resumed)
    outcome = tune(study(), tmp_path / "killed", n_trials=9)
    assert outcome.searches == expected.searches
    assert not set(killed.trained) & set(resumed.trained)
    assert killed.trained + resumed.trained == whole.trained
    for name in ("tuning.jsonl", "best.toml"):
        texts = {(tmp_path / folder / name).read_text(encoding="utf-8") for folder in ("whole", "killed")}
        assert len(texts) == 1


def test_more_trials_go_on_from_those_that_are_there(tmp_path: Path, trained: Trained) -> None:
    few = tune(study(), tmp_path, n_trials=3)
    n_trained = len(trained.trained)
    more = tune(study(), tmp_path, n_trials=5)
    assert [search.trials[:3] for search in more.searches] == [search.trials for search in few.searches]
    assert len(trained.trained) == n_trained + 3 * 2 * 2


def test_another_seed_proposes_something_else(tmp_path: Path, trained: Trained) -> None:
    rates = [
        tune(study(WRS()), tmp_path / str(seed), n_trials=3, seed=seed).searches[0].trials[2].learning_rate
        for seed in (0, 1)
    ]
    assert rates[0] != rates[1]


def test_a_trial_that_diverges_is_the_worst_and_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = Trained(lambda run: math.nan if run.recipe.learning_rate > 0.1 else accuracy_by_formula(run))
    monkeypatch.setattr("decayfree.study.search.tuning.run_study", stand_in)
    (search,) = tune(study(WRS()), tmp_path, n_trials=8).searches
    assert min(trial.validation_score for trial in search.trials) == 0
    assert search.best.learning_rate <= 0.1


def test_trials_are_written_down_one_a_line_with_the_folders_of_their_runs(
    tmp_path: Path, trained: Trained
) -> None:
    tune(study(NoTreatment(), WeightDecay(1e-3)), tmp_path, n_trials=2)
    lines = (tmp_path / "tuning.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert [(record["search"], record["number"]) for record in records] == [
        ("none", 0),
        ("none", 1),
        ("weight decay", 0),
        ("weight decay", 1),
    ]
    for record in records:
        assert len(record["runs"]) == 2
        assert all((tmp_path / "tuning" / "runs" / key / "run.json").is_file() for key in record["runs"])


def test_the_best_settings_are_a_spec_of_their_own_with_seeds_that_were_not_searched_with(
    tmp_path: Path, trained: Trained
) -> None:
    outcome = tune(study(), tmp_path, n_trials=4, n_test_seeds=3)
    assert outcome.best_file == tmp_path / "best.toml"
    spec = StudySpec.load(tmp_path / "best.toml")
    assert spec.seeds == (2, 3, 4)
    assert "chosen by validation" in spec.title
    found = {
        (run.method.name, run.recipe.learning_rate, run.flat().get("method.weight_decay"))
        for run in spec.runs()
    }
    assert found == {
        (search.start.method.name, search.best.learning_rate, search.best.weight_decay)
        for search in outcome.searches
    }
    assert len(spec.runs()) == 9


def test_every_value_of_an_axis_is_a_search_of_its_own_but_learning_rates_and_decays_are_not(
    tmp_path: Path, trained: Trained
) -> None:
    spec = study(
        NoTreatment(),
        WeightDecay(1e-4),
        WeightDecay(1e-3),
        WRS(),
        WRS(radius=2.0),
        axes=(
            Axis("learning_rate", (0.05, 0.1)),
            Axis("optimizer", ((("name", "sgd"), ("momentum", 0.0)), (("name", "adam"), ("momentum", 0.9)))),
        ),
        overrides=(
            Override(
                when=(("optimizer.name", "adam"), ("learning_rate", 0.1)), set=(("learning_rate", 1e-3),)
            ),
            Override(
                when=(("optimizer.name", "adam"), ("learning_rate", 0.05)), set=(("learning_rate", 3e-3),)
            ),
            Override(
                when=(("optimizer.name", "adam"), ("method.name", "weight_decay")),
                set=(("method.weight_decay", 1e-2),),
            ),
            Override(when=(("optimizer.name", "adam"), ("method.name", "none")), skip=True),
        ),
        seeds=(0,),
    )
    outcome = tune(spec, tmp_path, n_trials=2, n_test_seeds=1)
    assert [search.label for search in outcome.searches] == [
        "none, optimizer sgd, optimizer.momentum 0",
        "weight decay, optimizer sgd, optimizer.momentum 0",
        "wrs, radius 1, optimizer sgd, optimizer.momentum 0",
        "wrs, radius 2, optimizer sgd, optimizer.momentum 0",
        "weight decay, optimizer adam, optimizer.momentum 0.9",
        "wrs, radius 1, optimizer adam, optimizer.momentum 0.9",
        "wrs, radius 2, optimizer adam, optimizer.momentum 0.9",
    ]
    found = StudySpec.load(tmp_path / "best.toml").runs()

    def told(run: RunSettings, rate: float, decay: float | None) -> tuple[Any, ...]:
        flat = run.flat()
        return flat["method.name"], flat.get("method.radius"), flat["optimizer.name"], rate, decay

    assert {told(run, run.recipe.learning_rate, run.flat().get("method.weight_decay")) for run in found} == {
        told(search.start, search.best.learning_rate, search.best.weight_decay) for search in outcome.searches
    }
    assert len(found) == 7


def test_a_study_that_is_built_in_can_be_searched() -> None:
    from decayfree.study.builtin import builtin_spec

    spec = builtin_spec("optimizers", seeds=1)
    starts, left_out = searched_for(spec, None)
    assert (len(starts), left_out) == (36, ())
    starts, left_out = searched_for(builtin_spec("figure1"), None)
    assert [start.method.name for start in starts] == ["none", "weight_decay", "wrs"]
    assert left_out == ("learning_rate_scaling", "exact_replay")


def test_methods_can_be_chosen(tmp_path: Path, trained: Trained) -> None:
    outcome = tune(study(), tmp_path, n_trials=1, methods=["wrs"])
    assert [search.label for search in outcome.searches] == ["wrs"]
    assert [method.name for method in StudySpec.load(tmp_path / "best.toml").methods] == ["wrs"]


def test_progress_counts_trials(tmp_path: Path, trained: Trained) -> None:
    seen: list[Progress] = []
    tune(study(WRS()), tmp_path, n_trials=3, on_progress=seen.append)
    assert [progress.fraction for progress in seen] == pytest.approx(
        [0, 1 / 6, 1 / 3, 1 / 3, 1 / 2, 2 / 3, 2 / 3, 5 / 6, 1]
    )
    assert {(progress.n_total, progress.label) for progress in seen} == {
        (3, f"wrs, trial {number} of 3") for number in (1, 2, 3)
    }
    assert seen[0].seconds_left is None
    assert seen[-1].seconds_left == 0


def test_trials_that_are_there_already_tell_nothing_of_the_time_left(
    tmp_path: Path, trained: Trained
) -> None:
    seen: list[Progress] = []
    tune(study(WRS()), tmp_path, n_trials=3)
    tune(study(WRS()), tmp_path, n_trials=5, on_progress=seen.append)
    assert [progress.seconds_left for progress in seen[:4]] == [None] * 4
    assert [progress.n_done for progress in seen[:4]] == [0, 1, 2, 3]
    assert seen[4].seconds_left is not None


@pytest.mark.parametrize("interrupted", [True, False])
def test_a_search_ends_where_a_run_was_stopped_or_failed(
    interrupted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = StudyOutcome(
        0, 2, int(not interrupted), () if interrupted else ("why",), interrupted=interrupted
    )
    monkeypatch.setattr("decayfree.study.search.tuning.run_study", lambda *_, **__: outcome)
    ended = tune(study(), tmp_path, n_trials=3)
    assert ended.stopped_by == outcome
    assert (ended.n_trials, ended.best_file) == (0, None)
    assert not (tmp_path / "best.toml").exists()


@pytest.mark.parametrize(
    ("spec", "options", "said"),
    [
        (
            study(recipe=RECIPE),
            {},
            r"recipe\.data\.n_validation: expected at least 1, .* never by the test; got 0",
        ),
        (
            study(),
            {"methods": ["adamp"]},
            "adamp: not among the spec's methods, which are none, weight_decay, wrs",
        ),
        (study(), {"methods": ["wrz"]}, "wrz: not among .*, wrs; did you mean wrs"),
        (study(), {"n_trials": 0}, "n_trials must be at least 1, got 0"),
        (study(), {"n_test_seeds": 0}, "n_test_seeds must be at least 1, got 0"),
        (
            study(WeightDecay(1e-3), LearningRateScaling(1e-3)),
            {"methods": ["learning_rate_scaling"]},
            "nothing to search for: learning_rate_scaling replays",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_runs(
    spec: StudySpec, options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match=said):
        tune(spec, tmp_path / "out", **{"n_trials": 1, **options})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("ranges", "said"),
    [
        (
            {"learning_rate": (0.1, 0.1)},
            "learning_rate: expected two finite numbers above 0, the smaller first, got 0.1,0.1",
        ),
        (
            {"weight_decay": (0.0, 0.1)},
            "weight_decay: expected two finite numbers above 0, the smaller first, got 0,0.1",
        ),
        ({"weight_decay": (0.1, math.inf)}, "got 0.1,inf"),
    ],
)
def test_a_range_that_is_none_is_refused(ranges: dict[str, tuple[float, float]], said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        Ranges(**ranges)


def test_without_optuna_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(
        MissingExtraError, match=r"the search needs optuna, .*: pip install 'decayfree\[tune\]'"
    ):
        tune(study(), tmp_path, n_trials=1)


def test_the_best_spec_keeps_overrides_that_do_not_speak_of_what_was_searched() -> None:
    kept = Override(when=(("method.name", "wrs"),), set=(("batch_size", 32),))
    dropped = Override(when=(("learning_rate", RECIPE.learning_rate),), set=(("learning_rate", 0.2),))
    spec = study(WRS(), overrides=(kept, dropped))
    starts, _ = searched_for(spec, None)
    from decayfree.study.search.searches import Search, Trial

    search = Search("wrs", starts[0], (Trial(0, 0.5, None, 0.9, ()),))
    assert best_spec(spec, [search], n_seeds=1).overrides[:-1] == (kept,)


@pytest.mark.slow
def test_a_real_search_on_digits_trains_and_its_best_spec_runs(tmp_path: Path) -> None:
    from decayfree.study.runner.run_study import run_study

    outcome = tune(study(WRS(), seeds=(0,)), tmp_path, n_trials=2, n_jobs=1, n_test_seeds=1)
    accuracies = [trial.validation_score for trial in outcome.searches[0].trials]
    assert all(0 < accuracy < 1 for accuracy in accuracies)
    assert outcome.best_file is not None
    assert run_study(StudySpec.load(outcome.best_file), tmp_path, n_jobs=1).n_done == 1


def test_overrides_of_methods_that_are_not_searched_are_left_behind() -> None:
    other = Override(when=(("method.name", "none"),), set=(("batch_size", 8),))
    spec = study(WRS(), NoTreatment(), overrides=(other,))
    starts, _ = searched_for(spec, ["wrs"])
    from decayfree.study.search.searches import Search, Trial

    best = best_spec(spec, [Search("wrs", starts[0], (Trial(0, 0.5, None, 0.9, ()),))], n_seeds=1)
    assert [run.recipe.learning_rate for run in best.runs()] == [0.5]


def test_what_cannot_be_written_down_is_not_searched_for(tmp_path: Path) -> None:
    override = Override(when=(("learning_rate", RECIPE.learning_rate),), set=(("batch_size", 8),))
    with pytest.raises(
        InvalidInputError, match="the search cannot be written as a spec: overrides of this one ask for"
    ):
        tune(study(WRS(), overrides=(override,)), tmp_path, n_trials=1)
    assert not (tmp_path / "tuning").exists()
