"""What do the instruments read of some weights in one step, and how is that told in a few numbers?

All readings of their blocks, and the statistics of those, without waiting for the device once, and for all
weights together: each operation costs a call. Knows no optimizer; recorder.py does.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Literal

import torch
from torch import Tensor

from decayfree.dynamics.measures import Motion, Slope, effective_learning_rate
from decayfree.dynamics.row_sums import widest
from decayfree.optimizers import UpdateFamily

Readings = dict[str, dict[str, Tensor]]
"""By weight and instrument, (n_blocks of the weight,), floating."""


def motion_readings(
    sums: Mapping[str, Tensor], learning_rates: Mapping[str, Tensor], family: UpdateFamily | Literal["none"]
) -> Readings:
    """What the weights and their learning rate show.

    Args:
        sums: By weight, what `block_motion` makes of it before the step and after it.
        learning_rates: By weight, (), of the step.
        family: Of the optimizer; with ``"none"`` there is no effective learning rate.
    """
    found: Readings = {name: {} for name in sums}
    for names, sizes, together in _on_each_device(sums):
        moved = Motion.of(together)
        seen = {"norm": moved.norms_after}
        if family != "none":
            rates = [learning_rates[name].expand(size) for name, size in zip(names, sizes, strict=True)]
            seen["effective_learning_rate"] = effective_learning_rate(moved.norms, torch.cat(rates), family)
        seen |= {"angular_update_rad": moved.angle_rad, "relative_update": moved.relative}
        _hand_out(seen, names, sizes, found)
    return found


def slope_readings(sums: Mapping[str, Tensor], scale: float | Tensor | None) -> Readings:
    """What the gradients show.

    Args:
        sums: By weight, what `block_slope` makes of it and its gradient.
        scale: By which gradients are multiplied; None where they are not.
    """
    found: Readings = {name: {} for name in sums}
    for names, sizes, together in _on_each_device(sums):
        seen = Slope.of(together) if scale is None else Slope.of(together).divided_by(scale)
        read = {"radial_share": seen.radial_share, "gradient_norm_at_unit_radius": seen.norm_at_unit_radius}
        _hand_out(read, names, sizes, found)
    return found


def _on_each_device(sums: Mapping[str, Tensor]) -> Iterator[tuple[list[str], list[int], Tensor]]:
    """The weights on a device, how many blocks each has, and their sums side by side."""
    for device in dict.fromkeys(one.device for one in sums.values()):
        here = {name: one for name, one in sums.items() if one.device == device}
        yield list(here), [one.shape[1] for one in here.values()], torch.cat(list(here.values()), dim=1)


def _hand_out(seen: Mapping[str, Tensor], names: list[str], sizes: list[int], found: Readings) -> None:
    """To each weight its part of what is read of all their blocks."""
    for instrument, values in seen.items():
        for name, part in zip(names, values.split(sizes), strict=True):
            found[name][instrument] = part


def summary(values: Sequence[Tensor], quantiles: Sequence[float]) -> Tensor:
    """The statistics of every reading, (n_readings, n_statistics), where the first one is; see `statistics`.

    Those of one length go together, whatever weight they are of: each operation costs a call.
    """
    alike: dict[tuple[torch.device, int], list[int]] = {}
    for index, reading in enumerate(values):
        alike.setdefault((reading.device, len(reading)), []).append(index)
    rows: dict[int, Tensor] = {}
    for (device, _), indices in alike.items():
        together = torch.stack([values[index] for index in indices]).detach().to(widest(device))
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
    ordered = _ordered(values)
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


def _ordered(values: Tensor) -> Tensor:
    """Every row in ascending order, NaN last; on a CPU by NumPy where it is, ten times as fast as torch."""
    if values.device.type == "cpu":
        with suppress(ImportError):
            import numpy as np

            return torch.from_numpy(np.sort(values.numpy(), axis=1))
    return values.sort(dim=1).values


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
