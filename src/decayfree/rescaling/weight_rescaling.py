"""When are scale-invariant weights put back onto their norms?

After every optimizer step, by a hook on the user's own optimizer. Finds no weights (discovery.py does) and
does no arithmetic on them (holder.py, fused_holder.py and rescale_once.py do).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from decayfree.attachment import Attached, attachable, nothing_in_common, uncompiled, weights_in
from decayfree.errors import (
    Fault,
    InvalidInputError,
    MismatchError,
    faults_of,
    raise_all,
)
from decayfree.invariance.result import Invariance
from decayfree.optimizers import twins_in
from decayfree.rescaling.copies import copies_of, copy_faults, longer, scale_copies_
from decayfree.rescaling.deviation import (
    Deviation,
    Watcher,
    deviation_of,
    group_problems,
    steps_of,
    steps_since,
)
from decayfree.rescaling.faults import (
    attachment_faults,
    held_moment_faults,
    names_as_found,
    schedule_faults,
    setting_faults,
    state_faults,
)
from decayfree.rescaling.finite import Finiteness
from decayfree.rescaling.following import follow_moments_, warn_of_unknown_moments
from decayfree.rescaling.fused_holder import check_fused, fused_holders_of
from decayfree.rescaling.held import Held, held_of, radii_of
from decayfree.rescaling.holder import distance_of, holders_of, radii_measured, raise_not_finite
from decayfree.rescaling.last_look import LastLook
from decayfree.rescaling.other_rows import OtherRows
from decayfree.rescaling.preconditions import Preconditions, lost_since
from decayfree.rescaling.radius import Radius, is_initial, radius_faults
from decayfree.rescaling.ranks import Ranks, names_told, told
from decayfree.rescaling.rescale_once import put_on_radius_
from decayfree.rescaling.seen_norms import SeenNorms
from decayfree.rescaling.step_lengths import StepLengths
from decayfree.step_counter import IdleStep, StepCounter, has_closure, is_inner_step, map_closure


class WeightRescaling(Attached):
    """Hold the norms of scale-invariant weights, whatever the optimizer does to them (weight rescaling, WRS).

    Rescales at once, without changing the function that the model computes in train or in eval mode: running
    statistics and the optimizer's moments follow, as far as it is known how. Then rescales after every
    ``every``-th step of the optimizer, by a hook on it, so that the training loop, the scheduler, AMP and
    checkpoints stay as they are. Weights of ``found`` that are not in this optimizer are left alone.

    Running statistics are always those of what forward passes saw, brought to the norms that weights have
    now. Who moved a weight decides how: what the optimizer's step did, no forward pass has seen yet. What
    anybody else wrote since the last rescale (a load, an average, a mask) is put onto the radius before the
    next step, as :func:`rescale_` does it, so that outputs in eval mode do not move. Who wrote is told by the
    parameters' version counters. An in-place write through ``.data`` raises none and counts as the
    optimizer's, so that statistics do not follow it: call :func:`rescale_` after it. A step that moves
    nothing (no gradients, or a learning rate of 0) is not counted and rescales nothing.

    Processes that train one model compare at the first step, and in :meth:`check`, what must be the same.

    Args:
        optimizer: Any :class:`torch.optim.Optimizer`, without weight decay on the weights that are held; of a
            wrapper that has no hooks of its own, the ``.optimizer`` inside it.
        found: From :func:`decayfree.find_invariant` for the model whose parameters the optimizer has.
        radius: The norm that a block is held at, per row, in units of the weight: a block of R rows has norm
            radius·√R. ``"init"`` is the norm that each block has now (of several processes, in the first). A
            mapping from glob patterns over parameter names to either, or to a tensor (n_blocks,) with one
            radius for each block; the first match counts, 1 without. Weights by request
            (:meth:`decayfree.Invariance.by_request`) take ``"init"`` unless a pattern matches.
        at_most: Blocks shorter than their radius stay as they are, longer ones go back onto it (MaxNorm).
        every: Rescale after so many optimizer steps. Between them norms are measured after each step, so that
            running statistics follow what each forward pass sees.
        copies: Averages of the weights (EMA, SWA) that exist already: the first rescale scales them by the
            same factors, statistics too, so that they average on as if the weights had always been so long.
        momentum: ``"keep"`` leaves the optimizer's moments alone after a step; ``"scale"`` applies the orbit
            action: what holds k powers of the gradient is divided by the factor to that power. Per step the
            difference is of second order in the step's angle. A schedule-free optimizer's z follows always.
        schedule: ``"plain"``: angles follow the learning rate. ``"follow"``: the root of its share of the
            full one (``max_lr`` or ``initial_lr`` of its group, or the rate now), as they do under decay.
        fused: Read and write each kernel once after a step, in machine code by numba
            (``pip install 'decayfree[fused]'``), on one thread. For weights on the CPU in float32 or float64
            whose blocks are runs of memory, as kernels, groups and heads are; others are held as without it.
            Norms are summed in float64, so that the last bits differ. Beside a kernel with NaN or infinity,
            the others of its weight are rescaled. The storage of these weights cannot be resized any more.

    Attributes:
        radii: Radius of every block, by parameter name, (n_blocks,): norm a row, in units of the weight.

    Raises:
        MismatchError: If the optimizer holds none of the weights, or ``found`` does not fit its model.
        WeightDecayError: If a group with weight decay holds one of the weights.
        AlreadyAttachedError: If another object holds one of the weights through this optimizer.
        UnsupportedWeightError: If a weight is flattened (FSDP1), sparse, quantized or without data.
        NonFiniteWeightError: If a weight holds NaN or infinity, now (then nothing is rescaled) or after a
            step (then it is left alone, and the others are on their radius). On an accelerator it is raised
            one step later, so that nothing waits for the device.
        InvalidInputError: If another argument is outside what is allowed, or ``fused`` is asked for and no
            weight can be.
        ImportError: If ``fused`` is asked for and numba is not installed. After an error here nothing has
            changed.

    References:
        Liu, Cui, Wan, Mao, Chan: Weight Rescaling, 2022, arXiv 2102.03497.

    Example:
        >>> from decayfree import find_invariant
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> wrs = WeightRescaling(optimizer, find_invariant(model, torch.randn(16, 4)))
        >>> wrs
        WeightRescaling(1 weights, 8 blocks, every=1, 0 steps)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        found: Invariance,
        *,
        radius: Radius = 1.0,
        at_most: bool = False,
        every: int = 1,
        momentum: Literal["keep", "scale"] = "keep",
        fused: bool = False,
        copies: nn.Module | Iterable[nn.Module] = (),
        schedule: Literal["plain", "follow"] = "plain",
    ) -> None:
        self.optimizer, self.found = optimizer, found = attachable(optimizer, found)
        self.every, self.momentum, self.fused, self.copies = every, momentum, fused, copies_of(copies)
        self.at_most = at_most
        self._weights = weights_in(optimizer, found)
        raise_all(self._faults(radius) + schedule_faults(schedule))
        self._lengths = self._step_lengths(schedule)
        self._steps, self._finite = StepCounter(), Finiteness()
        self._takes_first, self._is_compared = is_initial(radius), False
        self._ranks = Ranks(found.model, self._weights_by_name(), optimizer)
        self._ranks.meet(self._settings())
        with torch.inference_mode(False):
            self.radii = radii_of(found.model, self._weights, radius)
        self._optimizer_steps_before = steps_of(optimizer)
        self._knows_moments, self._twins = momentum != "scale", twins_in(optimizer)
        self._last_look, self._idle_step, self._may_be_idle = LastLook(), IdleStep(), False
        self._other_rows = OtherRows()
        self._counted_before_idle: int | None = None
        self._seen = SeenNorms(found, self._weights)
        self._plan()
        if fused:
            check_fused(self._holders)
        self._rescale_once(stacklevel=3)
        self._seen.take_in_biases_()
        if at_most:
            self._seen.note(self._holders, is_due=True)
        elif every > 1:
            self._seen.begin(self._holders)
        self._last_look.look(self._watched)
        self._preconditions = Preconditions(optimizer, found, self._planned(), self._problems_of_groups)
        self._attach()

    # What the user calls

    @property
    def n_steps(self) -> int:
        """Optimizer steps that the hook has seen, without those that a GradScaler skipped."""
        return self._steps.n_steps

    @property
    def factors(self) -> dict[str, Tensor]:
        """By parameter name, (n_blocks,): factors of the last rescale; the first is that at attachment.

        After a step, of a sharded weight those of blocks of which this process has a part; 1 for the others.
        """
        applied = self._applied_by_name()
        return {name: applied[name].clone() for name in self.radii}

    def __repr__(self) -> str:
        n_blocks = sum(map(len, self.radii.values()))
        state = f"{self.n_steps} steps" if self.is_attached else "detached"
        return f"WeightRescaling({len(self.radii)} weights, {n_blocks:,} blocks, every={self.every}, {state})"

    def __getstate__(self) -> dict[str, Any]:
        # Views of the weights' memory would become copies of it; a copy makes its own.
        return {**vars(self), "_holders": [], "_finite": Finiteness(), "_factors": self.factors}

    def __setstate__(self, state: dict[str, Any]) -> None:
        factors = state.pop("_factors")
        vars(self).update(state)
        self._plan()
        self._preconditions = Preconditions(
            self.optimizer, self.found, self._planned(), self._problems_of_groups
        )
        for one, applied in self._applied():
            applied.copy_(factors[one.name])

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, by parameter name; loads with ``weights_only=True``."""
        return {
            "radii": {name: radii.detach().clone() for name, radii in self.radii.items()},
            "every": self.every,
            "momentum": self.momentum,
            "at_most": self.at_most,
            **self._seen.state_dict(),
            "n_steps": self.n_steps,
            "optimizer_steps_before": self._optimizer_steps_before,
        } | ({"lengths": self._lengths.state_dict()} if self._lengths else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken; rescales nothing: load model and optimizer as well.

        Radii, ``every`` and the other settings are those of the state, whatever this was made with.

        Raises:
            MismatchError: If the weights or the number of their blocks differ, or entries are missing.
            InvalidInputError: If a value in it is outside what is allowed. After an error nothing has
                changed.
        """
        raise_all(state_faults(state, WeightRescaling.state_dict(self)))  # of this rank: no other is asked
        raise_all(setting_faults(state["every"], state["momentum"], self.fused, state["at_most"]))
        if self._lengths:
            raise_all(self._lengths.state_faults(state["lengths"], self._planned()))
            self._lengths.load_state_dict(state["lengths"], self._planned())
        self.radii = {name: state["radii"][name].to(self.radii[name], copy=True) for name in self.radii}
        self.every, self.momentum, self.at_most = state["every"], state["momentum"], state["at_most"]
        self._steps = StepCounter(state["n_steps"])
        self._optimizer_steps_before = state["optimizer_steps_before"]
        self._takes_first = self._is_compared = False
        self._seen.load_state_dict(state, self.radii)
        self._last_look = LastLook()
        self._plan()

    @torch.no_grad()
    def check(self, copies: nn.Module | Iterable[nn.Module] = ()) -> Deviation:
        """Look whether everything is as it should be; waits for the device, and raises nothing.

        Args:
            copies: Averages of the weights to look at as well, beside those that are followed.
        """
        lost = lost_since(self.optimizer, self.found, self._planned())
        held = self._planned() if lost else held_of(self.found.model, self._weights, self.radii)
        n_steps = self.n_steps
        between, are_here = self._ranks.problems(self._settings() | {"radii": told(self.radii)})
        if not are_here:  # what they have of sharded weights would be waited for without end
            held = [one for one in held if not one.is_sharded]
        return deviation_of(
            held,
            self.found,
            self.optimizer,
            self._watchers(),
            n_steps=n_steps,
            n_optimizer_steps=steps_since(self.optimizer, self._optimizer_steps_before, n_steps),
            is_attached=self.is_attached,
            is_due=n_steps % self.every == 0,
            at_most=self.at_most,
            has_moved=not self._last_look.is_as_seen(self._watched),
            others=[
                *lost,
                *between,
                *longer([*self.copies, *copies_of(copies)], self.found, held, self.radii),
            ],
        )

    # Before and after every step

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if is_inner_step(optimizer):
            return None
        self._preconditions.look(optimizer, stacklevel=5)
        if not self._is_compared:
            self._compare()
        evaluates = has_closure(args, kwargs)
        if self.every > 1 or evaluates:
            self._seen.take_in_biases_()
        self._may_be_idle = self._idle_step.may_come(optimizer, args, kwargs, self._watched)
        if self._may_be_idle:
            self._counted_before_idle = steps_of(optimizer)
        elif not self._last_look.is_as_seen(self._watched):
            self._take_over()
        self._other_rows.before_(optimizer, self._partly_held, evaluates=evaluates)
        if self._lengths:
            self._lengths.see(self._planned())
        return map_closure(args, kwargs, self._inside) if evaluates else None

    def _inside(self, closure: Callable[..., Any]) -> Callable[..., Any]:
        """A closure before which statistics go to the norms it meets, and after which other rows decay."""

        def evaluate(*args: Any, **kwargs: Any) -> Any:
            self._other_rows.put_gradients_back_()
            if not (self._may_be_idle or self._last_look.is_as_seen(self._watched)):
                self._make_current()
                for holder in self._holders:
                    holder.measure()
                self._seen.follow_(self._holders, is_due=False)
                self._last_look.look(self._watched)
            value = closure(*args, **kwargs)
            self._seen.take_in_biases_()
            self._other_rows.after_evaluation_(self.optimizer, self._partly_held)
            return value

        return evaluate

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if is_inner_step(optimizer):
            return
        if self._finite.was_broken(wait=False):
            self._raise_if_not_finite()
        self._other_rows.after_()
        if self._idle_step.has_come(self._watched):
            self._leave_out_idle_step()
            return
        if not self._steps.count(optimizer):
            return
        if not self._knows_moments:  # the optimizer makes its memory in its first step
            self._knows_moments = True
            raise_all(faults_of(InvalidInputError, self._moment_faults()))
        self._make_current()
        if self._lengths:
            self._lengths.change_(self._holders, self.optimizer, self.n_steps - 1)
        # This may be a step that was skipped, as only the device knows: nothing moved, and factors are
        # exactly 1.
        is_due = self._steps.is_multiple_of(self.every)
        everywhere = self.every > 1 or bool(self._seen.norms) or self.momentum == "scale"
        distances = [
            holder.hold_(everywhere=everywhere) if is_due else distance_of(holder.measure())
            for holder in self._holders
        ]
        # Else forward passes see weights on their radius only, and so do statistics.
        if self.every > 1 or self._seen.norms:
            self._seen.follow_(self._holders, is_due=is_due)
        if self._is_always_on_radius:
            self._seen.norms = {}
        if is_due and (self.momentum == "scale" or self._twins):
            follow_moments_(self.optimizer, self._applied(), momentum=self.momentum)
        self._last_look.look(self._watched)
        if self._finite.is_broken_by(distances):
            self._raise_if_not_finite()

    def _take_over(self) -> None:
        """Put what somebody else changed onto the radius without moving the outputs; the rest stays."""
        self._make_current()
        if self._is_always_on_radius:
            self._seen.norms = {}  # of an evaluation inside a step that raised: no pass will see them again
        with names_as_found(self.found):
            put_on_radius_(
                self.found.model,
                self._weights,
                self._holders,
                self._seen.shifts,
                self.optimizer,
                unless=self._seen.by_name(self._holders),
                stacklevel=7,
            )
            self._seen.biases_followed(self._applied_by_name())
        if not self._is_always_on_radius:
            self._seen.note(self._holders, is_due=True)
        self._last_look.look(self._watched)

    def _compare(self) -> None:
        """Compare with the other ranks what must be the same there; by now they are known."""
        self._is_compared = True
        held = {one.name: one.weight for one in self._planned()}
        self._ranks = Ranks(self.found.model, held, self.optimizer)
        radii = self._ranks.agree(self._settings(), self.radii, takes_first=self._takes_first, stacklevel=6)
        if radii is not self.radii:
            self.radii = radii
            self._plan()

    def _settings(self) -> dict[str, str]:
        """What must be the same on all ranks, but for radii."""
        return {
            "attached": str(self.is_attached),
            "weights": names_told([weight.name for weight in self._weights]),
            "every": str(self.every),
            "momentum": self.momentum,
            "at_most": str(self.at_most),
            "schedule": repr(self._lengths) if self._lengths else "plain",
            "steps": str(self.n_steps),
        }

    def _leave_out_idle_step(self) -> None:
        before, earlier = self._optimizer_steps_before, self._counted_before_idle
        now = steps_of(self.optimizer)
        if before is not None and earlier is not None and now is not None:
            self._optimizer_steps_before = before + now - earlier

    def _make_current(self) -> None:
        if not all(holder.is_current() for holder in self._holders):
            with names_as_found(self.found):
                self._plan()

    # Plumbing

    def _step_lengths(self, schedule: str) -> StepLengths | None:
        return StepLengths(self.optimizer, self._weights_by_name()) if schedule == "follow" else None

    def _weights_by_name(self) -> dict[str, Tensor]:
        return {weight.name: self._parameters()[weight.name] for weight in self._weights}

    def _faults(self, radius: Radius) -> list[Fault]:
        held, others = list(self._weights_by_name()), rescalings_on(self.optimizer)
        nothing = [] if held else [nothing_in_common(self.optimizer, self.found)]
        faults = faults_of(MismatchError, nothing)
        faults += attachment_faults(self.optimizer, self._weights, self._parameters(), others)
        faults += faults_of(InvalidInputError, radius_faults(radius, held) if held else [])
        faults += copy_faults(self.copies, self.found)
        faults += faults_of(InvalidInputError, self._moment_faults(moves=radius != "init"))
        return faults + setting_faults(self.every, self.momentum, self.fused, self.at_most)

    @property
    def _is_always_on_radius(self) -> bool:
        """Whether forward passes see all weights on their radius, after any step."""
        return self.every == 1 and not self.at_most

    def held_weights(self) -> list[Tensor]:
        """The parameters whose norm is held, without biases."""
        return [one.weight for one in self._planned()]

    def _parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.found.model.named_parameters())

    def _planned(self) -> list[Held]:
        return [one for holder in self._holders for one in holder.held]

    def _plan(self) -> None:
        with torch.inference_mode(False):
            self._holders = (fused_holders_of if self.fused else holders_of)(
                held_of(self.found.model, self._weights, self.radii),
                self._seen.shifts,
                at_most=self.at_most,
            )
        held = self._planned()
        self._watched = [tensor for one in held for tensor in one.tensors]
        self._partly_held = [one for one in held if one.blocks.is_partial]

    def _applied(self) -> list[tuple[Held, Tensor]]:
        return [
            (one, holder.factors[holder.slices[one.name]]) for holder in self._holders for one in holder.held
        ]

    def _applied_by_name(self) -> dict[str, Tensor]:
        return {one.name: factors for one, factors in self._applied()}

    def _rescale_once(self, *, stacklevel: int) -> None:
        level, shifts, holders = stacklevel + 1, self._seen.shifts, self._holders
        put_on_radius_(self.found.model, self._weights, holders, shifts, self.optimizer, stacklevel=level)
        scaled = [one for one, factors in self._applied() if bool((factors != 1).any())]
        self.radii = radii_measured(self.radii, holders)
        warn_of_unknown_moments(self.optimizer, scaled, stacklevel=level)
        scale_copies_(self.copies, self.found, self.factors, stacklevel=level)

    def _watchers(self) -> list[Watcher]:
        others = [other for other in rescalings_on(self.optimizer) if other is not self]
        return [Watcher(one.found, frozenset(map(id, one.held_weights()))) for one in (*others, self)]

    def _problems_of_groups(self) -> dict[str, str]:
        return group_problems(self.optimizer, self._weights, self._parameters(), self._watchers())

    def _moment_faults(self, *, moves: bool = True) -> list[str]:
        parameters = self._parameters()
        parts = [weight.part(parameters) for weight in self._weights]
        return held_moment_faults(self.optimizer, parts, self.momentum, moves=moves)

    def _attach(self) -> None:
        self.optimizer.register_step_pre_hook(uncompiled(self._before_step))
        handle = self.optimizer.register_step_post_hook(uncompiled(self._after_step))
        # Before the hooks of others, which may copy the weights (averages, low-precision twins).
        self.optimizer._optimizer_step_post_hooks.move_to_end(handle.id, last=False)  # type: ignore[attr-defined]

    def _raise_if_not_finite(self) -> None:
        after = f"after optimizer step {self.n_steps} these weights hold NaN or infinity, and nothing was "
        raise_not_finite(self._holders, about=f"{after}written over it: ")


def rescalings_on(optimizer: Optimizer) -> list[WeightRescaling]:
    """Those that are attached to an optimizer."""
    owners = (getattr(hook, "__self__", None) for hook in optimizer._optimizer_step_post_hooks.values())
    return [owner for owner in owners if isinstance(owner, WeightRescaling)]
