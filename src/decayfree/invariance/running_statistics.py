"""Which modules keep running statistics, and what did a run put into them?

Knows normalizations by their two buffers, not by their type. Which channels must follow which blocks is found
in followers.py. Runs no model.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_MEAN, _VAR = "running_mean", "running_var"


@dataclass(frozen=True)
class NormLayer:
    """A normalization that cancels the scale of a weight's blocks.

    Args:
        name: The module, by its name in the model; empty for the model itself.
        channels: Those of its channels whose running statistics change with this weight; empty where none do.
        blocks: For each of ``channels`` the block that it follows; empty where they change in another way
            than with a block's factor, so that nothing can follow exactly.
        shift: A bias that is added on the way and not scaled with the weight, by parameter name: b in
            ``running_mean = c(m − b) + b``. None where there is none, ``"unknown"`` where there is one and no
            parameter is equal to it.
        shift_rows: For each of ``channels`` the entry of ``shift``; empty without a named one.
    """

    name: str
    channels: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    shift: str | None = None
    shift_rows: tuple[int, ...] = ()


UNKNOWN_SHIFT = "unknown"


@dataclass(frozen=True)
class Statistics:
    """The running statistics of one module, or what one run put into them."""

    mean: Tensor  # (n_channels,)
    var: Tensor  # (n_channels,)


def tracked_modules(model: nn.Module) -> list[str]:
    """Names of modules with a running mean and variance, in training mode or not."""
    return [name for name, module in model.named_modules() if _has_statistics(module)]


def statistics_buffers(names: Iterable[str]) -> frozenset[str]:
    """The names of the buffers in which these modules keep their running statistics."""
    return frozenset(f"{name}.{leaf}" if name else leaf for name in names for leaf in (_MEAN, _VAR))


def statistics_in(model: nn.Module) -> dict[str, Statistics]:
    """Copies of all running statistics as they are, by module."""
    return {
        name: Statistics(*(module.get_buffer(leaf).detach().clone() for leaf in (_MEAN, _VAR)))
        for name, module in model.named_modules()
        if _has_statistics(module)
    }


def put_in(
    start: Mapping[str, Statistics], left: Mapping[str, Statistics], kept: Mapping[str, float]
) -> dict[str, Statistics]:
    """What a run put into running statistics, float64: (left − kept·start)/(1 − kept).

    Args:
        start: What each module held before the run.
        left: What it holds after it.
        kept: By module, the share of what it held before that is still in it; others are left out.

    Example:
        >>> import torch
        >>> start = Statistics(torch.tensor([0.0]), torch.tensor([1.0]))
        >>> left = Statistics(torch.tensor([2.0]), torch.tensor([5.0]))
        >>> put_in({"norm": start}, {"norm": left}, {"norm": 0.5})["norm"].var
        tensor([9.], dtype=torch.float64)
    """

    def added(old: Tensor, new: Tensor, share: float) -> Tensor:
        return ((new.double() - share * old.double()) / (1 - share)).cpu().flatten()

    return {
        name: Statistics(
            added(start[name].mean, left[name].mean, share), added(start[name].var, left[name].var, share)
        )
        for name, share in kept.items()
    }


def small_modules(
    start: Mapping[str, Statistics], added: Mapping[str, Statistics], share: float
) -> list[str]:
    """Modules in which a run put some variance below a share of that of the start.

    ``put_in`` takes a difference, and a small one has few digits: beside a variance of 1 at the start, one of
    3e-8 is known to 4e-9, just enough to tell blocks apart by it (labels.py). A run that scales deviations by
    a 64th needs 1e-4.
    """
    return [
        name
        for name, one in added.items()
        if bool(((one.var != 0) & (one.var.abs() < share * start[name].var.double().cpu().flatten())).any())
    ]


def _has_statistics(module: nn.Module) -> bool:
    if isinstance(module, torch.jit.ScriptModule):
        return False  # its weights are refused
    mean, var = (module._buffers.get(leaf) for leaf in (_MEAN, _VAR))
    return mean is not None and var is not None and mean.is_floating_point() and mean.shape == var.shape
