"""Are the weights where they are held, and does anybody still hold them?

The answer of WeightRescaling.check(), in figures and in words. Changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import Optimizer

from decayfree.faults import decay_faults

if TYPE_CHECKING:
    from decayfree.invariance import Invariance
    from decayfree.rescaling import WeightRescaling

# How far a norm may be from its radius after a rescale, by rounding of the weights themselves.
_ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Deviation:
    """What :meth:`decayfree.WeightRescaling.check` saw.

    Args:
        largest: Largest relative deviation of a block's norm from what it is held at; no unit. Blocks of norm zero are not counted.
        where: The weight with it.
        n_steps: Optimizer steps that the hook saw.
        n_optimizer_steps: Steps that the optimizer itself counts in the same time, or None where it counts none (SGD).
        is_attached: Whether the optimizer still calls the hook.
        unwatched: Weights of the optimizer that nobody looked at, that were frozen then and are trained now, or that joined it later.
        zero_blocks: Number of blocks of norm zero, by weight.
        problems: Everything that is not as it should be, a sentence each; empty if all is well.
    """

    largest: float
    where: str | None
    n_steps: int
    n_optimizer_steps: int | None
    is_attached: bool
    unwatched: tuple[str, ...]
    zero_blocks: dict[str, int]
    problems: tuple[str, ...]

    @classmethod
    def of(
        cls,
        wrs: WeightRescaling,
        found: Invariance,
        norms: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        parameters: Mapping[str, Tensor],
    ) -> Deviation:
        """Compare norms with targets, and the optimizer with what was looked at."""
        deviations = {name: _relative(norms[name], targets[name]) for name in norms}
        where = (
            max(deviations, key=lambda name: math.inf if math.isnan(deviations[name]) else deviations[name])
            if deviations
            else None
        )
        largest = deviations[where] if where else 0.0
        counted = steps_of(wrs.optimizer)
        n_optimizer_steps = None if counted is None else counted - (wrs._optimizer_steps_before or 0)
        unwatched = tuple(_unwatched(wrs, found, parameters))
        problems = [
            *_hook_problems(wrs, n_optimizer_steps),
            *([_off_radius(largest, where)] if where and _is_off(largest, parameters[where], wrs) else []),
            *(
                [f"{len(unwatched)} weights of the optimizer are not looked after: {', '.join(unwatched)}"]
                if unwatched
                else []
            ),
            *decay_faults(wrs.optimizer, list(found), parameters),
        ]
        zero_blocks = {name: count for name, values in norms.items() if (count := int((values == 0).sum()))}
        return cls(
            largest,
            where,
            wrs.n_steps,
            n_optimizer_steps,
            wrs.is_attached,
            unwatched,
            zero_blocks,
            tuple(problems),
        )


def steps_of(optimizer: Optimizer) -> int | None:
    """Steps that the optimizer counts in its own state; 0 before the first, None where it counts none."""
    steps = [
        int(state["step"])
        for state in optimizer.state.values()
        if isinstance(state, dict) and "step" in state
    ]
    if steps:
        return max(steps)
    return None if optimizer.state else 0


def _relative(norms: Tensor, targets: Tensor) -> float:
    counted = (norms != 0) & (targets != 0)
    return float(torch.where(counted, (norms / targets - 1).abs(), 0.0).max())


def _is_off(largest: float, weight: Tensor, wrs: WeightRescaling) -> bool:
    return not largest <= _ROUNDING.get(weight.dtype, 1e-5) and wrs.n_steps % wrs.every == 0


def _off_radius(largest: float, where: str | None) -> str:
    return f"{where} is off its radius by {largest:.2g}: something changed it after the rescale (a load, a copy, a hook)"


def _hook_problems(wrs: WeightRescaling, n_optimizer_steps: int | None) -> list[str]:
    problems = []
    if not wrs.is_attached:
        problems.append(
            "the optimizer does not call this object: it was detached, or the optimizer was copied or unpickled, which drops hooks; "
            "make a new WeightRescaling"
        )
    if n_optimizer_steps is not None and wrs.optimizer.state and n_optimizer_steps != wrs.n_steps:
        problems.append(f"the hook saw {wrs.n_steps} steps, the optimizer counts {n_optimizer_steps}")
    return problems


def _unwatched(wrs: WeightRescaling, found: Invariance, parameters: Mapping[str, Tensor]) -> Iterator[str]:
    names = {id(parameter): name for name, parameter in parameters.items()}
    others = {
        name
        for hook in wrs.optimizer._optimizer_step_post_hooks.values()
        for name in getattr(getattr(hook, "__self__", None), "radii", ())
    }
    for index, group in enumerate(wrs.optimizer.param_groups):
        for parameter in group["params"]:
            name = names.get(id(parameter))
            verdict = found.verdicts.get(name) if name else None
            if name is None or verdict is None:
                yield name or f"a parameter of shape {tuple(parameter.shape)} in group {index}"
            elif verdict.verdict == "frozen" and parameter.requires_grad:
                yield f"{name} (was frozen)"
            elif found.holds(name) and name not in wrs.radii and name not in others:
                yield f"{name} (joined the optimizer later)"
