"""Differences over groups: by hand, beside likelihoods, and how often their intervals hold what is true."""

from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize_scalar

from decayfree.errors import InvalidInputError
from decayfree.study.statistics.estimates import Estimate, mean_interval
from decayfree.study.statistics.pooled import pooled_difference
from decayfree.study.statistics.significance import sign_flip_p
from decayfree.study.statistics.two_way import crossed_interval
from support import bounds

NOISE = np.array([[1.0, -1.0, 0.0], [-1.0, 0.0, 1.0], [0.0, 1.0, -1.0], [1.0, 0.0, -1.0], [-1.0, 0.0, 1.0]])
MEANS = np.array([1.0, 2.0, 3.0, 4.0, 10.0])


def test_groups_that_are_equal_have_no_spread_and_are_drawn_nowhere() -> None:
    found = pooled_difference(np.tile([1.0, 2.0, 6.0], (5, 1)))
    expected = mean_interval([1.0, 2.0, 6.0])
    assert found.these_groups == expected
    assert found.spread == 0
    assert found.by_group == (3.0,) * 5
    for one in (found.such_groups, *found.shrunk):
        assert one is not None
        assert one.mean == 3
        assert one.half_width == pytest.approx(expected.half_width)


def test_groups_without_noise_are_not_shrunk_and_such_groups_have_the_t_interval_over_groups() -> None:
    found = pooled_difference(np.tile(MEANS[:, None], (1, 3)))
    assert found.spread == pytest.approx(MEANS.std(ddof=1))
    assert [one.mean for one in found.shrunk] == pytest.approx(MEANS)
    assert [one.half_width for one in found.shrunk] == [0] * 5
    assert found.these_groups.half_width == 0
    assert found.such_groups is not None
    assert found.such_groups.interval == pytest.approx(mean_interval(MEANS.tolist()).interval)


def test_groups_of_much_noise_are_drawn_as_far_as_the_spread_is_known() -> None:
    # v = 10⁴ Σ NOISE²/(4·2)/3 is far above s² = 12.5: B = 2/4 · 8/10, and with many groups nearly 1.
    found = pooled_difference(MEANS[:, None] + 100 * NOISE)
    assert found.spread == 0
    assert [one.mean for one in found.shrunk] == pytest.approx(4 + 0.6 * (MEANS - 4))
    many = pooled_difference(np.tile(MEANS, 40)[:, None] + 100 * np.tile(NOISE, (40, 1)))
    assert [one.mean for one in many.shrunk] == pytest.approx(np.full(200, 4.0), abs=0.12)


def test_what_seeds_do_to_all_groups_is_in_every_interval_and_in_no_spread() -> None:
    of_seeds = np.array([-3.0, 0.0, 3.0])
    cells = MEANS[:, None] + NOISE  # the noise is 0 in the mean over groups
    alone, both = pooled_difference(cells), pooled_difference(cells + of_seeds)
    assert both.spread == pytest.approx(alone.spread)
    assert [one.mean for one in both.shrunk] == pytest.approx([one.mean for one in alone.shrunk])
    assert both.these_groups.standard_error == pytest.approx(3**0.5)
    such = 3 - squares(NOISE) / 3 / 5 + MEANS.var(ddof=1) / 5
    assert both.such_groups is not None
    assert both.such_groups.standard_error == pytest.approx(such**0.5)


def squares(noise: np.ndarray) -> float:
    """Mean square of the interaction of groups and seeds."""
    centred = noise - noise.mean(axis=0) - noise.mean(axis=1, keepdims=True) + noise.mean()
    return float((centred**2).sum()) / (noise.shape[0] - 1) / (noise.shape[1] - 1)


def test_shrinkage_is_that_of_morris_by_hand() -> None:
    v, s2 = squares(NOISE) / 3, MEANS.var(ddof=1)
    pull = 2 / 4 * 8 / 10 * v / s2
    found = pooled_difference(MEANS[:, None] + NOISE)
    of_mean = 0.0
    for mean, one in zip(MEANS, found.shrunk, strict=True):
        assert one.mean == pytest.approx(4 + (1 - pull) * (mean - 4))
        variance = of_mean + v * 4 / 5 * (1 - pull) + 2 / 2 * pull**2 * (mean - 4) ** 2
        assert one.standard_error == pytest.approx(variance**0.5)


