"""How do scale-invariant weights become the outcome of a parametrization, and what is scale-invariant then?

Puts torch's parametrizations in and writes down what they do to scales. Knows no formula; the methods beside
it do.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from torch import nn
from torch.nn.utils import parametrize

from decayfree.arguments.kinds import checked
from decayfree.errors import UnsupportedWeightError
from decayfree.invariance.result import Invariance
from decayfree.invariance.running_statistics import NormLayer
from decayfree.invariance.verdict import ScaleInvariantWeight, Verdict

Parametrize = Callable[[nn.Module, str, int], tuple[str, str | None]]
"""Parametrizes a parameter of a module, whose rows run along a dimension; returns what its tensor of
directions is called among its originals, and that of lengths if any.
"""


def parametrized(
    model: nn.Module, found: Invariance, put_in: Parametrize, *, by: str, reason: str
) -> Invariance:
    """Compute every scale-invariant weight from a tensor of directions.

    That tensor has no scale row by row, whatever follows. The normalization behind no longer meets that
    scale, so that its running statistics do not follow it. What had a scale in common before, several rows
    and their biases, has it now as lengths, where the parametrization has such.

    Args:
        model: Changed in place.
        found: Its scale-invariant weights.
        put_in: Called for each.
        by: Who does so, in words, for the message.
        reason: Why directions have no scale, in words.

    Returns:
        The scale-invariant weights of the changed model, as a probe would find them.

    Raises:
        UnsupportedWeightError: If a weight is shared, has a parametrization, has rows of one number, rows
            in groups of a transposed kernel or rows that are not scale-invariant. Then nothing has changed.
    """
    faults = [fault for weight in found for fault in _faults(model, weight)]
    if faults:
        raise UnsupportedWeightError(f"{by} does not know how to treat {'; '.join(faults)}")
    weights: dict[str, ScaleInvariantWeight] = {}
    reasons: dict[str, str] = {}
    for one in found:
        module, _, name = one.name.rpartition(".")
        directions, lengths = put_in(model.get_submodule(module), name, one.axis)
        prefix = f"{module}{'.' * bool(module)}parametrizations.{name}."
        rows, cancelled_in = (1,) * one.blocks.n_rows, (NormLayer(f"{prefix}0"),)
        directions = prefix + directions
        weights[directions] = ScaleInvariantWeight(
            directions, None, one.axis, rows, cancelled_in, one.residual
        )
        reasons[directions] = reason
        if lengths is None:
            continue
        if model.get_parameter(prefix + lengths).requires_grad:
            weights[prefix + lengths] = replace(one, name=prefix + lengths)
            reasons[prefix + lengths] = "several lengths have a scale in common"
        else:
            reasons[prefix + lengths] = "it has no effect: a normalization cancels it"
    return _invariance(model, found, weights, reasons)


@checked()
def plain_name(name: str) -> str:
    """What a parameter was called before its parametrization.

    Directions are called like the weight that is computed from them.

    Example:
        >>> plain_name("features.0.parametrizations.weight.original1"), plain_name("features.0.bias")
        ('features.0.weight', 'features.0.bias')
    """
    return _DIRECTIONS.sub(r"\1", name)


_DIRECTIONS = re.compile(r"parametrizations\.(\w+)\.original1?$")


def _invariance(
    model: nn.Module,
    found: Invariance,
    weights: Mapping[str, ScaleInvariantWeight],
    reasons: Mapping[str, str],
) -> Invariance:
    """Weights and verdicts in the model's order; those of parameters that are as they were are kept."""
    verdicts = {}
    partners = {one.bias: one.name for one in weights.values() if one.bias is not None}
    alone = {one.bias for one in found} - partners.keys()
    for name, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        if name in weights:
            residual = weights[name].residual
            verdicts[name] = Verdict(name, "invariant", reasons[name], residual, shape)
        elif name in reasons:
            verdicts[name] = Verdict(name, "frozen", reasons[name], 0.0, shape)
        elif name in partners:
            verdicts[name] = replace(found.verdicts[name], reason=f"goes with {partners[name]}")
        elif name in alone:
            verdicts[name] = Verdict(name, "not_invariant", "its weight has no scale to share", 0.0, shape)
        else:
            verdicts[name] = found.verdicts[name]
    ordered = [weights[name] for name in verdicts if name in weights]
    return Invariance(model, ordered, verdicts, dtype=found.dtype, confirmed_to=found.confirmed_to)


def _faults(model: nn.Module, weight: ScaleInvariantWeight) -> Iterator[str]:
    """Why a weight cannot be parametrized row by row."""
    parameter = model.get_parameter(weight.name)
    all_names = [name for name, other in model.named_parameters(remove_duplicate=False) if other is parameter]
    module = model.get_submodule(weight.name.rpartition(".")[0])
    at = f"{weight.name} {tuple(parameter.shape)}"
    if isinstance(module, parametrize.ParametrizationList):
        yield f"{at}, which is part of a parametrization"
    elif len(all_names) > 1:
        yield f"{at}, which layers share ({', '.join(all_names)})"
    elif weight.groups > 1:
        yield f"{at}, whose rows lie in {weight.groups} groups along dimension {weight.axis}"
    elif weight.blocks.is_partial:
        yield f"{at}, of which only some rows are scale-invariant"
    elif parameter.numel() == parameter.shape[weight.axis]:
        yield f"{at}, whose rows are single numbers"
