"""Which running statistics must follow when a block is scaled?

Reads it off two runs, one before and one after blocks were scaled by different random factors: a channel
whose deviation grew by c follows the block that was scaled by c (labels.py says how a factor tells its
block). Runs no model.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from decayfree.invariance.labels import LabelTable, is_scaled
from decayfree.invariance.running_statistics import UNKNOWN_SHIFT, NormLayer, Statistics


@dataclass(frozen=True)
class TwoRuns:
    """What two runs put into running statistics, and which channels therefore follow which blocks.

    Args:
        before: By module, of the run before scaling.
        after: By module, of the run after some blocks were scaled, and some gains and biases doubled.
        vectors: Values of all biases, by parameter name, to recognize shifts.
        is_exact: Whether the runs were in float64; float32 cannot tell thousands of factors apart.
    """

    before: Mapping[str, Statistics]
    after: Mapping[str, Statistics]
    vectors: Mapping[str, Tensor]
    is_exact: bool

    def followers(self, factors: Mapping[str, Tensor]) -> tuple[dict[str, list[NormLayer]], list[str]]:
        """Match channels with blocks after all blocks were scaled at once.

        Args:
            factors: For each weight the factors of its blocks, (n_blocks,), float64, with labels that are all
                different.

        Returns:
            For each weight the normalizations whose statistics follow it; and the modules that this run does
            not explain, since several weights act on a channel or the runs were in float32.
        """
        table = LabelTable(factors)
        found: dict[str, list[NormLayer]] = {name: [] for name in factors}
        unexplained = []
        for layer in self.before:
            growth = self._log2_growth(layer)
            matches = table.blocks_of(growth)
            if not self.is_exact or any(
                not match and is_scaled(value) for match, value in zip(matches, growth, strict=True)
            ):
                unexplained.append(layer)
                continue
            for name in dict.fromkeys(match[0] for match in matches if match):
                pairs = [
                    (channel, match[1]) for channel, match in enumerate(matches) if match and match[0] == name
                ]
                found[name].append(self._norm_layer(layer, pairs, factors[name]))
        return found, unexplained

    def followers_of_one(self, layers: Iterable[str], factors: Tensor) -> list[NormLayer]:
        """The normalizations among some that follow a weight which was scaled alone.

        Args:
            layers: The modules to look at.
            factors: (n_blocks,), float64. Far apart, so that float32 will do.
        """
        found = []
        logs = factors.log2()
        same = 1e-6 if self.is_exact else 1e-4
        for layer in layers:
            growth = self._log2_growth(layer)
            changed = [channel for channel, value in enumerate(growth) if abs(value) > same]
            nearest = [int((logs - growth[channel]).abs().argmin()) for channel in changed]
            if not changed:
                continue
            if any(
                abs(growth[channel] - float(logs[block])) > same
                for channel, block in zip(changed, nearest, strict=True)
            ):
                found.append(NormLayer(layer, tuple(changed), (), UNKNOWN_SHIFT))
            else:
                found.append(self._norm_layer(layer, list(zip(changed, nearest, strict=True)), factors))
        return found

    def _log2_growth(self, layer: str) -> list[float]:
        """log2 of the factor by which each channel's standard deviation grew; 0 where it has none."""
        before, after = self.before[layer].var, self.after[layer].var
        ratio = torch.where((before > 0) & (after > 0), after / before, 1.0)
        return (ratio.log2() / 2).tolist()

    def _norm_layer(self, layer: str, pairs: list[tuple[int, int]], factors: Tensor) -> NormLayer:
        """The relation of a module to one weight.

        Args:
            layer: The module.
            pairs: (channel, block), each channel with the block that it follows.
            factors: (n_blocks,), float64. Of all blocks of the weight.
        """
        before, after = self.before[layer], self.after[layer]
        channels = torch.tensor([channel for channel, _ in pairs])
        logs = factors.log2()[[block for _, block in pairs]]
        growth = torch.tensor(self._log2_growth(layer), dtype=torch.float64)[channels]
        # Exact, while growth is rounded.
        c = (logs + (growth - logs).round()).exp2()
        mean, moved = before.mean[channels], after.mean[channels]
        shift = (moved - c * mean) / (1 - c)  # from mean' = c(mean − b) + b
        # Less than that is no shift.
        precision = (1e-6 if self.is_exact else 1e-3) * (mean.abs() + before.var[channels].sqrt())
        completed = _with_dead_channels(pairs, len(factors), before.var)
        names = tuple(channel for channel, _ in completed), tuple(block for _, block in completed)
        if bool((shift.abs() <= precision).all()):
            return NormLayer(layer, *names)
        parameter, rows = _parameter_equal_to(shift, precision, self.vectors)
        if rows and len(completed) > len(pairs):  # entries for the channels that were filled in
            offset = rows[0] - int(channels[0])
            rows = tuple(channel + offset for channel, _ in completed)
        return NormLayer(layer, *names, parameter, rows)


def apart(layers_of: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Weights in groups of which no two act on the same modules; those that act on none are in none.

    Args:
        layers_of: For each weight the modules on which it acts.

    Example:
        >>> apart({"a": ["norm1"], "b": ["norm1", "norm2"], "c": ["norm2"], "d": []})
        [['a', 'c'], ['b']]
    """
    groups: list[list[str]] = []
    for name, layers in layers_of.items():
        if not layers:
            continue
        free = [one for one in groups if all(set(layers).isdisjoint(layers_of[other]) for other in one)]
        if free:
            free[0].append(name)
        else:
            groups.append([name])
    return groups


def _with_dead_channels(pairs: list[tuple[int, int]], n_blocks: int, var: Tensor) -> list[tuple[int, int]]:
    """Pairs with those of dead kernels (their deviation is zero before and after) between their neighbors."""
    offsets = {channel - block for channel, block in pairs}
    if len(offsets) != 1 or 2 * len(pairs) < n_blocks:
        return pairs
    (offset,) = offsets
    seen = {block for _, block in pairs}
    dead = [
        (offset + block, block)
        for block in range(n_blocks)
        if block not in seen and 0 <= offset + block < len(var)
    ]
    return sorted(pairs + dead) if all(float(var[channel]) == 0 for channel, _ in dead) else pairs


def _parameter_equal_to(
    shift: Tensor, precision: Tensor, vectors: Mapping[str, Tensor]
) -> tuple[str, tuple[int, ...]]:
    for name, values in vectors.items():
        if not values.numel():
            continue
        distance, rows = (values.reshape(1, -1) - shift.reshape(-1, 1)).abs().min(dim=1)
        if bool((distance <= 10 * precision).all()):
            return name, tuple(rows.tolist())
    return UNKNOWN_SHIFT, ()
