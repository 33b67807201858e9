"""Numbers and lists in words, against what a reader would write by hand.

Nothing here reads a study.
"""

import pytest

from decayfree.report.words import wording
from decayfree.study.statistics import Estimate

NBSP = "\N{NO-BREAK SPACE}"


def plain(text: str) -> str:
    return text.replace(NBSP, " ")


@pytest.mark.parametrize(
    ("share", "decimals", "text"),
    [
        (0.8765, 1, "87.6 %"),
        (0.8765, 2, "87.65 %"),
        (1.0, 1, "100.0 %"),
        (-0.0001, 1, "0.0 %"),
        (-0.02, 0, "−2 %"),
    ],
)
def test_a_share_is_written_in_percent(share: float, decimals: int, text: str) -> None:
    assert plain(wording.percent(share, decimals)) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0123, "1.2 points"),
        (-0.0123, "1.2 points"),
        (0.01, "1.0 point"),
        (0.0, "0.0 points"),
        (1e-5, "less than 0.1 points"),
    ],
)
def test_a_difference_is_written_in_points_without_its_sign(share: float, text: str) -> None:
    assert plain(wording.points(share)) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0.0123, "+1.2"), (-0.0123, "−1.2"), (-0.0001, "0.0"), (0.0, "0.0")]
)
def test_a_signed_difference_never_shows_the_sign_of_a_zero(share: float, text: str) -> None:
    assert wording.signed_points(share) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (3.14159, "3.14"),
        (1.0, "1.00"),
        (0.03123, "0.0312"),
        (0.0001, "0.000100"),
        (12.0, "12.0"),
        (123.4, "123"),
        (999.4, "999"),
        (999.6, "1,000"),
        (12345.6, "12,346"),
        (4.2e-7, "4.20e−7"),
        (3.5e7, "3.50e7"),
        (-0.5, "−0.500"),
        (0.0, "0"),
    ],
)
def test_a_number_keeps_three_digits(number: float, text: str) -> None:
    assert wording.significant(number) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.126, "12.6 %"), (0.0126, "1.3 %"), (0.00086, "0.086 %"), (4.2e-5, "0.0042 %"), (0.0, "0.0 %")],
)
def test_a_small_share_does_not_round_to_zero(share: float, text: str) -> None:
    assert plain(wording.fine_percent(share)) == text


def test_an_accuracy_carries_its_interval_and_n() -> None:
    text = plain(wording.share(Estimate(0.877, 0.008, 5)))
    assert text == "87.7 % (95 % interval 86.9 to 88.5 %, n = 5)"


def test_one_seed_has_no_interval() -> None:
    assert plain(wording.share(Estimate(0.877, None, 1))) == "87.7 % (one seed, so no interval)"


def test_intervals_are_written_from_low_to_high() -> None:
    assert wording.interval_of_sizes(-0.062, -0.02) == "2.0 to 6.2"
    assert wording.interval_of_sizes(0.02, 0.062) == "2.0 to 6.2"
    assert wording.signed_interval(-0.003, 0.021) == "−0.3 to +2.1"


@pytest.mark.parametrize(
    ("items", "text"), [([], "none"), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_items_are_listed_as_a_sentence_does(items: list[str], text: str) -> None:
    assert wording.listing(items) == text


def test_long_items_are_set_apart_by_semicolons() -> None:
    assert wording.listing(["a, b", "c"], "; ") == "a, b; c"


def test_a_paragraph_leaves_out_what_is_empty_and_begins_sentences_with_capitals() -> None:
    assert wording.sentences("wRS is first.", "", "no decay is not.") == "WRS is first. No decay is not."


def test_a_noun_follows_its_number() -> None:
    assert [plain(wording.count(n, "seed")) for n in (0, 1, 2)] == ["0 seeds", "1 seed", "2 seeds"]


@pytest.mark.parametrize(
    ("p", "text"), [(0.0, "< 0.001"), (0.00099, "< 0.001"), (0.0321, "0.032"), (0.5, "0.50"), (1.0, "1.00")]
)
def test_p_values_have_two_digits_or_a_bound(p: float, text: str) -> None:
    assert wording.p_value(p).replace(wording.SPACE, " ") == text
