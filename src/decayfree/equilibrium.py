"""How far does a weight without scale turn in a step under weight decay, and at what norm?

Both are what they are once decay and gradients balance.

Closed forms for each optimizer. Measures nothing and knows no models; conversion turns the answers into
recipes without decay.

A gradient is orthogonal to the weights of its block and as large as 1/‖w‖ allows, so that steps make the norm
grow and decay makes it shrink. Where both balance, the norm is constant and the weight turns by the same
angle in every step. The forms hold for gradients of constant size at unit norm that do not remember each
other, in many dimensions. Held against a simulation of that:

- SGD with or without momentum, Nesterov, L2 or decoupled decay, and Lion: exact.
- AdamW: exact as β₂ → 1. Chord and angle to 0.1 % at β₂ = 0.99 and 0.5 % at 0.95; the norm is 0.1, 0.5 and
  1.1 % too large at β₂ = 0.999, 0.99 and 0.95.
- Adam with L2: exact as β₂ → 1. Chord and angle are 0.4 % too large at β₂ = 0.99 and 1.3 % at 0.95, the norm
  0.2 and 0.3 %.

Time constants are first order in ηλ, and exact as β₂ → 1. Adam's ε counts as zero. Real gradients do remember
each other: on a small network angles were off by up to 7 %, those of Adam with L2 by up to 12 %
(docs/recipes.md).

References:
    van Laarhoven, "L2 Regularization versus Batch and Weight Normalization", 2017, arXiv 1706.05350:
    equilibrium norms. Wan, Zhu, Zhang, Sun, "Spherical Motion Dynamics", 2021, arXiv 2006.08419: angles, SGD
    with momentum. Kosson, Messmer, Jaggi, "Rotational Equilibrium", 2024, arXiv 2305.17212: AdamW, Adam with
    L2, Lion.
"""

import math
from dataclasses import dataclass

from decayfree.errors import InvalidInputError, faults_of, raise_all

_MOST = 1e100
"""What is larger is no setting, and its powers would not be finite."""


@dataclass(frozen=True)
class Equilibrium:
    """Where weight decay and steps balance, for one block.

    Args:
        chord: ‖u' − u‖ between the directions before and after a step; root mean square, no unit.
        angle_rad: The angle with that chord, in radians: 2·asin(chord/2).
        norm: Of the block, in units of the weight; None where the gradient norm or the fan-in that it depends
            on was not given.
        fixed_norm: The norm at which the same optimizer without decay, at the same learning rate, turns a
            block by that angle when its norm is put back after every step and momentum is kept. To first
            order in ηλ it is ``norm``; beyond that, momentum that decay would have kept tangent points a
            little outwards. Under Lion, and for angles of tens of degrees, it is ``norm``.
        time_constant_steps: Optimizer steps, at a constant learning rate, in which a small deviation of the
            norm falls to 1/e.
    """

    chord: float
    angle_rad: float
    norm: float | None
    fixed_norm: float | None
    time_constant_steps: float


