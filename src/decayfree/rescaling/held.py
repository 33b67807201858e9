"""Which weights are held, and at which norms?

Joins what was found with the radii. Scales nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from decayfree.blocks import Blocks, Part
from decayfree.invariance.running_statistics import NormLayer
from decayfree.invariance.verdict import ScaleInvariantWeight
from decayfree.rescaling.radius import Radius, radius_of, rows_norm


@dataclass(frozen=True)
class Held(Part):
    """One weight and the norms its blocks are held at.

    Args:
        weight: The parameter.
        bias: Its bias, where they only work together.
        blocks: How its rows are divided.
        name: Of the parameter.
        targets: (n_blocks,), in :func:`decayfree.blocks.norm_dtype` of the weight. Norm of each block; 0
            where it is to be left alone.
        has_scale: Held by request: nothing else follows it.
    """

    name: str
    targets: Tensor
    has_scale: bool = False

    def by_tensor(self) -> list[tuple[Tensor, Blocks]]:
        """The weight, and its bias where there is one, each with its blocks."""
        return list(zip(self.tensors, (self.blocks, self.blocks.of_bias), strict=False))

    @property
    def n_blocks(self) -> int:
        """How many blocks it has."""
        return self.blocks.n_blocks

    @property
    def n_bytes(self) -> int:
        """Of the weight."""
        return self.weight.numel() * self.weight.element_size()


def radii_of(model: nn.Module, weights: Sequence[ScaleInvariantWeight], radius: Radius) -> dict[str, Tensor]:
    """Radius of every block of each weight, by name; NaN where it is known when norms were measured."""
    parameters = dict(model.named_parameters())
    return {
        weight.name: radius_of(radius, weight.name, weight.part(parameters), keeps_its_own=weight.by_request)
        for weight in weights
    }


def held_of(
    model: nn.Module, weights: Sequence[ScaleInvariantWeight], radii: Mapping[str, Tensor]
) -> list[Held]:
    """The weights with the norms that they are held at."""
    parameters = dict(model.named_parameters())
    held = []
    for weight in weights:
        part = weight.part(parameters)
        targets = radii[weight.name].to(part.weight.device) * rows_norm(part.blocks, part.weight)
        held.append(
            Held(part.weight, part.bias, part.blocks, weight.name, targets, has_scale=weight.by_request)
        )
    return held


def relations_of(
    weights: Sequence[ScaleInvariantWeight], factors: Mapping[str, Tensor]
) -> list[tuple[NormLayer, Tensor]]:
    """Every normalization with the factors of the blocks that it follows."""
    return [(layer, factors[weight.name]) for weight in weights for layer in weight.norm_layers]
