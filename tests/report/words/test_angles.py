"""What the page says of angular updates that are known multiples of those that theory predicts.

In the synthetic study they are the predicted ones under decay, but for the last quarter, where they are half
of them.
"""

import math
from pathlib import Path
from typing import Any

import pytest

from decayfree.methods import WRS, NoTreatment
from decayfree.report import StudyNumbers, study_numbers
from decayfree.report.numbers.series import mean_angular_update, predicted_angles
from decayfree.report.words import angles
from decayfree.study import RunSettings, Study, read_study
from support.synthetic_study import Writer, study_spec

DECAYS = ("weight decay 0.0005", "weight decay 0.005")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return read_study(Writer(tmp_path_factory.mktemp("study")).write())


@pytest.fixture(scope="module")
def numbers(study: Study) -> StudyNumbers:
    return study_numbers(study)


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def said_of(folder: Path, change: Any) -> str:
    return plain(angles.angular_updates(study_numbers(read_study(Writer(folder, change_row=change).write()))))


def scaled(row: dict[str, Any], factor: float) -> dict[str, Any]:
    return {name: angle and angle * factor for name, angle in row["angular_updates"].items()}


def both(text: str) -> str:
    return f"{text} ({DECAYS[0]}) and {text} ({DECAYS[1]})"


def test_measured_angles_are_held_against_predicted_ones_early_and_late(numbers: StudyNumbers) -> None:
    text = plain(angles.angular_updates(numbers))
    assert (
        "In the second quarter of the steps, until the learning rate is 50 % of its first, the angle "
        f"is {both('×1.00')} of the predicted one, in the geometric mean over samples."
    ) in text
    assert f"In the last quarter it is {both('×0.500')}. After the last step it is {both('×0.500')}." in text
    assert (
        "So in the last quarter the prediction does not hold for weight decay 0.0005 and weight decay 0.005."
    ) in text
    # η = 0.1·(1 + cos(3π/4))/2 = 0.014645: 0.1/(4·0.014645·0.0005) = 3,414 steps.
    assert (
        "Where it is smaller, the norm cannot follow. When the last quarter begins, the learning rate is "
        "15 % of its first, and 300 steps are left. The norm comes to its balance with a time constant of "
        "3,414 steps (weight decay 0.0005) and 341 steps (weight decay 0.005), which grows as the rate "
        "falls on."
    ) in text


def test_the_angles_half_way_are_stated(numbers: StudyNumbers) -> None:
    """√(2 · 0.05 · 0.0005 / 1.9), and 0.2 η under WRS; at step 576, one of two next to the middle."""
    rate = 0.05 * (1 + math.cos(math.pi * 575 / 1200))
    text = plain(angles.angular_updates(numbers))
    assert "Halfway, at step 576, one step turns a block by" in text
    told = {
        name: plain(said) for name, (_, said) in angles.angle_figures(numbers)["Angle at step 576"].items()
    }
    assert told["weight decay 0.0005"] == f"{math.sqrt(2 * rate * 0.0005 / 1.9):#.3g} rad"
    assert told["WRS"] == f"{0.2 * rate:#.3g} rad"


def test_a_prediction_that_holds_to_the_end_is_said_to_hold(tmp_path: Path) -> None:
    def follow(settings: RunSettings, row: dict[str, Any]) -> None:
        if settings.method.name == "weight_decay" and row["step"] > 900:
            row["angular_updates"] = scaled(row, 2.1)

    text = said_of(tmp_path, follow)
    assert f"In the last quarter it is {both('×1.05')}" in text
    assert "So it is what is predicted within 10 % also in the last quarter." in text


def test_angles_that_are_too_large_are_not_put_down_to_norms_that_stay_behind(tmp_path: Path) -> None:
    def overshoot(settings: RunSettings, row: dict[str, Any]) -> None:
        if settings.label == DECAYS[0] and row["step"] > 900:
            row["angular_updates"] = scaled(row, 3.0)

    text = said_of(tmp_path, overshoot)
    assert "does not hold for weight decay 0.0005 and weight decay 0.005. Where it is smaller" in text
    assert "a time constant of 341 steps (weight decay 0.005), which" in text


def test_under_a_held_norm_the_angle_follows_the_learning_rate(tmp_path: Path) -> None:
    def drift(settings: RunSettings, row: dict[str, Any]) -> None:
        if settings.method.name == "wrs" and row["step"] == 960:
            row["angular_updates"] = scaled(row, 1.5)

    fall = (1 + math.cos(math.pi * 1199 / 1200)) / (1 + math.cos(math.pi * 575 / 1200))
    mantissa, exponent = f"{fall:.2e}".split("e")
    assert (
        "Under WRS the norm is held, so that the angle follows the learning rate: from halfway on that "
        f"changes by ×{mantissa}e−{-int(exponent)}, and the angle over it is ×1.00 to ×1.50 of what it was"
    ) in said_of(tmp_path, drift)


def test_predictions_are_those_of_the_step_that_was_measured(numbers: StudyNumbers) -> None:
    decay = numbers.methods[1]
    points = predicted_angles(decay)
    assert [step for step, _ in points] == [row.step for row in decay.runs[0].rows[1:]]
    step, angle = points[12]
    rate = 0.05 * (1 + math.cos(math.pi * (step - 1) / 1200))
    chord = math.sqrt(2 * rate * 0.0005 / 1.9)
    assert angle == pytest.approx(2 * math.asin(chord / 2))
    assert mean_angular_update(decay.runs[0].rows[13]) == pytest.approx(angle, rel=1e-3)
    assert predicted_angles(numbers.methods[0]) == []


def test_the_notes_say_how_long_it_takes_to_come_to_balance(numbers: StudyNumbers) -> None:
    """(1 − 0.9)/(4 · 0.1 · 0.0005) = 500 steps; halfway the learning rate is half as high."""
    notes, figures = plain(" ".join(angles.angular_update_notes(numbers))), angles.angle_figures(numbers)
    assert [plain(said) for _, said in figures["Time constant at first"].values()] == [
        "500 steps",
        "50 steps",
    ]
    assert [plain(figures["… halfway"][name][1]) for name in DECAYS] == ["1,000 steps", "100 steps"]
    assert "which stands in the table; the training has 1,200." in notes
    assert "√(2ηλ/(1+μ))" in notes
    assert "the norm stays behind" in notes


def test_a_study_without_decay_predicts_nothing(tmp_path: Path) -> None:
    spec = study_spec(methods=(NoTreatment(), WRS()))
    final = {"no decay": (0.9,) * 5, "WRS, radius 1": (0.9,) * 5}
    numbers = study_numbers(read_study(Writer(tmp_path, spec=spec, final_test=final).write()))
    assert "predicted" not in angles.angular_updates(numbers)
    assert len(angles.angular_update_notes(numbers)) == 1


@pytest.mark.parametrize(("n_intervals", "has_early"), [(1, False), (2, True)])
def test_few_samples_give_fewer_sentences(tmp_path: Path, n_intervals: int, has_early: bool) -> None:
    text = angles.angular_updates(
        study_numbers(read_study(Writer(tmp_path, n_intervals=n_intervals).write()))
    )
    assert ("In the second quarter" in text) == has_early
    assert "After the last step" in text
    assert "nan" not in text


def test_angles_that_were_not_recorded_are_not_made_up(tmp_path: Path) -> None:
    def forget(settings: RunSettings, row: dict[str, Any]) -> None:
        del row["angular_updates"], row["off_span_law"]

    assert said_of(tmp_path, forget) == "No angular update was recorded."
