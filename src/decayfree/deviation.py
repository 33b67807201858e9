"""Are the weights where they are held, and does anybody still hold them?

The answer of WeightRescaling.check(), in figures and in words. Changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import Optimizer

from decayfree.blocks import is_sharded
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
        norms: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        others: Sequence[WeightRescaling],
    ) -> Deviation:
        """Compare norms with targets, and the optimizer with what this and ``others`` on it look after."""
        parameters = dict(wrs.found.model.named_parameters())
        deviations = {name: _relative(norms[name], targets[name]) for name in norms}
        where = max(
            deviations,
            key=lambda name: math.inf if math.isnan(deviations[name]) else deviations[name],
            default=None,
        )
        largest = deviations[where] if where else 0.0
        n_optimizer_steps = _steps_since(wrs)
        unwatched = tuple(_unwatched(wrs, others))
        problems = [
            *_hook_problems(wrs, n_optimizer_steps),
            *_mode_problems(wrs.found),
            *([_off_radius(largest, where)] if where and _is_off(largest, parameters[where], wrs) else []),
            *(
                [f"{len(unwatched)} weights of the optimizer are not looked after: {', '.join(unwatched)}"]
                if unwatched
                else []
            ),
            *decay_faults(wrs.optimizer, list(wrs.found), parameters),
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
    if not math.isfinite(largest):
        return f"{where} holds NaN or infinity"
    return f"{where} is off its radius by {largest:.2g}: something changed it after the rescale (a load, a copy, a hook)"


def _steps_since(wrs: WeightRescaling) -> int | None:
    if not wrs.optimizer.state and wrs.n_steps:
        return None  # plain SGD remembers nothing, its steps neither
    counted = steps_of(wrs.optimizer)
    return None if counted is None else counted - (wrs._optimizer_steps_before or 0)


def _hook_problems(wrs: WeightRescaling, n_optimizer_steps: int | None) -> list[str]:
    problems = []
    if not wrs.is_attached:
        problems.append(
            "the optimizer does not call this object: it was detached, or the optimizer was copied or unpickled, which drops hooks; "
            "make a new WeightRescaling"
        )
    if n_optimizer_steps is not None and wrs.optimizer.state and n_optimizer_steps != wrs.n_steps:
        problems.append(
            f"the hook saw {wrs.n_steps} steps, the optimizer counts {n_optimizer_steps}; if the optimizer's state was loaded, load that "
            "of the WeightRescaling as well"
        )
    return problems


def _mode_problems(found: Invariance) -> list[str]:
    """Normalizations in eval mode while the model trains: the weights before them have a scale now."""
    if not found.model.training:
        return []
    modules = dict(found.model.named_modules())
    names = {layer.name for weight in found for layer in weight.norm_layers if layer.blocks}
    frozen = sorted(name for name in names if not modules[name].training)
    if not frozen:
        return []
    return [
        f"{', '.join(frozen[:4])}{', …' if len(frozen) > 4 else ''} went into eval mode while the model trains, so that the weights before "
        "them do have a scale now: find the weights again"
    ]


def _unwatched(wrs: WeightRescaling, others: Sequence[WeightRescaling]) -> Iterator[str]:
    known = {
        id(parameter): (one.found, name)
        for one in (*others, wrs)
        for name, parameter in one.found.model.named_parameters()
    }
    held = {id(weight) for one in (*others, wrs) for weight in one.held_weights()}
    for index, group in enumerate(wrs.optimizer.param_groups):
        for parameter in group["params"]:
            found, name = known.get(id(parameter), (None, ""))
            verdict = found.verdicts.get(name) if found else None
            if found is None or verdict is None:
                if not is_sharded(
                    parameter
                ):  # FSDP puts other objects in the model between forward and backward
                    yield name or f"a parameter of shape {tuple(parameter.shape)} in group {index}"
            elif verdict.verdict == "frozen" and parameter.requires_grad:
                yield f"{name} (was frozen)"
            elif found.holds(name) and id(parameter) not in held:
                yield f"{name} (joined the optimizer later)"
