"""What the page says about each chart, against numbers that are computed here from the rows.

Final accuracies are judged in `test_verdicts`.
"""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from decayfree.methods import WRS, NoTreatment
from decayfree.report import StudyNumbers, study_numbers
from decayfree.report.words import angles, spans
from decayfree.report.words import curves as findings
from decayfree.study import RunSettings, Study, read_study
from support.synthetic_study import SHORT, WEIGHTS, Writer, column, study_spec


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return read_study(Writer(tmp_path_factory.mktemp("study")).write())


@pytest.fixture(scope="module")
def numbers(study: Study) -> StudyNumbers:
    return study_numbers(study)


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def geometric_norm(row: Any) -> float:
    return float(stats.gmean([row.norms[name] for name in WEIGHTS]))


def three_digits(ratio: float) -> str:
    return f"×{ratio:#.3g}".rstrip(".")


def test_the_step_at_which_each_mean_reaches_the_common_level(study: Study, numbers: StudyNumbers) -> None:
    means = {SHORT[label]: column(study, label, lambda row: row.test_score).mean(axis=0) for label in SHORT}
    level = math.floor(95 * min(mean[-1] for mean in means.values())) / 100
    steps = [row.step for row in study.runs[0].rows]
    first = {name: steps[int(np.argmax(mean >= level))] for name, mean in means.items()}
    text = plain(findings.test_score(numbers))
    assert f"The means of all methods end above {100 * level:.0f} %" in text
    assert f"and last at step {first['weight decay 0.005']:,} by weight decay 0.005." in text
    told = findings.test_figures(numbers)[f"Step of {100 * level:.0f}\xa0%"]
    assert {name: step for name, (step, _) in told.items()} == first
    assert first["WRS"] == min(first.values())
    assert "WRS is among the first." in text
    assert "Samples are 48 steps apart." in text


def test_a_fall_in_mid_training_is_named_with_its_depth_and_step(study: Study, numbers: StudyNumbers) -> None:
    mean = column(study, "weight decay 0.005", lambda row: row.test_score).mean(axis=0)
    lowest = 3 + int(np.argmin(mean[3:]))
    depth = mean[:lowest].max() - mean[lowest]
    step = study.runs[0].rows[lowest].step
    assert (
        f"On the way the mean of weight decay 0.005 falls by {100 * depth:.1f} points, to "
        f"{100 * mean[lowest]:.1f} % at step {step:,}."
    ) in plain(findings.test_score(numbers))
    assert findings.test_figures(numbers)["Deepest fall"]["weight decay 0.005"][0] == pytest.approx(depth)


def test_rescaling_that_is_slow_is_said_not_to_be_first(tmp_path: Path) -> None:
    def slow_down(settings: RunSettings, row: dict[str, Any]) -> None:
        if settings.method.name == "wrs" and row["step"] < 900:
            row["test_score"] = 0.5

    text = findings.test_score(study_numbers(read_study(Writer(tmp_path, change_row=slow_down).write())))
    assert "WRS is not the first." in text


def test_without_a_fall_the_page_says_so(tmp_path: Path) -> None:
    spec = study_spec(methods=(NoTreatment(), WRS()))
    final = {"no decay": (0.9,) * 5, "WRS, radius 1": (0.9,) * 5}
    numbers = study_numbers(read_study(Writer(tmp_path, spec=spec, final_test=final).write()))
    assert "No mean falls by more than 5 points on the way." in plain(findings.test_score(numbers))


def test_the_gap_between_training_and_test_keeps_its_sign(tmp_path: Path) -> None:
    def train_worse(settings: RunSettings, row: dict[str, Any]) -> None:
        row["train_score"] = row["test_score"] - (0.04 if settings.method.name == "wrs" else -0.10)

    text = plain(
        findings.train_score(study_numbers(read_study(Writer(tmp_path, change_row=train_worse).write())))
    )
    assert "Training minus test accuracy is lowest for WRS (−4.0 points) and highest for" in text
    assert "(+10.0 points)." in text


def test_training_accuracies_and_the_random_labels_are_stated(study: Study, numbers: StudyNumbers) -> None:
    text, figures = plain(findings.train_score(numbers)), findings.train_figures(numbers)["At the end"]
    ends = {
        short: column(study, label, lambda row: row.train_score)[:, -1].mean()
        for label, short in SHORT.items()
    }
    for short, end in ends.items():
        assert plain(figures[short][1]) == f"{100 * end:.1f} %"
    assert {f"{100 * end:.1f}" for end in ends.values()} == {"98.7"}
    assert "Training accuracy ends at 98.7 % (all)." in text
    assert "As 20 % of the training labels are random" in text


