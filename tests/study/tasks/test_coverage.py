"""How often do intervals over seeds and images hold the truth, of scores that are no means over images?

Two methods are imagined, each trained with five seeds and scored on the same images: images differ in how
hard they are and in which method they suit, seeds in how well they went.
``--log-cli-level=INFO`` shows the shares.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from decayfree.study.data.truth import Ragged
from decayfree.study.statistics.two_way import CrossedEstimate, crossed_interval
from decayfree.study.tasks.average_precision import average_precision
from decayfree.study.tasks.counting import _accuracy
from decayfree.study.tasks.jackknife import pseudo_values
from decayfree.study.tasks.segmentation import _mean_over_classes
from support import bounds

N_SEEDS = 5
_log = logging.getLogger(__name__)
Ability = NDArray[np.float64]
"""(2 methods, n_seeds, n_images): by how much each does an image better than others do."""
Simulate = Callable[[Any, int, float], CrossedEstimate]


def abilities(generator: Any, n_images: int, *, apart: float, n_seeds: int = N_SEEDS) -> Ability:
    """``apart``: by how much the first method is better in the mean."""
    difficulty = generator.normal(size=(1, 1, n_images))
    tilt = 0.4 * generator.normal(size=(1, n_images)) + apart
    seeds = 0.15 * generator.normal(size=(2, n_seeds, 1))
    return difficulty + np.stack([tilt / 2, -tilt / 2]) + seeds


def segmented(generator: Any, ability: Ability) -> Tensor:
    """Pixels (both, true, predicted) of 4 classes: (3, 2, n_seeds, n_images, 4). Most of each is ground."""
    n_images = ability.shape[-1]
    shares = generator.dirichlet((8, 1, 1, 0.5), size=n_images)
    true = generator.multinomial(256, shares)
    right = 1 / (1 + np.exp(-1 - ability))[..., None]
    both = generator.binomial(np.broadcast_to(true, (*ability.shape, 4)), right)
    wrong = (true - both).sum(axis=-1)
    mistaken = generator.multinomial(wrong, np.full(4, 0.25))
    counts = np.stack([both, np.broadcast_to(true, both.shape), both + mistaken])
    return torch.from_numpy(counts.astype(np.float64))


def mean_ious(counts: Tensor) -> NDArray[np.float64]:
    """Pseudo-values of each image, (n_seeds, n_images), of one method's counts (3, n_seeds, n_images, 4)."""
    of_seeds = []
    for of_images in counts.unbind(1):
        whole = of_images.sum(dim=1, keepdim=True)
        score = float(_mean_over_classes(whole))
        of_seeds.append(pseudo_values(score, _mean_over_classes(whole - of_images)).numpy())
    return np.stack(of_seeds)


def segmentation(generator: Any, n_images: int, apart: float) -> CrossedEstimate:
    counts = segmented(generator, abilities(generator, n_images, apart=apart))
    first, second = (mean_ious(of_method) for of_method in counts.unbind(1))
    return crossed_interval(first - second)


def segmentation_truth(generator: Any, apart: float) -> float:
    """Of 300 seeds on 4,000 images."""
    counts = segmented(generator, abilities(generator, 4000, apart=apart, n_seeds=300))
    first, second = _mean_over_classes(counts.sum(dim=3).flatten(1, 2)).view(2, -1).mean(dim=1).tolist()
    return first - second


def counted(generator: Any, ability: Ability) -> tuple[Tensor, Tensor]:
    """Errors (2, n_seeds, n_images) in items, and how many items there are, (n_images,)."""
    true = generator.integers(5, 200, size=ability.shape[-1])
    share = 0.2 * np.exp(-0.5 * ability)  # of the items
    errors = np.abs(generator.normal(size=ability.shape)) * share * true
    return torch.from_numpy(errors), torch.from_numpy(true).double()


def counting(generator: Any, n_images: int, apart: float) -> CrossedEstimate:
    errors, true = counted(generator, abilities(generator, n_images, apart=apart))

    def of_one(error: Tensor) -> NDArray[np.float64]:
        score = float(_accuracy(error.sum(), true.sum()))
        return pseudo_values(score, _accuracy(error.sum() - error, true.sum() - true)).numpy()

    first, second = (np.stack([of_one(error) for error in of_method]) for of_method in errors)
    return crossed_interval(first - second)


def counting_truth(generator: Any, apart: float) -> float:
    errors, true = counted(generator, abilities(generator, 4000, apart=apart, n_seeds=300))
    first, second = _accuracy(errors.sum(dim=2), true.sum()).mean(dim=1).tolist()
    return first - second


def detection(generator: Any, n_images: int, apart: float) -> CrossedEstimate:
    """Of two classes: one to three boxes an image, found where it is done well, and some where nothing is."""
    ability = abilities(generator, n_images, apart=apart)
    corners = [generator.uniform(0, 40, size=(generator.integers(1, 4), 2)) for _ in range(n_images)]
    boxes = [np.concatenate([one, one + 16], axis=1) for one in corners]
    classes = [generator.integers(0, 2, size=(len(one), 1)) for one in boxes]
    nothing = [np.zeros((len(one), 1)) for one in boxes]
    truth = ragged([np.concatenate(parts, axis=1) for parts in zip(boxes, classes, nothing, strict=True)])

    def found(of_images: NDArray[np.float64]) -> NDArray[np.float64]:
        said = []
        for box, label, skill in zip(boxes, classes, of_images, strict=True):
            is_found = generator.random(len(box)) < 1 / (1 + np.exp(-1 - skill))
            moved = box + generator.normal(size=box.shape) * np.exp(-skill / 2)
            moved[~is_found] = (40, 40, 60, 60)
            scores = generator.uniform(0, 1, size=(len(box), 1)) * np.where(is_found, 1, 0.6)[:, None]
            said.append(np.concatenate([moved, label, scores], axis=1))
        seen = average_precision(truth, ragged(said), each=True)
        return pseudo_values(seen.of_all, seen.left_out).numpy()

    first, second = (np.stack([found(one) for one in of_method]) for of_method in ability)
    return crossed_interval(first - second)


def ragged(rows: list[NDArray[Any]]) -> Ragged:
    return Ragged.of_lists([torch.from_numpy(one).float() for one in rows])


def coverage(simulate: Simulate, n: int, truth: float, *, n_images: int, apart: float) -> float:
    generator = np.random.default_rng(1)
    found = [simulate(generator, n_images, apart) for _ in range(n)]
    share = sum(one.low <= truth <= one.high for one in found) / n
    _log.info(
        "%s, apart %s: %d intervals hold %.4f in %.1f %%", simulate.__name__, apart, n, truth, 100 * share
    )
    return share


@pytest.mark.parametrize("apart", [0.0, 0.5])
@pytest.mark.parametrize(
    ("simulate", "find_truth"), [(segmentation, segmentation_truth), (counting, counting_truth)]
)
def test_intervals_of_scores_of_whole_sets_hold_the_truth_as_often_as_they_say(
    simulate: Any, find_truth: Any, apart: float
) -> None:
    truth = find_truth(np.random.default_rng(2), apart) if apart else 0.0
    assert truth > 0.03 or not apart
    share = coverage(simulate, bounds.N_SIMULATIONS, truth, n_images=200, apart=apart)
    assert bounds.LEAST_HELD <= share <= bounds.MOST_HELD


@pytest.mark.slow
def test_so_do_those_of_average_precision() -> None:
    assert 0.92 <= coverage(detection, 300, 0.0, n_images=100, apart=0.0) <= 0.98