def sgd(
    lr: float,
    weight_decay: float,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    decoupled: bool = False,
    gradient_norm: float | None = None,
) -> Equilibrium:
    """SGD as PyTorch writes it: v ← μv + g + λw and w ← w − ηv, or w ← w − η(g + λw + μv) for Nesterov.

    With ε = ηλ: chord² = 2ε/(1+μ) with L2 and 2ε(1−μ)/(1+μ−εμ) with decoupled decay (w ← (1−ε)w, then the
    step without λ). Nesterov's chord² is about (1+2μ−2μ³) times that. The norm is ηG²/(2λ(1−μ)) to the power
    of 1/4 with L2, up to a factor 1 + O(ε).

    Args:
        lr: η, in units of squared weight over loss. With dampening τ, that many times (1−τ).
        weight_decay: λ, in units of loss over squared weight; decoupled, without the learning rate that it is
            multiplied with.
        momentum: μ, no unit.
        nesterov: Whether the step is g + μv.
        decoupled: Whether decay is applied to the weight instead of the gradient.
        gradient_norm: G = ‖g‖·‖w‖, root mean square over steps: the gradient norm of the block at unit norm,
            in units of the loss.

    Returns:
        The norm is None without ``gradient_norm``.

    Raises:
        InvalidInputError: If a number is out of range: all faults at once. Without decay there is no
            equilibrium.

    Example:
        >>> sgd(0.5, 0.25).chord ** 2  # 2ηλ
        0.25
        >>> sgd(0.5, 0.375, momentum=0.5).chord ** 2  # 2ηλ/(1+μ)
        0.25
        >>> round(sgd(0.5, 0.5, gradient_norm=7.0).norm ** 4, 9)  # ηG²/(λ(2−ηλ)) = 49/1.75
        28.0
    """
    faults = _range_faults(lr, weight_decay) + _product_faults(lr, weight_decay)
    faults += _share_faults(momentum=momentum)
    faults += [
        f"{name} must be True or False, got {value!r}"
        for name, value in (("nesterov", nesterov), ("decoupled", decoupled))
        if not isinstance(value, bool)
    ]
    if nesterov is True and _is_0(momentum):
        faults.append("nesterov needs a momentum above 0")
    raise_all(faults_of(InvalidInputError, faults + _size_faults(gradient_norm=gradient_norm)))
    # Four recursions, all of one kind. Write W = ⟨w,w⟩, A = ⟨w,v⟩, V = ⟨v,v⟩ before a step, h for what enters
    # the buffer, v' = μv + h, and d for what is stepped, w' = βw − ηd. A gradient is orthogonal to w, since w
    # has no scale, and to v, which does not know it yet: ⟨g,w⟩ = ⟨g,v⟩ = 0 and ⟨g,g⟩ = G²/W. What follows for
    # the three moments is linear in A/W, V/W and g²/W, and at the fixed point W' = W, A' = A, V' = V.
    #   with L2: h = g + λw, β = 1; decoupled: h = g, β = 1 − e; Nesterov: d = h + μv', else d = v'.
    # L2: ⟨w,v'⟩ = μA + λW =: B, V' = μ²V + g² + λ²W + 2μλA, A' = B − ηV', W' = W − 2ηB + η²V'.
    #   W' = W gives ηV = 2B, so A = −B and B = λW/(1+μ): chord² = η²V/W = 2e/(1+μ). V' = V then gives
    #   g² = λW(1−μ)(2(1+μ) − e)/(η(1+μ)), and with g² = G²/W the growth W²/(ηG)².
    # Decoupled: ⟨w,v'⟩ = μA, V = g²/(1−μ²), A' = βμA − ηV, W' = β²W − 2ηβμA + η²V.
    #   A = −ηV/(1−βμ), so W(1−β²) = η²V(1+βμ)/(1−βμ), where 1 − β² = e(2−e) and 1 + βμ is `top`.
    #   chord² = 2 − 2⟨w,w'⟩/W = 2e + 2ημA/W = 2e(1−μ)/(1+βμ).
    # Nesterov adds, with H = ⟨h,v'⟩ and h² = ⟨h,h⟩: ⟨d,v'⟩ = H + μV', ⟨d,d⟩ = h² + 2μH + μ²V',
    #   ⟨w,d⟩ = ⟨w,h⟩ + μ⟨w,v'⟩. The same three equations, eliminated in the same order, leave the longer
    #   polynomials; tests/test_equilibrium.py solves all four systems and finds these.
    e, m = lr * weight_decay, momentum
    if decoupled:
        top = 1 + m + e * m - 2 * e * m**3 if nesterov else 1 + m - e * m
        turn = 1 + 2 * m - 2 * m**3 + e * (m + 2 * m**2 + m**3) if nesterov else 1.0
        chord2 = 2 * e * (1 - m) * turn / top
        growth = top / (e * (2 - e) * (1 - m**2) * (1 - m + e * m))
        time_constant = 1 / (4 * e)
    else:
        time_constant = (1 - m) / (4 * e)
        if nesterov:
            top = 1 + m + e * (m + 2 * m**2)
            chord2 = 2 * e * (1 + 2 * m - 2 * m**3 + e * (m + 3 * m**2 + 2 * m**3)) / top
            growth = top / (e * (1 - m + e * m) * (2 * (1 + m) - e * (1 + 2 * m)))
        else:
            chord2 = 2 * e / (1 + m)
            growth = (1 + m) / (e * (1 - m) * (2 * (1 + m) - e))
    # A step has norm² F·ηηG²/r², and q is how much of the last one comes along.
    of_memory = m**2 / (1 - m**2)
    step2 = (1 + m) ** 2 + m**2 * of_memory if nesterov else 1 / (1 - m**2)
    along = m**2 * (1 + m + m * of_memory) / step2 if nesterov else m
    growth_fixed = _growth_at_fixed_norm(chord2, m, along, step2) or growth
    if gradient_norm is None:
        return _equilibrium(chord2, None, None, time_constant)
    norm, fixed = ((one * lr**2 * gradient_norm**2) ** 0.25 for one in (growth, growth_fixed))
    return _equilibrium(chord2, norm, fixed, time_constant)