def test_norms_change_by_the_factors_in_the_files(study: Study, numbers: StudyNumbers) -> None:
    text, figures = plain(findings.norms(numbers)), findings.norm_figures(numbers)
    for label, short in SHORT.items():
        log_norm = np.log(column(study, label, geometric_norm)).mean(axis=0)
        assert figures["Last over first"][short][1] == three_digits(math.exp(log_norm[-1] - log_norm[0]))
    assert f"the norms change by {figures['Last over first']['weight decay 0.005'][1]} (weight decay" in text
    middle = [2 * row.step >= study.runs[0].rows[-1].step for row in study.runs[0].rows].index(True)
    decay = np.log(column(study, "weight decay 0.005", geometric_norm)).mean(axis=0)
    change = three_digits(math.exp(decay[-1] - decay[middle]))
    assert f"Weight decay 0.005 changes them by {change} in the second half alone." in text
    growth = {
        name: np.log(column(study, "no decay", lambda row, name=name: row.norms[name])).mean(axis=0)
        for name in WEIGHTS
    }
    factors = {name: math.exp(values[-1] - values[0]) for name, values in growth.items()}
    most = max(factors, key=lambda name: factors[name])
    assert f"Under no decay the change is largest for {most} ({three_digits(factors[most])})" in text


@pytest.mark.parametrize(
    ("drift", "said"), [(0.0, "departs from its first value at all"), (2.5e-4, "by more than 0.00025 of it")]
)
def test_how_still_rescaling_holds_norms_is_measured(tmp_path: Path, drift: float, said: str) -> None:
    def move(settings: RunSettings, row: dict[str, Any]) -> None:
        if settings.method.name == "wrs" and settings.seed == 3 and row["step"] == 240:
            row["norms"] = {**row["norms"], WEIGHTS[1]: 1 - drift}

    text = findings.norms(study_numbers(read_study(Writer(tmp_path, change_row=move).write())))
    assert said in text


def test_effective_learning_rates_are_compared_half_way(study: Study, numbers: StudyNumbers) -> None:
    def rate(row: Any) -> float:
        return float(stats.gmean([row.effective_learning_rates[name] for name in WEIGHTS]))

    steps = [row.step for row in study.runs[0].rows]
    index = min(range(len(steps)), key=lambda i: abs(steps[i] - 600))
    half_way = {
        label: math.exp(np.log(column(study, label, lambda row: rate(row) or np.nan)[:, index]).mean())
        for label in SHORT
    }
    text = plain(findings.effective_learning_rates(numbers))
    assert (
        f"Halfway, at step {steps[index]}, the effective learning rate of WRS is "
        f"{half_way['WRS, radius 1']:#.3g}."
    ) in text
    figures = findings.rate_figures(numbers)
    for label in ("no decay", "weight decay 0.0005", "weight decay 0.005"):
        expected = three_digits(half_way[label] / half_way["WRS, radius 1"])
        assert figures["Halfway, over WRS"][label][1] == expected
    assert figures["Change, schedule divided out"]["WRS"][1] == "×1.00"


@pytest.mark.parametrize(
    ("error", "said"), [(0.0, "exactly at every sample"), (0.03, "within a relative 0.030 at every sample")]
)
def test_learning_rate_scaling_is_held_against_the_run_it_replays(
    tmp_path: Path, error: float, said: str
) -> None:
    def err(settings: RunSettings, row: dict[str, Any]) -> None:
        if settings.method.name == "learning_rate_scaling" and settings.seed == 1 and row["step"] == 480:
            row["effective_learning_rates"] = {
                k: v * (1 + error) for k, v in row["effective_learning_rates"].items()
            }

    text = findings.effective_learning_rates(
        study_numbers(read_study(Writer(tmp_path, change_row=err).write()))
    )
    assert (
        f"Learning-rate scaling follows weight decay 0.0005 of the same seed, as it is meant to, {said}."
        in text
    )


@pytest.mark.parametrize(
    "paragraph",
    [
        findings.test_score,
        findings.train_score,
        findings.norms,
        findings.effective_learning_rates,
        angles.angular_updates,
        spans.off_span,
        spans.spectrum,
    ],
)
def test_without_a_finished_run_no_paragraph_claims_anything(tmp_path: Path, paragraph: Any) -> None:
    spec = study_spec(methods=(NoTreatment(), WRS()), n_seeds=1)
    states = {("no decay", 0): ("running", None), ("WRS, radius 1", 0): ("running", None)}
    final = {"no decay": (0.9,), "WRS, radius 1": (0.9,)}
    numbers = study_numbers(read_study(Writer(tmp_path, spec=spec, states=states, final_test=final).write()))
    assert paragraph(numbers) == "No run is done, so there is nothing to see."


def test_no_number_in_the_text_is_not_a_number(numbers: StudyNumbers) -> None:
    everything = " ".join(
        paragraph(numbers)
        for paragraph in (
            findings.test_score,
            findings.train_score,
            findings.norms,
            findings.effective_learning_rates,
            angles.angular_updates,
            spans.off_span,
            spans.spectrum,
        )
    )
    assert not re.search(r"\b(nan|inf|None)\b", everything)
