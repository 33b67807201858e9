"""What stands in for weight decay on one weight: its radii, angles and time constants."""

from dataclasses import dataclass

from torch import Tensor

from decayfree.conversion.decay_rule import DecayRule


@dataclass(frozen=True)
class WeightRecipe:
    """What stands in for decay on one weight.

    Args:
        name: Of the parameter.
        shape: Of the parameter.
        rule: The optimizer's settings for it.
        fan_in: Weights in one row, with its bias entry where that belongs to the block.
        gradient_norms: (n_blocks,), ‖g‖·‖w‖ in units of the loss; None where the rule does not ask for them.
        radii: (n_blocks,), the norm a row at which each block turns without decay, at ``rule.lr``, as it does
            with it: that of equilibrium, or a little less where ηλ is large. A block without gradient has no
            equilibrium and gets the norm that it has.
        angles_rad: (n_blocks,), the angle that it turns by in a step, in radians.
        time_constants_steps: (n_blocks,), optimizer steps in which its norm gets there, up to 1/e.
    """

    name: str
    shape: tuple[int, ...]
    rule: DecayRule
    fan_in: int
    gradient_norms: Tensor | None
    radii: Tensor
    angles_rad: Tensor
    time_constants_steps: Tensor

    @property
    def lr_at_radius_1(self) -> Tensor:
        """(n_blocks,), the learning rate that does the same at radius 1."""
        return self.rule.lr_at_radius_1(self.radii)
