"""Every statement holds on a real network, and its check says so when it is fed a rule that breaks it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from decayfree import equilibrium, theory
from decayfree.invariance.result import Invariance
from decayfree.invariance.verdict import ScaleInvariantWeight, Verdict
from decayfree.theory import Check, Subject, spans
from decayfree.theory.equivalences import larger_root
from decayfree.theory.subject import gradients_of
from support.wrong_rules import (
    Drifting,
    Idle,
    Noisy,
    Stretching,
    TrustRatio,
    dampened,
    doubling_decay,
    with_a_scale,
    without_decay,
)

SGD, Adam = torch.optim.SGD, torch.optim.Adam


@cache
def subject(activation: type[nn.Module] = nn.ReLU) -> Subject:
    """The built-in network on 300 digits in one ink."""
    digits = load_digits()
    grey = torch.tensor(digits.images[:300])
    grey = (grey - grey.mean()) / grey.std()
    images = grey[:, None] * torch.tensor([1.0, 0.7, 0.4], dtype=torch.float64).view(1, 3, 1, 1)
    labels = torch.tensor(digits.target[:300]).long()
    return theory.image_subject(images, labels, label_noise=0.6, activation=activation)


@dataclass(frozen=True)
class Row:
    """A statement's check, as it holds, and what breaks it."""

    check: Callable[..., Check]
    broken: tuple[Callable[[], Check], ...]
    smooth: bool = False


def rule(check: Callable[..., Check], *wrong: Callable[..., torch.optim.Optimizer]) -> Row:
    """A check that is broken by optimizers."""
    return Row(check, tuple(partial(lambda make: check(subject(), make), make) for make in wrong))


def loss(check: Callable[..., Check]) -> Row:
    """A check that is broken by a loss that sees the weights' length."""
    return Row(check, (lambda: check(with_a_scale(subject())),))


STEPS = 20
SGD_RULE = theory.RULES[0]
ROWS = {
    "euler": loss(theory.euler_orthogonality),
    "euler with eps": loss(theory.euler_with_eps),
    "homogeneity": loss(theory.homogeneity),
    "orbit": rule(partial(theory.orbit_symmetry, n_steps=STEPS), Noisy),
    "euler steps": rule(theory.euler_steps_halve_the_growth, Stretching),
    "runge-kutta": Row(
        theory.runge_kutta_keeps_the_norm,
        (lambda: theory.runge_kutta_keeps_the_norm(subject(nn.SiLU), order=2),),
        smooth=True,
    ),
    "sgd": rule(partial(theory.growth_of_sgd, n_steps=STEPS), Stretching, Noisy, partial(SGD, momentum=0.9)),
    "sgd l2": rule(partial(theory.growth_of_sgd, decayed=True, n_steps=STEPS), Stretching, without_decay),
    "momentum": rule(partial(theory.growth_of_momentum, n_steps=STEPS), Stretching, dampened),
    "momentum l2": rule(
        partial(theory.growth_of_momentum, decayed=True, n_steps=STEPS), dampened, without_decay
    ),
    "momentum decoupled": rule(
        partial(theory.growth_of_momentum, decoupled=True, n_steps=STEPS), Stretching, dampened
    ),
    "nesterov": rule(partial(theory.growth_of_nesterov, n_steps=STEPS), Noisy, dampened),
    "wrs sgd": rule(partial(theory.growth_under_rescaling, n_steps=STEPS), Stretching, Noisy),
    "wrs momentum": rule(
        partial(theory.growth_under_rescaling, momentum=0.9, n_steps=STEPS), Stretching, dampened
    ),
    "adam growth": rule(theory.adam_is_not_orthogonal, SGD),
    "gradients in span": Row(theory.gradients_in_span, ()),
    "updates in span": rule(partial(theory.updates_in_span, n_steps=STEPS), Noisy),
    "adam span": rule(partial(theory.adam_leaves_the_span, n_steps=STEPS), SGD),
    "off-span stays": rule(partial(theory.off_span_part_stays, n_steps=STEPS), Stretching, Noisy),
    "off-span decays": rule(partial(theory.off_span_part_decays, n_steps=STEPS), without_decay),
    "off-span momentum": rule(
        partial(theory.off_span_part_decays_with_momentum, n_steps=STEPS), dampened, without_decay
    ),
    "off-span wrs": rule(partial(theory.off_span_part_under_rescaling, n_steps=STEPS), Noisy),
    "ignores sgd": rule(partial(theory.training_ignores_the_outside, n_steps=STEPS), TrustRatio),
    "wrs feels": rule(partial(theory.rescaled_training_feels_the_outside, n_steps=STEPS), Idle),
    "replay": rule(partial(theory.decay_is_a_replayed_norm, n_steps=STEPS), Noisy, dampened),
    "exponential": rule(partial(theory.decay_is_an_exponential_schedule, n_steps=STEPS), Noisy, dampened),
    "equilibrium": Row(
        partial(theory.equilibrium_angle, rule=SGD_RULE, n_steps=400, n_last=200),
        (
            lambda: theory.equilibrium_angle(
                subject(), SGD_RULE, doubling_decay(SGD), n_steps=400, n_last=200
            ),
        ),
    ),
    "drop under decay": Row(
        theory.rates_after_a_drop,
        (
            lambda: theory.rates_after_a_drop(
                subject(), without_decay, n_before=150, n_after=150, n_window=50
            ),
        ),
    ),
    "drop under wrs": Row(
        partial(theory.rates_after_a_drop, rescaled=True, n_before=40, n_after=40, n_window=10),
        (
            lambda: theory.rates_after_a_drop(
                subject(), Drifting, rescaled=True, n_before=40, n_after=40, n_window=10
            ),
        ),
    ),
}
BROKEN = [(name, index) for name, row in ROWS.items() for index in range(len(row.broken))]


