"""Which directions can the inputs of one layer reach, and how much of a weight lies in them?

Pure algebra on a second moment; does not look at models and changes no weight.
"""

import math
from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from decayfree.arguments.kinds import checked
from decayfree.errors import InvalidInputError, MismatchError
from decayfree.span.patches import RowLayout
from decayfree.span.second_moment import AROUND, Centering

TOLERANCE = 1e-10
"""A direction is off the span if the inputs' variance along it is at most this share of the largest one."""

_ROUNDING = 32 * torch.finfo(torch.float64).eps


@dataclass(eq=False, repr=False)
class LayerSpan:
    """Where the inputs of one layer live, and with them the gradients of its weight.

    A row of the weight has d numbers: features of a linear layer, or input channels × kernel positions of a
    convolution. All directions in this space along which the inputs do not vary (at all, where they are not
    centered) are off the span. What is returned about a weight is float64, computed on the device of the
    second moment, and on the weight's device.

    Args:
        name: Of the weight.
        layout: Where its rows are.
        second_moment: (groups, d, d), float64, symmetric, in squared units of the inputs.
        mean: (groups, d), float64. Of the inputs.
        n_samples: Inputs or patches that were averaged over.
        n_batches: In so many batches.
        centered: Around what they were centered, see :class:`decayfree.span.InputSpan`.

    Example:
        Inputs that vary along the first of two features, and a row of norm 5.

        >>> moment = torch.diag(torch.tensor([2.0, 0.0])).double()[None]
        >>> span = LayerSpan("weight", RowLayout((1, 2)), moment, torch.zeros(1, 2))
        >>> weight = torch.tensor([[3.0, 4.0]])
        >>> span.rank(), span.off_span_share(weight)
        (tensor([1]), tensor([0.8000], dtype=torch.float64))
        >>> span.in_span(weight), span.off_span(weight)
        (tensor([[3., 0.]], dtype=torch.float64), tensor([[0., 4.]], dtype=torch.float64))
    """

    name: str
    layout: RowLayout
    second_moment: Tensor
    mean: Tensor
    _: KW_ONLY
    n_samples: int = 1
    n_batches: int = 1
    centered: Centering = True

    @property
    def n_features(self) -> int:
        """Numbers in a row, d."""
        return self.layout.n_features

    @property
    def groups(self) -> int:
        """Parts of the rows that see other inputs."""
        return self.layout.groups

    def spectrum(self) -> Tensor:
        """Variance of the inputs along each principal direction, (groups, d), float64, descending."""
        return self._eigen[0]

    @property
    def directions(self) -> Tensor:
        """The principal directions, (groups, d, d), float64: unit columns, ordered as :meth:`spectrum`."""
        return self._eigen[1]

    def rank(self, tolerance: float = TOLERANCE) -> Tensor:
        """Dimension of the span.

        Args:
            tolerance: A direction is off the span if the variance along it is at most this share of the
                largest; no unit. Sums of squares in float64 cannot tell shares below about d·2e-16 from zero.

        Returns:
            (groups,), int64.

        Raises:
            InvalidInputError: If the tolerance is not a number from 0 to below 1, or the inputs were not
                finite.
        """
        return self._is_in_span(tolerance).sum(dim=1)

    def in_span(self, weight: Tensor, tolerance: float = TOLERANCE) -> Tensor:
        """The part of each row that lies in the span.

        Args:
            weight: (*shape), floating: the weight, its gradient, an update of it.
            tolerance: As for :meth:`rank`.

        Returns:
            (*shape), float64, in units of ``weight``.
        """
        return self._part(weight, self._is_in_span(tolerance))

    def off_span(self, weight: Tensor, tolerance: float = TOLERANCE) -> Tensor:
        """The part of each row that lies off the span: Qw. With :meth:`in_span` it sums up to the weight.

        Args:
            weight: (*shape), floating.
            tolerance: As for :meth:`rank`.

        Returns:
            (*shape), float64, in units of ``weight``.
        """
        return self._part(weight, ~self._is_in_span(tolerance))

    def off_span_share(self, weight: Tensor, tolerance: float = TOLERANCE) -> Tensor:
        """Share of each row that lies off the span, ‖Qw‖/‖w‖.

        Args:
            weight: (*shape), floating.
            tolerance: As for :meth:`rank`.

        Returns:
            (n_rows,), float64; no unit, from 0 to 1. NaN for a row of zeros, which has no direction.
        """
        off = self._coefficients(weight) * ~self._is_in_span(tolerance)[:, None]
        share: Tensor = torch.linalg.vector_norm(off, dim=2) / torch.linalg.vector_norm(
            self._rows(weight), dim=2
        )
        return share.flatten().to(weight.device)

    def energy(self, weight: Tensor) -> Tensor:
        """How each row's squared norm is divided among the principal directions of the inputs.

        Deep layers often have no direction that is off the span exactly, but many that the inputs hardly
        reach; this shows what lies there.

        Args:
            weight: (*shape), floating.

        Returns:
            (n_rows, d), float64; no unit, each row sums up to 1, in the order of :meth:`spectrum`. NaN for a
            row of zeros.
        """
        squares = self._coefficients(weight).square()
        energy: Tensor = (squares / squares.sum(dim=2, keepdim=True)).flatten(0, 1)
        return energy.to(weight.device)

    def __repr__(self) -> str:
        ranks = self.rank().tolist()
        rank = f"{ranks[0]}" if len(set(ranks)) == 1 else f"{min(ranks)} to {max(ranks)}"
        groups = f" in each of {self.groups} groups" if self.groups > 1 else ""
        return (
            f"LayerSpan({self.name} {self.layout.shape}: rank {rank} of {self.n_features}{groups}, "
            f"{self.n_samples:,} samples in {self.n_batches:,} batches, {AROUND[self.centered]})"
        )

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        if not bool(torch.isfinite(self.second_moment).all()):
            raise InvalidInputError(
                f"the inputs of {self.name} held NaN or infinity, or their squares were too large, while "
                "they were watched: nothing can be said of their span; "
                "look at the data and the layers before it"
            )
        try:
            variances, directions = torch.linalg.eigh(self.second_moment)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # most features may be dead
            directions, variances, _ = torch.linalg.svd(self.second_moment)
            return variances, directions
        return variances.flip(1).clamp_min(0), directions.flip(2)

    def _is_in_span(self, tolerance: float) -> Tensor:
        """(groups, d), bool, in the order of the spectrum."""
        if not (
            isinstance(tolerance, (int, float))
            and not isinstance(tolerance, bool)
            and math.isfinite(tolerance)
            and 0 <= tolerance < 1
        ):
            raise InvalidInputError(f"tolerance must be a number from 0 to below 1, got {tolerance!r}")
        variances = self.spectrum()
        # Inputs that are all the same differ from their rounded mean by a few units in the last place.
        rounding = (_ROUNDING * torch.linalg.vector_norm(self.mean, dim=1, keepdim=True)).square()
        limit = torch.maximum(tolerance * variances[:, :1], rounding.to(variances))
        return variances > limit

    def _rows(self, weight: Tensor) -> Tensor:
        """(groups, n_rows / groups, d), float64."""
        if not isinstance(weight, Tensor):
            raise InvalidInputError(
                f"weight must be a tensor of the shape {self.layout.shape}, got {type(weight).__name__}"
            )
        return self.layout.rows(weight.detach()).to(self.second_moment)

    def _coefficients(self, weight: Tensor) -> Tensor:
        """Of each row along each principal direction, (groups, n_rows / groups, d)."""
        return self._rows(weight) @ self.directions

    def _part(self, weight: Tensor, chosen: Tensor) -> Tensor:
        kept = self._coefficients(weight) * chosen[:, None]
        return self.layout.weight(kept @ self.directions.transpose(1, 2)).to(weight.device)


