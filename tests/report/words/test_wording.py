"""Numbers and lists in words, against what a reader would write by hand.

Nothing here reads a study.
"""

import pytest

from decayfree.report.words import wording

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


def test_two_digits_of_a_large_number_are_no_power_of_ten() -> None:
    assert wording.significant(430.0, 2) == "430"
    assert wording.significant(43.0, 2) == "43"


@pytest.mark.parametrize(
    ("ends", "mean", "clipped"),
    [
        ((0.2, 1.2), 0.7, (0.2, 1.0)),
        ((-0.3, 0.4), 0.05, (0.0, 0.4)),
        ((-0.3, 0.1), -0.1, (-0.3, 0.1)),  # a score that is below 0 is no share
    ],
)
def test_the_interval_of_a_share_ends_at_0_and_100_percent(
    ends: tuple[float, float], mean: float, clipped: tuple[float, float]
) -> None:
    assert wording.clipped(ends, mean) == clipped


def test_no_difference_of_more_than_100_points_is_told() -> None:
    assert plain(wording.detectable_points(0.0052, 2)) == "0.52 points"
    assert plain(wording.detectable_points(3.2457, 2)) == "more than 100 points"


def test_of_many_methods_the_lowest_and_the_highest_are_told() -> None:
    values = {"a": 3.0, "b": 1.0}
    assert wording.by_method(values, wording.factor) == "×3.00 (a) and ×1.00 (b)"
    assert wording.by_method({**values, "c": 2.0}, wording.factor) == "×1.00 (b) to ×3.00 (a)"


def test_intervals_are_written_from_low_to_high() -> None:
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
