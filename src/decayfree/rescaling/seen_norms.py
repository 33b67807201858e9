"""Which norms did the last forward passes see, that running statistics belong to?

Remembers them where they may be off the radius, and brings statistics to those that later passes will see.
Scales no weight.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from decayfree.invariance.result import Invariance
from decayfree.invariance.verdict import ScaleInvariantWeight
from decayfree.rescaling.faults import names_as_found
from decayfree.rescaling.following import follow_statistics_
from decayfree.rescaling.held import relations_of
from decayfree.rescaling.holder import Holder
from decayfree.rescaling.seen_biases import SeenBiases
from decayfree.rescaling.sharded import Shifts


class SeenNorms:
    """Norms of held blocks as forward passes saw them, and running statistics that follow.

    Args:
        found: Where weights and normalizations are known from.
        weights: That are held, as they are now.

    Attributes:
        norms: By name, (n_blocks,); of a weight that is not here passes saw the norms that it is held at.
    """

    def __init__(self, found: Invariance, weights: Sequence[ScaleInvariantWeight]) -> None:
        self._found, self._weights = found, list(weights)
        self._shifts = Shifts(found.model, weights)
        self._biases: SeenBiases | None = None
        self.norms: dict[str, Tensor] = {}

    @property
    def shifts(self) -> Shifts:
        """The biases before normalizations, of the model as it is now: parts of it may have been wrapped."""
        self._shifts.model = self._found.model
        return self._shifts

    @property
    def biases(self) -> SeenBiases:
        """What passes saw of biases; made when weights are on their radius."""
        if self._biases is None:
            self._biases = SeenBiases(self._found.model, self._weights, self.shifts.now())
        return self._biases

    def by_name(self, holders: Sequence[Holder]) -> dict[str, Tensor]:
        """Of all weights that are held, (n_blocks,)."""
        held = [one for holder in holders for one in holder.held]
        return {one.name: self.norms.get(one.name, one.targets) for one in held}

    def begin(self, holders: Sequence[Holder]) -> None:
        """Weights are on the norms that they are held at. A state has the same entries from here on."""
        self.norms = {name: norms.clone() for name, norms in self.by_name(holders).items()}

    def note(self, holders: Sequence[Holder], *, is_due: bool) -> None:
        """Remember the norms that passes will see; of a block without any, the last that it had."""
        seen = self.by_name(holders)
        for holder in holders:
            now = holder.norms * holder.factors if is_due else holder.norms
            for one in holder.held:
                norms = now[holder.slices[one.name]]
                is_real = (norms > 0) & torch.isfinite(norms)
                self.norms[one.name] = torch.where(is_real, norms, seen[one.name])

    def follow_(self, holders: Sequence[Holder], *, is_due: bool) -> None:
        """Bring running statistics from the norms that were seen to those that will be."""
        seen = self.by_name(holders)
        self.note(holders, is_due=is_due)
        factors = {name: self.norms[name] / norms for name, norms in seen.items()}
        factors = {name: torch.where(torch.isfinite(c), c, 1.0) for name, c in factors.items()}
        with names_as_found(self._found):
            shifts = self.shifts.now()
            follow_statistics_(self._found.model, relations_of(self._weights, factors), shifts)
            self.biases.correct_(self._found.model, shifts, factors)

    def take_in_biases_(self) -> None:
        """Take in the biases that passes have seen since the last time."""
        with names_as_found(self._found):
            self.biases.take_in_(self._found.model, self.shifts.now())

    def biases_followed(self, factors: Mapping[str, Tensor]) -> None:
        """Outputs were kept where weights were scaled, so that what means hold of biases went with them."""
        self.biases.follow_(self.shifts.now(), factors)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, by parameter name."""
        return {
            "norms": {name: norms.detach().clone() for name, norms in self.norms.items()},
            "biases": self.biases.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], radii: Mapping[str, Tensor]) -> None:
        """Go on where :meth:`state_dict` was taken, in the precision and on the devices of the radii."""
        self.norms = {name: norms.to(radii[name], copy=True) for name, norms in state["norms"].items()}
        self.biases.load_state_dict(state["biases"])
