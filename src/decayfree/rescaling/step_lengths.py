"""How far do the optimizer's steps go, where somebody else than the learning rate says that?

Looks at weights before a step and after it, and writes them with a step of another length, block by block.
Norms are put back later, by who holds them. How long a direction is remembered at an angle: equilibrium.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from decayfree.blocks import Part
from decayfree.errors import (
    Fault,
    InvalidInputError,
    MismatchError,
    faults_of,
    listed,
    number_faults,
)
from decayfree.optimizers import OPTIMIZERS, Correlation, nearest_row
from decayfree.rescaling.held import Held
from decayfree.rescaling.holder import Holder
from decayfree.rescaling.sharded import ShardedGroup
from decayfree.shards import local_of

# This share of the running mean square of an update's norm stays from step to step. Steps of ten or so are
# alike; over a hundred, updates of Adagrad shrink by more than they scatter.
_AVERAGING = 0.9

OWN_SHAPES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "linear": lambda done: 1 - done,
    "constant": lambda done: 1.0,
}


class StepLengths:
    """Steps that are longer or shorter by the root of the learning rate's share of the full one.

    So that angles follow the root of the schedule, as they do where weight decay balances steps, and not the
    schedule itself, as at a fixed norm.

    Args:
        optimizer: Whose steps they are.
        weights: By name, those whose steps change.
        full_rate: The full learning rate. None takes each group's ``max_lr`` or ``initial_lr``, which
            schedulers leave there, or else the rate it has now.

    Raises:
        InvalidInputError: If a full rate would be 0.
    """

    def __init__(
        self, optimizer: Optimizer, weights: Mapping[str, Tensor], full_rate: float | None = None
    ) -> None:
        self._groups = {name: group_of(weight, optimizer) for name, weight in weights.items()}
        self._full_rates = {
            name: full_rate or float(group.get("max_lr") or group.get("initial_lr") or group["lr"])
            for name, group in self._groups.items()
        }
        if not all(self._full_rates.values()):
            raise InvalidInputError("a learning rate of 0 is no full rate to follow: pass full_rate=")
        self._before: dict[str, list[Tensor]] = {}

    def see(self, held: Iterable[Held]) -> None:
        """Look at weights before a step; of sharded ones, at what this process has."""
        self._before = {one.name: [local_of(tensor).clone() for tensor in one.tensors] for one in held}

    @torch.no_grad()
    def change_(self, holders: Sequence[Holder], optimizer: Optimizer, n_steps: int) -> None:
        """Make the step that was taken as long as it shall be.

        Args:
            holders: Of the weights after it, not yet on their norms.
            optimizer: That took it.
            n_steps: How many there were before.
        """
        group_by_id = {id(entry): group for group in optimizer.param_groups for entry in group["params"]}
        for holder in holders:
            self._groups |= {one.name: group_by_id[id(one.weight)] for one in holder.held}
        for holder in holders if self._before else ():
            for one in holder.held:
                if not one.is_sharded and self._rate(one) > 0:
                    self._change_one_(one, optimizer, n_steps)
            if holder.sharded is not None:
                before = [tensor for one in holder.sharded.held for tensor in self._before[one.name]]
                self._change_shards_(holder.sharded, before, optimizer, n_steps)
        self._before = {}

    def _change_one_(self, one: Held, optimizer: Optimizer, n_steps: int) -> None:
        before, update = self._before_and_update(one)
        update.scale_(self._times(one))
        self._take_(one, before, update)

    def _change_shards_(
        self, group: ShardedGroup, before: Sequence[Tensor], optimizer: Optimizer, n_steps: int
    ) -> None:
        times = torch.cat([self._times(one) for one in group.held])
        group.move_(before, torch.zeros_like(times), times)

    def _times(self, one: Held) -> Tensor:
        share = self._share(one)
        return torch.full_like(one.targets, share**-0.5 if share > 0 else 1.0)

    def _before_and_update(self, one: Held) -> tuple[Part, Part]:
        weight, *bias = self._before[one.name]
        before, update = Part(weight, bias[0] if bias else None, one.blocks), one.each(torch.clone)
        add_(update, before, alpha=-1)
        return before, update

    def _take_(self, one: Held, before: Part, update: Part) -> None:
        add_(update, before)
        one.put_in_(update)

    def _rate(self, one: Held) -> float:
        return float(self._groups[one.name]["lr"])

    def _share(self, one: Held) -> float:
        return self._rate(one) / self._full_rates[one.name]

    def __repr__(self) -> str:
        rates = sorted(set(self._full_rates.values()))
        return f"follow, full rates {', '.join(f'{rate:g}' for rate in rates)}"

    def state_dict(self) -> dict[str, Any]:
        """By parameter name; what was said at the start is not in it."""
        return {"full_rates": dict(self._full_rates)}

    def load_state_dict(self, state: Mapping[str, Any], held: Sequence[Held]) -> None:
        """Go on from :meth:`state_dict`, of which :meth:`state_faults` found nothing to say."""
        self._full_rates = {one.name: float(state["full_rates"][one.name]) for one in held}

    def state_faults(self, state: object, held: Sequence[Held]) -> list[Fault]:
        """Why a state cannot be loaded."""
        mine = self.state_dict()
        if not isinstance(state, Mapping) or mine.keys() - state.keys():
            return [(MismatchError, f"the state says nothing of {listed(sorted(mine))}")]
        rates = state["full_rates"]
        if not isinstance(rates, Mapping) or rates.keys() != mine["full_rates"].keys():
            return [(MismatchError, "the state holds full_rates of other weights")]
        faults: list[str] = []
        for name, rate in rates.items():
            faults += number_faults(f"full_rates of {name}", rate, least=1e-300)
        return faults_of(InvalidInputError, faults)


@dataclass(frozen=True)
class Pace:
    """How much is to be forgotten in a step.

    Args:
        at_full: D of a step at the full rate, no unit.
        shape: As for :class:`decayfree.Turning`.
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
        return self.at_full * own_share(self.shape, n_steps, self.total_steps or 1)


