"""Where weight decay settles: closed forms by hand, and against random gradients taken step by step."""

import math
import re
from fractions import Fraction

import pytest

from decayfree import equilibrium
from decayfree.errors import InvalidInputError
from support import equilibrium_simulation as simulation

G = 3.0
C = 2048


def assert_settles(update, expected, *, chord, norm, n_before, n_measured, n_rows=4, start=0.9):
    """Chord, angle and norm within these relative tolerances of what was predicted, from another norm on."""
    seen = simulation.simulate(
        update,
        start_norm=start * expected.norm,
        gradient_norm=G,
        n_weights=C,
        n_rows=n_rows,
        n_before=n_before,
        n_measured=n_measured,
    )
    assert seen.chord == pytest.approx(expected.chord, rel=chord)
    assert seen.angle_rad == pytest.approx(expected.angle_rad, rel=chord)
    assert seen.norm == pytest.approx(expected.norm, rel=norm)
    return seen


@pytest.mark.parametrize("decay", [0.2, 0.02])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.5, "nesterov": True},
        {"momentum": 0.9, "nesterov": True},
        {"decoupled": True},
        {"momentum": 0.9, "decoupled": True},
        {"momentum": 0.9, "nesterov": True, "decoupled": True},
    ],
    ids=lambda settings: " ".join(settings) or "plain",
)
def test_sgd_settles_there_to_a_thousandth(settings, decay):
    expected = equilibrium.sgd(0.1, decay, gradient_norm=G, **settings)
    update = simulation.sgd(0.1, decay, **settings)
    n_before = int(7 * expected.time_constant_steps) + 60
    assert_settles(update, expected, chord=1e-3, norm=1e-3, n_before=n_before, n_measured=200)


def fixed_point_of_second_moments(e, mu, *, nesterov, decoupled):
    """(chord², growth) of the recursion v' = μv + h, w' = βw − d: its three moments, in exact fractions.

    In units in which η = 1 and W = ⟨w,w⟩ = 1, so that λ = e. Unknown are A = ⟨w,v⟩, V = ⟨v,v⟩ and g² = G²/W.
    Every moment is a vector of its coefficients of (1, A, V, g²).
    """

    def vector(*coefficients):
        return [Fraction(one) for one in coefficients]

    def plus(*terms):
        return [sum(factor * part[i] for factor, part in terms) for i in range(4)]

    one, a, v, g2 = (vector(*(int(i == j) for j in range(4))) for i in range(4))
    decay, beta = (0, 1 - e) if decoupled else (e, 1)
    w_h, h_v, h_h = plus((decay, one)), plus((decay, a)), plus((decay**2, one), (1, g2))  # h = g + λw
    w_v_next = plus((mu, a), (1, w_h))
    v_next = plus((mu**2, v), (2 * mu, h_v), (1, h_h))
    h_v_next = plus((mu, h_v), (1, h_h))
    if nesterov:  # d = h + μv'
        w_d = plus((1, w_h), (mu, w_v_next))
        d_v_next = plus((1, h_v_next), (mu, v_next))
        d_d = plus((1, h_h), (2 * mu, h_v_next), (mu**2, v_next))
    else:  # d = v'
        w_d, d_v_next, d_d = w_v_next, v_next, v_next
    w_next = plus((beta**2, one), (-2 * beta, w_d), (1, d_d))
    a_next = plus((beta, w_v_next), (-1, d_v_next))
    unchanged = [
        plus((1, after), (-1, before)) for after, before in ((w_next, one), (a_next, a), (v_next, v))
    ]
    solution = solved([row[1:] for row in unchanged], [-row[0] for row in unchanged])
    values = [Fraction(1), *solution]
    of_w_d = sum(x * y for x, y in zip(w_d, values, strict=True))
    return 2 - 2 * (beta - of_w_d), 1 / solution[2]


