"""How are weights put back onto their norms of which this process has a part only?

Rows that are whole on a process are measured and scaled there, and nothing is sent; squared norms of all
others, or what they follow from where a step is changed, are added up in one all-reduce a process group.
Chooses no factors.
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
from decayfree.shards import SUM_DTYPE, Spread, add_up_, each_number, is_sharded


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

    Attributes:
        held: The weights.
    """

    def __init__(
        self, held: Sequence[Held], targets: Tensor, norms: Tensor, factors: Tensor, shifts: Shifts | None
    ) -> None:
        self.held, self.targets, self.norms, self.factors = list(held), targets, norms, factors
        self._expected: Tensor | None = None
        self._spread, self._shifts = spread_of(held), shifts
        self._roots = torch.cat([rows_norm(one.blocks, one.weight) for one in held])

    def measure(self) -> None:
        """Fill the norms, on every process those of all blocks; a target that is NaN becomes the norm."""
        self._expected = None
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
        squares, self._expected = self._expected, None
        if squares is None:
            squares = self._spread.squares()
            add_up_([(self._spread, squares)], everywhere=False)
        self.norms.copy_(torch.where(self._spread.is_here, squares.sqrt_(), self.targets))

    def sums_of_step(self, before: Sequence[Tensor]) -> Tensor:
        """‖w‖², ⟨w, u⟩ and ‖u‖² of the blocks of which this process has numbers; 0 of the others.

        Args:
            before: What this process had of the weights, and of their biases, before they took the step u.

        Returns:
            (3, blocks of all weights).
        """
        pairs = [(w.to(SUM_DTYPE), after.to(SUM_DTYPE) - w) for after, w in self._spread.rows(before)]
        products = ((w.square(), w * u, u.square()) for w, u in pairs)
        sums = self._spread.add([torch.stack([one.sum(dim=1) for one in three]) for three in products])
        add_up_([(self._spread, sums)], everywhere=False)
        return torch.where(self._spread.is_here, sums, 0.0)

    def move_(
        self, before: Sequence[Tensor], along: Tensor, times: Tensor, sums: Tensor | None = None
    ) -> None:
        """Make of the step u one of ``times``·(u − ``along``·w).

        Args:
            before: As for :meth:`sums_of_step`.
            along: (blocks of all weights,).
            times: Likewise.
            sums: From :meth:`sums_of_step`; norms after the step follow from them, and nothing is sent for
                those.
        """
        self._spread.move_(before, along, times)
        if sums is not None:
            squares, dots, of_step = sums
            kept = 1 - times * along
            self._expected = kept.square() * squares + 2 * kept * times * dots + times.square() * of_step

    def largest(self, values: Tensor) -> Tensor:
        """Numbers of at least 0 by block, (*, blocks), on all processes as they are on those that have it."""
        values = torch.where(self._spread.is_here, values, 0.0)
        add_up_([(self._spread, values)], everywhere=True, op="MAX")
        return values

    def by_weight(self, of_blocks: Tensor) -> list[Tensor]:
        """Weight by weight, (*, n_blocks of it)."""
        return self._spread.sums(of_blocks)

    def scale_(self, copy: object = None) -> None:
        """Multiply what this process has of each block by its factor; there is no copy here."""
        self._spread.scale_(self.factors)