def test_the_spread_is_that_of_moments_of_paule_and_mandel_and_of_reml() -> None:
    cells = MEANS[:, None] / 3 + NOISE
    means, v = cells.mean(axis=1), squares(NOISE) / 3
    weights = np.full(5, 1 / v)
    q = float((weights * (means - means.mean()) ** 2).sum())
    moments = (q - 4) / (weights.sum() - (weights**2).sum() / weights.sum())

    def reml(spread: float) -> float:
        w = 1 / (spread + np.full(5, v))
        mean = (w * means).sum() / w.sum()
        return float(-np.log(w).sum() + np.log(w.sum()) + (w * (means - mean) ** 2).sum())

    best = minimize_scalar(reml, bounds=(0, 10), method="bounded", options={"xatol": 1e-10}).x
    found = pooled_difference(cells).spread ** 2
    assert found == pytest.approx(moments)
    assert found == pytest.approx(best, rel=1e-5)
    paule_and_mandel = ((means - means.mean()) ** 2 / (found + v)).sum()
    assert paule_and_mandel == pytest.approx(4)


def test_with_images_these_groups_are_seeds_and_images_of_their_mean() -> None:
    cells = np.random.default_rng(0).integers(-1, 2, size=(3, 4, 30))
    found = pooled_difference(cells)
    assert found.these_groups == crossed_interval(cells.mean(axis=0))
    assert found.such_groups is None
    assert found.shrunk == ()
    assert found.primary.difference is found.these_groups
    assert found.by_group == pytest.approx(cells.mean(axis=(1, 2)))


def test_tables_of_other_images_are_counted_group_by_group() -> None:
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=(3, 4, 20)), rng.normal(size=(2, 4, 50))
    found = pooled_difference(first, second)
    alone = [pooled_difference(one) for one in (first, second)]
    assert found.by_group == (*alone[0].by_group, *alone[1].by_group)
    assert found.these_groups.mean == pytest.approx(np.mean(found.by_group))
    variances = [(one.these_groups.standard_error or 0) ** 2 for one in alone]
    assert found.these_groups.standard_error == pytest.approx(
        (0.6**2 * variances[0] + 0.4**2 * variances[1]) ** 0.5
    )
    assert found.is_over_images
    same = pooled_difference(first)
    assert same == pooled_difference(*[first])


def test_the_primary_is_tested_and_signs_are_flipped_from_five_groups_on() -> None:
    cells = MEANS[:, None] + NOISE
    found = pooled_difference(cells)
    assert found.primary.difference is found.such_groups
    assert found.primary.p_value == pytest.approx(stats.ttest_1samp(MEANS, 0).pvalue)  # nothing is shared
    assert found.sign_flip_p == sign_flip_p(MEANS.tolist()) == 2 / 2**5
    assert pooled_difference(cells[:4]).sign_flip_p is None


@pytest.mark.parametrize(
    "cells", [np.zeros((1, 5)), np.zeros((5, 1)), np.zeros((3, 3, 1)), np.zeros(5), np.full((2, 2), np.nan)]
)
def test_what_is_no_table_is_refused(cells: np.ndarray) -> None:
    with pytest.raises(InvalidInputError, match="two groups, two seeds and, if any, two images at least"):
        pooled_difference(cells)


@pytest.mark.parametrize("cells", [[[1.0, 2.0], [3.0]], [["a", "b"], ["c", "d"]], object()])
def test_what_is_no_number_is_refused(cells: object) -> None:
    with pytest.raises(InvalidInputError, match="cells must be a table of numbers"):
        pooled_difference(cells)  # type: ignore[arg-type]


