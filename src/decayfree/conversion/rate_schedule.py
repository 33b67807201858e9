"""What share of the full learning rate do the usual schedules leave at a step?

Knows no optimizer and no decay.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from decayfree.errors import (
    InvalidInputError,
    choice_faults,
    faults_of,
    number_faults,
    raise_all,
    whole_number_faults,
)

Shape = Literal["cosine", "linear", "constant", "step"]
SHAPES: tuple[Shape, ...] = ("cosine", "linear", "constant", "step")
_LONGEST = 10**7


@dataclass(frozen=True)
class RateSchedule:
    """A schedule by its name: step, counted from 0 -> share of the full learning rate, from 0 to 1.

    Args:
        shape: ``"cosine"`` and ``"linear"`` go from 1 after the warm-up to ``last_share`` at the end,
            ``"constant"`` stays at 1, ``"step"`` is multiplied with ``drop_factor`` at each of ``drops``.
        n_steps: Optimizer steps of the whole run, at most 10^7.
        n_warmup_steps: Over which the rate grows linearly from 0 to the full one.
        last_share: Of the full rate, at the end of a cosine or a line.
        drops: Steps from which on the rate of ``"step"`` is smaller; None: after 1/2 and 3/4 of all.
        drop_factor: Of ``"step"``.

    Raises:
        InvalidInputError: If a setting is out of range or belongs to another shape. All faults at once.

    Example:
        >>> [RateSchedule("cosine", 100, last_share=0.1)(step) for step in (0, 50, 100)]
        [1.0, 0.55, 0.1]
        >>> [RateSchedule("step", 90, drops=(30, 60))(step) for step in (29, 30)]
        [1.0, 0.1]
    """

    shape: Shape
    n_steps: int
    n_warmup_steps: int = 0
    last_share: float = 0.0
    drops: tuple[float, ...] | None = None
    drop_factor: float = 0.1

    def __post_init__(self) -> None:
        faults = whole_number_faults("n_steps", self.n_steps)
        faults += whole_number_faults("n_warmup_steps", self.n_warmup_steps, least=0)
        if not faults and self.n_steps > _LONGEST:
            faults.append(f"n_steps must be at most {_LONGEST:,}, got {self.n_steps:,}")
        if not faults and self.n_warmup_steps >= self.n_steps:
            faults.append(
                f"n_warmup_steps must be fewer than all {self.n_steps:,}, got {self.n_warmup_steps:,}"
            )
        faults += choice_faults("shape", self.shape, SHAPES)
        no_numbers = []
        for name, value in (("last_share", self.last_share), ("drop_factor", self.drop_factor)):
            out_of_range = number_faults(name, value, least=0)
            no_numbers += out_of_range or ([f"{name} must be at most 1, got {value!r}"] if value > 1 else [])
        drops: object = self.drops
        if isinstance(drops, tuple):
            no_numbers += [fault for one in drops for fault in number_faults("each of drops", one, least=0)]
        elif drops is not None:
            no_numbers.append(f"drops must be a tuple of steps, got {drops!r}")
        if not no_numbers and self.shape != "step" and (self.drops is not None or self.drop_factor != 0.1):
            faults.append(f"drops and drop_factor are settings of 'step', not of {self.shape!r}")
        if not no_numbers and self.shape in ("step", "constant") and self.last_share != 0:
            faults.append(f"last_share is a setting of 'cosine' and 'linear', not of {self.shape!r}")
        faults += no_numbers
        raise_all(faults_of(InvalidInputError, faults))

    def __call__(self, step: int) -> float:
        """The share at a step."""
        return float(self.at(torch.tensor(step)))

    def at(self, steps: Tensor) -> Tensor:
        """The shares at many steps.

        Args:
            steps: (*shape), counted from 0.

        Returns:
            (*shape), float64.
        """
        steps = steps.double()
        if self.shape == "step":
            drops = (self.n_steps / 2, 3 * self.n_steps / 4) if self.drops is None else sorted(self.drops)
            n_drops = torch.bucketize(steps, torch.tensor(drops, dtype=torch.float64), right=True)
            shares = torch.pow(self.drop_factor, n_drops.double())
        else:
            done = (steps - self.n_warmup_steps) / (self.n_steps - self.n_warmup_steps)
            left = _left(self.shape, done.clamp(max=1.0))
            shares = self.last_share + (1 - self.last_share) * left
        return torch.where(steps < self.n_warmup_steps, steps / max(self.n_warmup_steps, 1), shares)


def _left(shape: Shape, done: Tensor) -> Tensor:
    """What is left of the rate when this share of the run is done, from 1 to 0."""
    if shape == "cosine":
        return (1 + torch.cos(math.pi * done)) / 2
    return 1 - done if shape == "linear" else torch.ones_like(done)
