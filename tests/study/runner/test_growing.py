"""What the rules of a study add once runs have ended: by hand, on files with chosen accuracies."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from decayfree.methods import WRS, LearningRateScaling, NoTreatment, WeightDecay
from decayfree.report.numbers.groups import study_groups
from decayfree.study import (
    Added,
    Always,
    Axis,
    Extension,
    Override,
    RunSettings,
    SpecError,
    StudySpec,
    read_study,
    run_study,
)
from decayfree.study.runner.growing import grown
from support.small_study import recipe
from support.synthetic_study import Writer, axes_spec

RATES = (0.1, 0.2, 0.4)
WHERE_ONE = Override((("method.name", "none"), ("learning_rate", RATES[1:])), skip=True)


def spec_with(**changes: object) -> StudySpec:
    """No treatment at one rate, decay and WRS at three."""
    values = {
        "methods": (NoTreatment(), WeightDecay(1e-3), WRS()),
        "axes": (Axis("learning_rate", RATES),),
        "overrides": (WHERE_ONE,),
        "extend": (Extension("learning_rate"),),
        "confirm_seeds": (10, 11),
        **changes,
    }
    return axes_spec(n_seeds=2, **values)


def best_at(rate: float) -> Callable[[RunSettings], float]:
    """Accuracy that falls with the distance from a rate, in octaves."""
    return lambda run: 0.9 - 0.01 * abs(math.log2(run.recipe.learning_rate / rate))


def run_all(spec: StudySpec, out: Path, final_of: Callable[[RunSettings], float]) -> list[StudySpec]:
    """The spec after each sitting, until nothing is added any more."""
    rounds = [grown(spec, out)]
    while True:
        for run in rounds[-1].runs():
            if not (out / "runs" / run.key).exists():
                Writer(out, spec=spec, final_of=final_of, n_intervals=2)._write_run(run)
        rounds.append(grown(spec, out))
        if rounds[-1] == rounds[-2]:
            return rounds


def rates(spec: StudySpec, name: str, seed: int) -> list[float]:
    return [run.recipe.learning_rate for run in spec.runs() if (run.method.name, run.seed) == (name, seed)]


def test_a_grid_grows_until_the_best_lies_inside_and_then_what_was_chosen_is_confirmed(
    tmp_path: Path,
) -> None:
    first, second, third, *_, last = run_all(spec_with(), tmp_path, best_at(0.8))
    assert first.added == ()
    assert rates(second, "wrs", 0) == rates(second, "wrs", 1) == [*RATES, 0.8]
    assert rates(third, "wrs", 1) == [*RATES, 0.8, 1.6]
    assert rates(third, "wrs", 10) == []
    assert rates(last, "wrs", 10) == rates(last, "weight_decay", 11) == [0.8]
    assert rates(last, "none", 0) == rates(last, "none", 10) == [0.1]  # one setting is no grid


def test_an_optimum_inside_asks_for_nothing(tmp_path: Path) -> None:
    last = run_all(spec_with(confirm_seeds=()), tmp_path, best_at(0.2))[-1]
    assert last == spec_with(confirm_seeds=())


@pytest.mark.parametrize(("best", "added"), [(100.0, [0.8, 1.6]), (1e-4, [0.05, 0.025])])
def test_it_ends_at_as_many_values_as_the_file_allows_at_that_end(
    tmp_path: Path, best: float, added: list[float]
) -> None:
    last = run_all(spec_with(extend=(Extension("learning_rate", at_most=2),)), tmp_path, best_at(best))[-1]
    assert rates(last, "wrs", 0) == [*RATES, *added]


def test_settings_of_methods_grow_too(tmp_path: Path) -> None:
    methods = (WeightDecay(1e-3), WeightDecay(3e-3), WRS())
    rule = Extension("method.weight_decay", factor=3.0, at_most=1)
    spec = axes_spec(n_seeds=1, methods=methods, axes=(Axis("learning_rate", (0.1,)),), extend=(rule,))
    last = run_all(spec, tmp_path, lambda run: getattr(run.method, "weight_decay", 0.0))[-1]
    decays = [run.method.weight_decay for run in last.runs() if isinstance(run.method, WeightDecay)]
    assert decays == [1e-3, 3e-3, 3e-3 * 3.0]


def test_the_edges_are_those_of_the_chosen_row_and_column(tmp_path: Path) -> None:
    methods = (WeightDecay(1e-3), WeightDecay(4e-3), WeightDecay(1.6e-2), WRS())
    rules = Extension("learning_rate", at_most=1), Extension("method.weight_decay", factor=4.0, at_most=1)

    def final(run: RunSettings) -> float:
        # The best decay is the smaller the larger the rate: 4e-3 where the grid ends, and less beyond.
        rate, decay = run.recipe.learning_rate, getattr(run.method, "weight_decay", 4e-3)
        best = 4e-3 if rate <= 0.4 else 5e-4
        return 0.9 - 0.01 * abs(math.log2(rate / 1.6)) - 0.001 * abs(math.log2(decay / best))

    spec = spec_with(methods=methods, overrides=(), extend=rules, confirm_seeds=())
    last = run_all(spec, tmp_path, final)[-1]
    decays = [
        run.method.weight_decay
        for run in last.runs()
        if isinstance(run.method, WeightDecay) and (run.recipe.learning_rate, run.seed) == (0.8, 0)
    ]
    # 4e-3 is alone there at first, the best between 1e-3 and 2.5e-4.
    assert decays == [4e-3, 1.6e-2, 1e-3, 2.5e-4]


def test_a_published_default_is_confirmed_beside_what_was_chosen(tmp_path: Path) -> None:
    default = Always((("method.name", "weight_decay"), ("learning_rate", 0.1)))
    last = run_all(spec_with(confirm_also=(default,)), tmp_path, best_at(0.2))[-1]
    assert rates(last, "weight_decay", 10) == [0.1, 0.2]
    assert rates(last, "wrs", 10) == [0.2]


def test_a_run_that_replays_another_brings_that_one_along(tmp_path: Path) -> None:
    methods = (WeightDecay(5e-3), LearningRateScaling(5e-3))

    def final(run: RunSettings) -> float:
        best = 0.2 if isinstance(run.method, WeightDecay) else 100.0
        return 0.9 - 0.01 * abs(math.log2(run.recipe.learning_rate / best))

    rule = Extension("learning_rate", at_most=1)
    last = run_all(spec_with(methods=methods, overrides=(), extend=(rule,)), tmp_path, final)[-1]
    assert rates(last, "learning_rate_scaling", 0) == rates(last, "weight_decay", 0) == [*RATES, 0.8]
    assert rates(last, "learning_rate_scaling", 10) == [0.8]
    assert rates(last, "weight_decay", 10) == [0.2, 0.8]


def test_test_results_decide_nothing(tmp_path: Path) -> None:
    def write_with(run: RunSettings, row: dict[str, float]) -> None:
        row["test_score"] = 0.5 + run.recipe.learning_rate

    for run in spec_with().runs():
        writer = Writer(
            tmp_path, spec=spec_with(), final_of=best_at(0.2), n_intervals=2, change_row=write_with
        )
        writer._write_run(run)
    assert rates(grown(spec_with(), tmp_path), "wrs", 10) == [0.2]


def test_a_setting_that_diverged_with_a_seed_is_not_chosen(tmp_path: Path) -> None:
    spec = spec_with(extend=())
    for run in spec.runs():
        is_hot = run.recipe.learning_rate == 0.4 and run.seed == 1
        writer = Writer(tmp_path, spec=spec, final_of=best_at(0.4), n_intervals=2)
        writer.state_of = lambda settings, hot=is_hot: ("diverged", "it was hot") if hot else ("done", None)
        writer._write_run(run)
    assert rates(grown(spec, tmp_path), "wrs", 10) == [0.2]


def test_it_waits_for_what_failed_or_is_damaged(tmp_path: Path) -> None:
    spec = spec_with()
    run_all(spec, tmp_path, best_at(0.2))
    assert grown(spec, tmp_path).added
    rows = tmp_path / "runs" / spec.runs()[0].key / "metrics.jsonl"
    rows.write_text(rows.read_text()[:-5])
    assert not grown(spec, tmp_path).added


def test_the_grown_spec_is_read_back(tmp_path: Path) -> None:
    default = Always((("method.name", "weight_decay"), ("learning_rate", 0.1)))
    last = run_all(spec_with(confirm_also=(default,)), tmp_path, best_at(0.8))[-1]
    assert StudySpec.from_toml(last.to_toml()) == last
    assert len(last.added) == 8


def test_a_real_study_runs_its_rounds_and_is_over_at_the_second_call(tmp_path: Path) -> None:
    spec = StudySpec(
        methods=(WRS(),),
        seeds=(0,),
        recipe=recipe(n_epochs=1, n_samples=2, data=replace(recipe().data, n_validation=20)),
        axes=(Axis("learning_rate", (0.001, 0.002)),),
        extend=(Extension("learning_rate", at_most=1),),
        confirm_seeds=(7,),
    )
    outcome = run_study(spec, tmp_path, n_jobs=1)
    study = read_study(tmp_path)
    assert outcome.n_done == outcome.n_total == len(study.runs) == study.n_planned == 4
    assert [run.seed for run in study.runs] == [0, 0, 0, 7]
    assert study.spec == grown(spec, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json*")}
    assert run_study(study.spec, tmp_path, n_jobs=1) == outcome
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json*")} == before


def test_more_may_come_until_what_was_chosen_is_confirmed(tmp_path: Path) -> None:
    *rounds, last = run_all(spec_with(), tmp_path, best_at(0.8))
    assert [spec.may_grow(len(spec.runs())) for spec in rounds] == [True, True, True, False]
    assert not last.may_grow(0)
    only_grid = spec_with(confirm_seeds=())
    assert only_grid.may_grow(len(only_grid.runs()) - 1)
    assert not only_grid.may_grow(len(only_grid.runs()))
    assert not spec_with(confirm_seeds=(), extend=()).may_grow(0)


def test_a_stop_between_two_rounds_leaves_what_comes_next_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_with()
    for run in spec.runs():
        Writer(tmp_path, spec=spec, final_of=best_at(0.8), n_intervals=2)._write_run(run)
    first = spec_with(extend=(), confirm_seeds=())
    shown = iter((first, grown(spec, tmp_path)))

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("decayfree.study.runner.run_study.grown", lambda *_: next(shown))
    monkeypatch.setattr("decayfree.study.runner.run_study._run_all", stopped)
    outcome = run_study(spec, tmp_path, n_jobs=1)
    assert outcome.interrupted
    assert outcome.n_total == len(StudySpec.load(tmp_path / "study.toml").runs()) > len(spec.runs())


def test_runs_that_confirm_are_not_among_those_that_are_chosen_from(tmp_path: Path) -> None:
    last = run_all(spec_with(extend=()), tmp_path, best_at(0.2))[-1]
    (tmp_path / "study.toml").write_text(last.to_toml())
    (group,) = study_groups(read_study(tmp_path)).groups
    for sweep in group.sweeps:
        assert sweep.chosen is not None
        assert [sorted(cell.begun) for cell in sweep.cells] == [[0, 1]] * len(sweep.cells)
        assert [cell for cell in sweep.cells if cell.confirmation] == [sweep.chosen]
        assert sorted(sweep.chosen.confirmation.runs) == [10, 11]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("confirm_seeds = [1, 5]", "confirm_seeds: [1] are among the seeds that settings are chosen by"),
        ("confirm_seeds = [5, 5]", "confirm_seeds: expected each once, got [5, 5]"),
        ("[[confirm_also]]\nwhen = {learning_rate = 0.1}", "confirm_also: needs confirm_seeds"),
        (
            "confirm_seeds = [5]\n[[confirm_also]]\nwhen = {learning_rate = 7.0}",
            "confirm_also[0].when: fits no run",
        ),
        ("[[extend]]\npath = 'lerning_rate'", "extend[0].path: expected the dotted name of a number"),
        (
            "[[extend]]\npath = 'learning_rate'\nfactor = 1.0",
            "extend[0].factor: expected a finite number above 1",
        ),
        (
            "[[extend]]\npath = 'learning_rate'\nat_most = 0",
            "extend[0].at_most: expected a whole number from 1",
        ),
        # What makes arms is chosen in none: such a rule would do nothing.
        (
            "[[extend]]\npath = 'method.radius'",
            "that is chosen and some run has, one of learning_rate, rest_learning_rate, method.weight_decay",
        ),
        ("[[extend]]\npath = 'label_smoothing'", "got 'label_smoothing'"),
        ("[[extend]]\npath = 'method.weight_decay'", "got 'method.weight_decay'"),
        (
            "[[extend]]\npath = 'learning_rate'",
            "extend: settings are chosen by validation score, expected",
        ),
        ("confirm_seeds = [5]", "confirm_seeds: settings are chosen by validation score, expected"),
        (
            "confirm_seeds = [5]\n[[confirm_also]]\nwhen = {seed = 1}",
            "confirm_also[0].when: seed: expected settings other than the seed",
        ),
        ("[[extend]]\nfactor = 2", "extend[0].path: missing"),
        (
            "[[added]]\nrun = 'abc'\nseeds = [3]",
            "added[0].run: expected the key of a run of this study, or no [[added]], which the runner writes",
        ),
    ],
)
def test_wrong_rules_in_a_file_are_told(text: str, fault: str) -> None:
    head, _, tables = text.partition("[[")
    whole = f"seeds = [0, 1]\n{head}\n[[methods]]\nname = 'wrs'\n" + (f"[[{tables}" if tables else "")
    with pytest.raises(SpecError) as error:
        StudySpec.from_toml(whole)
    assert fault in str(error.value)


KEY = spec_with().runs()[0].key


def test_added_settings_that_no_run_can_have_are_told() -> None:
    with pytest.raises(SpecError, match=r"added\[0\]\.set: learning_rate: .* above 0, got -1"):
        spec_with(added=(Added(KEY, (3,), (("learning_rate", -1.0),)),))


@pytest.mark.parametrize("wrong", [None, [], "a", float("nan"), object(), (("learning_rate",),)])
@pytest.mark.parametrize(
    ("field", "made"),
    [
        ("extend", lambda wrong: Extension(wrong)),
        ("extend", lambda wrong: Extension("learning_rate", factor=wrong)),
        ("extend", lambda wrong: Extension("learning_rate", at_most=wrong)),
        ("confirm_also", lambda wrong: Always(wrong)),
        ("added", lambda wrong: Added(wrong, (3,))),
        ("added", lambda wrong: Added(KEY, wrong)),
        ("added", lambda wrong: Added(KEY, (3,), wrong)),
    ],
)
def test_wrong_rules_made_in_python_are_told(
    field: str, made: Callable[[object], object], wrong: object
) -> None:
    with pytest.raises(SpecError, match=rf"{field}\[0\]"):
        spec_with(**{field: (made(wrong),)})
