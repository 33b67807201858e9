"""How are weights put back onto their norms of which this process has a part only?

Rows that are whole on a process are measured and scaled there, and nothing is sent; squared norms of all
others are added up in one all-reduce a process group. Chooses no factors.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from decayfree.blocks import spread_of
from decayfree.invariance.running_statistics import UNKNOWN_SHIFT
from decayfree.invariance.verdict import ScaleInvariantWeight
from decayfree.rescaling.held import Held
from decayfree.rescaling.last_look import LastLook
from decayfree.rescaling.radius import rows_norm
from decayfree.shards import Spread, add_up_, each_number, is_sharded


class Shifts:
    """Biases between held weights and their normalizations, whole on every process: statistics follow them.

    Args:
        model: That has them.
        weights: That are held.

    Attributes:
        model: Likewise; another one may be set that has them by the same names.
    """

    def __init__(self, model: nn.Module, weights: Sequence[ScaleInvariantWeight]) -> None:
        self.model = model
        layers = [layer for weight in weights for layer in weight.norm_layers if layer.blocks]
        self._names = list(
            dict.fromkeys(str(one.shift) for one in layers if one.shift not in (None, UNKNOWN_SHIFT))
        )
        self._whole: dict[str, Tensor] = {}
        self._last_look = LastLook()

    def now(self) -> Mapping[str, Tensor]:
        """By name, (rows,). Sharded ones are asked for where somebody has written to one since then."""
        biases = self._biases()
        sharded = [bias for bias in biases.values() if is_sharded(bias)]
        if not self._last_look.is_as_seen(sharded):
            for spread, numbers in self.spread():
                self.take(spread.everywhere(numbers))
        return {**{name: bias.detach() for name, bias in biases.items()}, **self._whole}

    def spread(self) -> list[tuple[Spread, Tensor]]:
        """The sharded ones, each number for itself, with what this process has of them; empty without any."""
        sharded = [bias for bias in self._biases().values() if is_sharded(bias)]
        if not sharded:
            return []
        spread = Spread([[each_number(bias)] for bias in sharded], list(map(len, sharded)))
        return [(spread, spread.numbers())]

    def take(self, numbers: Tensor) -> None:
        """Take the numbers of :meth:`spread`, added up, for what the biases are."""
        sharded = {name: bias for name, bias in self._biases().items() if is_sharded(bias)}
        parts = numbers.split([len(bias) for bias in sharded.values()])
        self._whole = {
            name: part.to(bias.dtype) for (name, bias), part in zip(sharded.items(), parts, strict=True)
        }
        self._last_look.look(list(sharded.values()))

    def _biases(self) -> dict[str, Tensor]:
        return {name: self.model.get_parameter(name) for name in self._names}


class ShardedGroup:
    """Weights that are spread over processes, measured and scaled together.

    Args:
        held: The weights.
        targets: (blocks of all weights,).
        norms: Likewise; to be filled.
        factors: Likewise.
        shifts: Biases that go with the norms wherever all processes have to know those.
    """

    def __init__(
        self, held: Sequence[Held], targets: Tensor, norms: Tensor, factors: Tensor, shifts: Shifts | None
    ) -> None:
        self.targets, self.norms, self.factors = targets, norms, factors
        self._spread, self._shifts = spread_of(held), shifts
        self._roots = torch.cat([rows_norm(one.blocks, one.weight) for one in held])

    def measure(self) -> None:
        """Fill the norms, on every process those of all blocks; a target that is NaN becomes the norm."""
        squares = self._spread.squares()
        shifts = self._shifts.spread() if self._shifts else []
        add_up_([(self._spread, squares), *shifts], everywhere=True)
        for _, numbers in shifts:
            self._shifts.take(numbers)  # type: ignore[union-attr]
        self.norms.copy_(squares.sqrt_())
        # Rounded as radii are that were saved.
        own = self.norms / self._roots * self._roots
        self.targets.copy_(torch.where(self.targets.isnan(), own, self.targets))

    def measure_here(self) -> None:
        """Fill the norms of blocks of which this process has numbers; others are taken to be on target."""
        squares = self._spread.squares()
        add_up_([(self._spread, squares)], everywhere=False)
        self.norms.copy_(torch.where(self._spread.is_here, squares.sqrt_(), self.targets))

    def scale_(self, copy: object = None) -> None:
        """Multiply what this process has of each block by its factor; there is no copy here."""
        self._spread.scale_(self.factors)
