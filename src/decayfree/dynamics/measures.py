"""What did one step do to a weight, block by block, and how large was it for a weight that has no scale?

Pure functions of weights and gradients; zero blocks give NaN. Remembers nothing and knows no model:
recorder.py samples while training, families.py says how an optimizer's step depends on the gradient.
"""

import math
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from decayfree.arguments.kinds import checked
from decayfree.blocks import Blocks, Part
from decayfree.dynamics.row_sums import block_motion, block_slope
from decayfree.errors import InvalidInputError, faults_of, raise_all
from decayfree.optimizers import UpdateFamily


def effective_learning_rate(norms: Tensor, learning_rate: float | Tensor, family: UpdateFamily) -> Tensor:
    """The learning rate that moves a block's direction as this one does at its norm: η/‖w‖² or η/‖w‖.

    Args:
        norms: (n_blocks,), floating. ‖w‖ before the step, in units of the weight.
        learning_rate: η, as the optimizer has it.
        family: ``"sgd"`` for η/‖w‖², ``"adam"`` and ``"sign"`` for η/‖w‖; see
            :func:`decayfree.dynamics.update_family`.

    Returns:
        (n_blocks,), as ``norms``; learning rate over squared units of the weight (``"sgd"``) or over units of
        it. NaN for a norm of zero.

    Raises:
        InvalidInputError: If ``family`` is none of the three.

    References:
        Hoffer, Banner, Golan, Soudry: Norm matters, 2018, arXiv 1803.01814 (SGD); van Laarhoven: L2
        Regularization versus Batch and Weight Normalization, 2017, arXiv 1706.05350 (Adam).

    Example:
        >>> effective_learning_rate(torch.tensor([2.0, 0.5]), 0.1, "sgd")
        tensor([0.0250, 0.4000])
        >>> effective_learning_rate(torch.tensor([2.0, 0.5]), 0.1, "adam")
        tensor([0.0500, 0.2000])
    """
    _check_kinds("norms", norms, "learning_rate", learning_rate)
    if family not in get_args(UpdateFamily):
        raise InvalidInputError(f'family must be "sgd", "adam" or "sign", got {family!r:.60}')
    rates = learning_rate / (norms.square() if family == "sgd" else norms)
    return torch.where(norms > 0, rates, math.nan)


@dataclass(frozen=True)
class Motion:
    """Where the blocks of a weight went, seen from where they were. What :func:`motion` returns.

    Args:
        norms: (n_blocks,), float64. ‖w‖ before, in units of the weight.
        norms_after: (n_blocks,), float64. ‖w + Δw‖, likewise; 0 for a block that is zero now.
        radial: (n_blocks,), float64. ⟨w, Δw⟩/‖w‖²: by what share of itself a block grew along its own
            direction.
        tangential: (n_blocks,), float64. ‖Δw − radial·w‖/‖w‖: how far it went aside, in units of its norm.
    """

    norms: Tensor
    norms_after: Tensor
    radial: Tensor
    tangential: Tensor

    @classmethod
    def of(cls, sums: Tensor) -> "Motion":
        """From the sums of `block_motion`, (4, n_blocks), be they of one weight or of several."""
        squares, along, aside, squares_after = sums
        # A block that was zero has no direction to go along or aside of.
        were = squares.masked_fill(squares == 0, math.nan)
        return cls(squares.sqrt(), squares_after.sqrt(), along / were, (aside / were).sqrt())

    @property
    def angle_rad(self) -> Tensor:
        """(n_blocks,), radians from 0 to π: between a block before and after; NaN where either is zero."""
        along = 1 + self.radial
        # What is left of a block that shrank to less than this is rounding of its difference to what it was.
        is_gone = torch.hypot(along, self.tangential) < 4096 * torch.finfo(along.dtype).eps
        return torch.where(is_gone, math.nan, torch.atan2(self.tangential, along))

    @property
    def chord(self) -> Tensor:
        """(n_blocks,), no unit: the straight way ‖w'/‖w'‖ − w/‖w‖‖, from 0 to 2; NaN where either is zero."""
        return 2 * torch.sin(self.angle_rad / 2)

    @property
    def relative(self) -> Tensor:
        """(n_blocks,), no unit: ‖Δw‖/‖w‖, the change as a share of the norm; NaN where that was zero."""
        return torch.hypot(self.radial, self.tangential)


@checked()
@torch.no_grad()
def motion(
    before: Tensor,
    after: Tensor,
    blocks: Blocks,
    bias_before: Tensor | None = None,
    bias_after: Tensor | None = None,
) -> Motion:
    """Split the change of every block into a part along the block and a part aside.

    In float64 inside, and from the difference, so that angles down to 1e-7 are right in float32 weights also
    where a block grew or shrank a lot in the same step, and angles near π are. (On devices without float64
    that holds to 1e-7 times the radial part.)

    Args:
        before: (*shape), floating. The weight before the step.
        after: (*shape), floating. The weight after it.
        blocks: How the rows are divided.
        bias_before: (rows of the weight,). The bias, where weight and bias only work together.
        bias_after: (rows of the weight,). The bias after the step.

    Returns:
        The two parts, (n_blocks,) each, NaN for a block that was zero; and the norms before.

    Raises:
        InvalidInputError: If shapes do not go together.

    Example:
        From (3, 4) to (2, 11): by once itself along its direction, and by once its norm aside.

        >>> moved = motion(torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 11.0]]), Blocks(0, (1,)))
        >>> moved.norms.item(), moved.radial.item(), moved.tangential.item()
        (5.0, 1.0, 1.0)
        >>> [round(value.item(), 4) for value in (moved.angle_rad, moved.chord, moved.relative)]
        [0.4636, 0.4595, 1.4142]
    """
    return Motion.of(block_motion(Part(before, bias_before, blocks), Part(after, bias_after, blocks)))


