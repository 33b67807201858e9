"""Which running statistics must follow when a block is scaled?

Reads it off two runs, one before and one after all blocks were scaled by different random factors: a channel
whose deviation grew by c follows the block that was scaled by c. Knows normalizations by their two buffers,
not by their type.
"""

import bisect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_MEAN, _VAR = "running_mean", "running_var"

# Fractions of log2-factors are the same up to this; search.py lays them on a grid, 1e-5 apart for 100,000 of
# them.
_SAME = 1e-8
_NEARLY_SAME = 1e-4


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
    """What one run put into the running statistics of one module."""

    mean: Tensor  # (n_channels,), float64
    var: Tensor  # (n_channels,), float64


def tracked_modules(model: nn.Module) -> list[str]:
    """Names of modules with a running mean and variance, in training mode or not."""
    return [name for name, module in model.named_modules() if _has_statistics(module)]


def statistics_buffers(names: Iterable[str]) -> frozenset[str]:
    """The names of the buffers in which these modules keep their running statistics."""
    return frozenset(f"{name}.{leaf}" if name else leaf for name in names for leaf in (_MEAN, _VAR))


def read_statistics(
    model: nn.Module, start: Callable[[str], Tensor], kept: Mapping[str, float]
) -> dict[str, Statistics]:
    """What the last run put into running statistics: (new − kept·old)/(1 − kept).

    Args:
        model: The model that ran.
        start: What a buffer held before, by its name.
        kept: By module, the share of what its statistics held before that is still in them.
    """
    modules = dict(model.named_modules())

    def read(name: str, leaf: str) -> Tensor:
        old, new = start(f"{name}.{leaf}" if name else leaf), modules[name].get_buffer(leaf)
        added: Tensor = (new.double() - kept[name] * old.double()) / (1 - kept[name])
        return added.cpu().flatten()

    return {name: Statistics(read(name, _MEAN), read(name, _VAR)) for name in kept}


def followers(
    before: Mapping[str, Statistics],
    after: Mapping[str, Statistics],
    factors: Mapping[str, Tensor],
    vectors: Mapping[str, Tensor],
    follow_one: Callable[[str], tuple[Mapping[str, Statistics], Tensor]],
    places: Mapping[str, Iterable[str]],
    *,
    is_exact: bool,
) -> dict[str, list[NormLayer]]:
    """Match channels with blocks.

    Args:
        before: Statistics of each module before scaling.
        after: Statistics after every block was scaled by its factor, and some gains and biases were doubled.
        factors: For each weight the factors of its blocks, (n_blocks,), float64; the fractions of their log2
            are all different.
        vectors: Values of all biases, by parameter name, to recognize shifts.
        follow_one: Scales one weight alone and returns the statistics and its factors; asked only where
            several weights act on a channel, or in float32.
        places: For each weight the modules in which its scale is lost; empty where that is not known.
        is_exact: Whether the runs were in float64; float32 cannot tell thousands of factors apart.

    Returns:
        For each weight the normalizations whose statistics follow it.
    """
    table = sorted(
        (math.log2(factor) % 1, name, block)
        for name, values in factors.items()
        for block, factor in enumerate(values.tolist())
    )
    found: dict[str, list[NormLayer]] = {name: [] for name in factors}
    unexplained: dict[str, Statistics] = {}
    for layer in before:
        growth = _log2_growth(before[layer], after[layer])
        matches = _rounded_ones_repaired([_match(value, table) for value in growth], growth, factors)
        if not is_exact or any(
            not match and _is_scaled(value) for match, value in zip(matches, growth, strict=True)
        ):
            unexplained[layer] = before[layer]
            continue
        for name in dict.fromkeys(match[0] for match in matches if match):
            pairs = [
                (channel, match[1]) for channel, match in enumerate(matches) if match and match[0] == name
            ]
            relation = _Relation(layer, pairs, len(growth), factors[name])
            found[name].append(
                relation.norm_layer(before[layer], after[layer], growth, vectors, is_exact=is_exact)
            )
    for name in factors:
        if unexplained and (not places[name] or not unexplained.keys().isdisjoint(places[name])):
            found[name] += _follow_alone(unexplained, *follow_one(name), vectors, is_exact=is_exact)
    return found


def _rounded_ones_repaired(
    matches: list[tuple[str, int] | None], growth: list[float], factors: Mapping[str, Tensor]
) -> list[tuple[str, int] | None]:
    """Give a nearly constant channel a block, if one nearly fits.

    Its growth is rounded; the block is that between those of its neighbors.
    """
    known = [(channel, *match) for channel, match in enumerate(matches) if match]
    repaired = list(matches)
    for channel, value in enumerate(growth):
        if not known or matches[channel] or not _is_scaled(value):
            continue
        neighbor, name, block = min(known, key=lambda entry: abs(entry[0] - channel))
        guess = block + channel - neighbor
        if 0 <= guess < len(factors[name]):
            distance = value - float(factors[name][guess].log2())
            if abs(distance - round(distance)) < _NEARLY_SAME:
                repaired[channel] = (name, guess)
    return repaired


