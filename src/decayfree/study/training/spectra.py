"""Where the energy of each weight lies along the principal directions of its inputs.

Works on a copy of the model, so that nothing in it changes; decides neither when nor where the result is
kept.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from decayfree.forward import Surroundings
from decayfree.invariance.result import Invariance
from decayfree.span.input_span import InputSpan
from decayfree.span.layer_span import LayerSpan
from decayfree.study.files.results import MAIN_VARIANCE, Spectrum

MAX_BINS = 24


@torch.no_grad()
def spectra_of(
    model: nn.Module,
    found: Invariance,
    inputs: Tensor,
    forward: Callable[[nn.Module, Tensor], Any] = lambda model, inputs: model(inputs),
) -> dict[str, Spectrum]:
    """The spectrum of every scale-invariant weight under one forward pass in train mode.

    Args:
        model: Left as it is, running statistics and random state included.
        found: Its scale-invariant weights.
        inputs: (n, n_channels, height, width): one batch, whose statistics count.
        forward: How it takes them.

    Returns:
        Weight name -> spectrum, without weights that are too large to look at or whose inputs are not finite.
    """
    with Surroundings(0):
        watched = copy.deepcopy(model).train()
        with InputSpan(watched, found) as span:
            forward(watched, inputs)
    weights = {weight.name: model.get_parameter(weight.name).detach() for weight in found}
    return {
        name: spectrum_of(span[name], weight)
        for name, weight in weights.items()
        if name in span and bool(torch.isfinite(span[name].second_moment).all())
    }


def spectrum_of(layer: LayerSpan, weight: Tensor) -> Spectrum:
    """The spectrum of one weight.

    Args:
        layer: What its inputs were.
        weight: (*shape), floating. Rows of zeros have no direction and do not count.
    """
    energy = layer.energy(weight).double().nanmean(dim=0)
    variance = layer.spectrum().double().clamp_min(0).mean(dim=0)  # over the groups of a convolution
    variance = variance / variance.sum()
    n_directions = len(energy)
    n_main = int((variance.cumsum(dim=0) < MAIN_VARIANCE).sum()) + 1
    edges = bin_edges(n_directions)
    return Spectrum(
        edges=edges,
        energy=_binned(energy, edges),
        variance=_binned(variance, edges),
        n_main=min(n_main, n_directions),
        main_energy=float(energy[:n_main].sum()),
    )


def bin_edges(n_directions: int) -> tuple[int, ...]:
    """Where bins begin and end: `MAX_BINS` of them as nearly equal as can be, or one for each direction."""
    n_bins = min(MAX_BINS, n_directions)
    return tuple(round(index * n_directions / n_bins) for index in range(n_bins + 1))


def _binned(shares: Tensor, edges: tuple[int, ...]) -> tuple[float, ...]:
    sizes = torch.tensor(edges).diff().tolist()
    return tuple(float(part.sum()) for part in shares.split(sizes))
