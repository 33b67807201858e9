"""How much would a random function of the outputs change if one row of a weight grew?

Products of weights and gradients, and how large they could have been. Runs no model and draws no conclusion.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_PIECE = 1 << 16


@dataclass(frozen=True)
class RadialDerivatives:
    """How the outputs react to scaling each row of a weight, in one probe.

    Args:
        radial: (n_rows,), float64. ⟨w_i, ∂φ/∂w_i⟩, the change of φ, in units of the outputs' own norm, per
            relative growth of row i.
        sizes: (n_rows,), float64. ‖w_i‖.
        gradient_sizes: (n_rows,), float64. ‖∂φ/∂w_i‖.
        length: Numbers in a row.
    """

    radial: Tensor
    sizes: Tensor
    gradient_sizes: Tensor
    length: int = 1

    @property
    def magnitude(self) -> Tensor:
        """(n_rows,), float64. ‖w_i‖‖∂φ/∂w_i‖, the largest value that ``radial`` could have."""
        return self.sizes * self.gradient_sizes

    def joined(self, bias: Tensor, bias_gradient: Tensor) -> "RadialDerivatives":
        """The same of each row together with its entry of a bias, (n_rows,)."""
        values, gradients = bias.detach().double().cpu(), bias_gradient.double().cpu()
        return RadialDerivatives(
            self.radial + values * gradients,
            self.sizes.hypot(values),
            self.gradient_sizes.hypot(gradients),
            self.length + 1,
        )


def along_rows(weight: Tensor, gradient: Tensor) -> RadialDerivatives:
    """Radial derivative of every row along dimension 0.

    Args:
        weight: (n_rows, *shape).
        gradient: (n_rows, *shape), of φ.
    """
    values, gradients = weight.detach().flatten(1), gradient.flatten(1)
    # A product of matrices needs no third tensor as large as the two.
    radial = (values.unsqueeze(1) @ gradients.unsqueeze(2)).flatten()
    sizes, gradient_sizes = (torch.linalg.vector_norm(part, dim=1) for part in (values, gradients))
    return RadialDerivatives(
        radial.double().cpu(), sizes.double().cpu(), gradient_sizes.double().cpu(), values.shape[1]
    )


def column_sums(weight: Tensor, gradient: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Radial derivatives of the rows along dimension 1, for every number of groups along dimension 0.

    Each number of groups takes its sums from those of a multiple, so that all of them together cost little
    more than the first. Rows of a single number are left out: of them only the sign could count.

    Args:
        weight: (n, n_columns, *shape).
        gradient: (n, n_columns, *shape), of φ.

    Yields:
        The number of groups, in falling order, and (groups, n_columns), float64.
    """
    n = len(weight)
    values, gradients = (part.detach().reshape(*part.shape[:2], -1) for part in (weight, gradient))
    sums_of: dict[int, Tensor] = {}
    for groups in range(n if values.shape[2] > 1 else n // 2, 0, -1):
        if n % groups:
            continue
        multiple = min((other for other in sums_of if other % groups == 0), default=0)
        sums_of[groups] = (
            sums_of[multiple].unflatten(0, (groups, -1)).sum(1)
            if multiple
            else _sums_in(groups, values, gradients)
        )
        yield groups, sums_of[groups]


def along_columns(weight: Tensor, gradient: Tensor, groups: int) -> RadialDerivatives:
    """Radial derivative of every row along dimension 1, within ``groups`` parts of dimension 0."""
    values, gradients = (part.detach().reshape(*part.shape[:2], -1) for part in (weight, gradient))
    radial, squares, gradient_squares = (
        _sums_in(groups, left, right).flatten().cpu()
        for left, right in ((values, gradients), (values, values), (gradients, gradients))
    )
    return RadialDerivatives(
        radial, squares.sqrt(), gradient_squares.sqrt(), weight.numel() // radial.numel()
    )


def _sums_in(groups: int, left: Tensor, right: Tensor) -> Tensor:
    """Σ of left · right over the last dimension and within each group of the first, (groups, n_columns)."""
    if left.shape[2] > 1:
        of_pairs = (left.unsqueeze(2) @ right.unsqueeze(3))[..., 0, 0].double()
        sums: Tensor = of_pairs.unflatten(0, (groups, -1)).sum(1)
        return sums
    sums = left.new_zeros(groups, left.shape[1], dtype=torch.float64)
    lefts, rights = (part.squeeze(2).unflatten(0, (groups, -1)) for part in (left, right))
    n_together = max(_PIECE // max(sums.numel(), 1), 1)  # no table as large as the weight
    for some, others in zip(lefts.split(n_together, 1), rights.split(n_together, 1), strict=True):
        sums += (some.double() * others).sum(1)
    return sums
