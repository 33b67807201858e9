"""Hyperball and rotational equilibrium: trajectories by hand, norms and angles, small gradients, resuming."""

import copy
import math

import pytest
import torch
from torch import nn

from decayfree import Invariance, equilibrium, find_invariant
from decayfree.dynamics.measures import angular_update_rad
from decayfree.errors import InvalidInputError, MismatchError
from decayfree.methods import Hyperball, RotationalEquilibrium
from decayfree.study.run_settings import OptimizerSpec
from support import reference
from support.method_loops import (
    assert_same,
    assert_same_rest,
    by_hand,
    lion_step,
    normed,
    row_norms,
    small_batches,
    small_model,
    train,
)

RULES = {
    "sgd": (OptimizerSpec("sgd", momentum=0.0), reference.Rule("sgd", 0.05), reference.optimizer_step),
    "momentum": (OptimizerSpec("sgd"), reference.Rule("sgd", 0.05, momentum=0.9), reference.optimizer_step),
    "nesterov": (
        OptimizerSpec("sgd", nesterov=True),
        reference.Rule("sgd", 0.05, momentum=0.9, nesterov=True),
        reference.optimizer_step,
    ),
    "adam": (OptimizerSpec("adam"), reference.Rule("adam", 0.05), reference.optimizer_step),
    "adamw": (OptimizerSpec("adamw"), reference.Rule("adam", 0.05), reference.optimizer_step),
    "lion": (OptimizerSpec("lion", beta2=0.99), reference.Rule("lion", 0.05, betas=(0.9, 0.99)), lion_step),
}
each_rule = pytest.mark.parametrize("name", RULES)
each_method = pytest.mark.parametrize(
    "method", [Hyperball(), RotationalEquilibrium(0.1)], ids=lambda method: method.name
)
LAMBDA = 0.02
ANGLES = {
    "sgd": lambda lr: math.sqrt(2 * lr * LAMBDA),
    "momentum": lambda lr: math.sqrt(2 * lr * LAMBDA / 1.9),
    "nesterov": lambda lr: math.sqrt(2 * lr * LAMBDA / 1.9 * (1 + 1.8 - 2 * 0.729)),
    "adam": lambda lr: math.sqrt(2 * lr * LAMBDA * 0.1 / 1.9),
    "adamw": lambda lr: math.sqrt(2 * lr * LAMBDA * 0.1 / 1.9),
    "lion": lambda lr: math.sqrt(math.pi * lr * LAMBDA * (0.01 + 0.81 * 0.01 / 1.99)),
}
"""To first order in ηλ, as the paper has them."""


def halved_later(step):
    return 1.0 if step < 25 else 0.5


def hyperball_by_hand(learning_rate):
    def treat(w, g, added, step):
        return row_norms(w) * normed(w + learning_rate * halved_later(step) * row_norms(w) * normed(added))

    return treat


@each_rule
def test_hyperball_follows_its_equation(name):
    spec, rule, update = RULES[name]
    model = small_model(1)
    other = copy.deepcopy(model)
    run = train(model, Hyperball(), small_batches(2), spec, lr=rule.lr, schedule=halved_later)
    weights = by_hand(
        other,
        small_batches(2),
        copy.copy(rule),
        hyperball_by_hand(rule.lr),
        update=update,
        schedule=halved_later,
    )
    assert_same(run.weights, weights)
    assert_same_rest(model, other)


def rotation_by_hand(rule, angle_rad, averaging):
    """The authors' wrapper, per row, with the tangent of the angle as the length of the step."""
    mean_square = torch.zeros(5, 1).double()

    def treat(w, g, added, step):
        nonlocal mean_square
        update = -added / (rule.lr * halved_later(step))
        direction = normed(w)
        update = update - (update * direction).sum(dim=1, keepdim=True) * direction
        mean_square = averaging * mean_square + (1 - averaging) * row_norms(update) ** 2
        usual = (mean_square / (1 - averaging ** (step + 1))).sqrt()
        length = math.tan(angle_rad(rule.lr * halved_later(step)))
        return row_norms(w) * normed(w - length * row_norms(w) * update / usual)

    return treat