def adamw(
    lr: float, weight_decay: float, *, betas: tuple[float, float] = (0.9, 0.999), fan_in: float | None = None
) -> Equilibrium:
    """AdamW: w ← (1−ηλ)w, then w ← w − ηm̂/√v̂.

    With α = 1 − ηλ: chord² = 2ηλ(1−β₁)/(1+αβ₁) and r² = η²C(1−β₁)(1+αβ₁)/((1+β₁)(1−αβ₁)(1−α²)), about
    ηC/(2λ). Gradients have no say.

    Args:
        lr: η, in units of the weight.
        weight_decay: λ, in units of 1 over the weight, as PyTorch multiplies it with the learning rate.
        betas: β₁ and β₂, no unit.
        fan_in: C, the number of weights in the block that get gradients: each of them moves by about η.

    Returns:
        The norm is None without ``fan_in``.

    Raises:
        InvalidInputError: If a number is out of range: all faults at once.

    Example:
        >>> adamw(0.5, 0.25, betas=(0.0, 0.999)).chord ** 2  # 2ηλ
        0.25
        >>> round(adamw(1e-3, 0.1, fan_in=200).norm, 2)  # √(ηC/(2λ)) = 1
        1.0
    """
    faults = _range_faults(lr, weight_decay) + _product_faults(lr, weight_decay)
    raise_all(faults_of(InvalidInputError, faults + _beta_faults(betas) + _size_faults(fan_in=fan_in)))
    # m̂ is the buffer of SGD with decoupled decay, fed (1−β₁)g/√v̂: entries of g/√v̂ have a mean square of 1,
    # so that g² there is (1−β₁)²C here and depends on no weight. The rest is the recursion in `sgd`.
    e, b = lr * weight_decay, betas[0]
    a = 1 - e
    chord2 = 2 * e * (1 - b) / (1 + a * b)
    growth = (1 - b) * (1 + a * b) / ((1 + b) * (1 - a * b) * e * (1 + a))
    if fan_in is None:
        return _equilibrium(chord2, None, None, 1 / (2 * e))
    growth_fixed = _growth_at_fixed_norm(chord2, b, b, (1 - b) / (1 + b)) or growth
    norm, fixed = (lr * math.sqrt(one * fan_in) for one in (growth, growth_fixed))
    return _equilibrium(chord2, norm, fixed, 1 / (2 * e))


def adam_l2(
    lr: float,
    weight_decay: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    gradient_norm: float,
    fan_in: float,
) -> Equilibrium:
    """Adam with L2 regularization: λw is added to the gradient before the moments.

    To first order r³ = η√C·G/(2λ) and chord² = (1−β₁)/(1+β₁)·η²C/r²: unlike with any other rule here, the
    angle depends on the gradient, so that layers do not turn alike. What is returned goes beyond first order:
    with √v̂ constant, s = √(G²/r² + λ²r²)/√C, the rule is SGD with momentum β₁ at the learning rate
    η(1−β₁)/s, and that is solved for r.

    Args:
        lr: η, in units of the weight.
        weight_decay: λ, in units of loss over squared weight.
        betas: β₁ and β₂, no unit.
        gradient_norm: G, as for :func:`sgd`.
        fan_in: C, as for :func:`adamw`.

    Returns:
        Nothing in it is None.

    Raises:
        InvalidInputError: If a number is out of range: all faults at once.

    Example:
        >>> found = adam_l2(1e-3, 1e-6, betas=(0.0, 0.999), gradient_norm=2.0, fan_in=100)
        >>> round(found.norm / 10000 ** (1 / 3), 3)  # r³ = η√C·G/(2λ) = 10,000
        1.0
        >>> round(found.chord * found.norm, 4)  # η√C
        0.01
    """
    faults = _range_faults(lr, weight_decay) + _beta_faults(betas)
    sizes = {"gradient_norm": gradient_norm, "fan_in": fan_in}
    faults += [f"{name} is needed, got None" for name, value in sizes.items() if value is None]
    raise_all(faults_of(InvalidInputError, faults + _size_faults(**sizes)))
    b = betas[0]
    per_root = lr * (1 - b) * math.sqrt(weight_decay * fan_in / gradient_norm)
    # e is λ times the learning rate of that SGD: first to first order, then each round leaves a quarter of
    # its logarithm's error.
    e = min((per_root**4 / (2 * (1 - b))) ** (1 / 3), 1.0)
    for _ in range(40):
        q = math.sqrt(e * (1 + b) / ((1 - b) * (2 * (1 + b) - e)))  # λr²/G
        e = min(per_root * math.sqrt(q / (1 + q * q)), 1.0)
    if e >= 1:
        raise InvalidInputError(
            f"lr {lr:g} and weight_decay {weight_decay:g} are too large for a gradient norm of "
            f"{gradient_norm:g}: the decay of one step would take away the whole weight"
        )
    chord2 = 2 * e / (1 + b)
    norm = math.sqrt(q * gradient_norm / weight_decay)
    growth_fixed = _growth_at_fixed_norm(chord2, b, b, (1 - b) / (1 + b))
    fixed = lr * math.sqrt(growth_fixed * fan_in) if growth_fixed else norm
    return _equilibrium(chord2, norm, fixed, 2 * norm**2 / (3 * lr**2 * fan_in))


