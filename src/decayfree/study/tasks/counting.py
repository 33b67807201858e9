"""How many items there are, by a map of their density, and scored by the error of the count."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from decayfree.arguments.address import Address
from decayfree.errors import InvalidInputError
from decayfree.study.data.truth import Ragged, Truth
from decayfree.study.models.networks import COUNTERS, build_with_backbone, library_model
from decayfree.study.models.sizes import Sizes
from decayfree.study.run_settings import ModelSpec, Recipe
from decayfree.study.tasks.jackknife import pseudo_values
from decayfree.study.tasks.metric import METRICS
from decayfree.study.tasks.task import Score

POINT_WIDTH = 1.0
"""Standard deviation of the Gaussian that stands for a point, in pixels of the map."""


class Counting:
    """Truth: rows x, y in pixels of the image."""

    metric = METRICS["counting"]

    def build(self, spec: ModelSpec, sizes: Sizes, seed: int) -> nn.Module:
        def try_out(model: nn.Module, images: Tensor) -> None:
            density = model(images)
            if not isinstance(density, Tensor) or density.ndim != 3:
                raise InvalidInputError(
                    f"{spec.name} is no network that counts: expected maps, (2, height, width), got "
                    f"{tuple(density.shape) if isinstance(density, Tensor) else type(density).__name__}"
                )

        def of_user() -> nn.Module:
            return library_model(spec, sizes, seed, n_classes=sizes.n_classes, trial=try_out)

        is_own = isinstance(spec.name, Address)
        return build_with_backbone(spec, sizes, seed, ours=COUNTERS, of_library=of_user if is_own else None)

    def outputs(self, model: nn.Module, inputs: Tensor) -> Any:
        return model(inputs)

    def loss(self, forward: Callable[..., Any], inputs: Tensor, truth: Truth, recipe: Recipe) -> Tensor:
        return _losses(forward(inputs), inputs, truth).mean()

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, batches: Iterable[tuple[Tensor, Truth]], *, each: bool = False
    ) -> Score:
        was_training = model.training
        model.eval()
        losses, maps, seen, true = [], [], [], []
        for inputs, points in batches:
            assert isinstance(points, Ragged)
            density = model(inputs).float()
            losses.append(_losses(density, inputs, points).double().cpu())
            seen.append(density.sum(dim=(1, 2), dtype=torch.float64).cpu())
            true.append(points.counts.double())
            maps.append(density.cpu() if each else density[:0].cpu())
        model.train(was_training)
        counts = torch.cat(true)
        errors = (torch.cat(seen) - counts).abs()
        score = float(_accuracy(errors.sum(), counts.sum()))
        left_out = _accuracy(errors.sum() - errors, counts.sum() - counts)
        return Score(
            float(torch.cat(losses).mean()),
            score,
            pseudo_values(score, left_out) if each else torch.zeros(0),
            metrics={
                "MAE, items": float(errors.mean()),
                "RMSE, items": float(errors.square().mean().sqrt()),
            },
            predictions=torch.cat(maps) if each else None,
        )


def density_maps(points: Ragged, *, image_size: tuple[int, int], map_size: tuple[int, int]) -> Tensor:
    """A Gaussian for each point, `POINT_WIDTH` wide, whose sum over the map's pixels is 1.

    At the border too: what would lie outside is put inside, by dividing by the sum over the pixels.

    Args:
        points: Rows x, y in pixels of the image.
        image_size: Height and width of the image, in pixels.
        map_size: The same of the map.

    Returns:
        (n_images, height, width) of the map, float32, in items.

    Example:
        >>> points = Ragged.of_lists([torch.tensor([[0.0, 0.0], [12.0, 4.0]])])
        >>> density_maps(points, image_size=(8, 16), map_size=(1, 2)).sum()
        tensor(2.)
    """
    (height, width), (rows, columns) = image_size, map_size
    across = _shares(points.rows[:, 0] * (columns / width), columns)
    down = _shares(points.rows[:, 1] * (rows / height), rows)
    counts = points.counts.tolist()
    each = zip(down.split(counts), across.split(counts), strict=True)
    return torch.stack([down_of_one.T @ across_of_one for down_of_one, across_of_one in each])


def _shares(positions: Tensor, n_pixels: int) -> Tensor:
    """How a Gaussian at each position divides over a line of pixels: (n_points, n_pixels), rows sum to 1."""
    centers = torch.arange(n_pixels, device=positions.device) + 0.5
    # A softmax, so that a point far outside of the image is in the nearest pixel instead of 0/0.
    return (-0.5 * ((centers - positions[:, None]) / POINT_WIDTH) ** 2).softmax(dim=1)


def _accuracy(error: Tensor, count: Tensor) -> Tensor:
    """NaN where there is nothing to count."""
    return 1 - error / count.where(count > 0, torch.nan)


def _losses(density: Tensor, inputs: Tensor, points: Truth) -> Tensor:
    """Half the squared error summed over the map, of each image, (n,): CSRNet's Eq. 3.

    References:
        Li, Zhang, Chen, "CSRNet", 2018, arXiv 1802.10062.
    """
    assert isinstance(points, Ragged)
    height, width = inputs.shape[-2:]
    rows, columns = density.shape[-2:]
    wanted = density_maps(points, image_size=(height, width), map_size=(rows, columns))
    return 0.5 * (density.float() - wanted).square().sum(dim=(1, 2))
