"""How much of a bias is in the running mean behind it?

A bias that is not scaled with its weight, as one between a kernel and its BatchNorm. It does nothing, its
gradient is rounding, and yet an optimizer that divides gradients by their size moves it. Scales nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from decayfree.invariance.running_statistics import UNKNOWN_SHIFT, NormLayer
from decayfree.invariance.verdict import ScaleInvariantWeight


@dataclass(frozen=True)
class _Seen:
    """One bias, as far as the running mean of one normalization has taken it in."""

    average: Tensor  # (n_channels,)
    n_passes: Tensor | None  # () of the normalization so far; None where it does not count them


class SeenBiases:
    """The moving average of each bias over the passes, with the weights that it has in the running mean.

    A pass at norm r with bias b has a mean of r·μ + b, so that a running mean is an average of r·μ plus one
    of the bias, b̄. Where norms change by c without a pass, it should become c(m − b̄) + b̄; with the bias as
    it is now in the place of b̄, it would be off by (c − 1)(b̄ − b).

    Args:
        model: With the normalizations.
        weights: Whose norms change.
        biases: By name, (rows,); the average begins with them.
    """

    def __init__(
        self, model: nn.Module, weights: Sequence[ScaleInvariantWeight], biases: Mapping[str, Tensor]
    ) -> None:
        self._layers = {
            f"{weight.name} -> {layer.name}": (weight.name, layer)
            for weight in weights
            for layer in weight.norm_layers
            if layer.blocks and layer.shift not in (None, UNKNOWN_SHIFT)
        }
        self._seen = {
            key: _Seen(_bias_of(biases, layer).clone(), _n_passes(model.get_submodule(layer.name)))
            for key, (_, layer) in self._layers.items()
        }

    @torch.no_grad()
    def take_in_(self, model: nn.Module, biases: Mapping[str, Tensor]) -> None:
        """Take in the biases as they are, for the passes since the last call: they have seen them."""
        for key, (_, layer) in self._layers.items():
            module, bias, seen = model.get_submodule(layer.name), _bias_of(biases, layer), self._seen[key]
            n_passes = _n_passes(module)
            kept = _kept(getattr(module, "momentum", None), seen.n_passes, n_passes)
            average = bias + (0.0 if kept is None else kept.to(bias)) * (seen.average.to(bias) - bias)
            self._seen[key] = _Seen(average, n_passes)

    @torch.no_grad()
    def correct_(self, model: nn.Module, biases: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> None:
        """Bring running means from c(m − b) + b to c(m − b̄) + b̄; ``factors`` by weight, (n_blocks,)."""
        for key, layer, c in self._with(factors):
            mean = model.get_submodule(layer.name).get_buffer("running_mean").flatten()
            late = self._seen[key].average.to(mean.device) - _bias_of(biases, layer).to(mean.device)
            channels = torch.tensor(layer.channels, device=mean.device)
            mean[channels] += ((1 - c.to(late.device)) * late).to(mean.dtype)

    @torch.no_grad()
    def follow_(self, biases: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> None:
        """Where outputs were kept, running means went to c(m − b) + b, and so does what they hold of b."""
        for key, layer, c in self._with(factors):
            seen, bias = self._seen[key], _bias_of(biases, layer)
            self._seen[key] = replace(seen, average=bias + c.to(bias) * (seen.average.to(bias) - bias))

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """The averages and numbers of passes, by weight and normalization."""
        return {key: {"average": one.average, "n_passes": one.n_passes} for key, one in self._seen.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        self._seen = {key: _Seen(state[key]["average"].clone(), state[key]["n_passes"]) for key in self._seen}

    def _with(self, factors: Mapping[str, Tensor]) -> Iterator[tuple[str, NormLayer, Tensor]]:
        """Each with the factors of its channels, (n_channels,)."""
        for key, (weight, layer) in self._layers.items():
            yield key, layer, factors[weight][list(layer.blocks)]


def _bias_of(biases: Mapping[str, Tensor], layer: NormLayer) -> Tensor:
    return biases[str(layer.shift)][list(layer.shift_rows)]


def _n_passes(module: nn.Module) -> Tensor | None:
    count = getattr(module, "num_batches_tracked", None)
    return count.clone() if isinstance(count, Tensor) else None


def _kept(momentum: object, before: Tensor | None, now: Tensor | None) -> Tensor | None:
    """The share of what a running mean held before these passes that is still in it; None where unknown.

    (), float64. With a momentum α, (1 − α)^n after n passes; without one it is the mean of all passes.
    """
    if before is None or now is None:
        return None
    now = now.cpu() if now.device.type == "mps" else now
    before = before.to(now.device)
    n_new = now - before
    if momentum is None:
        share = before.double() / now.clamp(min=1)
    elif isinstance(momentum, int | float):
        share = torch.pow(1.0 - momentum, n_new.double())
    else:
        return None
    # Counted from the beginning again, nobody knows what is in the mean: take it to hold the bias as it is.
    return torch.where(n_new > 0, share.double(), (n_new == 0).double())