def solved(matrix, right):
    """A linear system of fractions, by elimination."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for column in range(len(rows)):
        pivot = next(row for row in rows[column:] if row[column])
        rows.remove(pivot)
        pivot = [value / pivot[column] for value in pivot]
        rows = [[x - row[column] * y for x, y in zip(row, pivot, strict=True)] for row in rows]
        rows.insert(column, pivot)
    return [row[-1] for row in rows]


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("e", "mu"), [("1/8", "1/2"), ("1/100", "9/10"), ("7/10", "1/4")])
def test_polynomials_are_the_fixed_points_of_their_recursions(e, mu, nesterov, decoupled):
    e, mu = Fraction(e), Fraction(mu)
    chord2, growth = fixed_point_of_second_moments(e, mu, nesterov=nesterov, decoupled=decoupled)
    found = equilibrium.sgd(
        1.0, float(e), momentum=float(mu), nesterov=nesterov, decoupled=decoupled, gradient_norm=1.0
    )
    assert found.chord**2 == pytest.approx(float(chord2), rel=1e-13)
    assert found.norm**4 == pytest.approx(float(growth), rel=1e-13)


@pytest.mark.parametrize(
    ("betas", "decay", "chord", "norm", "n_before"),
    [
        # The stated accuracies, and a little room for chance: 0.1 % of the chord, 0.2 % of the norm.
        ((0.9, 0.999), 1.0, 2e-3, 3e-3, 3000),
        ((0.9, 0.99), 1.0, 2e-3, 7e-3, 1000),
        ((0.9, 0.95), 1.0, 6e-3, 13e-3, 600),
    ],
)
def test_adamw_settles_there_to_what_is_stated(betas, decay, chord, norm, n_before):
    expected = equilibrium.adamw(0.01, decay, betas=betas, fan_in=C)
    update = simulation.adam(0.01, decay, betas=betas, decoupled=True)
    seen = assert_settles(
        update, expected, chord=chord, norm=norm, n_before=n_before, n_measured=1000, n_rows=6
    )
    assert abs(seen.norm / math.sqrt(0.01 * C / (2 * decay)) - 1) > 0.03  # ηC/(2λ) alone is further off


@pytest.mark.parametrize(
    ("betas", "decay", "chord", "norm"),
    [((0.9, 0.999), 0.1, 2e-3, 2e-3), ((0.9, 0.99), 0.01, 4e-3, 2e-3), ((0.9, 0.95), 0.01, 14e-3, 4e-3)],
)
def test_adam_with_l2_settles_there_to_what_is_stated(betas, decay, chord, norm):
    expected = equilibrium.adam_l2(0.01, decay, betas=betas, gradient_norm=G, fan_in=C)
    update = simulation.adam(0.01, decay, betas=betas, decoupled=False)
    n_before = int(6 * expected.time_constant_steps + 2 / (1 - betas[1]))
    assert_settles(update, expected, chord=chord, norm=norm, n_before=n_before, n_measured=600, start=1.0)


def test_adam_with_l2_is_better_predicted_than_to_first_order():
    expected = equilibrium.adam_l2(0.03, 0.1, gradient_norm=G, fan_in=C)
    first_order = (0.03 * C**0.5 * G / 0.2) ** (1 / 3)
    update = simulation.adam(0.03, 0.1, decoupled=False)
    seen = assert_settles(update, expected, chord=3e-3, norm=3e-3, n_before=2000, n_measured=500, start=1.0)
    assert abs(seen.norm / first_order - 1) > 5e-3


@pytest.mark.parametrize(
    ("betas", "decay", "n_before"),
    [((0.9, 0.99), 10.0, 1000), ((0.95, 0.98), 10.0, 700), ((0.5, 0.9), 10.0, 500)],
)
def test_lion_settles_there_to_a_few_thousandths(betas, decay, n_before):
    expected = equilibrium.lion(1e-3, decay, betas=betas, fan_in=C)
    update = simulation.lion(1e-3, decay, betas=betas)
    assert_settles(update, expected, chord=4e-3, norm=4e-3, n_before=n_before, n_measured=1000, n_rows=6)


@pytest.mark.parametrize(
    ("expected", "make", "accuracy"),
    [
        (
            equilibrium.sgd(0.1, 0.02, momentum=0.9, gradient_norm=G),
            lambda: simulation.sgd(0.1, 0.0, momentum=0.9),
            2e-3,
        ),
        (
            equilibrium.sgd(0.1, 0.02, momentum=0.9, nesterov=True, gradient_norm=G),
            lambda: simulation.sgd(0.1, 0.0, momentum=0.9, nesterov=True),
            2e-3,
        ),
        (
            equilibrium.sgd(0.1, 0.02, momentum=0.9, decoupled=True, gradient_norm=G),
            lambda: simulation.sgd(0.1, 0.0, momentum=0.9),
            2e-3,
        ),
        (
            equilibrium.adamw(1e-3, 1.0, betas=(0.9, 0.99), fan_in=C),
            lambda: simulation.adam(1e-3, 0.0, betas=(0.9, 0.99), decoupled=True),
            6e-3,
        ),
        (
            equilibrium.adam_l2(0.01, 0.01, betas=(0.9, 0.99), gradient_norm=G, fan_in=C),
            lambda: simulation.adam(0.01, 0.0, betas=(0.9, 0.99), decoupled=False),
            6e-3,
        ),
        (
            equilibrium.lion(1e-3, 1.0, betas=(0.9, 0.99), fan_in=C),
            lambda: simulation.lion(1e-3, 0.0, betas=(0.9, 0.99)),
            2e-3,
        ),
    ],
    ids=["SGD with momentum", "Nesterov", "SGD decoupled", "AdamW", "Adam with L2", "Lion"],
)
def test_without_decay_a_fixed_norm_gives_the_same_angle(expected, make, accuracy):
    seen = simulation.simulate(
        make(),
        start_norm=expected.fixed_norm,
        gradient_norm=G,
        n_weights=C,
        n_before=300,
        n_measured=300,
        is_norm_fixed=True,
    )
    assert seen.chord == pytest.approx(expected.chord, rel=accuracy)


@pytest.mark.parametrize(
    ("expected", "make", "power"),
    [
        (equilibrium.sgd(0.1, 0.02, gradient_norm=G), lambda: simulation.sgd(0.1, 0.02), 4),
        (
            equilibrium.sgd(0.1, 0.001, momentum=0.9, gradient_norm=G),
            lambda: simulation.sgd(0.1, 0.001, momentum=0.9),
            4,
        ),
        (
            equilibrium.sgd(0.1, 0.01, momentum=0.9, decoupled=True, gradient_norm=G),
            lambda: simulation.sgd(0.1, 0.01, momentum=0.9, decoupled=True),
            4,
        ),
        (
            equilibrium.adamw(1e-3, 1.0, betas=(0.5, 0.9), fan_in=C),
            lambda: simulation.adam(1e-3, 1.0, betas=(0.5, 0.9), decoupled=True),
            2,
        ),
        (
            equilibrium.adam_l2(3e-3, 1.5e-3, betas=(0.5, 0.98), gradient_norm=G, fan_in=C),
            lambda: simulation.adam(3e-3, 1.5e-3, betas=(0.5, 0.98), decoupled=False),
            1,
        ),
        (
            equilibrium.lion(1e-3, 1.0, betas=(0.5, 0.9), fan_in=C),
            lambda: simulation.lion(1e-3, 1.0, betas=(0.5, 0.9)),
            2,
        ),
    ],
    ids=["SGD", "SGD with momentum", "SGD decoupled", "AdamW", "Adam with L2", "Lion"],
)
def test_norms_that_are_off_come_together_with_the_time_constant(expected, make, power):
    """Two runs with equal noise, above and below; to first order ``norm**power`` falls exponentially."""
    time = int(expected.time_constant_steps)
    above, below = (
        simulation.simulate(
            make(),
            start_norm=start * expected.norm,
            gradient_norm=G,
            n_weights=C,
            n_before=0,
            n_measured=int(1.6 * time),
        ).norms
        ** power
        for start in (1.1, 0.9)
    )
    apart = above - below
    assert float(apart[time + time // 2] / apart[time // 2]) == pytest.approx(math.exp(-1), rel=0.04)


def test_short_forms_hold_where_lr_times_decay_is_small():
    lr, decay, mu = 0.1, 1e-7, 0.9
    coupled = equilibrium.sgd(lr, decay, momentum=mu, gradient_norm=G)
    assert coupled.norm == pytest.approx((lr * G**2 / (2 * decay * (1 - mu))) ** 0.25, rel=1e-6)
    assert coupled.time_constant_steps == pytest.approx((1 - mu) / (4 * lr * decay))
    nesterov = equilibrium.sgd(lr, decay, momentum=mu, nesterov=True, gradient_norm=G)
    assert nesterov.norm == pytest.approx(coupled.norm, rel=1e-6)
    ratio = 1 + 2 * mu - 2 * mu**3
    assert nesterov.chord**2 == pytest.approx(coupled.chord**2 * ratio, rel=1e-6)
    assert nesterov.angle_rad / coupled.angle_rad == pytest.approx(1.16, abs=0.005)
    decoupled = equilibrium.sgd(lr, decay, momentum=mu, decoupled=True, gradient_norm=G)
    assert decoupled.chord**2 == pytest.approx(2 * lr * decay * (1 - mu) / (1 + mu), rel=1e-6)
    assert decoupled.norm == pytest.approx((lr * G**2 / (2 * decay * (1 - mu) ** 2)) ** 0.25, rel=1e-6)
    adamw = equilibrium.adamw(lr, decay, fan_in=C)
    assert adamw.norm == pytest.approx((lr * C / (2 * decay)) ** 0.5, rel=1e-6)
    assert adamw.chord**2 == pytest.approx(2 * lr * decay * 0.1 / 1.9, rel=1e-6)
    # (2/π)·asin(x) = (2/π)x only for small x: signs that hardly agree.
    lion = equilibrium.lion(lr, decay, betas=(0.05, 0.99), fan_in=C)
    kappa = 0.95**2 + 0.05**2 * 0.01 / 1.99
    assert lion.norm * lion.chord == pytest.approx(lr * C**0.5, rel=1e-4)
    assert lion.chord**2 < math.pi * lr * decay * kappa


def test_adam_with_l2_meets_its_short_form():
    found = equilibrium.adam_l2(1e-3, 1e-9, gradient_norm=G, fan_in=C)
    norm = (1e-3 * C**0.5 * G / 2e-9) ** (1 / 3)
    assert found.norm == pytest.approx(norm, rel=1e-5)
    assert found.chord**2 == pytest.approx(0.1 / 1.9 * 1e-6 * C / norm**2, rel=1e-5)
    assert found.time_constant_steps == pytest.approx(2 * norm**2 / (3 * 1e-6 * C), rel=1e-4)


def test_the_norm_is_unknown_without_what_it_depends_on():
    assert equilibrium.sgd(0.1, 0.01).norm is None
    assert equilibrium.adamw(0.1, 0.01).norm is None
    assert equilibrium.lion(0.1, 0.01).norm is None


ABOVE_0 = "must be a finite number above 0, got"
FULL = {"gradient_norm": 1.0, "fan_in": 1.0}


@pytest.mark.parametrize(
    ("rule", "arguments", "settings", "message"),
    [
        (equilibrium.sgd, (-0.1, 0.1), {}, f"lr {ABOVE_0} -0.1"),
        (
            equilibrium.sgd,
            (0.1, 0.0),
            {},
            f"weight_decay {ABOVE_0} 0.0; without decay there is no equilibrium",
        ),
        (equilibrium.sgd, (math.inf, math.nan), {}, f"lr {ABOVE_0} inf; weight_decay {ABOVE_0} nan"),
        (
            equilibrium.sgd,
            (2.0, 0.5),
            {},
            "lr times weight_decay must be below 1, got 2.0 times 0.5: the decay of one step would take away",
        ),
        (equilibrium.sgd, (0.1, 0.1), {"momentum": 1.0}, "momentum must be at least 0 and below 1, got 1.0"),
        (equilibrium.sgd, (0.1, 0.1), {"nesterov": True}, "nesterov needs a momentum above 0"),
        (
            equilibrium.sgd,
            (0.0, 0.1),
            {"momentum": -1.0, "gradient_norm": 0.0},
            (
                f"lr {ABOVE_0} 0.0; momentum must be at least 0 and below 1, got -1.0; "
                f"gradient_norm {ABOVE_0} 0.0"
            ),
        ),
        (equilibrium.adamw, (0.1, 20.0), {}, "lr times weight_decay must be below 1"),
        (equilibrium.adamw, (0.1, 0.1), {"fan_in": 0}, f"fan_in {ABOVE_0} 0"),
        (
            equilibrium.adamw,
            (0.1, 0.1),
            {"betas": (0.9, 1.0)},
            "betas[1] must be at least 0 and below 1, got 1.0",
        ),
        (equilibrium.lion, (0.1, 0.1), {"betas": (-0.1, 0.5)}, "betas[0] must be at least 0 and below 1"),
        (equilibrium.lion, (10.0, 0.1), {}, "lr times weight_decay must be below 1"),
        (equilibrium.adam_l2, (0.0, 0.1), FULL, f"lr {ABOVE_0} 0.0"),
        (
            equilibrium.adam_l2,
            (0.5, 100.0),
            {"betas": (0.0, 0.9), "gradient_norm": 1e-6, "fan_in": 100},
            "lr 0.5 and weight_decay 100 are too large for a gradient norm of 1e-06",
        ),
    ],
)
def test_what_has_no_equilibrium_is_refused(rule, arguments, settings, message):
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        rule(*arguments, **settings)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("product", [1e-9, 1e-3, 0.5, 0.999])
def test_every_allowed_setting_has_an_angle(momentum, product):
    for decoupled in (False, True):
        for nesterov in (False, True) if momentum else (False,):
            found = equilibrium.sgd(
                1.0, product, momentum=momentum, nesterov=nesterov, decoupled=decoupled, gradient_norm=1.0
            )
            assert 0 < found.angle_rad < math.pi
            assert 0 < found.norm < math.inf
    for rule in (equilibrium.adamw, equilibrium.lion):
        found = rule(1.0, product, betas=(momentum, 0.999), fan_in=1)
        assert 0 < found.angle_rad < math.pi
        assert 0 < found.norm < math.inf