def lion(
    lr: float, weight_decay: float, *, betas: tuple[float, float] = (0.9, 0.99), fan_in: float | None = None
) -> Equilibrium:
    """Lion: w ← (1−ηλ)w − η·sign(β₁m + (1−β₁)g), then m ← β₂m + (1−β₂)g.

    Steps k apart agree in sign as sₖ = (2/π)·asin(ρβ₂^(k−1)) of normal numbers do, with ρ the correlation of
    what stands in two successive signs. With α = 1 − ηλ and S = Σ α^(k−1)sₖ: chord² = 2ηλ(1 − ηλS)/(1+2αS)
    and r² = η²C(1+2αS)/(1−α²). As ηλ → 0, and with (2/π)ρ for the arc sine, they become πηλκ and ηC/(πλκ),
    κ = (1−β₁)² + β₁²(1−β₂)/(1+β₂). At betas 0.9 and 0.99 the chord and the norm of this short form are off by
    3 and 4 % with ηλ = 0.001, and by 24 and 39 % with 0.01.

    Args:
        lr: η, in units of the weight.
        weight_decay: λ, in units of 1 over the weight.
        betas: β₁ and β₂, no unit.
        fan_in: C, as for :func:`adamw`.

    Returns:
        The norm is None without ``fan_in``.

    Raises:
        InvalidInputError: If a number is out of range: all faults at once.

    Example:
        >>> lion(0.5, 0.25, betas=(0.0, 0.5)).chord ** 2  # signs of independent gradients: 2ηλ
        0.25
    """
    faults = _range_faults(lr, weight_decay) + _product_faults(lr, weight_decay)
    raise_all(faults_of(InvalidInputError, faults + _beta_faults(betas) + _size_faults(fan_in=fan_in)))
    # A step is ηs with s² = C, whatever the gradient, and ⟨s_t, s_{t−k}⟩ = C·sₖ. Then w_t = −η Σ α^k s_{t−k},
    # so ⟨w, s⟩ of the coming step is −ηC Σ α^(k−1) sₖ = −ηCS, and W = α²W + 2αη²CS + η²C gives the growth.
    # chord² = 2 − 2⟨w,w'⟩/W = 2e − 2η²CS/W, where η²C/W = (1−α²)/(1+2αS).
    e = lr * weight_decay
    a = 1 - e
    agreement = _agreement_of_signs(a, betas)
    chord2 = 2 * e * (1 - e * agreement) / (1 + 2 * a * agreement)
    growth = (1 + 2 * a * agreement) / (e * (1 + a))
    norm = None if fan_in is None else lr * math.sqrt(growth * fan_in)
    return _equilibrium(chord2, norm, norm, 1 / (2 * e))


def correlation_time(momentum: float = 0.0, *, of_buffer: float = 1.0) -> float:
    """How many steps the noise of one gradient lives on in: 1 + 2Σ_k ρ_k, ρ_k of momentum steps k apart.

    A direction that turns by θ_t a step, in many dimensions, forgets as E cos∠(u₀, u_T) = e^(−D) with
    D = ½·correlation_time·Σ_t θ_t², if gradients are independent: what one step does, the next ones go on
    with. (1+μ)/(1−μ) for momentum; for Adam and its like that of β₁, as β₂ → 1.

    Args:
        momentum: μ, no unit.
        of_buffer: The share of a step that is the average of gradients; the rest is the gradient itself. μ
            for Nesterov's momentum.

    Returns:
        In steps, at least 1.

    Raises:
        InvalidInputError: If a number is out of range.

    Example:
        >>> round(correlation_time(0.9), 3), round(correlation_time(0.9, of_buffer=0.9), 3)
        (19.0, 14.158)
    """
    is_share = _is_0(of_buffer) or (_is_above_0(of_buffer) and of_buffer <= 1)
    faults = [] if is_share else [f"of_buffer must be from 0 to 1, got {of_buffer!r}"]
    raise_all(faults_of(InvalidInputError, _share_faults(momentum=momentum) + faults))
    # Each gradient enters the steps with coefficients: the first one, then those of the buffer, which fall
    # by μ. They add up to 1, so that T steps have the variance T; their squares make up that of one step.
    m, in_buffer = momentum, of_buffer * (1 - momentum)
    return 1 / ((in_buffer + 1 - of_buffer) ** 2 + in_buffer**2 * m**2 / (1 - m**2))


