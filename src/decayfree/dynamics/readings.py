"""What do the instruments read of one weight in one step, and how is that told in a few numbers?

All readings of a weight's blocks, and their statistics, without waiting for the device once. Knows no
optimizer; recorder.py does.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from decayfree.blocks import Part
from decayfree.dynamics.measures import Slope, distance_to_equilibrium, effective_learning_rate, motion
from decayfree.dynamics.row_sums import widest
from decayfree.optimizers import UpdateFamily


def readings(
    before: Part,
    after: Part,
    gradient: Slope | None,
    learning_rate: Tensor,
    family: UpdateFamily | Literal["none"],
    predicted_angle: float | Tensor | None = None,
) -> dict[str, Tensor]:
    """Every instrument's reading of every block.

    Args:
        before: The weight before the step, with its bias where they only work together.
        after: The same after it.
        gradient: How the gradient lay to the weight before the step; None where there was none.
        learning_rate: (), of the step.
        family: Of the optimizer; with ``"none"`` there is no effective learning rate.
        predicted_angle: Angular update at equilibrium, in radians; with None there is no distance to it.

    Returns:
        By instrument, (n_blocks,), floating. What needs a gradient is missing where there was none.
    """
    moved = motion(before.weight, after.weight, after.blocks, before.bias, after.bias)
    found = {"norm": moved.norms_after}
    if family != "none":
        found["effective_learning_rate"] = effective_learning_rate(moved.norms, learning_rate, family)
    found |= {"angular_update_rad": moved.angle_rad, "relative_update": moved.relative}
    if gradient is not None:
        found["radial_share"] = gradient.radial_share
        found["gradient_norm_at_unit_radius"] = gradient.norm_at_unit_radius
    if predicted_angle is not None:
        found["distance_to_equilibrium"] = distance_to_equilibrium(
            found["angular_update_rad"], predicted_angle
        )
    return found


def summary(values: Sequence[Tensor], quantiles: Sequence[float]) -> Tensor:
    """The statistics of every reading, (n_readings, n_statistics), where the first one is; see `statistics`.

    Those of one length go together, whatever weight they are of: each operation costs a call.
    """
    alike: dict[tuple[torch.device, int], list[int]] = {}
    for index, reading in enumerate(values):
        alike.setdefault((reading.device, len(reading)), []).append(index)
    rows: dict[int, Tensor] = {}
    for (device, _), indices in alike.items():
        together = torch.stack([values[index].detach().to(widest(device)) for index in indices])
        told = statistics(together, quantiles).to(values[0].device, non_blocking=True)
        rows |= zip(indices, told.unbind(), strict=True)
    return torch.stack([rows[index] for index in range(len(values))])


def statistics(values: Tensor, quantiles: Sequence[float]) -> Tensor:
    """Mean, min, max, quantiles and the number of NaNs of every row, over what is not NaN in it.

    Args:
        values: (n_rows, n), floating.
        quantiles: From 0 to 1; between two values they are interpolated linearly.

    Returns:
        (n_rows, 4 + n_quantiles), as ``values``. NaN where a row is NaN throughout.

    Example:
        >>> statistics(torch.tensor([[3.0, 1.0, float("nan"), 2.0]]), [0.75])
        tensor([[2.0000, 1.0000, 3.0000, 2.5000, 1.0000]])
    """
    ordered = values.sort(dim=1).values  # NaN comes last
    n_defined = (~ordered.isnan()).sum(dim=1, keepdim=True)
    last = (n_defined - 1).clamp(min=0)
    columns = [ordered.nanmean(dim=1, keepdim=True), ordered[:, :1], ordered.gather(1, last)]
    for quantile in quantiles:
        position = last.to(ordered.dtype) * quantile
        below = position.floor().long()
        low, high = ordered.gather(1, below), ordered.gather(1, torch.minimum(below + 1, last))
        columns.append(torch.lerp(low, high, position - below))
    columns.append((ordered.shape[1] - n_defined).to(ordered.dtype))
    return torch.cat(columns, dim=1)


def labels(quantiles: Sequence[float]) -> list[str]:
    """What the columns of `statistics` are called.

    Example:
        >>> labels([0.05, 0.999])
        ['mean', 'min', 'max', 'q5', 'q99.9', 'undefined']
    """
    return ["mean", "min", "max", *(f"q{100 * quantile:g}" for quantile in quantiles), "undefined"]


def as_scalar(value: float | Tensor, device: torch.device) -> Tensor:
    """A number as (), in the precision of readings, without waiting for the device that it is on."""
    if isinstance(value, Tensor):
        return value.detach().to(device, widest(device), non_blocking=True).reshape(())
    return torch.full((), value, dtype=widest(device), device=device)
