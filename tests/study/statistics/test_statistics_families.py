"""P values, Holm's correction, exact sign flips and power: by hand, against scipy, and by simulation.

Nothing here trains or reads a file.
"""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq
from scipy.special import gammainc

from decayfree.study.statistics import (
    MAX_SIGN_FLIPS,
    Comparison,
    Estimate,
    detectable_difference,
    family_of,
    holm,
    mean_interval,
    paired_difference,
    sign_flip_p,
    t_quantile,
)


def comparison_of(differences: list[float]) -> Comparison:
    return Comparison(mean_interval(differences))


@pytest.mark.parametrize("n", [2, 5, 12])
def test_the_p_value_is_scipys(n: int) -> None:
    generator = np.random.default_rng(n)
    first, second = generator.normal(0.9, 0.02, n), generator.normal(0.89, 0.02, n)
    comparison = paired_difference(dict(enumerate(first)), dict(enumerate(second)))
    assert comparison is not None
    assert comparison.p_value == pytest.approx(stats.ttest_rel(first, second).pvalue, rel=1e-9)


def test_the_p_value_of_two_pairs_has_a_closed_form() -> None:
    # t = 1/1 = 1 with one degree of freedom: half of the Cauchy distribution lies beyond ±1.
    assert comparison_of([0.0, 2.0]).p_value == pytest.approx(0.5, rel=1e-12)


def test_pairs_without_scatter_say_as_much_as_their_signs() -> None:
    # Eight ways to sign three pairs, two of them as extreme.
    assert comparison_of([0.01, 0.01, 0.01]).p_value == 0.25
    assert comparison_of([0.0, 0.0, 0.0]).p_value == 1.0
    assert comparison_of([0.01]).p_value is None


def test_p_and_interval_agree_whatever_the_coverage_of_the_interval() -> None:
    wide, narrow = (Comparison(mean_interval([1.0, 2.0, 4.0], confidence=c)) for c in (0.99, 0.5))
    assert wide.p_value == pytest.approx(narrow.p_value)
    assert wide.difference.half_width_at(0.5) == pytest.approx(narrow.difference.half_width)
    assert mean_interval([1.0]).half_width_at(0.5) is None


def test_holm_is_what_a_hand_computes() -> None:
    # Sorted: 0.005·4, 0.01·3 = 0.03, 0.03·2 = 0.06, and 0.04·1, which may not be less than the one before.
    p_values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    assert holm(p_values) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(holm(p_values)) == list(p_values)
    assert holm({"a": 0.7, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_a_family_of_one_is_the_comparison_itself() -> None:
    comparison = comparison_of([0.01, 0.03, 0.02, 0.05])
    family = family_of({"a": comparison})
    judgement = family.judgements["a"]
    assert judgement.adjusted_p == judgement.p_value == comparison.p_value
    assert judgement.detectable == pytest.approx(detectable_difference(comparison.difference))
    assert judgement.verdict == comparison.verdict == "higher"
    assert (family.n_tests, family.level) == (1, pytest.approx(0.05))


def test_what_one_comparison_shows_a_family_of_many_may_not() -> None:
    shown = comparison_of([0.010, 0.030, 0.020, 0.050])  # p = 0.0499
    assert shown.verdict == "higher"
    others = {str(index): comparison_of([-0.01, 0.01, 0.02, -0.02]) for index in range(3)}
    judgement = family_of({"shown": shown, **others}).judgements["shown"]
    assert judgement.verdict == "no difference seen"
    assert judgement.adjusted_p == pytest.approx(4 * (shown.p_value or 0))


def test_a_family_sees_what_its_adjusted_p_values_show_and_says_which_way() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        shifts = generator.choice([0.0, 0.02, 0.05, -0.04], size=6)
        comparisons = {
            i: comparison_of(list(generator.normal(shift, 0.02, 5))) for i, shift in enumerate(shifts)
        }
        for judgement in family_of(comparisons).judgements.values():
            assert judgement.adjusted_p is not None
            assert (judgement.verdict == "no difference seen") == (judgement.adjusted_p > 0.05)
            assert judgement.verdict in (
                "no difference seen",
                "higher" if judgement.difference.mean > 0 else "lower",
            )


def test_the_power_of_a_comparison_is_that_at_the_level_of_its_family() -> None:
    # Four comparisons without any difference are all held against 0.05/4: by simulation, a true difference of
    # that size is called one there in 80 % of studies, and not in those at 0.05.
    generator = np.random.default_rng(6)
    family = family_of({i: comparison_of([1.0, -1.0, 2.0, -2.0, 0.1]) for i in range(4)})
    assert family.level == pytest.approx(0.0125)
    judgement = family.judgements[0]
    assert judgement.detectable is not None
    assert judgement.difference.standard_error is not None
    scale = judgement.difference.standard_error * math.sqrt(5)
    p_values = [
        comparison_of(list(generator.normal(judgement.detectable, scale, 5))).p_value for _ in range(2000)
    ]
    assert np.mean([p is not None and p <= 0.0125 for p in p_values]) == pytest.approx(0.8, abs=0.025)


def test_differences_without_scatter_have_no_power() -> None:
    assert family_of({"a": comparison_of([0.01, 0.01, 0.01])}).judgements["a"].detectable is None


def test_a_family_counts_only_what_has_a_p_value() -> None:
    one_seed, three = Comparison(Estimate(0.01, None, 1)), comparison_of([0.01, 0.03, 0.02])
    family = family_of({"one": one_seed, "three": three})
    assert family.n_tests == 1
    assert family.judgements["one"].verdict == "too few seeds"
    assert family.judgements["one"].adjusted_p is None
    assert family.judgements["three"].adjusted_p == three.p_value


def test_a_family_shows_a_difference_where_there_is_none_in_one_of_twenty_studies() -> None:
    generator = np.random.default_rng(1)
    n_studies, n_false = 400, 0
    for _ in range(n_studies):
        family = family_of({i: comparison_of(list(generator.normal(0, 1, 4))) for i in range(5)})
        n_false += any(j.verdict != "no difference seen" for j in family.judgements.values())
    assert n_false / n_studies == pytest.approx(0.05, abs=0.025)  # 2.3 standard errors


def test_sign_flips_are_counted_exactly() -> None:
    assert sign_flip_p([1.0, 1.0, 1.0, 1.0, 1.0]) == 2 / 32
    # Sums of ±1 ±2 ±3 are 6, 4, 2, 0, 0, −2, −4, −6: six of the eight lie at least 2 from 0.
    assert sign_flip_p([1.0, -2.0, 3.0]) == 0.75
    assert sign_flip_p([0.0, 0.0]) == 1.0


def test_sign_flips_are_scipys() -> None:
    values = np.random.default_rng(3).normal(0.3, 1, 9)
    expected = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    ).pvalue
    assert sign_flip_p(list(values)) == pytest.approx(expected, rel=1e-12)


def test_sums_that_differ_by_rounding_alone_count_as_equal() -> None:
    # By hand 10 of the 16 sums lie at least 0.2 from 0: none of the signs apart or one. In floating point the
    # one seen is more than 0.2.
    assert 0.1 + 0.1 + 0.1 - 0.1 > 0.2
    assert sign_flip_p([0.1, 0.1, 0.1, -0.1]) == 10 / 16


@pytest.mark.parametrize("n", [0, MAX_SIGN_FLIPS + 1])
def test_signs_that_cannot_all_be_tried_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match=f"expected 1 to 20 differences to try all signs of, got {n}"):
        sign_flip_p([1.0] * n)