def equilibrium_angle(name, rule):
    return {
        "sgd": lambda lr: equilibrium.sgd(lr, LAMBDA).angle_rad,
        "momentum": lambda lr: equilibrium.sgd(lr, LAMBDA, momentum=0.9).angle_rad,
        "nesterov": lambda lr: equilibrium.sgd(lr, LAMBDA, momentum=0.9, nesterov=True).angle_rad,
        "adam": lambda lr: equilibrium.adamw(lr, LAMBDA).angle_rad,
        "adamw": lambda lr: equilibrium.adamw(lr, LAMBDA).angle_rad,
        "lion": lambda lr: equilibrium.lion(lr, LAMBDA).angle_rad,
    }[name]


@pytest.mark.parametrize(("name", "averaging"), [("momentum", 0.0), *((name, 0.9) for name in RULES)])
def test_rotational_equilibrium_follows_its_equation(name, averaging):
    spec, rule, update = RULES[name]
    model = small_model(1)
    other = copy.deepcopy(model)
    method = RotationalEquilibrium(LAMBDA, averaging)
    run = train(model, method, small_batches(2), spec, lr=rule.lr, schedule=halved_later)
    treat = rotation_by_hand(copy.copy(rule), equilibrium_angle(name, rule), averaging)
    weights = by_hand(other, small_batches(2), copy.copy(rule), treat, update=update, schedule=halved_later)
    assert_same(run.weights, weights)
    assert_same_rest(model, other)


@each_rule
def test_every_step_turns_by_the_closed_form_and_keeps_the_norm(name):
    spec, rule, _ = RULES[name]
    run = train(
        small_model(1),
        RotationalEquilibrium(LAMBDA, 0.0),
        small_batches(2),
        spec,
        lr=rule.lr,
        schedule=halved_later,
    )
    blocks = find_invariant(small_model(1), small_batches(2)[0][0])[0].blocks
    for step, (before, after) in enumerate(zip(run.weights, run.weights[1:], strict=False)):
        lr = rule.lr * halved_later(step)
        angles = angular_update_rad(before, after, blocks)
        expected = torch.full_like(angles, equilibrium_angle(name, rule)(lr))
        torch.testing.assert_close(angles, expected, rtol=1e-9, atol=0)
        assert angles[0].item() == pytest.approx(ANGLES[name](lr), rel=0.05)  # the paper's, to first order
        torch.testing.assert_close(row_norms(after), row_norms(run.weights[0]), rtol=1e-14, atol=0)


def test_with_averaging_the_angle_is_right_in_the_mean():
    spec = OptimizerSpec("sgd", momentum=0.0)
    run = train(small_model(1), RotationalEquilibrium(LAMBDA, 0.9), small_batches(2, 200), spec, lr=0.05)
    blocks = find_invariant(small_model(1), small_batches(2)[0][0])[0].blocks
    pairs = zip(run.weights, run.weights[1:], strict=False)
    angles = torch.stack([angular_update_rad(before, after, blocks) for before, after in pairs])
    expected = equilibrium.sgd(0.05, LAMBDA).angle_rad
    assert angles.square().mean().sqrt().item() == pytest.approx(expected, rel=0.1)
    assert angles.std() > 0.05 * expected


def test_hyperballs_step_before_it_is_put_back_has_its_learning_rates_length():
    run = train(small_model(1), Hyperball(), small_batches(2), OptimizerSpec("adam"), lr=0.3)
    for before, after in zip(run.weights, run.weights[1:], strict=False):
        torch.testing.assert_close(row_norms(after), row_norms(before), rtol=1e-14, atol=0)
        # w + x, ‖x‖ = 0.3R, has the direction of w': at most asin(0.3) away, and no less than where x points
        # outwards.
        angle = (normed(before) * normed(after)).sum(dim=1).clamp(max=1).acos()
        assert (angle <= math.asin(0.3) + 1e-12).all()
        assert (angle > 0).all()


