"""How far do scale-invariant weights turn in a step, if nobody tunes that?

So far that they remember their direction for a number of epochs. Holds norms as weight_rescaling.py does, and
says how far the step of the optimizer goes; its direction is the optimizer's.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from decayfree.errors import (
    InvalidInputError,
    choice_faults,
    faults_of,
    number_faults,
    raise_all,
    whole_number_faults,
)
from decayfree.invariance.result import Invariance
from decayfree.rescaling.radius import Radius
from decayfree.rescaling.step_lengths import OWN_SHAPES, Angles, Pace, own_share
from decayfree.rescaling.weight_rescaling import WeightRescaling

# Chosen by the study `memory`, by validation images in the mean over four networks and three optimizers.
DEFAULT_MEMORY_EPOCHS = 5.0


class Turning(WeightRescaling):
    """Hold the norms of scale-invariant weights and say how far they turn, so that neither is tuned.

    Training at a fixed norm is turning, and what matters of it is how long a direction is remembered. Under
    weight decay, rate and coefficient decide that together; here it is said in epochs, and holds for any
    optimizer, network, batch and length: no weight decay and no learning rate for these weights. The
    optimizer's own step says where to, without its part along the weight; every block then turns by the angle
    θ_t, in the mean over about ten steps, and goes back onto its norm. What is not in ``found`` is the
    optimizer's, with its learning rate and decay.

    With the integrated autocorrelation time κ of the optimizer's steps (:mod:`decayfree.equilibrium`), a step
    forgets κθ²/2 of a direction: E cos∠(u₀, u_T) = e^(−Σ κθ_t²/2) for independent gradients in many
    dimensions. So θ_t = √(2 s_t/(κ·memory_epochs·steps_per_epoch)), s_t the schedule from 1 to 0.

    Everything else is as in :class:`WeightRescaling`, of which this is one: running statistics, checkpoints,
    :meth:`check`, weights held in some of their rows. A step that a GradScaler skips turns nothing.

    Args:
        optimizer: As for :class:`WeightRescaling`: SGD (with or without momentum, Nesterov), Adam, AdamW,
            NAdam, RAdam, Adamax, RMSprop, Adagrad, Lion or Muon. Of its learning rate only the schedule
            counts for these weights.
        found: As for :class:`WeightRescaling`.
        steps_per_epoch: Optimizer steps that go once through the data.
        memory_epochs: After how many epochs at the full rate the cosine of a direction with what it was is
            e^(−1); 5 without. Over a cosine from the full rate to 0 that makes twice as many in the mean.
        forgetting: Instead of both: D over all ``total_steps``, so that cos∠ between the first and the last
            direction is e^(−D), for training of one pass or where epochs say nothing.
        total_steps: Optimizer steps of the whole training; for ``forgetting``, and for schedules that are not
            the optimizer's. After them nothing turns any more, but under ``"constant"``.
        schedule: s_t. ``"follow"`` takes the learning rate's share of the full one, whoever schedules it, so
            that angles follow its root, as they do under weight decay in balance; with ``"plain"`` angles
            follow the rate itself, as they do at a fixed norm. ``"cosine"``, ``"linear"`` or ``"constant"``
            over ``total_steps``, whatever the learning rate does.
        full_rate: The learning rate that counts as full for ``"follow"`` and ``"plain"``. None takes each
            group's ``max_lr`` or ``initial_lr``, which schedulers leave there, or else the rate it has now.
        radius: As for :class:`WeightRescaling`. Directions do not depend on it, so that "init", which changes
            nothing at attachment, is as good as any.
        copies: As for :class:`WeightRescaling`.

    Raises:
        InvalidInputError: If nothing or two things say how far to turn, a schedule needs ``total_steps``, or
            nobody knows how long the optimizer's steps remember a gradient. All else as
            :class:`WeightRescaling`.

    References:
        Kosson, Messmer, Jaggi, "Rotational Equilibrium", 2024, arXiv 2305.17212: updates scaled to an angle.
        Wang, Aitchison, "How to set AdamW's weight decay as you scale model and dataset size", 2024, arXiv
        2405.13698: the timescale in epochs is what transfers.

    Example:
        >>> import torch
        >>> from decayfree import find_invariant
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> found = find_invariant(model, torch.randn(16, 4))
        >>> turning = Turning(optimizer, found, steps_per_epoch=500)
        >>> model(torch.randn(16, 4)).square().mean().backward()
        >>> optimizer.step()
        >>> round(turning.angles_rad["0.weight"], 5)  # √(2/(19·5·500))
        0.00649
    """

    def __init__(
        self,
        optimizer: Optimizer,
        found: Invariance,
        *,
        steps_per_epoch: int | None = None,
        memory_epochs: float | None = None,
        forgetting: float | None = None,
        total_steps: int | None = None,
        schedule: Literal["follow", "plain", "cosine", "linear", "constant"] = "follow",
        full_rate: float | None = None,
        radius: Radius = "init",
        copies: nn.Module | Iterable[nn.Module] = (),
    ) -> None:
        said = _setting_faults(steps_per_epoch, memory_epochs, forgetting, total_steps, schedule, full_rate)
        raise_all(faults_of(InvalidInputError, said))
        pace = _pace(steps_per_epoch, memory_epochs, forgetting, total_steps, schedule)
        self._make_angles = partial(Angles, pace=pace, full_rate=full_rate)
        self._collected_at = 0
        super().__init__(optimizer, found, radius=radius, copies=copies)

    def _step_lengths(self, schedule: str) -> Angles:
        self._angles = self._make_angles(self.optimizer, self._weights_by_name())
        return self._angles

    def state_dict(self) -> dict[str, Any]:
        """As of :class:`WeightRescaling`; of sharded weights it is collected, so that every rank has to call.

        Until the next step, what was collected is known.

        Raises:
            MismatchError: If one of the ranks does not call it within 20 seconds.
        """
        groups = [holder.sharded for holder in self._holders if holder.sharded is not None]
        if groups and self._collected_at != self.n_steps:
            self._ranks.meet(self._settings(), about="state")
            for group in groups:
                self._angles.tell_all_(group)
            self._collected_at = self.n_steps
        return super().state_dict()

    @property
    def forgotten(self) -> float:
        """D so far: the sum over all steps, at the angles that were set."""
        return self._angles.forgotten

    @property
    def angles_rad(self) -> dict[str, float]:
        """By parameter name, the angle θ that was set in the last step, in radians."""
        return dict(self._angles.angles_rad)

    @property
    def learning_rates(self) -> dict[str, Tensor]:
        """By parameter name, (n_blocks,): at which the optimizer alone would have taken the last step.

        One with the usual size of updates, from the norms that are held. Of a sharded weight those of blocks
        of which this process has a part; 0 for the others.
        """
        return {name: rates.clone() for name, rates in self._angles.learning_rates.items()}

    def __repr__(self) -> str:
        angles = [angle for angle in self.angles_rad.values() if angle > 0]
        now = f", {min(angles):.3g} to {max(angles):.3g} rad a step" if angles else ""
        return super().__repr__().replace("WeightRescaling(", "Turning(").replace(", every=1", now)


def _pace(
    steps_per_epoch: int | None,
    memory_epochs: float | None,
    forgetting: float | None,
    total_steps: int | None,
    schedule: str,
) -> Pace:
    if forgetting is None:
        epochs = DEFAULT_MEMORY_EPOCHS if memory_epochs is None else memory_epochs
        return Pace(1 / (epochs * (steps_per_epoch or 1)), schedule, total_steps)
    n_steps = total_steps or 1
    full_steps = sum(own_share(schedule, step, n_steps) for step in range(n_steps))
    return Pace(forgetting / full_steps, schedule, n_steps)


def _setting_faults(
    steps_per_epoch: object,
    memory_epochs: object,
    forgetting: object,
    total_steps: object,
    schedule: object,
    full_rate: object,
) -> list[str]:
    faults = []
    numbers = {"memory_epochs": memory_epochs, "forgetting": forgetting, "full_rate": full_rate}
    for name, value in numbers.items():
        faults += [] if value is None else number_faults(name, value, least=1e-9)
    for name, value in (("steps_per_epoch", steps_per_epoch), ("total_steps", total_steps)):
        faults += [] if value is None else whole_number_faults(name, value)
    faults += choice_faults("schedule", schedule, ("follow", "plain", *OWN_SHAPES))
    is_own = schedule in OWN_SHAPES
    if forgetting is None and steps_per_epoch is None:
        faults.append(
            "say how far to turn: steps_per_epoch=len(loader), so that directions are remembered for "
            "memory_epochs, or forgetting= of the whole training with total_steps= and a schedule of its own"
        )
    if forgetting is not None and (memory_epochs is not None or steps_per_epoch is not None):
        faults.append("forgetting says of the whole what memory_epochs says of an epoch: give one of them")
    if forgetting is not None and not is_own:
        faults.append(
            f"forgetting is of a whole schedule, which {schedule!r} does not know: pass "
            "schedule='cosine', 'linear' or 'constant', or memory_epochs instead"
        )
    if total_steps is None and (forgetting is not None or schedule in ("cosine", "linear")):
        faults.append("total_steps is needed: the optimizer steps of the whole training")
    return faults