def tables(
    n: int, *, n_groups: int = 8, spread: float, of_seeds: float, of_images: float, n_images: int = 200
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """True differences of groups, and cells with all sources of chance, shared ones among them."""
    draw, n_seeds = np.random.default_rng(3).normal, 5
    for _ in range(n):
        truths = spread * draw(size=n_groups)
        cells = truths[:, None, None] + of_seeds * draw(size=(1, n_seeds, 1))
        cells = cells + of_images * draw(size=(1, 1, n_images)) + 0.01 * draw(size=(n_groups, n_seeds, 1))
        cells = cells + 0.15 * draw(size=(n_groups, 1, n_images))
        yield truths, cells + 0.3 * draw(size=(n_groups, n_seeds, n_images))


@pytest.mark.parametrize(("spread", "of_seeds"), [(0.01, 0.01), (0.02, 0.005), (0.03, 0.02)])
def test_intervals_hold_the_truth_as_often_as_they_say(spread: float, of_seeds: float) -> None:
    n, such, these, over_groups = 1000, 0, 0, 0
    held, errors, raw_errors = [], [], []
    for truths, cells in tables(n, spread=spread, of_seeds=of_seeds, of_images=0.15):
        found = pooled_difference(cells)
        assert found.such_groups is not None
        such += holds(found.such_groups, 0)
        these += holds(found.these_groups, truths.mean())
        over_groups += holds(mean_interval(list(found.by_group)), 0)
        held += [holds(one, truth) for one, truth in zip(found.shrunk, truths, strict=True)]
        errors += [(one.mean - truth) ** 2 for one, truth in zip(found.shrunk, truths, strict=True)]
        raw_errors += list((np.array(found.by_group) - truths) ** 2)
    assert bounds.LEAST_HELD <= such / n <= bounds.MOST_HELD
    assert bounds.LEAST_HELD <= these / n <= bounds.MOST_HELD
    assert over_groups / n < 0.93, "groups share seeds and images, which their t interval knows nothing of"
    assert np.mean(held) >= bounds.LEAST_HELD
    assert np.mean(errors) < bounds.SHRUNK_ERROR * np.mean(raw_errors)


@pytest.mark.parametrize(("spread", "of_seeds"), [(0.0, 0.3), (0.6, 0.3), (1.5, 0.05)])
@pytest.mark.parametrize("n_groups", [4, 8, 12])
def test_without_images_intervals_are_not_too_short(n_groups: int, spread: float, of_seeds: float) -> None:
    draw, held, of_shrunk = np.random.default_rng(4).normal, [], []
    for _ in range(1000):
        truths = spread * draw(size=n_groups)
        found = pooled_difference(truths[:, None] + of_seeds * draw(size=(1, 5)) + draw(size=(n_groups, 5)))
        assert found.such_groups is not None
        held.append(holds(found.such_groups, 0))
        of_shrunk += [holds(one, truth) for one, truth in zip(found.shrunk, truths, strict=True)]
    assert np.mean(held) >= bounds.LEAST_HELD
    assert np.mean(of_shrunk) >= 0.93


def holds(estimate: Estimate, truth: float) -> bool:
    assert estimate.interval is not None
    return estimate.interval[0] <= truth <= estimate.interval[1]


def test_intervals_of_two_data_sets_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(11)
    held = {"these": 0, "such": 0}
    n_studies = 400
    for _ in range(n_studies):
        of_groups = rng.normal(scale=0.3, size=8)
        tables = []
        for part, n_images in ((of_groups[:4], 150), (of_groups[4:], 60)):
            of_images, of_seeds = rng.normal(size=n_images), rng.normal(scale=0.1, size=5)
            noise = rng.normal(size=(4, 5, n_images)) + rng.normal(scale=0.1, size=(4, 5, 1))
            tables.append(part[:, None, None] + of_images + of_seeds[:, None] + noise)
        found = pooled_difference(*tables)
        for name, estimate, truth in (
            ("these", found.these_groups, of_groups.mean()),
            ("such", found.such_groups, 0.0),
        ):
            low, high = estimate.interval
            held[name] += low <= truth <= high
    assert 0.93 <= held["these"] / n_studies <= 0.98
    assert 0.93 <= held["such"] / n_studies <= 0.98