def correlation_time_of_signs(betas: tuple[float, float] = (0.9, 0.99)) -> float:
    """The same of Lion, whose steps are signs: 1 + 2Σ_k (2/π)·asin(ρβ₂^(k−1)).

    Args:
        betas: β₁ and β₂, no unit.

    Raises:
        InvalidInputError: If a number is out of range.

    Example:
        >>> correlation_time_of_signs((0.0, 0.5))
        1.0
    """
    raise_all(faults_of(InvalidInputError, _beta_faults(betas)))
    return 1 + 2 * _agreement_of_signs(1.0, betas)


def _agreement_of_signs(a: float, betas: tuple[float, float]) -> float:
    """Σ aᵏ⁻¹·(2/π)·asin(ρβ₂ᵏ⁻¹) over k ≥ 1, by the power series of the arc sine."""
    b1, b2 = betas
    of_memory = b1**2 * (1 - b2) / (1 + b2)
    variance = (1 - b1) ** 2 + of_memory
    rho = (b1 * (1 - b1) * (1 - b2) + b2 * of_memory) / variance
    total, coefficient, n = 0.0, 1.0, 0
    while True:
        power = 2 * n + 1
        term = coefficient / power * rho**power / (1 - a * b2**power)
        total += term
        if term <= 1e-15 * total or n == 100_000:  # at most 100 terms unless the betas are nearly 1
            return 2 / math.pi * total
        n += 1
        coefficient *= (2 * n - 1) / (2 * n)


def _growth_at_fixed_norm(chord2: float, momentum: float, along: float, step2: float) -> float | None:
    """The squared norm at which a norm put back after every step gives this chord.

    For SGD its fourth power; in units of squared steps.

    Before it is put back the norm of a block of norm 1 is c, with c² = 1 + 2y + F·z: z the squared gradient
    part of a step, F that of the whole step with its momentum, and y the part that points outwards, y(c −
    μ) = q·F·z. The cosine is k = (1 + y)/c. Without z and c that is a quadratic equation in y.

    Args:
        chord2: The squared chord, 2 − 2k.
        momentum: μ.
        along: q.
        step2: F.

    Returns:
        1/z; None where no z turns that far.
    """
    k, q = 1 - chord2 / 2, along
    if k <= q:
        return None
    half = (k - momentum * k * k - 2 * q * (1 - k * k)) / 2
    outwards = q * (1 - k * k) / (half + math.sqrt(half * half + (k - q) * q * (1 - k * k)))
    c = (1 + outwards) / k
    return step2 / (c * c - 1 - 2 * outwards)


def _equilibrium(
    chord2: float, norm: float | None, fixed_norm: float | None, time_constant_steps: float
) -> Equilibrium:
    chord = math.sqrt(chord2)
    return Equilibrium(chord, 2 * math.asin(chord / 2), norm, fixed_norm, time_constant_steps)


def _range_faults(lr: float, weight_decay: float) -> list[str]:
    return [
        f"{name} must be a finite number above 0, got {value!r}"
        + ("; without decay there is no equilibrium" if name == "weight_decay" and _is_0(value) else "")
        for name, value in (("lr", lr), ("weight_decay", weight_decay))
        if not _is_above_0(value)
    ]


def _product_faults(lr: float, weight_decay: float) -> list[str]:
    if not (_is_above_0(lr) and _is_above_0(weight_decay)) or lr * weight_decay < 1:
        return []
    return [
        f"lr times weight_decay must be below 1, got {lr!r} times {weight_decay!r}: the decay of one step "
        "would take away the whole weight"
    ]


def _beta_faults(betas: object) -> list[str]:
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        return [f"betas must be two numbers, got {betas!r}"]
    return _share_faults(**{"betas[0]": betas[0], "betas[1]": betas[1]})


def _share_faults(**values: float) -> list[str]:
    return [
        f"{name} must be at least 0 and below 1, got {value!r}"
        for name, value in values.items()
        if not (_is_0(value) or (_is_above_0(value) and value < 1))
    ]


def _size_faults(**values: float | None) -> list[str]:
    return [
        f"{name} must be a finite number above 0, got {value!r}"
        for name, value in values.items()
        if value is not None and not _is_above_0(value)
    ]


def _is_0(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0


def _is_above_0(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _MOST