def own_share(shape: str, n_steps: int, total_steps: int) -> float:
    """S after ``n_steps`` of ``total_steps``, from 1 to 0."""
    return OWN_SHAPES[shape](min(n_steps / total_steps, 1.0))


class Angles(StepLengths):
    """Steps at angles that are set: w ← w + R·tan(θ)·u/√⟨‖u‖²⟩, u the update without its part along w.

    Args:
        optimizer: As for :class:`StepLengths`.
        weights: As for :class:`StepLengths`.
        pace: How much is forgotten in a step.
        full_rate: As for :class:`StepLengths`.

    Attributes:
        forgotten: D so far.
        angles_rad: By parameter name, θ of the last step.
        learning_rates: By parameter name, (n_blocks,), at which the optimizer alone would have taken it; 0
            for blocks that other processes have.

    Raises:
        InvalidInputError: If nobody knows how long the optimizer's steps remember a gradient.
    """

    def __init__(
        self, optimizer: Optimizer, weights: Mapping[str, Tensor], pace: Pace, full_rate: float | None
    ) -> None:
        super().__init__(optimizer, weights, full_rate)
        self._correlation, self._pace = _correlation_of(optimizer), pace
        self._sizes: dict[str, Tensor] = {}
        self.forgotten = 0.0
        self.angles_rad: dict[str, float] = {}
        self.learning_rates: dict[str, Tensor] = {}

    def __repr__(self) -> str:
        return f"{super().__repr__()}, {self._pace}"

    def change_(self, holders: Sequence[Holder], optimizer: Optimizer, n_steps: int) -> None:
        super().change_(holders, optimizer, n_steps)
        shares = [self._share(one) for holder in holders for one in holder.held]
        self.forgotten += max((self._pace.forgetting(n_steps, share) for share in shares), default=0.0)

    def _change_one_(self, one: Held, optimizer: Optimizer, n_steps: int) -> None:
        before, update = self._before_and_update(one)
        along = before.each(torch.clone)
        along.scale_(quotient(update.dots(before), one.targets.square()))
        add_(update, along, alpha=-1)
        update.scale_(self._times_aside(one, update.norms(), optimizer, n_steps))
        self._take_(one, before, update)

    def _change_shards_(
        self, group: ShardedGroup, before: Sequence[Tensor], optimizer: Optimizer, n_steps: int
    ) -> None:
        # ‖u − kw‖² = ‖u‖² − 2k⟨w, u⟩ + k²‖w‖², k = ⟨w, u⟩/R²: sums of the step as the optimizer took it, so
        # that they are added up once. What of an update is shorter than 1e-8 of the whole is rounding.
        sums = group.sums_of_step(before)
        squares, dots, of_step = sums
        along = quotient(dots, group.targets.square())
        aside = (of_step - along * (2 * dots - along * squares)).clamp(min=0.0).sqrt().to(group.targets.dtype)
        along, times = along.to(group.targets.dtype), torch.ones_like(group.targets)
        parts = zip(group.held, *map(group.by_weight, (aside, along, times)), strict=True)
        for one, of_one, along_one, times_one in parts:
            if self._rate(one) > 0:
                times_one.copy_(self._times_aside(one, of_one, optimizer, n_steps))
            else:
                along_one.zero_()
        group.move_(before, along, times, sums)

    def _times_aside(self, one: Held, norms: Tensor, optimizer: Optimizer, n_steps: int) -> Tensor:
        """How much longer an update gets, (n_blocks,), of which these norms are aside of the weight."""
        settings, rate = self._groups[one.name], self._rate(one)
        forgetting = self._pace.forgetting(n_steps, self._share(one))
        angle = math.sqrt(2 * forgetting / self._correlation(settings, optimizer.state[one.weight]))
        self.angles_rad[one.name] = angle
        squares = (norms / rate).square()
        seen = self._sizes.get(one.name, torch.zeros_like(squares))
        mean = torch.where(seen > 0, torch.lerp(squares, seen, _AVERAGING), squares)
        self._sizes[one.name] = torch.where(squares > 0, mean, seen)
        rates = quotient(one.targets * math.tan(angle), mean.sqrt())
        self.learning_rates[one.name] = torch.where(one.targets > 0, rates, rate)
        return self.learning_rates[one.name] / rate

    def tell_all_(self, group: ShardedGroup) -> None:
        """Let all processes have what each remembers of its blocks."""
        for table in (self._sizes, self.learning_rates):
            of_all = [table.get(one.name, torch.zeros_like(one.targets)) for one in group.held]
            told = group.by_weight(group.largest(torch.cat(of_all)))
            table |= {one.name: own for one, own in zip(group.held, told, strict=True) if one.name in table}

    def state_dict(self) -> dict[str, Any]:
        sizes = {name: sizes.detach().clone() for name, sizes in self._sizes.items()}
        rates = {name: rates.detach().clone() for name, rates in self.learning_rates.items()}
        return {**super().state_dict(), "sizes": sizes, "learning_rates": rates, "forgotten": self.forgotten}

    def load_state_dict(self, state: Mapping[str, Any], held: Sequence[Held]) -> None:
        super().load_state_dict(state, held)
        targets = {one.name: one.targets for one in held}
        self._sizes = {name: sizes.to(targets[name], copy=True) for name, sizes in state["sizes"].items()}
        self.learning_rates = {
            name: rates.to(targets[name], copy=True) for name, rates in state["learning_rates"].items()
        }
        self.forgotten = float(state["forgotten"])

    def state_faults(self, state: object, held: Sequence[Held]) -> list[Fault]:
        faults = super().state_faults(state, held)
        if faults or not isinstance(state, Mapping):
            return faults
        shapes = {one.name: one.targets.shape for one in held}
        wrong = number_faults("forgotten", state["forgotten"], least=0)
        for key in ("sizes", "learning_rates"):
            table = state[key]
            if not isinstance(table, Mapping) or any(
                name not in shapes or getattr(values, "shape", None) != shapes[name]
                for name, values in table.items()
            ):
                return [(MismatchError, f"the state holds {key} of other weights or blocks")]
            wrong += [
                f"{key} of {name} must be finite and at least 0"
                for name, values in table.items()
                if not bool((torch.isfinite(values) & (values >= 0)).all())
            ]
        return faults_of(InvalidInputError, wrong)


def group_of(weight: Tensor, optimizer: Optimizer) -> Mapping[str, Any]:
    """The optimizer's settings for a weight; `load_state_dict` of an optimizer replaces its groups."""
    groups = optimizer.param_groups
    return next(group for group in groups if any(entry is weight for entry in group["params"]))


def quotient(a: Tensor, b: Tensor) -> Tensor:
    """a/b, and 0 where b is: what has no size is not made larger."""
    return torch.where(b > 0, a / b, 0.0)


def add_(part: Part, other: Part, *, alpha: float = 1.0) -> None:
    """Add another part, times ``alpha``, to a weight and its bias."""
    for tensor, values in zip(part.tensors, other.tensors, strict=True):
        tensor.add_(values, alpha=alpha)


def _correlation_of(optimizer: Optimizer) -> Correlation:
    row = nearest_row(type(optimizer))
    if row is None or row.correlation is None:
        known = [one.classes.split()[0] for one in OPTIMIZERS if one.correlation is not None]
        raise InvalidInputError(
            f"how long the steps of {type(optimizer).__name__} remember a gradient is not known, so that no "
            f"angle can be said; it is of {', '.join(known)}. WeightRescaling holds norms under any optimizer"
        )
    return row.correlation
