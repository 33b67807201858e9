"""Which number has a step of an optimizer, where steps that a GradScaler skips do not count?

An ordinary optimizer is not called for a skipped step. A fused one is, and on an accelerator only the device
knows: it is asked as seldom as possible. Says nothing about what happens at which step.
"""

from collections.abc import Mapping, Sequence
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


def moves_nothing(optimizer: Optimizer, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether the coming step can be told to move no parameter: no gradients, or learning rates of 0.

    Args:
        optimizer: Whose step it is.
        args: What a hook before the step is given: the optimizer, perhaps a closure, which makes gradients.
        kwargs: Likewise.
    """
    has_closure = any(value is not None for value in (*args[1:], *kwargs.values()))
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    return rates_are_zero(optimizer) or not (
        has_closure or any(parameter.grad is not None for parameter in parameters)
    )


def rates_are_zero(optimizer: Optimizer) -> bool:
    """Whether the learning rate is 0 in all groups; on an accelerator, which would wait, none is."""
    return all(_is_zero(group.get("lr")) for group in optimizer.param_groups)


def _is_zero(rate: object) -> bool:
    if isinstance(rate, Tensor):
        return _is_on_host(rate) and not bool(rate)
    return rate is not None and not rate


def _skips(found_inf: Tensor) -> Tensor:
    """1 where a GradScaler found infinities, else 0; (), int64, on its device."""
    return (found_inf.detach().reshape(()) > 0).long()


def _is_on_host(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"
