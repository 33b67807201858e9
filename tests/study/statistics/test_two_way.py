"""Intervals over seeds and test images: by hand, and how often they hold what is true."""

import numpy as np
import pytest

from decayfree.errors import InvalidInputError
from decayfree.study.statistics.estimates import Comparison, paired_difference
from decayfree.study.statistics.two_way import crossed_interval, difference_on_images


def test_mean_squares_are_those_by_hand():
    # Means of rows 1 and 2, of columns 2, 1 and 1.5, of all 1.5.
    cells = np.array([[1.0, 0.0, 2.0], [3.0, 2.0, 1.0]])
    seeds, images, rest = 3 * 2 * 0.25, 2 * (0.25 + 0.25 + 0) / 2, None
    left = cells - np.array([[1.0], [2.0]]) - np.array([[2.0, 1.0, 1.5]]) + 1.5
    rest = float((left**2).sum()) / 2
    found = crossed_interval(cells)
    assert found.mean == 1.5
    assert found.standard_error == pytest.approx((max(seeds + images - rest, rest) / 6) ** 0.5)


@pytest.mark.parametrize(("of_seeds", "of_images"), [(0.1, 0.0), (0.0, 0.2), (0.1, 0.2), (0.05, 0.3)])
def test_the_standard_error_is_that_of_other_seeds_and_other_images(of_seeds, of_images):
    generator = np.random.default_rng(0)
    means, variances = [], []
    for _ in range(2000):
        cells = generator.normal(size=(5, 200)) * 0.3
        cells += of_seeds * generator.normal(size=(5, 1)) + of_images * generator.normal(size=(1, 200))
        found = crossed_interval(cells)
        means.append(found.mean)
        variances.append(found.standard_error**2)
    assert np.mean(variances) == pytest.approx(np.var(means), rel=0.12)


def differences(generator, *, n_seeds, n_images, of_seeds, of_images):
    """Which of two networks is right: images of unequal difficulty, equal methods in the mean."""
    difficulty = generator.normal(1.5, 1.5, size=n_images)
    tilt = of_images * generator.normal(size=(1, n_images)) + of_seeds * generator.normal(size=(n_seeds, 1))
    noise = 0.8 * generator.normal(size=(2, n_seeds, n_images))
    first, second = difficulty + tilt / 2 + noise[0] > 0, difficulty - tilt / 2 + noise[1] > 0
    return first.astype(int) - second


@pytest.mark.parametrize(("of_seeds", "of_images"), [(0.1, 0.3), (0.05, 0.6), (0.1, 0.6)])
def test_intervals_of_five_seeds_hold_the_truth_as_often_as_they_say(of_seeds, of_images):
    generator = np.random.default_rng(1)
    settings = {"n_seeds": 5, "n_images": 500, "of_seeds": of_seeds, "of_images": of_images}
    n = 1500
    held = 0
    for _ in range(n):
        found = crossed_interval(differences(generator, **settings))
        held += found.low <= 0 <= found.high
    assert 0.93 <= held / n <= 0.97


def test_intervals_over_seeds_alone_do_not():
    generator = np.random.default_rng(2)
    narrow = []
    for _ in range(300):
        cells = differences(generator, n_seeds=5, n_images=500, of_seeds=0.0, of_images=0.6)
        rows = cells.mean(axis=1)
        narrow.append((rows.std(ddof=1) / 5**0.5) / crossed_interval(cells).standard_error)
    assert np.mean(narrow) < 0.9


def test_tables_without_scatter_are_no_error():
    nothing = crossed_interval(np.zeros((3, 7)))
    assert (nothing.mean, nothing.half_width, Comparison(nothing).p_value) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("cells", [np.zeros((1, 5)), np.zeros((5, 1)), np.zeros(5), np.full((2, 2), np.nan)])
def test_what_is_no_table_is_refused(cells):
    with pytest.raises(InvalidInputError, match="two seeds and two images"):
        crossed_interval(cells)


def test_differences_of_methods_are_over_common_seeds():
    generator = np.random.default_rng(3)
    first, second = (
        {seed: generator.random(100) < 0.8 for seed in seeds} for seeds in ((0, 1, 2), (1, 2, 5))
    )
    found = difference_on_images(first, second).difference
    cells = np.stack([first[seed].astype(int) - second[seed] for seed in (1, 2)])
    assert found == crossed_interval(cells)
    means = [{seed: bits.mean() for seed, bits in of.items()} for of in (first, second)]
    assert found.mean == pytest.approx(paired_difference(*means).difference.mean)
    assert found.n == 2
    assert found.half_width_at(0.95) == pytest.approx(found.half_width)


def test_other_images_or_one_seed_are_no_pair():
    bits = np.ones(10, dtype=bool)
    assert difference_on_images({0: bits}, {0: bits}) is None
    assert difference_on_images({0: bits, 1: bits}, {0: bits[:9], 1: bits[:9]}) is None