@pytest.mark.parametrize("size", [1.0, 1e-20])
def test_gradients_however_small_give_the_same_directions(size):
    """A difference of two float32 weights would have lost an update of 1e-20 whole."""
    model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.Linear(5, 3))
    torch.manual_seed(5)
    found = find_invariant(model, torch.randn(8, 6))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(5, 6))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.75)
    Hyperball().attach(optimizer, found)
    model[0].weight.grad = torch.zeros(5, 6)
    model[0].weight.grad[:, 5] = size
    optimizer.step()
    expected = 0.8 * torch.eye(5, 6)  # (1, -0.75)/1.25
    expected[:, 5] = -0.6
    torch.testing.assert_close(model[0].weight.detach(), expected)


def turned(method, **settings):
    model = small_model(1)
    found = find_invariant(model, small_batches(2)[0][0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, **settings)
    return model, found, optimizer, method.attach(optimizer, found)


@each_method
def test_a_block_without_an_update_stays_as_it_is(method):
    model, found, optimizer, at_work = turned(method)
    before = model[0].weight.detach().clone()
    gradient = torch.zeros(5, 6).double()
    gradient[1:] = torch.randn(4, 6).double()
    model[0].weight.grad = gradient
    optimizer.step()
    assert torch.equal(model[0].weight[0], before[0])
    assert not torch.isclose(model[0].weight[1:], before[1:]).all(dim=1).any()
    assert at_work.learning_rates(found[0], 0.5)[0] == 0


@each_method
def test_without_a_gradient_or_at_a_learning_rate_of_zero_nothing_moves(method):
    model, _, optimizer, _ = turned(method)
    before = model[0].weight.detach().clone()
    optimizer.step()
    torch.testing.assert_close(model[0].weight.detach(), before, rtol=1e-15, atol=0)
    model[0].weight.grad = torch.randn(5, 6).double()
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    torch.testing.assert_close(model[0].weight.detach(), before, rtol=1e-15, atol=0)


@each_method
def test_a_block_of_zeros_stays_zero(method):
    found = find_invariant(small_model(1), small_batches(2)[0][0])
    model = small_model(1)
    with torch.no_grad():
        model[0].weight[0] = 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    method.attach(optimizer, Invariance.from_dict(found.to_dict(), model))
    model[0].weight.grad = torch.ones(5, 6).double()
    optimizer.step()
    assert torch.equal(model[0].weight[0], torch.zeros(6).double())
    assert model[0].weight.isfinite().all()


@each_method
def test_a_groupnorm_block_turns_as_one_with_its_bias(seed, method):
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(36, 2)).double()
    found = find_invariant(model, torch.randn(4, 2, 3, 3).double())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    method.attach(optimizer, found)
    weight, bias = model[0].weight.detach().clone(), model[0].bias.detach().clone()
    model[0].weight.grad, model[0].bias.grad = torch.randn_like(weight), torch.randn_like(bias)
    steps = (model[0].weight.grad, model[0].bias.grad)
    optimizer.step()
    for rows in (slice(0, 2), slice(2, 4)):
        w = torch.cat([weight[rows].flatten(), bias[rows]])
        u = torch.cat([steps[0][rows].flatten(), steps[1][rows]])
        length = 0.3
        if method.name == "rotational_equilibrium":
            u = u - (u @ w) / (w @ w) * w
            length = math.tan(equilibrium.sgd(0.3, 0.1).angle_rad)
        moved = w - length * w.norm() * u / u.norm()
        expected = w.norm() * moved / moved.norm()
        ours = torch.cat([model[0].weight.detach()[rows].flatten(), model[0].bias.detach()[rows]])
        torch.testing.assert_close(ours, expected)


