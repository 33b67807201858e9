"""The numbers of a study against numpy and scipy on the rows that were written.

What is made of them in text and charts is tested beside this file.
"""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from decayfree.methods import WRS, NoTreatment, WeightDecay
from decayfree.report import compare, study_groups, study_numbers
from decayfree.report.numbers.series import mean_effective_learning_rate, mean_norm
from decayfree.study import read_study
from support.synthetic_study import FINAL_TEST, METHODS, WEIGHTS, Writer, study_spec


def test_final_accuracies_are_those_of_the_last_rows(tmp_path: Path) -> None:
    numbers = study_numbers(read_study(Writer(tmp_path).write()))
    assert [method.label for method in numbers.methods] == list(FINAL_TEST)
    for method in numbers.methods:
        assert list(method.test.values()) == pytest.approx(FINAL_TEST[method.label], abs=1e-12)
        assert method.final_test is not None
        assert method.final_test.mean == pytest.approx(np.mean(FINAL_TEST[method.label]))


def test_a_curve_is_the_mean_and_t_interval_of_each_step(tmp_path: Path) -> None:
    study = read_study(Writer(tmp_path).write())
    runs = [run for run in study.runs if run.method == "wrs"]
    curve = study_numbers(study).methods[-1].curve(lambda row: row.test_score)
    index = 9
    values = [run.rows[index].test_score for run in runs]
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert curve.steps == tuple(row.step for row in runs[0].rows)
    assert curve.mean[index] == pytest.approx(np.mean(values))
    assert (curve.low[index], curve.high[index]) == pytest.approx((expected.low, expected.high))


def test_a_logarithmic_curve_is_a_geometric_mean_whose_interval_is_above_zero(tmp_path: Path) -> None:
    study = read_study(Writer(tmp_path).write())
    rows = [run.rows[5] for run in study.runs if run.method == "none"]
    values = [row.norms[WEIGHTS[0]] for row in rows]
    curve = study_numbers(study).methods[0].curve(lambda row: row.norms[WEIGHTS[0]], is_logarithmic=True)
    expected = stats.ttest_1samp(np.log(values), 0.0).confidence_interval(0.95)
    assert curve.mean[5] == pytest.approx(stats.gmean(values))
    assert (curve.low[5], curve.high[5]) == pytest.approx((math.exp(expected.low), math.exp(expected.high)))


def test_means_over_weights_are_geometric(tmp_path: Path) -> None:
    row = read_study(Writer(tmp_path).write()).runs[0].rows[3]
    assert mean_norm(row) == pytest.approx(stats.gmean(list(row.norms.values())))
    assert mean_effective_learning_rate(row) == pytest.approx(
        stats.gmean(list(row.effective_learning_rates.values()))
    )


def test_a_step_without_a_finite_number_in_every_seed_is_a_gap(tmp_path: Path) -> None:
    def blind_one(settings: object, row: dict[str, object]) -> None:
        if settings.seed == 2 and row["step"] == 480:  # type: ignore[attr-defined]
            row["off_span_share"] = None

    method = study_numbers(read_study(Writer(tmp_path, change_row=blind_one).write())).methods[0]
    curve = method.curve(lambda row: row.off_span_share)
    gaps = [step for step, mean in zip(curve.steps, curve.mean, strict=True) if mean is None]
    assert gaps == [480]


def test_a_logarithm_of_zero_is_a_gap(tmp_path: Path) -> None:
    def stop(settings: object, row: dict[str, object]) -> None:
        if row["step"] == 1200:
            row["effective_learning_rates"] = dict.fromkeys(WEIGHTS, 0.0)

    method = study_numbers(read_study(Writer(tmp_path, change_row=stop).write())).methods[0]
    assert method.curve(mean_effective_learning_rate, is_logarithmic=True).mean[-1] is None


@pytest.mark.parametrize("state", ["diverged", "failed", "running"])
def test_runs_that_are_not_done_do_not_count(tmp_path: Path, state: str) -> None:
    writer = Writer(
        tmp_path, states={("no decay", 0): (state, None)}, not_begun=frozenset({("WRS, radius 1", 4)})
    )
    numbers = study_groups(read_study(writer.write()))
    assert [method.n for method in numbers.cells] == [4, 5, 5, 5, 4]
    assert [len(method.begun) for method in numbers.cells] == [5, 5, 5, 5, 4]
    difference = compare(numbers).entries[0].difference
    assert difference is not None
    assert difference.n == 3  # seeds 1 to 3


def test_one_seed_has_a_curve_without_an_interval(tmp_path: Path) -> None:
    curve = (
        study_numbers(read_study(Writer(tmp_path, spec=study_spec(n_seeds=1)).write()))
        .methods[0]
        .curve(lambda row: row.test_score)
    )
    assert None not in curve.mean
    assert set(curve.low) == set(curve.high) == {None}


@pytest.mark.parametrize(
    ("methods", "reference"),
    [
        (METHODS, "WRS, radius 1"),
        ((NoTreatment(), WeightDecay(5e-3), WeightDecay(5e-4)), "weight decay 0.005"),
        ((NoTreatment(),), "no decay"),
    ],
)
def test_others_are_compared_with_rescaling_else_with_decay(
    tmp_path: Path, methods: tuple, reference: str
) -> None:
    numbers = study_numbers(read_study(Writer(tmp_path, spec=study_spec(methods=methods)).write()))
    assert numbers.reference is not None
    assert numbers.reference.label == reference


def test_sentences_name_a_method_shortly_where_one_setting_of_it_is_there(tmp_path: Path) -> None:
    spec = study_spec(methods=(NoTreatment(), WRS(), WRS(radius=2.0)))
    final = {"no decay": (0.9,) * 5, "WRS, radius 1": (0.9,) * 5, "WRS, radius 2": (0.9,) * 5}
    numbers = study_numbers(read_study(Writer(tmp_path, spec=spec, final_test=final).write()))
    assert [method.short for method in numbers.methods] == ["no decay", "WRS, radius 1", "WRS, radius 2"]
    assert [m.short for m in study_numbers(read_study(Writer(tmp_path / "other").write())).methods][3:] == [
        "learning-rate scaling",
        "WRS",
    ]
