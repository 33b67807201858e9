"""How long a recipe remembers: by closed forms, by equilibrium, by random gradients, and by Turning."""

import math

import pytest
import torch
from torch import nn

import decayfree
from decayfree import InvalidInputError, equilibrium
from decayfree.conversion import DecayRule, Forgetting, RateSchedule

# The rule, and D of a step to first order in ηλ.
RULES = {
    "SGD": (DecayRule("SGD", 0.1, 5e-4), 5e-5),
    "momentum": (DecayRule("SGD", 0.1, 5e-4, momentum=0.9), 5e-4),
    "dampened": (DecayRule("SGD", 0.1, 5e-4, momentum=0.9, dampening=0.5), 2.5e-4),
    "Nesterov": (DecayRule("SGD", 0.1, 5e-4, momentum=0.9, nesterov=True), 5e-4),
    "decoupled": (DecayRule("SGD", 0.1, 5e-4, momentum=0.9, decoupled=True), 5e-5),
    "decoupled Nesterov": (
        DecayRule("SGD", 0.1, 5e-4, momentum=0.9, nesterov=True, decoupled=True),
        5e-5,
    ),
    "AdamW": (DecayRule("AdamW", 1e-3, 0.05), 5e-5),
    "Lion": (DecayRule("Lion", 1e-4, 0.5, betas=(0.9, 0.99)), 5e-5),
}
OPTIMIZERS = {
    "momentum": lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9),
    "Nesterov": lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, nesterov=True),
    "AdamW": lambda weights: torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.0),
}


@pytest.mark.parametrize(("rule", "per_step"), RULES.values(), ids=RULES.keys())
def test_a_step_forgets_what_the_closed_form_says(rule, per_step):
    found = Forgetting.of(rule)
    # Lion's steps are correlated over hundreds, so that ηλ counts.
    assert found.per_step == pytest.approx(per_step, rel=5e-3 if rule.optimizer == "Lion" else 2e-4)
    settled = rule.equilibrium()
    assert found.angle_rad == settled.angle_rad
    assert found.per_step == rule.correlation_time * settled.angle_rad**2 / 2
    assert found.time_constant_steps == settled.time_constant_steps
    assert found.memory_steps == 1 / found.per_step
    assert (found.whole, found.mean_memory_steps, found.n_full_steps) == (None, None, None)


def test_correlation_times_are_those_of_equilibrium():
    assert DecayRule("SGD", 0.1, 1e-3, momentum=0.9).correlation_time == pytest.approx(19)
    nesterov = DecayRule("SGD", 0.1, 1e-3, momentum=0.9, nesterov=True)
    assert nesterov.correlation_time == equilibrium.correlation_time(0.9, of_buffer=0.9)
    for name in ("Adam", "AdamW"):
        assert DecayRule(name, 0.1, 1e-3, betas=(0.5, 0.9)).correlation_time == pytest.approx(3)
    lion = DecayRule("Lion", 0.1, 1e-3, betas=(0.9, 0.99))
    assert lion.correlation_time == equilibrium.correlation_time_of_signs((0.9, 0.99))


def test_adam_with_l2_remembers_by_its_gradients():
    # r³ = η√C·G/(2λ) = 10, and a step forgets η²C/(2r²).
    rule = DecayRule("Adam", 1e-3, 1e-3)
    found = Forgetting.of(rule, RateSchedule("cosine", 1000), fan_in=100, gradient_norm=2.0)
    assert found.memory_steps == pytest.approx(2 * 10 ** (2 / 3) / 1e-4, rel=1e-3)
    # D follows the power 4/3 of the rate there.
    mean = sum(((1 + math.cos(math.pi * step / 1000)) / 2) ** (4 / 3) for step in range(1000)) / 1000
    assert found.n_full_steps == pytest.approx(1000 * mean, rel=1e-12)
    with pytest.raises(InvalidInputError, match="depend on their fan-in and their gradient norm"):
        Forgetting.of(rule)


@pytest.mark.parametrize(
    ("schedule", "share"),
    [
        (RateSchedule("constant", 1000), 1.0),
        (RateSchedule("cosine", 1000), 0.5005),  # of steps, not of time: the first is at the full rate
        (RateSchedule("linear", 1000, last_share=0.5), 0.75025),
        (RateSchedule("step", 1000, drops=(300, 600)), 0.3 + 0.03 + 0.004),
        (RateSchedule("constant", 1000, n_warmup_steps=100), 0.9 + 0.0495),
    ],
)
def test_a_run_forgets_the_sum_over_its_schedule(schedule, share):
    rule = RULES["momentum"][0]
    found = Forgetting.of(rule, schedule)
    assert found.n_full_steps == pytest.approx(1000 * share, rel=1e-12)
    assert found.whole == pytest.approx(0.5 * share, rel=1e-4)  # Σ η_tλ/(1−μ)
    assert found.mean_memory_steps == pytest.approx(2000 / share, rel=1e-4)


