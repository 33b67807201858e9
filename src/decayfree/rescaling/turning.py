"""How far do scale-invariant weights turn in a step, if nobody tunes that?

So far that they remember their direction for a number of epochs. Holds norms as weight_rescaling.py does, and
says how far the step of the optimizer goes; its direction is the optimizer's. How long a direction is
remembered at an angle is said in equilibrium.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from decayfree.attachment import hooked
from decayfree.blocks import Part
from decayfree.errors import (
    Fault,
    InvalidInputError,
    MismatchError,
    faults_of,
    listed,
    number_faults,
    raise_all,
    whole_number_faults,
)
from decayfree.invariance.result import Invariance
from decayfree.optimizers import OPTIMIZERS, Correlation, nearest_row
from decayfree.rescaling.held import Held
from decayfree.rescaling.held_rows import put_in_held_rows_
from decayfree.rescaling.radius import Radius
from decayfree.rescaling.weight_rescaling import WeightRescaling

Shape = Literal["follow", "plain", "cosine", "linear", "constant"]

DEFAULT_MEMORY_EPOCHS = 10.0

# This share of the running mean square of an update's norm stays from step to step. Steps of ten or so are
# alike; over a hundred, updates of Adagrad shrink by more than they scatter.
_AVERAGING = 0.9

_OWN: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "linear": lambda done: 1 - done,
    "constant": lambda done: 1.0,
}


@dataclass(frozen=True)
class _Pace:
    """How much is to be forgotten in a step.

    Args:
        at_full: D of a step at the full rate, no unit.
        shape: As for :class:`Turning`.
        total_steps: Of the whole training, where it is known.
    """

    at_full: float
    shape: str
    total_steps: int | None

    def forgetting(self, n_steps: int, share: float) -> float:
        """D of the step that comes after ``n_steps``, at a learning rate that is a share of the full one."""
        if self.shape == "plain":
            return self.at_full * share**2
        if self.shape == "follow":
            return self.at_full * share
        return self.at_full * _own_share(self.shape, n_steps, self.total_steps or 1)


def _own_share(shape: str, n_steps: int, total_steps: int) -> float:
    return _OWN[shape](min(n_steps / total_steps, 1.0))


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
            e^(−1); 10 without. Over a cosine from the full rate to 0 that makes twice as many in the mean.
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

    Attributes:
        forgotten: D so far, the sum over all steps at the angles that were set.
        angles_rad: By parameter name, the angle θ that was set in the last step, in radians.

    Raises:
        InvalidInputError: If nothing or two things say how far to turn, a schedule needs ``total_steps``, or
            nobody knows how long the optimizer's steps remember a gradient. All else as
            :class:`WeightRescaling`.

    References:
        Kosson, Messmer, Jaggi, "Rotational Equilibrium", 2024, arXiv 2305.17212: updates scaled to an angle.
        Wang, Aitchison, "How to set AdamW's weight decay as you scale model and dataset size", 2024, arXiv
        2405.13698: the timescale in epochs is what transfers.

    Example:
        >>> from decayfree import find_invariant
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> found = find_invariant(model, torch.randn(16, 4))
        >>> turning = Turning(optimizer, found, steps_per_epoch=500)
        >>> model(torch.randn(16, 4)).square().mean().backward()
        >>> optimizer.step()
        >>> round(turning.angles_rad["0.weight"], 5)  # √(2/(19·10·500))
        0.00459
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
        schedule: Shape = "follow",
        full_rate: float | None = None,
        radius: Radius = "init",
        copies: nn.Module | Iterable[nn.Module] = (),
    ) -> None:
        raise_all(
            faults_of(
                InvalidInputError,
                _setting_faults(steps_per_epoch, memory_epochs, forgetting, total_steps, schedule, full_rate),
            )
        )
        inner = hooked(optimizer)
        self._correlation = _correlation_of(inner)
        self._pace = _pace(steps_per_epoch, memory_epochs, forgetting, total_steps, schedule)
        self._full_rates = {
            id(parameter): full_rate or float(group.get("max_lr") or group.get("initial_lr") or group["lr"])
            for group in inner.param_groups
            for parameter in group["params"]
        }
        if schedule in ("follow", "plain") and not all(self._full_rates.values()):
            raise InvalidInputError("a learning rate of 0 is no full rate to follow: pass full_rate=")
        self._before: dict[str, list[Tensor]] = {}
        self._sizes: dict[str, Tensor] = {}
        self.forgotten = 0.0
        self.angles_rad: dict[str, float] = {}
        super().__init__(optimizer, found, radius=radius, copies=copies)

    def __repr__(self) -> str:
        angles = [angle for angle in self.angles_rad.values() if angle > 0]
        now = f", {min(angles):.3g} to {max(angles):.3g} rad a step" if angles else ""
        return super().__repr__().replace("WeightRescaling(", "Turning(").replace(", every=1", now)

    def state_dict(self) -> dict[str, Any]:
        """As of :class:`WeightRescaling`, with what is remembered of updates; the pace is not in it."""
        return {
            **super().state_dict(),
            "sizes": {name: sizes.detach().clone() for name, sizes in self._sizes.items()},
            "full_rates": {one.name: self._full_rates[id(one.weight)] for one in self._planned()},
            "forgotten": self.forgotten,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As of :class:`WeightRescaling`."""
        raise_all(_state_faults(state, self.radii))
        super().load_state_dict(state)
        self._sizes = {name: sizes.to(self.radii[name], copy=True) for name, sizes in state["sizes"].items()}
        for one in self._planned():
            self._full_rates[id(one.weight)] = float(state["full_rates"][one.name])
        self.forgotten = float(state["forgotten"])

    def __getstate__(self) -> dict[str, Any]:
        rates = {one.name: self._full_rates[id(one.weight)] for one in self._planned()}
        return {**super().__getstate__(), "_full_rates": rates, "_before": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        rates = state["_full_rates"]
        self._full_rates = {id(one.weight): rates[one.name] for one in self._planned()}

    # Around every step

    def _see_weights(self) -> None:
        for one in self._planned():
            self._before[one.name] = [tensor.detach().clone() for tensor in one.tensors]

    @torch.no_grad()
    def _turn_(self) -> None:
        forgotten = 0.0
        for one in self._planned():
            group = self._group_of(one)
            rate = float(group["lr"])
            share = rate / self._full_rates.setdefault(id(one.weight), rate)
            forgetting = self._pace.forgetting(self.n_steps - 1, share)
            correlation = self._correlation(group, self.optimizer.state[one.weight])
            angle = math.sqrt(2 * forgetting / correlation)
            self.angles_rad[one.name] = angle
            forgotten = max(forgotten, forgetting)
            self._turn(one, angle, rate)
        self.forgotten += forgotten

    def _turn(self, one: Held, angle_rad: float, rate: float) -> None:
        """W ← w + R·tan(θ)·u/√⟨‖u‖²⟩, u the step without its part along w; the norm is put back after it."""
        weight, *bias = self._before.pop(one.name)
        if rate == 0:
            return
        before = Part(weight, bias[0] if bias else None, one.blocks)
        update = one.each(torch.clone)
        _add_(update, before, alpha=-1)
        along = before.each(torch.clone)
        along.scale_(quotient(update.dots(before), one.targets.square()))
        _add_(update, along, alpha=-1)
        squares = (update.norms() / rate).square()
        seen = self._sizes.get(one.name, torch.zeros_like(squares))
        mean = torch.where(seen > 0, torch.lerp(squares, seen, _AVERAGING), squares)
        self._sizes[one.name] = torch.where(squares > 0, mean, seen)
        reach = quotient(one.targets * math.tan(angle_rad), mean.sqrt()) / rate
        update.scale_(torch.where(one.targets > 0, reach, 1.0))
        _add_(update, before)
        put_in_held_rows_(one, update)

    def _group_of(self, one: Held) -> Mapping[str, Any]:
        groups = self.optimizer.param_groups
        return next(group for group in groups if any(entry is one.weight for entry in group["params"]))


def quotient(a: Tensor, b: Tensor) -> Tensor:
    """a/b, and 0 where b is: what has no size is not made larger."""
    return torch.where(b > 0, a / b, 0.0)


def _add_(part: Part, other: Part, *, alpha: float = 1.0) -> None:
    for tensor, values in zip(part.tensors, other.tensors, strict=True):
        tensor.add_(values, alpha=alpha)


def _pace(
    steps_per_epoch: int | None,
    memory_epochs: float | None,
    forgetting: float | None,
    total_steps: int | None,
    schedule: str,
) -> _Pace:
    if forgetting is None:
        epochs = DEFAULT_MEMORY_EPOCHS if memory_epochs is None else memory_epochs
        return _Pace(1 / (epochs * (steps_per_epoch or 1)), schedule, total_steps)
    n_steps = total_steps or 1
    full_steps = sum(_own_share(schedule, step, n_steps) for step in range(n_steps))
    return _Pace(forgetting / full_steps, schedule, n_steps)


def _correlation_of(optimizer: Optimizer) -> Correlation:
    row = nearest_row(type(optimizer))
    if row is None or row.correlation is None:
        known = [one.classes.split()[0] for one in OPTIMIZERS if one.correlation is not None]
        raise InvalidInputError(
            f"how long the steps of {type(optimizer).__name__} remember a gradient is not known, so that no "
            f"angle can be said; it is of {', '.join(known)}. WeightRescaling holds norms under any optimizer"
        )
    return row.correlation


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
    shapes = ("follow", "plain", *_OWN)
    if schedule not in shapes:
        faults.append(f"schedule must be one of {', '.join(map(repr, shapes))}, got {schedule!r}")
    is_own = schedule in _OWN
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


def _state_faults(state: object, radii: Mapping[str, Tensor]) -> list[Fault]:
    if not isinstance(state, Mapping) or not {"sizes", "full_rates", "forgotten"} <= state.keys():
        return [(MismatchError, "this is no state of a Turning: it has no sizes, full_rates and forgotten")]
    sizes, rates = state["sizes"], state["full_rates"]
    if not isinstance(sizes, Mapping) or not isinstance(rates, Mapping):
        return [(MismatchError, "sizes and full_rates must be tables by parameter name")]
    differing = [
        name
        for name in sizes.keys() | rates.keys() | radii.keys()
        if name not in radii
        or name not in rates
        or (name in sizes and getattr(sizes[name], "shape", None) != radii[name].shape)
    ]
    if differing:
        names = listed(sorted(map(str, differing)))
        return [(MismatchError, f"the state holds other weights or blocks: {names}")]
    faults = []
    for name, rate in rates.items():
        faults += number_faults(f"full_rates of {name}", rate, least=1e-300)
    faults += number_faults("forgotten", state["forgotten"], least=0)
    faults += [
        f"sizes of {name} must be finite and at least 0"
        for name, values in sizes.items()
        if not bool((torch.isfinite(values) & (values >= 0)).all())
    ]
    return faults_of(InvalidInputError, faults)
