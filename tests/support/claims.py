"""Does what the probe says about a model hold? Its claims, carried out on a copy.

Reads an Invariance and scales with the oracle; computes nothing by gradient and takes no block from the
package.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from decayfree import Invariance, ScaleInvariantWeight
from support.oracle import Bench, expand, follow_running_statistics_, random_factors, scale_rows_

Factors = Callable[[int], Tensor]
UNKNOWN = "unknown"


def scale_weight_(model: nn.Module, weight: ScaleInvariantWeight, block_factors: Tensor) -> None:
    """Multiply each block, and its entries of the bias, by its factor; (n_blocks,)."""
    parameter = model.get_parameter(weight.name)
    factors = expand(block_factors, weight.block_sizes, weight.starts, len(parameter))
    scale_rows_(parameter, factors, axis=weight.axis, groups=weight.groups)
    if weight.bias is not None:
        scale_rows_(model.get_parameter(weight.bias), factors)


def movement_of_found(bench: Bench, found: Iterable[ScaleInvariantWeight], factors: Factors) -> float:
    """How far the outputs move when all blocks found are scaled at once."""

    def scale(model: nn.Module) -> None:
        for weight in found:
            scale_weight_(model, weight, factors(len(weight.block_sizes)))

    return bench.movement_after(scale)


def movement_in_eval_mode(bench: Bench, found: Iterable[ScaleInvariantWeight], factors: Factors) -> float:
    """The same in eval mode, with running statistics that follow as ``norm_layers`` says."""

    def scale(model: nn.Module) -> None:
        for weight in found:
            block_factors = factors(len(weight.block_sizes))
            scale_weight_(model, weight, block_factors)
            for layer in weight.norm_layers:
                if layer.blocks:
                    shift = None
                    if layer.shift not in (None, UNKNOWN):
                        shift = model.get_parameter(layer.shift)[list(layer.shift_rows)]
                    norm = model.get_submodule(layer.name)
                    factors_of_channels = block_factors[list(layer.blocks)]
                    follow_running_statistics_(norm, layer.channels, factors_of_channels, shift)

    return bench.eval().movement_after(scale)


def movements_of_the_others(bench: Bench, found: Invariance, factor: float) -> dict[str, float]:
    """How far the outputs move when each parameter called not invariant is scaled by one factor."""
    names = [name for name, verdict in found.verdicts.items() if verdict.verdict == "not_invariant"]
    return {name: bench.movement_when_scaled(name, factor) for name in names}


def at_random(generator: torch.Generator) -> Factors:
    """Factors between 1/3 and 3, another one for every block."""
    return lambda n: random_factors(n, generator)
