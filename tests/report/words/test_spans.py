"""What the page says of off-span shares and spectra, against numbers computed here from the files.

The charts are tested in `test_charts`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from decayfree.report import StudyNumbers, study_numbers
from decayfree.report.numbers.spectra import first_spectrum, last_spectrum
from decayfree.report.words import spans
from decayfree.study import RunSettings, Study, read_study
from support.synthetic_study import SHORT, WEIGHTS, Writer, column


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return read_study(Writer(tmp_path_factory.mktemp("study")).write())


@pytest.fixture(scope="module")
def numbers(study: Study) -> StudyNumbers:
    return study_numbers(study)


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_off_span_shares_are_compared_seed_by_seed(study: Study, numbers: StudyNumbers) -> None:
    text, figures = plain(spans.off_span(numbers)), spans.off_span_figures(numbers)
    shares = {label: column(study, label, lambda row: row.off_span_share) for label in SHORT}
    assert f"starts at {100 * shares['no decay'][:, 0].mean():.1f} % under every method" in text
    for label, short in SHORT.items():
        assert plain(figures["At the end"][short][1]) == f"{100 * shares[label][:, -1].mean():.1f} %"
    difference = stats.ttest_rel(
        shares["WRS, radius 1"][:, -1], shares["no decay"][:, -1]
    ).confidence_interval(0.95)
    mean = (shares["WRS, radius 1"][:, -1] - shares["no decay"][:, -1]).mean()
    assert "WRS ends lower than no decay" in text
    assert figures["WRS minus …, points"]["no decay"][1] == f"−{-100 * mean:.1f}"
    ends = f"−{-100 * difference.low:.1f} to −{-100 * difference.high:.1f}"
    assert figures["95\xa0% interval"]["no decay"][1] == ends
    asked = study_numbers(study, "none")
    assert "no decay and learning-rate scaling no difference is seen" in plain(spans.off_span(asked))
    assert "80\xa0% power: " in spans.off_span_figures(asked)["no decay is"]["learning-rate scaling"][1]
    assert "No decay ends higher than " in spans.off_span(asked)


def test_a_share_that_was_not_recorded_is_not_made_up(tmp_path: Path) -> None:
    def blind(settings: RunSettings, row: dict[str, Any]) -> None:
        row["off_span_share"] = None

    text = spans.off_span(study_numbers(read_study(Writer(tmp_path, change_row=blind).write())))
    assert text == "No off-span share of features.0.weight was recorded."


def test_the_cautions_on_off_span_shares_are_stated(numbers: StudyNumbers) -> None:
    notes = " ".join(spans.off_span_notes(numbers))
    for caution in (
        "what happens inside the span does not depend on the off-span part at all",
        "off-span noise acts only through test images that have off-span content",
        "Under WRS it does matter in training, because it takes part of the unit norm",
        "their exact off-span space is usually empty",
        "for all layers see the spectrum below",
        "fed as three equal channels",
        "has full rank, 9",
        "18 of the 27 directions",
    ):
        assert caution in notes


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (0.0, "The law (circles) says exactly that, at every sample of every method."),
        (
            3e-5,
            (
                "says the same at every sample of every method: they differ by a relative "
                "3.0e−5 at most, under WRS."
            ),
        ),
        (
            -0.05,
            "they differ by a relative 0.0050 at most, under no decay. "
            "Measured shares depart from the law by a relative 0.050 under WRS, "
            "at the sample where they do most.",
        ),
        (-0.25, "says exactly that, at every sample of weight decay 0.0005"),
        (-0.25, "by a relative 0.025 under no decay and 0.25 under WRS, at the sample where they do most."),
    ],
)
def test_the_largest_distance_from_the_law_is_named_with_its_method(
    tmp_path: Path, error: float, said: str
) -> None:
    def depart(settings: RunSettings, row: dict[str, Any]) -> None:
        if settings.method.name == "wrs" and settings.seed == 3 and row["step"] == 480:
            row["off_span_share"] = row["off_span_law"] * (1 + error)
        elif settings.method.name == "none" and row["step"] == 96:
            row["off_span_share"] = row["off_span_law"] * (1 + error / 10)

    text = spans.off_span(study_numbers(read_study(Writer(tmp_path, change_row=depart).write())))
    assert said in plain(text)


def test_images_without_an_off_span_space_keep_the_law(tmp_path: Path) -> None:
    def fill_space(settings: RunSettings, row: dict[str, Any]) -> None:
        row["off_span_share"] = row["off_span_law"] = 0.0

    text = spans.off_span(study_numbers(read_study(Writer(tmp_path, change_row=fill_space).write())))
    assert "The law (circles) says exactly that" in text


def test_a_law_that_was_not_recorded_is_not_made_up(tmp_path: Path) -> None:
    def forget(settings: RunSettings, row: dict[str, Any]) -> None:
        del row["off_span_law"], row["angular_updates"]

    text = spans.off_span(study_numbers(read_study(Writer(tmp_path, change_row=forget).write())))
    assert "Its law was not recorded with these runs." in text


def test_the_energy_in_the_main_directions_is_stated_for_the_first_and_the_last_layer(
    study: Study, numbers: StudyNumbers
) -> None:
    text, figures = plain(spans.spectrum(numbers)), spans.spectrum_figures(numbers)
    assert "the directions that hold 99 % of the variance of its inputs" in text
    for weight in (WEIGHTS[0], WEIGHTS[-1]):
        assert f"In {weight} it is 62.5 % before training, after it" in text
        assert plain(figures[weight]["before training"][1]) == "62.5 % in 5 to 6 of 8"
        for label, short in SHORT.items():
            energies = [run.spectra[1200][weight].main_energy for run in study.runs if run.label == label]
            assert plain(figures[weight][short][1]) == f"{100 * np.mean(energies):.1f} % in 5 to 6 of 8"
    # 0.625 + 0.1 + the mean of 0.00 to 0.04.
    assert plain(figures[WEIGHTS[0]]["WRS"][1]).startswith("74.5 % ")
    assert WEIGHTS[1] not in text
    assert WEIGHTS[1] not in figures


def test_a_mean_spectrum_is_relative_to_an_even_spread(numbers: StudyNumbers) -> None:
    wrs = numbers.methods[-1]
    before, after = first_spectrum([wrs], WEIGHTS[0]), last_spectrum([wrs], WEIGHTS[0])
    assert before is not None
    assert after is not None
    assert before.ranks == (0.125, 0.375, 0.625, 0.875)
    assert before.energy == (1.0, 1.0, 1.0, 1.0)
    assert after.energy == pytest.approx((4 * 0.37, 1.0, 1.0, 4 * 0.13))
    assert after.variance == pytest.approx((2.8, 1.0, 0.18, 0.02))
    assert (after.n, after.n_directions, after.n_main) == (5, 8, (5, 6, 5, 6, 5))
    assert first_spectrum(numbers.shown, WEIGHTS[0]).n == 25  # type: ignore[union-attr]


def test_a_spectrum_that_is_not_finite_does_not_count(tmp_path: Path) -> None:
    def die(settings: RunSettings, spectra: dict[str, Any]) -> None:
        if settings.seed == 2:
            spectra["1200"][WEIGHTS[0]]["variance"] = [None] * 4

    wrs = study_numbers(read_study(Writer(tmp_path, change_spectra=die).write())).methods[-1]
    assert [last_spectrum([wrs], name).n for name in WEIGHTS[:2]] == [4, 5]  # type: ignore[union-attr]


def test_spectra_that_were_not_recorded_are_not_made_up(tmp_path: Path) -> None:
    numbers = study_numbers(read_study(Writer(tmp_path, change_spectra=lambda _, all: all.clear()).write()))
    assert spans.spectrum(numbers) == "No spectrum was recorded."


def test_the_notes_on_spectra_say_what_is_averaged(tmp_path: Path, numbers: StudyNumbers) -> None:
    assert "Means over the kernels of a layer and over the seeds (n = 5)." in plain(
        " ".join(spans.spectrum_notes(numbers))
    )
    writer = Writer(tmp_path, not_begun=frozenset({("no decay", 4)}))
    uneven = plain(" ".join(spans.spectrum_notes(study_numbers(read_study(writer.write())))))
    assert "over the seeds (n: 4 (no decay) to 5 (weight decay 0.0005))" in uneven
