"""What the page says about who is better, against scipy on numbers that the test chooses.

Curves are not judged here.
"""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from decayfree.methods import WRS, NoTreatment, WeightDecay
from decayfree.report import StudyNumbers, final_rows, study_numbers
from decayfree.report.tables.final_rows import strip_axis
from decayfree.report.words.verdicts import decimals, results, statistics_note, summary
from decayfree.study import read_study
from support.synthetic_study import FINAL_TEST, Writer, study_spec

NBSP = "\N{NO-BREAK SPACE}"
RESCALED = (0.870, 0.880, 0.860, 0.875, 0.865)
NOISE = np.array((0.004, -0.007, 0.002, 0.006, -0.003))


def two_methods(folder: Path, none: tuple[float, ...], *, n_seeds: int = 5) -> StudyNumbers:
    """A study of no decay against WRS, with these final accuracies of no decay."""
    spec = study_spec(methods=(NoTreatment(), WRS()), n_seeds=n_seeds)
    return study_numbers(
        read_study(
            Writer(folder, spec=spec, final_test={"no decay": none, "WRS, radius 1": RESCALED}).write()
        )
    )


def shifted(by: float) -> tuple[float, ...]:
    return tuple(np.array(RESCALED) + by + NOISE)


def difference_in_points(none: tuple[float, ...]) -> tuple[float, float, float]:
    """Mean and both ends of scipy's interval of the paired difference, no decay minus WRS."""
    test = stats.ttest_rel(none, RESCALED).confidence_interval(0.95)
    return 100 * float(np.mean(np.subtract(none, RESCALED))), 100 * test.low, 100 * test.high


def plain(text: str) -> str:
    return text.replace(NBSP, " ")


def test_rescaling_that_is_better_is_said_to_be_better_by_how_much(tmp_path: Path) -> None:
    none = shifted(-0.03)
    mean, low, high = difference_in_points(none)
    text = plain(results(two_methods(tmp_path, none)))
    assert (
        f"WRS is better than no decay (by {-mean:.1f} points, 95 % interval {-high:.1f} to {-low:.1f})."
        in text
    )
    assert "WRS is not seen to be worse than any other method." in text
    assert f"The highest mean is that of WRS: {100 * np.mean(RESCALED):.1f} %." in text
    assert "No difference seen" not in text


def test_rescaling_that_is_worse_is_said_to_be_worse_in_the_same_words(tmp_path: Path) -> None:
    none = shifted(0.03)
    mean, low, high = difference_in_points(none)
    numbers = two_methods(tmp_path, none)
    text = plain(results(numbers))
    assert (
        f"WRS is worse than no decay (by {mean:.1f} points, 95 % interval {low:.1f} to {high:.1f})." in text
    )
    assert "WRS is not seen to be better than any other method." in text
    assert f"The highest mean is that of no decay: {100 * np.mean(none):.1f} %." in text
    assert "That is worse than no decay." in summary(numbers)


def test_no_difference_is_stated_with_the_smallest_that_could_have_been_seen(tmp_path: Path) -> None:
    none = shifted(0.002)
    mean, low, high = difference_in_points(none)
    assert low < 0 < high
    numbers = two_methods(tmp_path, none)
    text = plain(results(numbers))
    assert (
        "No difference seen (smallest difference that these 5 seeds could have shown) between WRS and: "
        f"no decay ({(high - low) / 2:.1f} points)."
    ) in text
    assert "WRS is not seen to be better than any other method. WRS is not seen to be worse" in text
    assert "No difference is seen to no decay." in summary(numbers)
    row = final_rows(numbers)[0]
    assert (row.seen, plain(row.smallest_visible)) == ("no difference seen", f"{(high - low) / 2:.1f} points")
    assert row.difference == f"{mean:+.1f}".replace("-", "−")
    assert row.difference_interval == f"{low:+.1f} to {high:+.1f}".replace("-", "−")


def test_one_seed_says_nothing(tmp_path: Path) -> None:
    numbers = two_methods(tmp_path, shifted(-0.03), n_seeds=1)
    assert "About no decay, one seed in common says nothing." in results(numbers)
    assert "One seed says nothing about the difference to no decay." in summary(numbers)
    assert "87.0 % (one seed, so no interval)" in plain(summary(numbers))
    assert final_rows(numbers)[0].seen == "one seed in common: nothing can be said"