def test_a_run_of_one_step_at_the_rate_0_forgets_nothing():
    found = Forgetting.of(RULES["AdamW"][0], RateSchedule("step", 1, drops=(0,), drop_factor=0.0))
    assert (found.whole, found.mean_memory_steps) == (0.0, math.inf)


def test_wrong_arguments_are_told_at_once():
    with pytest.raises(InvalidInputError, match=r"rule must be .*, got 5; schedule must be .*'cosine'"):
        Forgetting.of(5, "cosine")
    with pytest.raises(InvalidInputError, match="without decay there is no equilibrium"):
        Forgetting.of(DecayRule("SGD", 0.1, 0.0))


def rows_under_a_norm(n_weights=512, n_rows=64):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(n_weights, n_rows, bias=False), nn.BatchNorm1d(n_rows)).double()
    return model[0].weight, decayfree.find_invariant(model, torch.randn(8, n_weights, dtype=torch.float64))


def steps_with_independent_gradients(weight, optimizer, n_steps):
    """Of norm 1 at unit norm, as the gradients of a weight without scale are."""
    for _ in range(n_steps):
        norms = weight.detach().norm(dim=1, keepdim=True)
        unit, gradient = weight.detach() / norms, torch.randn_like(weight)
        gradient -= (gradient * unit).sum(1, keepdim=True) * unit
        weight.grad = gradient / gradient.norm(dim=1, keepdim=True) / norms
        optimizer.step()


@pytest.mark.parametrize("kind", ["momentum", "Nesterov", "AdamW"])
def test_directions_under_decay_are_forgotten_as_it_says(kind):
    weight, _ = rows_under_a_norm()
    n_steps = 1000
    if kind == "AdamW":
        rule = DecayRule("AdamW", 1e-3, 0.5)
        optimizer = torch.optim.AdamW([weight], lr=1e-3, weight_decay=0.5)
        settled = rule.equilibrium(fan_in=512)
    else:
        nesterov = kind == "Nesterov"
        rule = DecayRule("SGD", 0.1, 5e-4, momentum=0.9, nesterov=nesterov)
        optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=nesterov)
        settled = rule.equilibrium(gradient_norm=1.0)
    with torch.no_grad():
        weight.mul_(settled.norm / weight.norm(dim=1, keepdim=True))
    steps_with_independent_gradients(weight, optimizer, 200)  # until momentum is there
    start = weight.detach().clone()
    steps_with_independent_gradients(weight, optimizer, n_steps)
    cosine = torch.cosine_similarity(start, weight.detach(), dim=1).mean().item()
    expected = Forgetting.of(rule, RateSchedule("constant", n_steps)).whole
    assert expected == pytest.approx(0.5, rel=1e-3)
    # 64 rows scatter by 2 %; what a momentum of ten steps still holds is not yet turned.
    assert -math.log(cosine) == pytest.approx(expected, rel=0.07)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_turning_at_that_memory_turns_by_the_angles_of_balance(kind):
    rule = RULES[kind][0]
    weight, found = rows_under_a_norm(n_weights=16, n_rows=4)
    optimizer = OPTIMIZERS[kind]([weight])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, RateSchedule("cosine", 40))
    memory = Forgetting.of(rule).memory_steps
    turning = decayfree.Turning(optimizer, found, steps_per_epoch=391, memory_epochs=memory / 391)
    for step in range(40):
        before = weight.detach().clone()
        steps_with_independent_gradients(weight, optimizer, 1)
        share = RateSchedule("cosine", 40)(step)
        at_that_rate = DecayRule(
            rule.optimizer, rule.lr * share, rule.weight_decay, momentum=rule.momentum, nesterov=rule.nesterov
        )
        # First order: the balance at every rate of the schedule, which is exact at the full one.
        balance = at_that_rate.equilibrium().angle_rad
        (angle,) = turning.angles_rad.values()
        assert angle == pytest.approx(balance, rel=1e-12 if step == 0 else 1e-4)
        if step == 0:
            cosines = torch.cosine_similarity(before, weight.detach(), dim=1)
            assert torch.arccos(cosines).tolist() == pytest.approx([balance] * 4, rel=1e-8)
        scheduler.step()
    assert turning.forgotten == pytest.approx(
        Forgetting.of(rule, RateSchedule("cosine", 40)).whole, rel=1e-12
    )