@checked()
def angular_update_rad(
    before: Tensor,
    after: Tensor,
    blocks: Blocks,
    bias_before: Tensor | None = None,
    bias_after: Tensor | None = None,
) -> Tensor:
    """Angle between every block before and after a step; arguments as for :func:`motion`.

    Returns:
        (n_blocks,), float64, radians from 0 to π. NaN where a block is zero before or after.

    References:
        Wan, Zhu, Zhang, Sun: Spherical Motion Dynamics, 2021, arXiv 2006.08419.

    Example:
        >>> before, after = torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 3.0], [-5.0, 0.0]])
        >>> angular_update_rad(before, after, Blocks(0, (1, 1)))  # a right angle, and about face
        tensor([1.5708, 3.1416], dtype=torch.float64)
    """
    return motion(before, after, blocks, bias_before, bias_after).angle_rad


@dataclass(frozen=True)
class Slope:
    """How a gradient lies to the blocks of its weight. What :func:`slope` returns.

    Args:
        norms: (n_blocks,), float64. ‖w‖.
        gradient_norms: (n_blocks,), float64. ‖g‖.
        dots: (n_blocks,), float64. ⟨w, g⟩.
        n_rows: (n_blocks,), float64. R, the rows in each block.
    """

    norms: Tensor
    gradient_norms: Tensor
    dots: Tensor
    n_rows: Tensor

    @classmethod
    def of(cls, sums: Tensor) -> "Slope":
        """From the sums of `block_slope`, (4, n_blocks), be they of one weight or of several."""
        squares, gradient_squares, dots, n_rows = sums
        return cls(squares.sqrt(), gradient_squares.sqrt(), dots, n_rows)

    @property
    def radial_share(self) -> Tensor:
        """(n_blocks,), from 0 to 1: |⟨w, g⟩|/(‖w‖‖g‖), how much of the gradient lies along it; no unit.

        Zero for a scale-invariant block, up to the normalization's ε and to rounding (Euler's theorem). NaN
        where either is zero.
        """
        return self.dots.abs() / (self.norms * self.gradient_norms)

    @property
    def norm_at_unit_radius(self) -> Tensor:
        """(n_blocks,): ‖g‖·‖w‖/√R, in units of the loss; NaN where the block is zero.

        What the gradient's norm would be at radius 1: the gradient of a scale-invariant block shrinks as the
        block grows, g(cw) = g(w)/c. Radius counts per row, as everywhere here: a block of R rows is at radius
        1 when its norm is √R. Times √R it is G in the formulas for equilibrium, which count with the whole
        block.
        """
        return torch.where(self.norms > 0, self.gradient_norms * self.norms / self.n_rows.sqrt(), math.nan)

    def divided_by(self, scale: float | Tensor) -> "Slope":
        """The same for a gradient divided by ``scale``, a positive number."""
        return Slope(self.norms, self.gradient_norms / scale, self.dots / scale, self.n_rows)


@checked()
@torch.no_grad()
def slope(
    weight: Tensor,
    gradient: Tensor,
    blocks: Blocks,
    bias: Tensor | None = None,
    bias_gradient: Tensor | None = None,
) -> Slope:
    """Norms and inner products of every block and its gradient, in float64.

    Args:
        weight: (*shape), floating.
        gradient: (*shape), floating. The gradient at ``weight``.
        blocks: How the rows are divided.
        bias: (rows of the weight,). The bias, where weight and bias only work together.
        bias_gradient: (rows of the weight,). Its gradient.

    Returns:
        What the share along the block and the norm at radius 1 are made of.

    Raises:
        InvalidInputError: If shapes do not go together.

    Example:
        >>> seen = slope(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, -2.0]]), Blocks(0, (1,)))
        >>> seen.radial_share.item(), seen.norm_at_unit_radius.item()
        (0.8, 10.0)
    """
    return Slope.of(block_slope(Part(weight, bias, blocks), Part(gradient, bias_gradient, blocks)))


def distance_to_equilibrium(measured: Tensor, predicted: float | Tensor) -> Tensor:
    """How far a norm or an angle is from its predicted equilibrium, as a share of it: measured/predicted − 1.

    Args:
        measured: (n_blocks,). Norms in units of the weight, or angles in radians.
        predicted: () or (n_blocks,), in the same units.

    Returns:
        (n_blocks,); no unit. 0 at equilibrium, −0.5 half way up, NaN where nothing is predicted (0).

    Example:
        >>> distance_to_equilibrium(torch.tensor([0.01, 0.03]), 0.02)
        tensor([-0.5000,  0.5000])
    """
    _check_kinds("measured", measured, "predicted", predicted)
    if isinstance(predicted, Tensor):
        goal = predicted.to(measured.device, measured.dtype, non_blocking=True)
        return torch.where(goal > 0, measured / goal - 1, math.nan)
    return measured / predicted - 1 if predicted > 0 else torch.full_like(measured, math.nan)


def _check_kinds(name: str, tensor: object, number_name: str, number: object) -> None:
    """A tensor, and a number or one more; those that are not finite are what a run that diverged has."""
    is_number = isinstance(number, int | float | Tensor) and not isinstance(number, bool)
    wrong = [] if isinstance(tensor, Tensor) else [f"{name} must be a tensor, got {tensor!r:.60}"]
    wrong += [] if is_number else [f"{number_name} must be a number or a tensor, got {number!r:.60}"]
    raise_all(faults_of(InvalidInputError, wrong))