@checked()
def principal_angles_rad(a: LayerSpan, b: LayerSpan, *, tolerance: float = TOLERANCE) -> Tensor:
    """Angles between the spans of two layers, or of one layer's inputs at two times or on two sets of data.

    Args:
        a: A span.
        b: One with as many groups and features.
        tolerance: As for :meth:`LayerSpan.rank`, for both.

    Returns:
        (groups, k), float64, in radians from 0 to π/2, ascending: one for each dimension of the smaller span,
        and NaN where a group has fewer than k. Small ones come from their sines and large ones from their
        cosines, so that both are accurate.

    Raises:
        MismatchError: If groups or features differ.

    References:
        Björck, Golub, "Numerical Methods for Computing Angles Between Linear Subspaces", Math. Comp.
        27, 1973.

    Example:
        A line at 45° to another one.

        >>> layout, mean = RowLayout((1, 2)), torch.zeros(1, 2)
        >>> flat = LayerSpan("a", layout, torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]).double(), mean)
        >>> tilted = LayerSpan("b", layout, torch.tensor([[[1.0, 1.0], [1.0, 1.0]]]).double(), mean)
        >>> principal_angles_rad(flat, tilted).rad2deg().round(decimals=6)
        tensor([[45.]], dtype=torch.float64)
    """
    if (a.groups, a.n_features) != (b.groups, b.n_features):
        raise MismatchError(
            f"angles need two spans in the same space; {a.name} has {a.groups} groups of {a.n_features} "
            f"features, {b.name} has {b.groups} of {b.n_features}"
        )
    chosen_a, chosen_b = a._is_in_span(tolerance), b._is_in_span(tolerance)
    angles = [
        _angles_rad(
            a.directions[group][:, chosen_a[group]], b.directions[group][:, chosen_b[group]].to(a.directions)
        )
        for group in range(a.groups)
    ]
    return pad_sequence(angles, batch_first=True, padding_value=math.nan)


def _angles_rad(a: Tensor, b: Tensor) -> Tensor:
    """Between the spans of two sets of orthonormal columns, ascending."""
    if a.shape[1] < b.shape[1]:
        a, b = b, a
    along = a.T @ b
    cosines = torch.linalg.svdvals(along).clamp(0, 1)  # descending
    sines = torch.linalg.svdvals(b - a @ along).clamp(0, 1).flip(0)
    return torch.where(sines.square() < 0.5, sines.asin(), cosines.acos())