@pytest.mark.parametrize("name", ROWS)
def test_statement_holds(name: str) -> None:
    row = ROWS[name]
    check = row.check(subject(nn.SiLU if row.smooth else nn.ReLU))
    assert check.verdict == "holds", f"{check.measured}, expected {check.expected}: {check.sentence}"
    assert 0 <= check.residual <= check.tolerance
    assert all((check.statement, check.source, check.sentence.endswith(".")))


@pytest.mark.parametrize(("name", "index"), BROKEN)
def test_a_wrong_rule_is_seen(name: str, index: int) -> None:
    check = ROWS[name].broken[index]()
    assert check.verdict == "fails", f"{check.measured}, expected {check.expected}: {check.sentence}"


@pytest.mark.parametrize("rule", theory.RULES[1:], ids=lambda rule: rule.name)
def test_equilibrium_angle_is_the_closed_form(rule: theory.DecayCase) -> None:
    check = theory.equilibrium_angle(subject(), rule, n_steps=600, n_last=300)
    assert check.passed, f"{check.measured}, expected {check.expected}"


@pytest.mark.parametrize(
    ("rule", "make"),
    [
        (theory.RULES[1], lambda groups, **settings: SGD(groups, **settings, nesterov=True)),
        (theory.RULES[2], lambda groups, **settings: SGD(groups, **{**settings, "nesterov": False})),
        (
            theory.RULES[3],
            lambda groups, **settings: SGD([{**group, "weight_decay": 0.1} for group in groups], **settings),
        ),
        (
            theory.RULES[4],
            lambda groups, **settings: torch.optim.AdamW(groups, **{**settings, "betas": (0.8, 0.99)}),
        ),
        (theory.RULES[5], torch.optim.AdamW),
    ],
    ids=[
        "nesterov for momentum",
        "momentum for nesterov",
        "decay of gradients, too",
        "another beta",
        "AdamW for Adam",
    ],
)
def test_another_rules_equilibrium_is_seen(
    rule: theory.DecayCase, make: Callable[..., torch.optim.Optimizer]
) -> None:
    assert theory.equilibrium_angle(subject(), rule, make, n_steps=400, n_last=200).verdict == "fails"


class Lion(torch.optim.Optimizer):
    """Chen et al., 2023, arXiv 2302.06675, program 1."""

    def __init__(self, groups, lr, betas, weight_decay=0.0):
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            first, second = group["betas"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * torch.sign(first * m + (1 - first) * p.grad))
                m.mul_(second).add_((1 - second) * p.grad)


def test_lions_equilibrium_angle_is_the_closed_form() -> None:
    betas = (0.9, 0.99)
    rule = theory.DecayCase(
        "Lion",
        Lion,
        {"betas": betas},
        4e-3,
        1e-3,
        lambda lr, decay, *_: equilibrium.lion(lr, decay, betas=betas),
    )
    check = theory.equilibrium_angle(subject(), rule, n_steps=600, n_last=300)
    assert check.passed, f"{check.measured}, expected {check.expected}"


def test_adam_does_not_depend_on_the_outside_either() -> None:
    assert theory.training_ignores_the_outside(subject(), Adam, n_steps=STEPS).passed


def test_larger_root_solves_the_equation() -> None:
    root = larger_root(0.9, 0.002)
    assert math.isclose(root**2 - (1 + 0.9 - 0.002) * root + 0.9, 0.0, abs_tol=1e-15)
    assert root > 0.9 / root  # the product of the roots is the momentum


