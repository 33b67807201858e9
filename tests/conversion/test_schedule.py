"""The schedule of a fixed norm: roots by hand, and against weight decay that follows a schedule itself."""

import math
import re

import pytest
import torch

from decayfree import equilibrium
from decayfree.conversion.schedule import equal_angle_schedule
from decayfree.errors import InvalidInputError
from support import bounds
from support import equilibrium_simulation as simulation

G = 3.0
C = 1024


def test_angles_that_follow_the_root_want_the_root():
    schedule = equal_angle_schedule(lambda step: [1.0, 0.25, 0.0][step])
    assert [schedule(step) for step in range(3)] == [1.0, 0.5, 0.0]
    by_two_thirds = equal_angle_schedule(lambda step: 1 / 8, exponent=2 / 3)
    assert by_two_thirds(0) == pytest.approx(1 / 4)


def test_a_tenfold_drop_falls_to_a_tenth_and_comes_back_to_the_root():
    """The effective learning rate under decay: 0.1 at once, then 0.316."""
    schedule = equal_angle_schedule(lambda step: 1.0 if step < 50 else 0.1, time_constant_steps=20)
    assert [schedule(step) for step in (0, 49, 50)] == [1.0, 1.0, 0.1]
    assert schedule(51) == pytest.approx(0.1, rel=0.03)
    assert schedule(5000) == pytest.approx(0.1**0.5)


def test_a_warm_up_that_is_faster_than_the_norm_keeps_its_shape():
    schedule = equal_angle_schedule(lambda step: min(1.0, step / 100), time_constant_steps=100_000)
    assert [schedule(step) for step in (0, 50, 100)] == pytest.approx([0.0, 0.5, 1.0], rel=1e-3)


def test_steps_may_be_asked_for_in_any_order():
    def cosine(step):
        return (1 + math.cos(step / 30)) / 2

    one, other = (equal_angle_schedule(cosine, time_constant_steps=10, start_angle=3.0) for _ in range(2))
    backwards = [one(step) for step in reversed(range(90))]
    assert backwards == [other(step) for step in range(90)][::-1]


def test_the_first_angle_is_the_one_that_is_given():
    schedule = equal_angle_schedule(lambda step: 0.5, time_constant_steps=10, start_angle=3.0)
    assert schedule(0) == pytest.approx(1.5)
    assert schedule(10_000) == pytest.approx(0.5**0.5)


N_STEPS = 900


def cosine(step):
    return (1 + math.cos(math.pi * step / N_STEPS)) / 2


def angles(update, start_norm, *, is_norm_fixed=False):
    seen = simulation.simulate(
        update,
        start_norm=start_norm,
        gradient_norm=G,
        n_weights=C,
        n_before=0,
        n_measured=N_STEPS,
        is_norm_fixed=is_norm_fixed,
    )
    # Steps are smoothed; momentum needs some to begin.
    return seen.chords[20:-20].unfold(0, 20, 20).mean(dim=1)


RULES = {
    "SGD with momentum": (
        lambda rate, decay: simulation.sgd(rate, decay, momentum=0.9),
        (0.1, 0.001),
        equilibrium.sgd(0.1, 0.001, momentum=0.9, gradient_norm=G),
        2,
        0.5,
    ),
    "AdamW": (
        lambda rate, decay: simulation.adam(rate, decay, betas=(0.5, 0.98), decoupled=True),
        (0.003, 1.5),
        equilibrium.adamw(0.003, 1.5, betas=(0.5, 0.98), fan_in=C),
        1,
        0.5,
    ),
    "Adam with L2": (
        lambda rate, decay: simulation.adam(rate, decay, betas=(0.5, 0.98), decoupled=False),
        (0.01, 0.01),
        equilibrium.adam_l2(0.01, 0.01, betas=(0.5, 0.98), gradient_norm=G, fan_in=C),
        1,
        2 / 3,
    ),
}


def test_the_cosine_is_as_long_as_the_page_says():
    _, _, settled, _, _ = RULES["SGD with momentum"]
    assert round(N_STEPS / settled.time_constant_steps, 1) == bounds.TIME_CONSTANTS


@pytest.mark.parametrize("name", RULES)
def test_a_fixed_norm_turns_by_the_angles_of_weight_decay_on_a_cosine(name):
    start = 0.85
    make, (lr, decay), settled, power, exponent = RULES[name]
    decayed = angles(make(lambda step: lr * cosine(step), decay), start * settled.norm)
    ours = {}
    for kind, settings in {
        "lagging": {"time_constant_steps": settled.time_constant_steps, "start_angle": start**-power},
        "root": {},
        "same": None,
    }.items():
        multiplier = cosine
        if settings is not None:
            multiplier = equal_angle_schedule(cosine, exponent=exponent, **settings)
        update = make(lambda step, multiplier=multiplier: lr * multiplier(step), 0.0)
        off = angles(update, settled.fixed_norm, is_norm_fixed=True) / decayed - 1
        ours[kind] = float(off.abs().max())
        if kind == "root":
            assert off[-1] > bounds.AT_THE_END  # the norm lags far behind
    assert ours["lagging"] < bounds.LAGGING
    assert ours["same"] > bounds.UNCHANGED


def test_the_root_alone_is_enough_while_the_norm_can_follow():
    make, (lr, decay), settled, _, _ = RULES["SGD with momentum"]
    slow = torch.linspace(1.0, 0.9, N_STEPS).tolist()
    decayed = angles(make(lambda step: lr * slow[step], decay), settled.norm)
    root = equal_angle_schedule(slow.__getitem__)
    fixed = angles(make(lambda step: lr * root(step), 0.0), settled.fixed_norm, is_norm_fixed=True)
    assert float((fixed / decayed - 1).abs().max()) < 0.03


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"time_constant_steps": 0.0}, "time_constant_steps must be a finite number above 0, got 0.0"),
        (
            {"time_constant_steps": 5, "start_angle": -1.0},
            "start_angle must be a finite number above 0, got -1.0",
        ),
        ({"start_angle": 2.0}, "start_angle needs time_constant_steps"),
        ({"exponent": 1.0}, "exponent must be at least 1/2 and below 1, got 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        equal_angle_schedule(cosine, **settings)


@pytest.mark.parametrize("settings", [{}, {"time_constant_steps": 5}])
@pytest.mark.parametrize("value", [-0.1, math.nan])
def test_a_multiplier_out_of_range_is_refused(settings, value):
    schedule = equal_angle_schedule(lambda step: value, **settings)
    with pytest.raises(
        InvalidInputError, match=f"the multiplier of step 0 must be a finite number .* got {value}"
    ):
        schedule(0)
