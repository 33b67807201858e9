"""What the page says about who is better, against scipy on numbers that the test chooses.

Curves are not judged here.
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from decayfree.methods import WRS, NoTreatment, WeightDecay
from decayfree.report import StudyGroups, compare, study_groups
from decayfree.report.numbers.compared import Entries
from decayfree.report.tables.comparison import comparison_table, strip_axis
from decayfree.report.tables.glance import glance_table
from decayfree.report.tables.table import TableCell
from decayfree.report.words.verdicts import decimals, results, statistics_notes, summary, verdict
from decayfree.study import read_study
from support.synthetic_study import FINAL_TEST, Writer, study_spec

NBSP = "\N{NO-BREAK SPACE}"
RESCALED = (0.870, 0.880, 0.860, 0.875, 0.865)
NOISE = np.array((0.004, -0.007, 0.002, 0.006, -0.003))


Found = tuple[StudyGroups, Entries]


def compared(writer: Writer) -> Found:
    """The study sorted, and the comparisons of its page."""
    groups = study_groups(read_study(writer.write()))
    return groups, compare(groups)


def two_methods(folder: Path, none: tuple[float, ...], *, n_seeds: int = 5) -> Found:
    """A study of no decay against WRS, with these final accuracies of no decay."""
    spec = study_spec(methods=(NoTreatment(), WRS()), n_seeds=n_seeds)
    return compared(Writer(folder, spec=spec, final_test={"no decay": none, "WRS, radius 1": RESCALED}))


def said_in_short(found: Found) -> str:
    return plain(" ".join((verdict(*found), *summary(*found))))


def row_of(found: Found, index: int = 0) -> dict[str, TableCell]:
    """A row of the table, by the titles of its columns."""
    table = comparison_table(*found, "id", "caption")
    return dict(zip((column.title for column in table.columns), table.rows[index].cells, strict=True))


def shifted(by: float) -> tuple[float, ...]:
    return tuple(np.array(RESCALED) + by + NOISE)


def difference_in_points(none: tuple[float, ...]) -> tuple[float, float, float]:
    """Mean and both ends of scipy's interval of the paired difference, WRS minus no decay."""
    test = stats.ttest_rel(RESCALED, none).confidence_interval(0.95)
    return 100 * float(np.mean(np.subtract(RESCALED, none))), 100 * test.low, 100 * test.high


def plain(text: str) -> str:
    return text.replace(NBSP, " ")


def test_rescaling_that_is_better_is_said_to_be_better_by_how_much(tmp_path: Path) -> None:
    none = shifted(-0.03)
    mean, low, high = difference_in_points(none)
    found = two_methods(tmp_path, none)
    text = plain(results(found[1]))
    assert "WRS is better than no decay." in text
    row = row_of(found)
    assert row["WRS minus …"].text == f"+{mean:.1f}"
    assert row["WRS minus …"].note == f"+{low:.1f} to +{high:.1f}"
    assert row["Seen"].text == "higher"
    assert plain(row["Seen"].note) == "exact sign-flip p = 0.062"  # five equal signs: 2 of 32
    assert "WRS is not seen to be worse than any other method." in text
    assert f"The highest mean is that of WRS: {100 * np.mean(RESCALED):.1f} %." in text
    assert "No difference seen" not in text


def test_rescaling_that_is_worse_is_said_to_be_worse_in_the_same_words(tmp_path: Path) -> None:
    none = shifted(0.03)
    mean, low, high = difference_in_points(none)
    found = two_methods(tmp_path, none)
    text = plain(results(found[1]))
    assert "WRS is worse than no decay." in text
    assert row_of(found)["WRS minus …"].text == f"−{-mean:.1f}"
    assert row_of(found)["WRS minus …"].note == f"−{-low:.1f} to −{-high:.1f}"
    assert row_of(found)["Seen"].text == "lower"
    assert "WRS is not seen to be better than any other method." in text
    assert f"The highest mean is that of no decay: {100 * np.mean(none):.1f} %." in text
    assert "test accuracy: worse than no decay." in said_in_short(found)


