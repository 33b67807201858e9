"""Which number has a step of an optimizer, where steps that a GradScaler skips do not count?

Nor do those that move nothing, and those that another step of the same optimizer takes. An ordinary optimizer
is not called for a skipped step. A fused one is, and on an accelerator only the device knows: it is asked as
seldom as possible. Says nothing about what happens at which step.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class StepCounter:
    """Counts the real steps of an optimizer, from its hooks.

    Args:
        n_steps: So many were taken before.
    """

    def __init__(self, n_steps: int = 0) -> None:
        self._n_steps = n_steps
        self._n_skipped: Tensor | None = None  # on the accelerator: counted above, to be subtracted
        self._next_is_skipped = False  # what was found out before the step

    @property
    def n_steps(self) -> int:
        """Real steps so far; waits for the device where a GradScaler drives a fused optimizer on it."""
        if self._n_skipped is not None:
            self._n_steps -= int(self._n_skipped)
            self._n_skipped = None
        return self._n_steps

    def next_is_multiple_of(self, every: int, optimizer: Optimizer) -> bool:
        """Whether the coming step is real and a multiple of ``every``; for a hook to ask before the step."""
        self._next_is_skipped = False
        if (self._n_steps + 1) % every:
            return False  # skipped steps that are still to be subtracted put it off further
        found_inf = getattr(optimizer, "found_inf", None)
        if not isinstance(found_inf, Tensor):
            return (self.n_steps + 1) % every == 0
        skips = _skips(found_inf)
        pending = torch.zeros_like(skips) if self._n_skipped is None else self._n_skipped
        n_skipped, is_skipped = torch.stack([pending, skips]).tolist()
        self._n_steps, self._n_skipped = self._n_steps - n_skipped, None
        self._next_is_skipped = bool(is_skipped)
        return not is_skipped and (self._n_steps + 1) % every == 0

    def is_multiple_of(self, every: int) -> bool:
        """Whether the number of real steps so far is a multiple of ``every``; with 1 nothing waits."""
        # Skipped steps still to be subtracted put it off, so that the device need not be asked before.
        return self._n_steps % every == 0 and (every == 1 or self.n_steps % every == 0)

    def count(self, optimizer: Optimizer) -> bool:
        """Count the step that was taken; whether it was real, as far as known; for a hook after the step."""
        found_inf = getattr(optimizer, "found_inf", None)
        if isinstance(found_inf, Tensor):
            if self._next_is_skipped or (_is_on_host(found_inf) and bool(found_inf)):
                return False
            if not _is_on_host(found_inf):
                skips = _skips(found_inf)
                self._n_skipped = skips if self._n_skipped is None else self._n_skipped + skips
        self._n_steps += 1
        return True


class IdleStep:
    """Whether a step moves none of some weights: what can be told before it, and what was so after it."""

    def __init__(self) -> None:
        self._before: list[Tensor] | None = None

    @torch.no_grad()
    def may_come(
        self, optimizer: Optimizer, args: Sequence[Any], kwargs: Mapping[str, Any], weights: Iterable[Tensor]
    ) -> bool:
        """Whether the coming step should move nothing: every group has no gradients or a learning rate of 0.

        Then the weights are kept for :meth:`has_come`: Rprop does not look at its rate after the first step,
        ASGD uses that of the step before, and others put the rate into what they remember of gradients.

        Args:
            optimizer: Whose step it is.
            args: What a hook before the step is given: the optimizer, perhaps a closure, which makes
                gradients.
            kwargs: Likewise.
            weights: To be looked at. A learning rate on an accelerator is not, and counts as none of 0.
        """
        makes_gradients = has_closure(args, kwargs)
        may_come = all(
            _is_zero(group.get("lr"))
            or not (makes_gradients or any(parameter.grad is not None for parameter in group["params"]))
            for group in optimizer.param_groups
        )
        self._before = [weight.clone() for weight in weights] if may_come else None
        return may_come

    def has_come(self, weights: Iterable[Tensor]) -> bool:
        """Whether the step was expected to move nothing and has not moved the same weights."""
        before, self._before = self._before, None
        return before is not None and all(map(torch.equal, before, weights))


def is_inner_step(optimizer: Optimizer) -> bool:
    """Whether the step that calls a hook is one inside another of this optimizer: that of its base class.

    Where a subclass calls ``super().step()``, and torch has prepared both classes, each of the two calls all
    hooks. The stack is asked, since a step that raises calls no hook after it; where torch.compile traces the
    step itself there is none to ask.
    """
    # torch marks what it has prepared; with one such step there is no other inside it.
    n_prepared = sum(hasattr(kind.__dict__.get("step"), "hooked") for kind in type(optimizer).__mro__)
    if n_prepared < 2 or torch.compiler.is_compiling():
        return False
    frame, n_steps = inspect.currentframe(), 0
    while frame is not None:
        # The function of torch that calls hooks has the optimizer in its arguments.
        if frame.f_code is _CALLS_HOOKS and any(value is optimizer for value in frame.f_locals.values()):
            n_steps += 1
        frame = frame.f_back
    return n_steps > 1


_CALLS_HOOKS = getattr(Optimizer.profile_hook_step(Optimizer.step), "__code__", None)


def has_closure(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a step, of which a hook was given these, evaluates the model itself."""
    return any(callable(value) for value in (*args[1:], *kwargs.values()))


def map_closure(
    args: Sequence[Any], kwargs: Mapping[str, Any], wrap: Callable[[Any], Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a step, of which a hook was given these, with another closure if there is one."""
    wrapped = {key: wrap(value) if callable(value) else value for key, value in kwargs.items()}
    return (*args[:1], *(wrap(value) if callable(value) else value for value in args[1:])), wrapped


def _is_zero(rate: object) -> bool:
    if isinstance(rate, Tensor):
        return _is_on_host(rate) and not bool(rate)
    return rate is not None and not rate


def _skips(found_inf: Tensor) -> Tensor:
    """1 where a GradScaler found infinities, else 0; (), int64, on its device."""
    return (found_inf.detach().reshape(()) > 0).long()


def _is_on_host(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"