def test_the_difference_seen_with_a_power_of_80_percent_is_seen_so_often() -> None:
    generator = np.random.default_rng(4)
    scale, n = 0.5, 5
    detectable = detectable_difference(Estimate(0.0, stats.t.ppf(0.975, n - 1) * scale / math.sqrt(n), n))
    assert detectable is not None
    seen = [
        comparison_of(list(generator.normal(detectable, scale, n))).verdict == "higher" for _ in range(2000)
    ]
    assert np.mean(seen) == pytest.approx(0.8, abs=0.025)


def test_a_true_difference_as_large_as_the_half_width_is_seen_in_about_half_of_the_studies() -> None:
    # So a half width is no power: with five seeds that of the mean's own interval is a little above one half.
    half_width = stats.t.ppf(0.975, 4)
    power = 1 - stats.nct.cdf(half_width, 4, half_width)
    assert power == pytest.approx(0.5, abs=0.1)
    assert detectable_difference(Estimate(0.0, half_width, 5), power=power) == pytest.approx(half_width)


@pytest.mark.parametrize("freedom", [1.0, 1.3, 2.0, 4.0, 30.0, 5000.0])
@pytest.mark.parametrize("alpha", [0.05, 1e-2, 1e-4, 0.05 / 10_000])
def test_the_power_at_the_level_of_large_families_is_that_of_an_integral(
    freedom: float, alpha: float
) -> None:
    # Of all that the mean may be by chance: whether the estimated error is small enough for it to be seen.
    by_chance = np.linspace(-9, 9, 20_001)
    critical = t_quantile(freedom, 1 - alpha)

    def seen(shift: float) -> float:
        most = np.maximum(by_chance + shift, 0) / critical
        chances = gammainc(freedom / 2, freedom * most**2 / 2)
        return float(np.trapezoid(stats.norm.pdf(by_chance) * chances, by_chance))

    expected = brentq(lambda shift: seen(shift) - 0.8, 0.0, 4 * critical + 20)
    of_error_1 = Estimate(0.0, t_quantile(freedom), 5, degrees_of_freedom=freedom)
    tolerance = 2e-3 if expected > 29 else 1e-9
    assert detectable_difference(of_error_1, alpha=alpha) == pytest.approx(expected, rel=tolerance)


def test_one_seed_has_no_power() -> None:
    assert detectable_difference(Estimate(0.0, None, 1)) is None
