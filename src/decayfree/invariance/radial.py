"""How much would a random function of the outputs change if one row of a weight grew?

Products of weights and gradients, and how large they could have been. Runs no model and draws no conclusion.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RadialDerivatives:
    """How the outputs react to scaling each row of a weight, in one probe.

    Args:
        radial: (n_rows,), float64. ⟨w_i, ∂φ/∂w_i⟩, the change of φ, in units of the outputs' own norm, per
            relative growth of row i.
        sizes: (n_rows,), float64. ‖w_i‖.
        gradient_sizes: (n_rows,), float64. ‖∂φ/∂w_i‖.
    """

    radial: Tensor
    sizes: Tensor
    gradient_sizes: Tensor

    @property
    def magnitude(self) -> Tensor:
        """(n_rows,), float64. ‖w_i‖‖∂φ/∂w_i‖, the largest value that ``radial`` could have."""
        return self.sizes * self.gradient_sizes

    def joined(self, bias: Tensor, bias_gradient: Tensor) -> "RadialDerivatives":
        """The same of each row together with its entry of a bias, (n_rows,)."""
        values, gradients = bias.detach().double().cpu(), bias_gradient.double().cpu()
        return RadialDerivatives(
            self.radial + values * gradients, self.sizes.hypot(values), self.gradient_sizes.hypot(gradients)
        )


def radial_derivatives(weight: Tensor, gradient: Tensor, axis: int, groups: int) -> RadialDerivatives:
    """Radial derivative of every row of a weight.

    Args:
        weight: (*shape), of at least two dimensions.
        gradient: (*shape), of φ.
        axis: 0, or 1 where rows run along dimension 1 within ``groups`` parts of dimension 0.
        groups: 1 for ``axis=0``.
    """
    n_rows = len(weight)
    cut = (
        (n_rows, 1, weight.numel() // n_rows, 1)
        if axis == 0
        else (groups, n_rows // groups, weight.shape[1], -1)
    )
    dims = (2,) if axis == 0 else (1, 3)
    values, gradients = weight.detach().reshape(cut), gradient.reshape(cut)
    radial = (values * gradients).sum(dims).flatten()
    sizes, gradient_sizes = (
        torch.linalg.vector_norm(part, dim=dims).flatten() for part in (values, gradients)
    )
    return RadialDerivatives(radial.double().cpu(), sizes.double().cpu(), gradient_sizes.double().cpu())
