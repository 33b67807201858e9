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
    factors = expand(block_factors, weight.block_sizes)
    parameter = model.get_parameter(weight.name)
    if weight.starts:  # the rows between the blocks stay as they are
        ones = torch.ones(parameter.shape[weight.axis] * weight.groups, dtype=factors.dtype)
        ones[list(weight.blocks.rows)] = factors
        factors = ones
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


def far(generator: torch.Generator) -> Factors:
    """Factors between 1/300 and 300, which meet clips and thresholds that nothing reaches by itself."""
    return lambda n: random_factors(n, generator, spread=300.0)


# A whole parameter is scaled by these to see whether it has a scale.
FACTORS = (1 / 300, 1 / 1.7, 1.7, 300.0, 3e4)


def wrong_claims(bench: Bench, found: Invariance, generator: torch.Generator) -> list[str]:
    """What finite scaling, up and down, says against the verdicts on a model.

    Args:
        bench: With a generic copy of the model.
        found: The verdicts.
        generator: Draws factors.
    """
    wrong = []
    for factors in (at_random(generator), far(generator)):
        moved = movement_of_found(bench, found, factors)
        if not moved < 1e-9:
            alone = {weight.name: movement_of_found(bench, [weight], factors) for weight in found}
            wrong.append(f"what was found moves the outputs by {moved:.1e}: {alone}")
    for name, verdict in found.verdicts.items():
        bias = name.removesuffix("weight") + "bias"
        has_bias = name.endswith("weight") and bias in found.verdicts
        moves = _movements(bench, name)
        with_bias = _movements(bench, name, bias) if has_bias else moves
        measured = f"scaled: {moves}; with its bias: {with_bias}; but {verdict.reason}"
        if verdict.verdict == "not_invariant" and min(max(moves), max(with_bias)) < 1e-6:
            wrong.append(f"{name} has no scale; {measured}")
        is_free = verdict.verdict == "invariant" and verdict.left_out
        if is_free and min(max(moves), max(with_bias)) > 1e-9:
            wrong.append(f"{name} has a scale; {measured}")
        if verdict.verdict == "undecided":
            other = max(bench.movement_after(change) for change in _other_values(name))
            if max(*moves, other) > 1e-9:
                wrong.append(f"{name} has an effect, {other:.1e}; {measured}")
    return wrong


def _movements(bench: Bench, *names: str) -> list[float]:
    return [bench.movement_when_scaled(names[0], factor, *names[1:]) for factor in FACTORS]


def _other_values(name: str) -> list[Callable[[nn.Module], None]]:
    """Changes of a parameter: moved a little, and with the opposite signs."""
    return [
        lambda model: model.get_parameter(name).add_(0.3),
        lambda model: model.get_parameter(name).mul_(-1.0),
    ]