def _follow_alone(
    before: Mapping[str, Statistics],
    after: Mapping[str, Statistics],
    factors: Tensor,
    vectors: Mapping[str, Tensor],
    *,
    is_exact: bool,
) -> list[NormLayer]:
    """The normalizations that follow a weight which was scaled alone.

    Its factors are far apart, so that float32 will do.
    """
    layers = []
    logs = factors.log2()
    same = 1e-6 if is_exact else 1e-4
    for layer in before:
        growth = _log2_growth(before[layer], after[layer])
        changed = [channel for channel, value in enumerate(growth) if abs(value) > same]
        nearest = [int((logs - growth[channel]).abs().argmin()) for channel in changed]
        if not changed:
            continue
        if any(
            abs(growth[channel] - float(logs[block])) > same
            for channel, block in zip(changed, nearest, strict=True)
        ):
            layers.append(NormLayer(layer, tuple(changed), (), UNKNOWN_SHIFT))
            continue
        relation = _Relation(layer, list(zip(changed, nearest, strict=True)), len(growth), factors)
        layers.append(relation.norm_layer(before[layer], after[layer], growth, vectors, is_exact=is_exact))
    return layers


@dataclass(frozen=True)
class _Relation:
    """Which channels of a layer follow which blocks of one weight."""

    layer: str
    pairs: list[tuple[int, int]]  # (channel, block)
    n_channels: int
    factors: Tensor  # of all its blocks

    def norm_layer(
        self,
        before: Statistics,
        after: Statistics,
        growth: list[float],
        vectors: Mapping[str, Tensor],
        *,
        is_exact: bool,
    ) -> NormLayer:
        channels = torch.tensor([channel for channel, _ in self.pairs])
        logs = self.factors.log2()[[block for _, block in self.pairs]]
        doublings = (torch.tensor(growth, dtype=torch.float64)[channels] - logs).round()
        c = (logs + doublings).exp2()  # exact, while the growth of a nearly constant channel is rounded
        mean, moved = before.mean[channels], after.mean[channels]
        shift = (moved - c * mean) / (1 - c)  # from mean' = c(mean − b) + b
        # Less than that is no shift.
        precision = (1e-6 if is_exact else 1e-3) * (mean.abs() + before.var[channels].sqrt())
        completed = self._completed(before)
        names = tuple(channel for channel, _ in completed), tuple(block for _, block in completed)
        if bool((shift.abs() <= precision).all()):
            return NormLayer(self.layer, *names)
        parameter, rows = _parameter_equal_to(shift, precision, vectors)
        offset = rows[0] - int(channels[0]) if rows else 0
        if len(completed) > len(self.pairs):  # entries for the channels that were filled in
            parameter, rows = (
                (parameter, tuple(channel + offset for channel, _ in completed))
                if rows
                else (UNKNOWN_SHIFT, ())
            )
        return NormLayer(self.layer, *names, parameter, rows)

    def _completed(self, before: Statistics) -> list[tuple[int, int]]:
        """With the channels of dead kernels, whose deviation is zero before and after.

        They lie between their neighbors.
        """
        offsets = {channel - block for channel, block in self.pairs}
        if len(offsets) != 1 or 2 * len(self.pairs) < len(self.factors):
            return self.pairs
        (offset,) = offsets
        seen = {block for _, block in self.pairs}
        dead = [
            (offset + block, block)
            for block in range(len(self.factors))
            if block not in seen and 0 <= offset + block < self.n_channels
        ]
        return (
            sorted(self.pairs + dead)
            if all(float(before.var[channel]) == 0 for channel, _ in dead)
            else self.pairs
        )


def _parameter_equal_to(
    shift: Tensor, precision: Tensor, vectors: Mapping[str, Tensor]
) -> tuple[str, tuple[int, ...]]:
    for name, values in vectors.items():
        distance, rows = (values.reshape(1, -1) - shift.reshape(-1, 1)).abs().min(dim=1)
        if bool((distance <= 10 * precision).all()):
            return name, tuple(rows.tolist())
    return UNKNOWN_SHIFT, ()


def _match(value: float, table: list[tuple[float, str, int]]) -> tuple[str, int] | None:
    """The block whose log2-factor is ``value`` but for whole doublings, which come from gains."""
    if not _is_scaled(value):
        return None
    fraction = value - math.floor(value)
    at = bisect.bisect_left(table, (fraction, "", 0))
    for entry in table[max(at - 1, 0) : at + 1]:
        if abs(entry[0] - fraction) < _SAME:
            return entry[1], entry[2]
    return None


def _is_scaled(value: float) -> bool:
    return abs(value - round(value)) > 100 * _SAME and math.isfinite(value)


def _log2_growth(before: Statistics, after: Statistics) -> list[float]:
    """log2 of the factor by which each channel's standard deviation grew; 0 where it has none."""
    has_spread = (before.var > 0) & (after.var > 0)
    ratio = torch.where(has_spread, after.var / before.var, 1.0)
    return (ratio.log2() / 2).tolist()


def _has_statistics(module: nn.Module) -> bool:
    mean, var = (module._buffers.get(leaf) for leaf in (_MEAN, _VAR))
    return mean is not None and var is not None and mean.is_floating_point() and mean.shape == var.shape
