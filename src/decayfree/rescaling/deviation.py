"""Are the weights where they are held, and does anybody still hold them?

The answer of WeightRescaling.check(), in figures and in words. Changes nothing.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from decayfree.blocks import norms_of
from decayfree.invariance.result import Invariance
from decayfree.invariance.verdict import ScaleInvariantWeight
from decayfree.rescaling.faults import decay_faults
from decayfree.rescaling.held import Held
from decayfree.rescaling.holder import ROUNDING_OF_WEIGHTS
from decayfree.rescaling.preconditions import mode
from decayfree.shards import is_sharded


@dataclass(frozen=True)
class Deviation:
    """What :meth:`decayfree.WeightRescaling.check` saw.

    Args:
        largest: Largest relative deviation of a block's norm from what it is held at; no unit. Blocks of norm
            zero are not counted.
        where: The weight with it.
        n_steps: Optimizer steps that the hook saw.
        n_optimizer_steps: Steps that the optimizer itself counts in the same time, or None where it counts
            none (SGD).
        is_attached: Whether the optimizer still calls the hook.
        unwatched: Weights of the optimizer that nobody looked at, that were frozen then and are trained now,
            or that joined it later.
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

    def __str__(self) -> str:
        """What a person asks: whether all is well, and if not, what is wrong."""
        told = [f"- {problem}" for problem in self.problems] or [
            f"all is well after {self.n_steps:,} steps: norms are within {self.largest:.1e} of what they are "
            "held at"
        ]
        return "\n".join(told)


@dataclass(frozen=True)
class Watcher:
    """Who looks after weights of an optimizer.

    Args:
        found: Where it knows them from.
        held: ``id`` of each parameter that it holds.
    """

    found: Invariance
    held: frozenset[int]


def deviation_of(
    held: Sequence[Held],
    found: Invariance,
    optimizer: Optimizer,
    watchers: Sequence[Watcher],
    *,
    n_steps: int,
    n_optimizer_steps: int | None,
    is_attached: bool,
    is_due: bool,
    at_most: bool,
    has_moved: bool,
    others: Sequence[str],
) -> Deviation:
    """Compare norms with targets, and the optimizer with what its watchers look after.

    Args:
        held: The weights that are held, at which norms.
        found: Where they are known from.
        optimizer: Whose hook rescales them.
        watchers: All that look after weights of this optimizer, the one that asks last.
        n_steps: Steps that the hook saw.
        n_optimizer_steps: Steps that the optimizer counts in the same time, None where it counts none.
        is_attached: Whether the optimizer still calls the hook.
        is_due: Whether the last step ended with a rescale, so that norms should be on their targets.
        at_most: Whether shorter blocks are as they should be.
        has_moved: Whether somebody has written to the weights since the hook last saw a step.
        others: Further problems, a sentence each.
    """
    parameters = dict(found.model.named_parameters())
    norms = dict(zip((one.name for one in held), norms_of(held), strict=True))
    deviations = {one.name: _relative(norms[one.name], one.targets, at_most) for one in held}
    where = max(
        deviations,
        key=lambda name: math.inf if math.isnan(deviations[name]) else deviations[name],
        default=None,
    )
    largest = deviations[where] if where else 0.0
    unwatched = tuple(_unwatched(optimizer, watchers))
    problems = [
        *_hook_problems(optimizer, n_steps, n_optimizer_steps, is_attached=is_attached, has_moved=has_moved),
        *others,
        *([in_eval] if (in_eval := mode(found)) else []),
        *(
            [_off_radius(largest, where, next(one for one in held if one.name == where), optimizer)]
            if where and is_due and _is_off(largest, parameters.get(where))
            else []
        ),
        *([_unwatched_problem(unwatched)] if unwatched else []),
        *decay_faults(optimizer, list(found), parameters),
    ]
    zero_blocks = {name: count for name, values in norms.items() if (count := int((values == 0).sum()))}
    return Deviation(
        largest, where, n_steps, n_optimizer_steps, is_attached, unwatched, zero_blocks, tuple(problems)
    )


