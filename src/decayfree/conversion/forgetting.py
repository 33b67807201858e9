"""How long does a recipe with weight decay remember a direction?

Puts equilibrium angles and the correlation of steps together for a whole run; settles nothing itself, as
equilibrium.py does, and sets no angle, as Turning does.
"""

from dataclasses import dataclass

import torch

from decayfree.arguments.kinds import checked
from decayfree.conversion.decay_rule import DecayRule
from decayfree.conversion.rate_schedule import RateSchedule


@dataclass(frozen=True)
class Forgetting:
    """What a weight-decay recipe forgets where norms are in balance.

    A step at the angle θ, after which the optimizer's steps remember a gradient for κ steps
    (:attr:`DecayRule.correlation_time`), forgets κθ²/2 of a direction: E cos∠(u₀, u_T) = e^(−D) with D =
    Σ κθ_t²/2, for independent gradients in many dimensions. To first order that is D = Σ η_tλ/(1−μ) for SGD
    with momentum and L2, and D = Σ η_tλ for AdamW, Lion and decoupled decay, T/τ of Wang and Aitchison. It
    counts every step as balanced at its rate; if a norm goes from r₀ to r, the cosine is e^(−D)·r₀/r.

    Args:
        angle_rad: Of a step at the full learning rate, in radians.
        per_step: D of a step at the full rate, no unit.
        time_constant_steps: Steps at the full rate in which a norm gets into balance, up to 1/e.
        n_steps: Of the whole run; None where it is not known.
        n_full_steps: As many steps at the full rate forget as much as the run.

    References:
        Kosson, Messmer, Jaggi, "Rotational Equilibrium", 2024, arXiv 2305.17212: the angles. Wang, Aitchison,
        "How to set AdamW's weight decay as you scale model and dataset size", 2024, arXiv 2405.13698: the
        timescale of AdamW.

    Example:
        >>> rule = DecayRule("SGD", 0.1, 5e-4, momentum=0.9)  # ηλ/(1−μ) = 1/2000
        >>> found = Forgetting.of(rule, RateSchedule("cosine", 200 * 391))
        >>> round(found.memory_steps), round(found.whole, 1), round(found.mean_memory_steps / 391, 1)
        (2000, 19.6, 10.2)
    """

    angle_rad: float
    per_step: float
    time_constant_steps: float
    n_steps: int | None
    n_full_steps: float | None

    @classmethod
    @checked()
    def of(
        cls,
        rule: DecayRule,
        schedule: RateSchedule | None = None,
        *,
        fan_in: float | None = None,
        gradient_norm: float | None = None,
    ) -> "Forgetting":
        """Work it out.

        Args:
            rule: The optimizer and its settings at the full rate.
            schedule: Of the run; None where only the full rate is of interest.
            fan_in: Weights in a block, for Adam with L2, whose angle depends on it.
            gradient_norm: ‖g‖·‖w‖ of the block, in units of the loss; for Adam with L2.

        Raises:
            InvalidInputError: If an argument is of another kind, the rule has no equilibrium, or Adam with L2
                lacks one of the last two.
        """
        settled = rule.equilibrium(fan_in=fan_in, gradient_norm=gradient_norm)
        # In balance angles follow this power of the rate, and D their square.
        power = 2 * rule.schedule_exponent
        n_full_steps = None
        if schedule is not None:
            n_full_steps = float(schedule.at(torch.arange(schedule.n_steps)).pow(power).sum())
        return cls(
            angle_rad=settled.angle_rad,
            per_step=rule.correlation_time * settled.angle_rad**2 / 2,
            time_constant_steps=settled.time_constant_steps,
            n_steps=None if schedule is None else schedule.n_steps,
            n_full_steps=n_full_steps,
        )

    @property
    def memory_steps(self) -> float:
        """Steps at the full rate after which the cosine of a direction with what it was is 1/e."""
        return 1 / self.per_step

    @property
    def whole(self) -> float | None:
        """D of the run: its first and its last direction have a cosine of e^(−D)."""
        return None if self.n_full_steps is None else self.n_full_steps * self.per_step

    @property
    def mean_memory_steps(self) -> float | None:
        """The same as ``memory_steps`` in the mean over the run: its steps over D; infinite where D is 0."""
        if self.n_steps is None or self.whole is None:
            return None
        return self.n_steps / self.whole if self.whole > 0 else float("inf")
