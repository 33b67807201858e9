"""What learning-rate schedule turns weights of fixed norm as weight decay would have?

By the same angles, step by step. Works on multipliers of a learning rate, as LambdaLR takes them, and on
nothing else.
"""

import math
from array import array
from collections.abc import Callable

from decayfree.arguments.kinds import checked
from decayfree.errors import InvalidInputError, faults_of, raise_all

Multiplier = Callable[[int], float]


@checked()
def equal_angle_schedule(
    multiplier: Multiplier,
    *,
    time_constant_steps: float | None = None,
    start_angle: float = 1.0,
    exponent: float = 0.5,
) -> Multiplier:
    """Turn the learning-rate schedule of a weight-decay recipe into the one that goes with a fixed norm.

    With a fixed norm, angles follow the learning rate η_t. With decay the norm follows too, so that in
    equilibrium they follow √η_t: hence the square root of the multiplier. But the norm takes its time, and a
    schedule that moves faster than the norm (a warm-up, the end of a cosine, all of a short training) is
    followed without the root. With ``time_constant_steps``, that is followed as well: z, the square of the
    norm (its fourth power for SGD) in units of equilibrium's, obeys z ← m + (z − m)·exp(−m/T), and the result
    is m/√z.

    Args:
        multiplier: Step -> multiplier m of the learning rate that the decay belongs to, at least 0; 1 where
            the recipe's numbers hold.
        time_constant_steps: T of :class:`decayfree.equilibrium.Equilibrium`, in the steps that ``multiplier``
            counts. None: the norm is in equilibrium at every step, and the result is the bare power of
            ``multiplier``.
        start_angle: Size of the angular update at step 0 where ``multiplier`` is 1, in units of
            equilibrium's: r_eq/r for the Adam family and (r_eq/r)² for SGD, with r the norm that training
            began at under decay. Only with ``time_constant_steps``.
        exponent: 1/2; 2/3 for Adam with L2, where the norm itself goes with the third root of the learning
            rate.

    Returns:
        Step -> multiplier of the same learning rate at the fixed norm. Multiply the learning rate with it, or
        give it to LambdaLR.

    Raises:
        InvalidInputError: If a setting is out of range, or, when it is called, ``multiplier`` returns
            something below 0 or not finite.

    Example:
        >>> tenfold_drop = lambda step: 1.0 if step < 100 else 0.01
        >>> schedule = equal_angle_schedule(tenfold_drop)
        >>> schedule(99), schedule(100)
        (1.0, 0.1)
        >>> lagging = equal_angle_schedule(tenfold_drop, time_constant_steps=10)
        >>> lagging(100), round(lagging(100_000), 3)
        (0.01, 0.1)
    """
    faults = [
        f"{name} must be a finite number above 0, got {value!r}"
        for name, value in (("time_constant_steps", time_constant_steps), ("start_angle", start_angle))
        if value is not None and not 0 < value < math.inf
    ]
    if not 0.5 <= exponent < 1:
        faults.append(f"exponent must be at least 1/2 and below 1, got {exponent!r}")
    if time_constant_steps is None and start_angle != 1:
        faults.append(
            "start_angle needs time_constant_steps: without it the norm is in equilibrium from the start"
        )
    raise_all(faults_of(InvalidInputError, faults))
    if time_constant_steps is None:
        return lambda step: math.pow(_checked(multiplier, step), exponent)
    return _lagging(multiplier, time_constant_steps, start_angle, exponent)


def _lagging(
    multiplier: Multiplier, time_constant_steps: float, start_angle: float, exponent: float
) -> Multiplier:
    """A plain function, which LambdaLR leaves out of its state.

    It remembers z at every step so far, so that any step may be asked for.
    """
    power = 1 / (2 * (1 - exponent))  # dz/dt = (m² − m·zᵖ)/(pT), which is linear for p = 1
    squares = array("d", [start_angle**-2])

    def at(step: int) -> float:
        while len(squares) <= step:
            m, z = _checked(multiplier, len(squares) - 1), squares[-1]
            slope = math.pow(z, power - 1)
            squares.append(z + (m / slope - z) / power * -math.expm1(-m * slope / time_constant_steps))
        return _checked(multiplier, step) / math.sqrt(squares[step])

    return at


def _checked(multiplier: Multiplier, step: int) -> float:
    m = float(multiplier(step))
    if not 0 <= m < math.inf:
        raise InvalidInputError(
            f"the multiplier of step {step} must be a finite number of at least 0, got {m}"
        )
    return m
