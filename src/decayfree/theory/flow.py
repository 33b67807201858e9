"""Does gradient flow keep the norms?

In continuous time it does; the growth that training shows is the error of taking steps. Shrinks the steps and
looks at the growth.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from decayfree.arguments.kinds import COUNT, checked
from decayfree.theory.check import Check, not_applicable
from decayfree.theory.subject import Subject
from decayfree.theory.trajectory import MakeOptimizer, norms, training

_TURN_RAD = 0.1
_SHORT_TURN_RAD = 0.002
_TOLERANCE = 0.008
_PAPER = "2102.03497v1"


@checked(n_steps=COUNT)
def euler_steps_halve_the_growth(
    subject: Subject, make_optimizer: MakeOptimizer = torch.optim.SGD, *, n_steps: int = 20
) -> Check:
    """Over a fixed time ‖w‖² grows in proportion to the step size: half the step, half the growth."""
    ratio = math.nan
    # A limit: shorter where losses are steep.
    for turn_rad in (_SHORT_TURN_RAD, _SHORT_TURN_RAD / 10, _SHORT_TURN_RAD / 100):
        lr = subject.learning_rate(turn_rad / n_steps)
        growths = []
        for refinement in (1, 2):
            run = training(subject, make_optimizer, lr=lr / refinement)
            for _ in run.steps(n_steps * refinement, fixed=0):
                pass
            growths.append(_growth(subject, run.subject))
        ratio = growths[0] / growths[1] if growths[1] else math.nan
        if abs(ratio / 2 - 1) <= _TOLERANCE:
            break
    return Check(
        "Gradient flow keeps the norm: half the step, half the growth",
        _PAPER,
        f"growth ÷ {ratio:.3f}",
        "÷ 2",
        abs(ratio / 2 - 1),
        _TOLERANCE,
        f"{n_steps} and {2 * n_steps} full-batch steps over the same time; ‖w‖² grew by {growths[0]:.1e} and "
        f"{growths[1]:.1e} (relative).",
    )


@checked(n_steps=COUNT)
def runge_kutta_keeps_the_norm(subject: Subject, *, order: int = 4, n_steps: int = 32) -> Check:
    """A 4th-order integrator loses the norm only with η⁴, 1/16 at half the step; activations are smooth."""
    time = subject.learning_rate(_TURN_RAD)
    growths = []
    for refinement in (1, 2):
        twin = subject.copy()
        for _ in range(n_steps * refinement):
            _integrate_(twin, time / (n_steps * refinement), _TABLEAUS[order])
        growths.append(abs(_growth(subject, twin)))
    statement = "A 4th-order integrator keeps it better: half the step, 1/16 of the growth"
    if growths[1] < 1e-13:
        return not_applicable(statement, _PAPER, f"The growth, {growths[1]:.0e}, is lost in rounding.")
    ratio = growths[0] / growths[1]
    return Check(
        statement,
        _PAPER,
        f"growth ÷ {ratio:.1f}",
        "÷ 16",
        abs(math.log2(ratio) / 4 - 1),
        0.05,
        f"{n_steps} and {2 * n_steps} Runge-Kutta steps over the same time; "
        f"‖w‖² changes by {growths[0]:.1e} and {growths[1]:.1e}.",
    )


# Weights of the stages, and how far along the last slope each next stage lies.
_TABLEAUS: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    2: ((0.0, 1.0), (0.5,)),
    4: ((1 / 6, 1 / 3, 1 / 3, 1 / 6), (0.5, 0.5, 1.0)),
}


@torch.no_grad()
def _integrate_(subject: Subject, step: float, tableau: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
    """One step of an explicit Runge-Kutta method along −∇L; every stage builds on the one before."""
    shares, reaches = tableau
    parameters = subject.parameters
    start = {name: parameter.clone() for name, parameter in parameters.items()}
    slopes: list[dict[str, Tensor]] = []
    gradients: Callable[[], dict[str, Tensor]] = torch.enable_grad()(lambda: subject.gradients(0))
    for reach in (0.0, *reaches):
        if slopes:
            for name, slope in slopes[-1].items():
                parameters[name].copy_(start[name] - step * reach * slope)
        slopes.append(gradients())
    for name in slopes[0]:
        parameters[name].copy_(
            start[name] - step * sum(share * slope[name] for share, slope in zip(shares, slopes, strict=True))
        )


def _growth(before: Subject, after: Subject) -> float:
    """Relative growth of the squared norms of all blocks together."""
    old, new = (
        sum(
            float(norms({n: p.detach() for n, p in subject.held.items()}, weight).square().sum())
            for weight in subject.found
        )
        for subject in (before, after)
    )
    return new / old - 1