def test_no_difference_is_stated_with_the_one_that_would_have_been_seen(tmp_path: Path) -> None:
    none = shifted(0.002)
    mean, low, high = difference_in_points(none)
    assert low < 0 < high
    found = two_methods(tmp_path, none)
    text = plain(results(found[1]))
    # A t test of five pairs has a power of 80 % at 3.761 standard errors; a half width is 2.776 of them.
    detectable = 3.761 / 2.776 * (high - low) / 2
    assert "No difference is seen between WRS and no decay." in text
    assert "WRS is not seen to be better than any other method. WRS is not seen to be worse" in text
    assert "test accuracy: not seen to differ from no decay." in said_in_short(found)
    told = re.search(
        r"80 % of such studies would have seen a true one of (\S+) points:", said_in_short(found)
    )
    assert told
    assert float(told[1]) == pytest.approx(detectable, abs=0.01)
    row = row_of(found)
    assert row["Seen"].text == "no difference seen"
    assert plain(row["Seen"].note) == f"80 % power: {detectable:.1f} points"
    assert row["WRS minus …"].text == f"{mean:+.1f}".replace("-", "−")
    assert row["WRS minus …"].note == f"{low:+.1f} to {high:+.1f}".replace("-", "−")


def test_one_seed_says_nothing(tmp_path: Path) -> None:
    found = two_methods(tmp_path, shifted(-0.03), n_seeds=1)
    assert "About no decay, one seed in common says nothing." in results(found[1])
    assert (
        "WRS ends at 87.0 % test accuracy: of one seed only beside no decay, which says nothing."
    ) in said_in_short(found)
    assert row_of(found)["Seen"].text == "one seed: nothing can be said"


@pytest.mark.parametrize(("width", "told"), [(0.125, ", 0.125 of its published width"), (1.0, "")])
def test_a_width_is_told_of_a_network_that_is_narrower(width: float, told: str, tmp_path: Path) -> None:
    spec = study_spec(n_seeds=2)
    model = replace(spec.recipe.model, width_factor=width)
    spec = replace(spec, recipe=replace(spec.recipe, model=model))
    said = said_in_short(compared(Writer(tmp_path, spec=spec)))
    assert f"One network ({model.name}{told}) was trained on" in said


def test_the_summary_counts_what_was_trained(tmp_path: Path) -> None:
    states = {("no decay", 2): ("diverged", "the loss was not finite")}
    text = said_in_short(compared(Writer(tmp_path, states=states)))
    for said in (
        "was trained on digits by 5 methods with 5 seeds each.",
        "There are 400 training and 897 test images.",
        "20 % of the training labels are drawn at random.",
        "24 of 25 runs are done. 1 diverged.",
        f"WRS ends at {100 * np.mean(FINAL_TEST['WRS, radius 1']):.1f} % test accuracy: ",
    ):
        assert said in text, said


def test_a_study_without_a_finished_run_says_so(tmp_path: Path) -> None:
    states = {("no decay", 0): ("running", None), ("WRS, radius 1", 0): ("failed", "no memory")}
    spec = study_spec(methods=(NoTreatment(), WRS()), n_seeds=1)
    final = {"no decay": RESCALED, "WRS, radius 1": RESCALED}
    found = compared(Writer(tmp_path, spec=spec, states=states, final_test=final))
    assert "Nothing can be said before a run is done." in said_in_short(found)
    assert results(found[1]) == "No run is done, so there is no final result to show."
    assert [row_of(found, index)["Seen"].text for index in range(2)] == ["no finished run"] * 2


def test_a_method_without_a_common_seed_is_not_compared(tmp_path: Path) -> None:
    spec = study_spec(methods=(NoTreatment(), WRS()), n_seeds=2)
    states = {("no decay", 0): ("failed", "x"), ("WRS, radius 1", 1): ("failed", "x")}
    final = {"no decay": RESCALED, "WRS, radius 1": RESCALED}
    found = compared(Writer(tmp_path, spec=spec, states=states, final_test=final))
    assert (
        results(found[1]) == "WRS has no finished run in common with another method: there is no comparison."
    )
    assert row_of(found)["Seen"].text == "no seed in common"