def group_problems(
    optimizer: Optimizer,
    weights: Sequence[ScaleInvariantWeight],
    parameters: Mapping[str, Tensor],
    watchers: Sequence[Watcher],
) -> dict[str, str]:
    """What is wrong with the groups of an optimizer, a sentence by kind, empty where nothing is."""
    decayed = decay_faults(optimizer, weights, parameters)
    unwatched = tuple(_unwatched(optimizer, watchers))
    return {"decay": "".join(decayed), str(unwatched): _unwatched_problem(unwatched)}


def _unwatched_problem(unwatched: Sequence[str]) -> str:
    listed = ", ".join(unwatched)
    return f"{len(unwatched)} weights of the optimizer are not looked after: {listed}" if unwatched else ""


def steps_since(optimizer: Optimizer, n_before: int | None, n_steps: int) -> int | None:
    """Steps that the optimizer has counted since ``n_before``, None where it counts none.

    ``n_steps`` are those that a hook saw.
    """
    if not optimizer.state and n_steps:
        return None  # plain SGD remembers nothing, its steps neither
    counted = steps_of(optimizer)
    return None if counted is None else counted - (n_before or 0)


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


def _relative(norms: Tensor, targets: Tensor, at_most: bool) -> float:
    counted = (norms != 0) & (targets != 0)
    if at_most:
        counted &= ~(norms < targets)  # what is NaN counts
    return float(torch.where(counted, (norms / targets - 1).abs(), 0.0).max())


def _is_off(largest: float, weight: Tensor | None) -> bool:
    return not largest <= (1e-5 if weight is None else ROUNDING_OF_WEIGHTS.get(weight.dtype, 1e-5))


def _off_radius(largest: float, where: str, one: Held, optimizer: Optimizer) -> str:
    if not math.isfinite(largest):
        return f"{where} holds NaN or infinity"
    inside = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return f"{where} is off its radius by {largest:.2g}: " + (
        "something changed it after the rescale (a load, a copy, a hook)"
        if one.bias is None or id(one.bias) in inside
        else "its bias, which is held with it, is not in this optimizer: give it both"
    )


def _hook_problems(
    optimizer: Optimizer,
    n_steps: int,
    n_optimizer_steps: int | None,
    *,
    is_attached: bool,
    has_moved: bool,
) -> list[str]:
    problems = []
    kind, inner = type(optimizer), [n for n, one in vars(optimizer).items() if isinstance(one, Optimizer)]
    if is_attached and has_moved and not n_steps and (inner or kind.step is Optimizer.step):
        cure = f"the optimizer inside, .{inner[0]}" if inner else "the optimizer whose step() moves them"
        problems.append(
            f"step() of this {kind.__name__} was never called, though its weights have moved: hold {cure}"
        )
    if not is_attached:
        problems.append(
            "the optimizer does not call this object: it was detached, or the optimizer was copied or "
            "unpickled, which drops hooks; make a new WeightRescaling"
        )
    if n_optimizer_steps is not None and optimizer.state and n_optimizer_steps != n_steps:
        problems.append(
            f"the hook saw {n_steps} steps, the optimizer counts {n_optimizer_steps}; if the optimizer's "
            "state was loaded, load that of the WeightRescaling as well"
        )
    return problems


def _unwatched(optimizer: Optimizer, watchers: Sequence[Watcher]) -> Iterator[str]:
    known = {
        id(parameter): (one.found, name)
        for one in watchers
        for name, parameter in one.found.model.named_parameters()
    }
    held = frozenset().union(*(one.held for one in watchers))
    for index, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            found, name = known.get(id(parameter), (None, ""))
            verdict = found.verdicts.get(name) if found else None
            if found is None or verdict is None:
                # FSDP puts other objects in the model between forward and backward; what is held has moved.
                if not is_sharded(parameter) and id(parameter) not in held:
                    yield name or f"a parameter of shape {tuple(parameter.shape)} in group {index}"
            elif verdict.verdict == "frozen" and parameter.requires_grad:
                yield f"{name} (was frozen)"
            elif found.holds(name) and id(parameter) not in held:
                yield f"{name} (joined the optimizer later)"