def test_checks_leave_the_subject_alone() -> None:
    before = {name: value.clone() for name, value in subject().model.state_dict().items()}
    theory.euler_orthogonality(subject())
    theory.euler_with_eps(subject())
    theory.homogeneity(subject())
    theory.off_span_part_under_rescaling(subject(), n_steps=3)
    theory.orbit_symmetry(subject(), n_steps=3)
    assert all(torch.equal(before[name], value) for name, value in subject().model.state_dict().items())


def test_a_gradient_off_the_span_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    # The loss that is wrong uses the weights, too.
    monkeypatch.setattr(spans, "_used_elsewhere", lambda subject: set())
    assert theory.gradients_in_span(with_a_scale(subject())).verdict == "fails"


def test_a_weight_that_is_used_elsewhere_is_left_out() -> None:
    assert theory.gradients_in_span(with_a_scale(subject())).verdict == "does not apply"


def test_the_built_in_network_is_exact_without_being_watched() -> None:
    for eps in (subject().eps, 1e-2):
        alone = subject().with_eps(eps)
        watched = replace(alone, is_exact=False)
        for step in (0, 7):
            gradients = alone.gradients(step)
            assert all(torch.equal(gradients[name], g) for name, g in watched.gradients(step).items())
    assert {module.eps for module in subject().model.modules() if hasattr(module, "eps")} == {subject().eps}


@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU])
def test_twins_side_by_side_have_the_gradients_that_each_has_alone(activation: type[nn.Module]) -> None:
    for eps in (subject(activation).eps, 1e-2):
        twins = [subject(activation).with_eps(eps) for _ in range(3)]
        for number, twin in enumerate(twins):
            with torch.no_grad():
                for parameter in twin.parameters.values():
                    parameter.mul_(1 + number / 8 * torch.rand(parameter.shape, dtype=torch.float64))
        for step in (0, 7):
            together, alone = gradients_of(twins, step), [twin.gradients(step) for twin in twins]
            for ours, theirs in zip(together, alone, strict=True):
                assert ours.keys() == theirs.keys()
                for name, gradient in theirs.items():
                    torch.testing.assert_close(ours[name], gradient, rtol=1e-11, atol=1e-13)


def test_twins_with_another_eps_keep_their_own() -> None:
    twins = [subject().with_eps(eps) for eps in (1e-2, 1.0)]
    for ours, twin in zip(gradients_of(twins, 0), twins, strict=True):
        torch.testing.assert_close(ours["4.weight"], twin.gradients(0)["4.weight"], rtol=1e-11, atol=1e-13)


def test_another_loss_of_the_built_in_network_is_the_one_that_counts() -> None:
    odd = with_a_scale(subject())
    (ours,), theirs = gradients_of([odd.copy()], 0), odd.gradients(0)
    assert all(torch.equal(ours[name], gradient) for name, gradient in theirs.items())
    assert not torch.equal(ours["0.weight"], subject().gradients(0)["0.weight"])


class _PartlyHeld(nn.Module):
    """A layer whose first six outputs go to a normalization, and whose others do not."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(12, 10, bias=False)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        held, others = self.both(x).split([6, 4], dim=1)
        return self.head(torch.cat([self.norm(held), others.tanh()], dim=1))


def partly_held() -> Subject:
    model = _PartlyHeld().double()
    inputs, targets = torch.randn(32, 12, dtype=torch.float64), torch.randn(40, 32, 3, dtype=torch.float64)
    weight = ScaleInvariantWeight("both.weight", None, 0, (6,), (), 0.0, starts=(0,))
    verdict = Verdict("both.weight", "invariant", "", 0.0, (10, 12))
    found = Invariance(model, [weight], {"both.weight": verdict}, dtype=torch.float64, confirmed_to=0.0)
    return Subject(model, found, lambda model, step: (model(inputs) - targets[step % 40]).square().mean())


@pytest.mark.parametrize(
    "check",
    [
        theory.euler_orthogonality,
        theory.homogeneity,
        theory.orbit_symmetry,
        partial(theory.growth_of_sgd, decayed=True),
        partial(theory.growth_of_momentum, decoupled=True),
        theory.growth_of_nesterov,
        theory.decay_is_an_exponential_schedule,
    ],
)
def test_statements_hold_of_the_rows_that_are_held(check: Callable[..., Check], seed: int) -> None:
    found = check(partly_held())
    assert found.is_applicable
    assert found.passed, found.sentence


def test_laws_of_spans_are_not_tried_on_some_rows_of_a_weight(seed: int) -> None:
    assert not theory.off_span_part_decays(partly_held(), n_steps=6).is_applicable


def test_some_rows_of_a_weight_are_not_replayed(seed: int) -> None:
    found = theory.decay_is_a_replayed_norm(partly_held(), n_steps=6)
    assert not found.is_applicable
    assert found.sentence == "Only some rows of both.weight are scale-invariant; whole weights are replayed."