def test_the_note_bounds_the_chance_of_a_false_difference(tmp_path: Path) -> None:
    text = plain(" ".join(statistics_notes(*compared(Writer(tmp_path)))))
    assert (
        "Holm's procedure for the family of all 4 comparisons: the chance that any of "
        "them shows a difference where there is none is at most 5 %."
    ) in text
    assert "All methods got the same learning rate, tuned for none of them" in text
    assert "are cut there" not in text


def test_a_difference_that_four_comparisons_may_show_by_chance_is_not_called_one(tmp_path: Path) -> None:
    # Alone p is 0.03, and its interval leaves out zero; beside three comparisons that show nothing it is
    # 0.12.
    base = FINAL_TEST["WRS, radius 1"]
    noise = (0.004, -0.004, 0.003, -0.003, 0.0)
    shift = (0.012, 0.004, 0.001, 0.009, 0.006)
    final = {label: tuple(b + n for b, n in zip(base, noise, strict=True)) for label in FINAL_TEST}
    final |= {"WRS, radius 1": base, "no decay": tuple(b - s for b, s in zip(base, shift, strict=True))}
    found = compared(Writer(tmp_path, final_test=final))
    judgement = found[1].entries[0].judgement
    assert judgement is not None
    assert judgement.comparison.verdict == "higher"
    assert judgement.verdict == "no difference seen"
    assert judgement.adjusted_p == pytest.approx(4 * (judgement.p_value or 0))
    assert "not seen to differ from no decay" in said_in_short(found)


def test_the_note_explains_an_interval_that_is_cut_at_100_percent(tmp_path: Path) -> None:
    spec = study_spec(methods=(NoTreatment(), WeightDecay(5e-4)), n_seeds=2)
    final = {"no decay": (0.95, 0.99), "weight decay 0.0005": (0.95, 0.97)}
    found = compared(Writer(tmp_path, spec=spec, final_test=final))
    notes = plain(" ".join(statistics_notes(*found)))
    assert "Those of accuracies that reach beyond 0 or 100 % are cut there." in notes
    assert plain(row_of(found)["Test accuracy"].note).endswith(" to 100.0 %")


@pytest.mark.parametrize(
    ("spread", "said"),
    [
        (0.004, "points: smaller ones are not ruled out."),
        (0.4, "a true one of more than 100 points only: with so few seeds nothing can be ruled out."),
    ],
)
def test_a_difference_that_there_cannot_be_is_not_said_to_be_seen(
    tmp_path: Path, spread: float, said: str
) -> None:
    spec = study_spec(methods=(NoTreatment(), WRS()), n_seeds=2)
    final = {"no decay": (0.5 - spread, 0.5 + spread), "WRS, radius 1": (0.5, 0.5)}
    assert said in said_in_short(compared(Writer(tmp_path, spec=spec, final_test=final)))


@pytest.mark.parametrize(("scale", "expected"), [(1.0, 1), (0.2, 2)])
def test_narrow_intervals_get_a_second_decimal(tmp_path: Path, scale: float, expected: int) -> None:
    final = {name: tuple(0.87 + scale * (np.array(values) - 0.87)) for name, values in FINAL_TEST.items()}
    assert decimals(compared(Writer(tmp_path, final_test=final))[1].entries) == expected


def test_the_strips_show_every_seed_and_every_interval(tmp_path: Path) -> None:
    groups, main = compared(Writer(tmp_path))
    low, high = strip_axis(main.entries)
    colors = {cell.label: "--m0" for cell in groups.cells}
    table = glance_table(groups, main, (), colors)
    assert table is not None
    for entry, row in zip(main.entries, table.rows, strict=True):
        strip, final = row.cells[1].strip, entry.cell.final_test
        assert strip is not None
        assert final is not None
        assert len(strip.dots) == entry.cell.n == 5
        assert low < min(*entry.cell.test.values(), *(final.interval or ()))
        assert max(*entry.cell.test.values(), *(final.interval or ())) < high
        assert strip.middle == pytest.approx(100 * (final.mean - low) / (high - low), abs=0.01)