def test_the_summary_counts_what_was_trained(tmp_path: Path) -> None:
    states = {("no decay", 2): ("diverged", "the loss was not finite")}
    text = plain(summary(study_numbers(read_study(Writer(tmp_path, states=states).write()))))
    assert "digits (400 training and 897 test images, 20 % of the training labels drawn at random)" in text
    assert "by 5 methods with 5 seeds each; 24 of 25 runs are done." in text
    values = FINAL_TEST["WRS, radius 1"]
    ends = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    accuracy = (
        f"{100 * np.mean(values):.1f} % (95 % interval {100 * ends.low:.1f} to "
        f"{100 * ends.high:.1f} %, n = 5)"
    )
    assert f"WRS ends at a test accuracy of {accuracy}." in text


def test_a_study_without_a_finished_run_says_so(tmp_path: Path) -> None:
    states = {("no decay", 0): ("running", None), ("WRS, radius 1", 0): ("failed", "no memory")}
    spec = study_spec(methods=(NoTreatment(), WRS()), n_seeds=1)
    final = {"no decay": RESCALED, "WRS, radius 1": RESCALED}
    numbers = study_numbers(read_study(Writer(tmp_path, spec=spec, states=states, final_test=final).write()))
    assert "Nothing can be said before a run is done." in summary(numbers)
    assert results(numbers) == "No run is done, so there is no final accuracy to show."
    assert [row.seen for row in final_rows(numbers)] == ["no finished run", "no finished run"]


def test_a_method_without_a_common_seed_is_not_compared(tmp_path: Path) -> None:
    spec = study_spec(methods=(NoTreatment(), WRS()), n_seeds=2)
    states = {("no decay", 0): ("failed", "x"), ("WRS, radius 1", 1): ("failed", "x")}
    final = {"no decay": RESCALED, "WRS, radius 1": RESCALED}
    numbers = study_numbers(read_study(Writer(tmp_path, spec=spec, states=states, final_test=final).write()))
    assert (
        results(numbers) == "WRS has no finished run in common with another method: there is no comparison."
    )
    assert final_rows(numbers)[0].seen == "no seed in common"


def test_the_note_bounds_the_chance_of_a_false_difference(tmp_path: Path) -> None:
    text = plain(statistics_note(study_numbers(read_study(Writer(tmp_path).write()))))
    assert (
        "Holm's correction for all 4 comparisons: the chance that any shows a difference where "
        "there is none is at most 5 %."
    ) in text
    assert "All methods got the same learning rate, tuned for none of them" in text
    assert "beyond 100 %" not in text


def test_a_difference_that_four_comparisons_may_show_by_chance_is_not_called_one(tmp_path: Path) -> None:
    # Alone p is 0.03, and its interval leaves out zero; beside three comparisons that show nothing it is
    # 0.12.
    base = FINAL_TEST["WRS, radius 1"]
    noise = (0.004, -0.004, 0.003, -0.003, 0.0)
    shift = (0.012, 0.004, 0.001, 0.009, 0.006)
    final = {label: tuple(b + n for b, n in zip(base, noise, strict=True)) for label in FINAL_TEST}
    final |= {"WRS, radius 1": base, "no decay": tuple(b - s for b, s in zip(base, shift, strict=True))}
    numbers = study_numbers(read_study(Writer(tmp_path, final_test=final).write()))
    judgement = numbers.comparison(numbers.methods[0])
    assert judgement is not None
    assert judgement.comparison.verdict == "lower"
    assert judgement.verdict == "no difference seen"
    assert judgement.adjusted_p == pytest.approx(4 * (judgement.p_value or 0))
    assert "No difference is seen to no decay" in plain(summary(numbers))


def test_the_note_explains_an_interval_beyond_100_percent(tmp_path: Path) -> None:
    spec = study_spec(methods=(NoTreatment(), WeightDecay(5e-4)), n_seeds=2)
    final = {"no decay": (0.95, 0.99), "weight decay 0.0005": (0.95, 0.97)}
    numbers = study_numbers(read_study(Writer(tmp_path, spec=spec, final_test=final).write()))
    assert "A t interval of few seeds can reach beyond 100 %." in plain(statistics_note(numbers))


@pytest.mark.parametrize(("scale", "expected"), [(1.0, 1), (0.2, 2)])
def test_narrow_intervals_get_a_second_decimal(tmp_path: Path, scale: float, expected: int) -> None:
    final = {name: tuple(0.87 + scale * (np.array(values) - 0.87)) for name, values in FINAL_TEST.items()}
    assert decimals(study_numbers(read_study(Writer(tmp_path, final_test=final).write()))) == expected


def test_the_strips_show_every_seed_and_every_interval(tmp_path: Path) -> None:
    numbers = study_numbers(read_study(Writer(tmp_path).write()))
    low, high = strip_axis(numbers)
    for row in final_rows(numbers):
        assert len(row.accuracies) == row.n == 5
        assert low < min(*row.accuracies, *row.ends)
        assert max(*row.accuracies, *row.ends) < high