@each_method
def test_effective_learning_rates_are_those_of_the_last_step(method):
    model, found, optimizer, at_work = turned(method)
    assert at_work.learning_rates(found[0], 0.5).isnan().all()
    before = model[0].weight.detach().clone()
    gradient = torch.randn(5, 6).double()
    gradient -= (gradient * normed(before)).sum(dim=1, keepdim=True) * normed(before)
    model[0].weight.grad = gradient
    optimizer.step()
    rates = at_work.learning_rates(found[0], 0.5)
    plain = before - rates[:, None] * gradient  # a plain optimizer with these rates, put back on the norm
    torch.testing.assert_close(model[0].weight.detach(), row_norms(before) * normed(plain))


def test_hooks_of_others_see_weights_and_not_what_they_are_set_aside_as():
    model = small_model(1)
    expected, seen = row_norms(model[0].weight.detach()), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    def look(*_):
        seen.append(row_norms(model[0].weight.detach()))

    def step():
        model[0].weight.grad = torch.randn(5, 6).double()
        optimizer.step()

    optimizer.register_step_pre_hook(look)
    optimizer.register_step_post_hook(look)
    Hyperball().attach(optimizer, find_invariant(model, small_batches(2)[0][0]))
    step()
    optimizer.register_step_post_hook(look)
    optimizer.register_step_pre_hook(lambda *_: None if late_is_deaf else look())
    late_is_deaf = True  # documented: from its second step on
    step()
    late_is_deaf = False
    step()
    assert len(seen) == 2 + 3 + 4
    for norms in seen:
        torch.testing.assert_close(norms, expected)


def test_a_state_of_other_blocks_is_refused():
    _, _, _, at_work = turned(Hyperball())
    state = at_work.state_dict()
    state["norms"] = {"0.weight": torch.ones(4), "9.weight": torch.ones(2)}
    with pytest.raises(
        MismatchError, match=r"other weights or blocks than are turned here: 0\.weight, 9\.weight"
    ):
        at_work.load_state_dict(state)


def test_weights_of_another_optimizer_are_left_alone():
    model = small_model(1)
    found = find_invariant(model, small_batches(2)[0][0])
    optimizer = torch.optim.SGD(model[3].parameters(), lr=0.5)
    before = model[0].weight.detach().clone()
    Hyperball().attach(optimizer, found)
    model(small_batches(2)[0][0]).square().sum().backward()
    optimizer.step()
    assert torch.equal(model[0].weight, before)


def test_an_optimizer_without_a_closed_form_is_refused():
    model = small_model(1)
    optimizer = torch.optim.Adagrad(model.parameters())
    with pytest.raises(
        InvalidInputError, match="works with sgd, adam, adamw, lion only, not with adagrad: no closed"
    ):
        RotationalEquilibrium(0.1).attach(optimizer, find_invariant(model, small_batches(2)[0][0]))


def test_a_closure_is_refused_and_no_weight_is_touched():
    model, _, optimizer, _ = turned(Hyperball())
    before = model[0].weight.detach().clone()
    with pytest.raises(InvalidInputError, match="Hyperball needs the gradients before the step"):
        optimizer.step(lambda: 0.0)
    assert torch.equal(model[0].weight, before)


def test_dampening_counts_as_a_smaller_learning_rate():
    model, found, optimizer, _ = turned(RotationalEquilibrium(0.1, 0.0), momentum=0.9, dampening=0.5)
    before = model[0].weight.detach().clone()
    model[0].weight.grad = torch.randn(5, 6).double()
    optimizer.step()
    angles = angular_update_rad(before, model[0].weight.detach(), found[0].blocks)
    expected = equilibrium.sgd(0.25, 0.1, momentum=0.9).angle_rad
    torch.testing.assert_close(angles, torch.full_like(angles, expected))
