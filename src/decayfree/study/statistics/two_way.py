"""How sure is a mean over seeds and test images, both of which are samples?

Seeds are not the only chance: with other test images the difference of two methods is another one, with the
same trained networks too. Works on a table of seeds and images, one number in each cell.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from decayfree.arguments.kinds import SHARE, checked
from decayfree.errors import InvalidInputError
from decayfree.study.statistics.estimates import CONFIDENCE, Comparison, Estimate, t_quantile


@dataclass(frozen=True)
class CrossedEstimate(Estimate):
    """A mean over a table of ``n`` seeds and of images, with the interval that both leave.

    Args:
        of_seeds: Standard error that seeds alone leave.
        of_images: Standard error that images alone leave.
    """

    of_seeds: float = 0.0
    of_images: float = 0.0


@checked(confidence=SHARE)
def crossed_interval(cells: npt.NDArray[Any], *, confidence: float = CONFIDENCE) -> CrossedEstimate:
    """Mean of a table whose rows (seeds) and columns (images) are both drawn at random.

    With S seeds, I images and the mean squares of a two-way layout without replication, the variance of the
    mean is (MS_seeds + MS_images − MS_rest)/(S·I): σ²_s/S + σ²_i/I + σ²_rest/(S·I) without bias. It is at
    least that of the rest alone, MS_rest/(S·I), below which chance brings it when S is small: two runs of one
    recipe differ on images that differ from seed to seed.

    Args:
        cells: (n_seeds, n_images), of differences: +1 where only the first method is right, −1 where only the
            second is, else 0. At least two of each.
        confidence: Coverage of the interval.

    Raises:
        InvalidInputError: If there are fewer than two seeds or images, or a number is not finite.

    References:
        Satterthwaite, "An approximate distribution of estimates of variance components", Biometrics Bulletin
        2, 1946: degrees of freedom. Searle, Casella, McCulloch, "Variance Components", 1992: the layout.

    Example:
        >>> found = crossed_interval(np.array([[1, 0, 0, 0], [1, 0, 1, 0]]))
        >>> found.mean, round(found.of_images, 3)
        (0.375, 0.204)
    """
    values = np.asarray(cells, dtype=np.float64)
    if values.ndim != 2 or min(values.shape) < 2 or not np.isfinite(values).all():
        raise InvalidInputError(
            f"cells must be finite, of two seeds and two images at least, got {values.shape}"
        )
    n_seeds, n_images = values.shape
    mean = float(values.mean())
    by_seed, by_image = values.mean(axis=1) - mean, values.mean(axis=0) - mean
    rest = values - mean - by_seed[:, None] - by_image[None, :]
    dofs = n_seeds - 1, n_images - 1, (n_seeds - 1) * (n_images - 1)
    squares = n_images * (by_seed**2).sum(), n_seeds * (by_image**2).sum(), (rest**2).sum()
    seeds, images, left = (float(square) / dof for square, dof in zip(squares, dofs, strict=True))
    variance = max(seeds + images - left, left)
    signed = ((seeds, dofs[0]), (images, dofs[1]), (left, dofs[2]))
    spread = sum(one**2 / dof for one, dof in signed)
    dof = max(variance**2 / spread, 1.0) if spread else 1.0
    n_cells = n_seeds * n_images
    error = (variance / n_cells) ** 0.5
    return CrossedEstimate(
        mean,
        error * t_quantile(dof, confidence),
        n_seeds,
        confidence,
        degrees_of_freedom=dof,
        of_seeds=(max(seeds - left, 0.0) / n_cells) ** 0.5,
        of_images=(max(images - left, 0.0) / n_cells) ** 0.5,
    )


def difference_on_images(
    first: Mapping[int, npt.NDArray[Any]], second: Mapping[int, npt.NDArray[Any]]
) -> Comparison | None:
    """The paired difference of two methods in their score, with seeds and test images as samples.

    Args:
        first: By seed, (n_images,): what each test image adds, as bool where it is right or wrong. Of a score
            that is no mean over images, such as mIoU, jackknife pseudo-values, n·s − (n − 1)·s₋ᵢ.
        second: Likewise, of the same images.

    References:
        Tukey, "Bias and confidence in not-quite large samples", Annals of Mathematical Statistics 29, 1958:
        pseudo-values.

    Returns:
        The difference, first minus second; None where there are not two common seeds, or not the same images.

    Example:
        >>> right, wrong = np.array([True, True, False]), np.array([False, True, False])
        >>> found = difference_on_images({0: right, 1: right}, {0: wrong, 1: right})
        >>> round(found.difference.mean, 3)
        0.167
    """
    seeds = sorted(first.keys() & second.keys())
    sizes = {len(of[seed]) for of in (first, second) for seed in seeds}
    if len(seeds) < 2 or len(sizes) != 1 or min(sizes) < 2:
        return None
    return Comparison(
        crossed_interval(np.stack([first[seed].astype(float) - second[seed] for seed in seeds]))
    )
