"""How does a method get around every step of an optimizer?

By a hook before and one after: its own look at the weights last before the step and first after it. Knows no
method.
"""

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from decayfree.errors import InvalidInputError


def around_steps(
    optimizer: Optimizer, before: Callable[[], None], after: Callable[[], None], *, by: str
) -> None:
    """Call ``before`` and ``after`` every step of the optimizer.

    Hooks that others register sooner or later see weights as they are between two steps; those registered
    later do so from their second step on.

    Args:
        optimizer: Its hooks are used.
        before: Called last before the step.
        after: Called first after it.
        by: Who does so, in words, for the message.

    Raises:
        InvalidInputError: At a step that gets a closure, whose gradients are not there yet.
    """
    from decayfree.step_counter import is_inner_step

    def before_step(_: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if is_inner_step(optimizer):
            return
        if callable(kwargs.get("closure", args[1] if len(args) > 1 else None)):
            raise InvalidInputError(
                f"{by} needs the gradients before the step: call the closure yourself, then step() without"
            )
        before()

    def after_step(*_: object) -> None:
        if is_inner_step(optimizer):
            return
        after()
        if handle_before.id in hooks:
            hooks.move_to_end(handle_before.id)  # type: ignore[attr-defined]

    hooks = optimizer._optimizer_step_pre_hooks
    handle_before = optimizer.register_step_pre_hook(before_step)
    handle_after = optimizer.register_step_post_hook(after_step)
    optimizer._optimizer_step_post_hooks.move_to_end(handle_after.id, last=False)  # type: ignore[attr-defined]


def refuse_scaled_gradients(optimizer: Optimizer, *, by: str) -> None:
    """Raise where gradients carry the factor of a GradScaler, which a fused optimizer takes out inside."""
    if getattr(optimizer, "grad_scale", None) is not None:
        raise InvalidInputError(
            f"{by} adds decay to gradients, and these are scaled by a GradScaler until the fused optimizer "
            "steps: call scaler.unscale_(optimizer) before scaler.step(optimizer)"
        )
