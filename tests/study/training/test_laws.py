"""What algebra says of a run, against torch's optimizer on weights with the off-span part as a column."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from decayfree import find_invariant
from decayfree.invariance.result import Invariance
from decayfree.methods import WRS, ExactReplay, LearningRateScaling, NoTreatment, WeightDecay
from decayfree.study import OptimizerSpec, equilibrium_at
from decayfree.study.training.laws import OffSpanLaw
from support.small_study import recipe

N_STEPS = 60


def problem():
    """Three features, the last of them always the same: what a row has there is off the span."""
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double()
    inputs = torch.randn(N_STEPS, 32, 3, dtype=torch.float64)
    inputs[..., 2] = 1.5
    return model, find_invariant(model, inputs[0]), inputs, torch.randint(2, (N_STEPS, 32))


@pytest.mark.parametrize(
    ("method", "momentum", "nesterov"),
    [
        (NoTreatment(), 0.9, False),
        (WeightDecay(0.02), 0.0, False),
        (WeightDecay(0.02), 0.9, False),
        (WeightDecay(0.02), 0.8, True),
        (WRS(radius=0.7), 0.9, False),
        (WRS(), 0.9, True),
    ],
)
def test_the_off_span_part_is_as_long_as_its_law_says_after_every_step(seed, method, momentum, nesterov):
    model, found, inputs, labels = problem()
    groups = method.param_groups(model, found, rest_weight_decay=0.1)
    optimizer = torch.optim.SGD(groups, lr=0.3, momentum=momentum, nesterov=nesterov)
    method.attach(optimizer, found)
    law = OffSpanLaw(optimizer, found, "0.weight", model[0].weight.detach()[:, 2].abs())
    lengths = [law.lengths]
    for step in range(N_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 0.3 * (1 - step / N_STEPS)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[step]), labels[step]).backward()
        optimizer.step()
        law.step()
        lengths.append(law.lengths)
        torch.testing.assert_close(law.lengths, model[0].weight.detach()[:, 2].abs(), rtol=1e-11, atol=1e-15)
    moved = (lengths[-1] / lengths[0] - 1).abs().max()
    assert moved == 0 if isinstance(method, NoTreatment) else moved > 0.01


def test_a_scaled_learning_rate_moves_no_off_span_part(seed):
    model, found, inputs, labels = problem()
    method = LearningRateScaling(0.02)
    optimizer = torch.optim.SGD(
        method.param_groups(model, found, rest_weight_decay=0.0), lr=0.3, momentum=0.9
    )
    method.attach(optimizer, found, replayed={"0.weight": 0.5 + torch.rand(N_STEPS, 4)})
    before = model[0].weight.detach()[:, 2].abs()
    law = OffSpanLaw(optimizer, found, "0.weight", before)
    for step in range(N_STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[step]), labels[step]).backward()
        optimizer.step()
        law.step()
    assert torch.equal(law.lengths, before)
    torch.testing.assert_close(model[0].weight.detach()[:, 2].abs(), before, rtol=1e-11, atol=0)


def moved_off_span(factor, dtype):
    """How far 60 steps, scaled by ``factor`` or more, move rows off the span of two equal features.

    Relative to what was there; the learning rate is divided by the factor, so that the trainings are alike.
    """
    torch.manual_seed(0)
    model, _, inputs, labels = problem()
    inputs = torch.randn_like(inputs)
    inputs[..., 1] = inputs[..., 0]  # gradients are equal there, weights are not, and round differently
    model, inputs = model.to(dtype), inputs.to(dtype)
    found, method, weight = find_invariant(model, inputs[0]), LearningRateScaling(0.02), model[0].weight
    norms = torch.linalg.vector_norm(weight.detach(), dim=1)
    optimizer = torch.optim.SGD(
        method.param_groups(model, found, rest_weight_decay=0.0), lr=0.3 / factor, momentum=0.0
    )
    method.attach(optimizer, found, replayed={"0.weight": (norms / factor**0.5).expand(N_STEPS, 4)})
    before = (weight[:, 0] - weight[:, 1]).detach().double()
    for step in range(N_STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[step]), labels[step]).backward()
        optimizer.step()
    return float(torch.dist((weight[:, 0] - weight[:, 1]).detach().double(), before) / before.norm())


def test_a_scaled_step_enlarges_its_rounding_and_so_leaves_the_law_in_float32():
    small, large = (moved_off_span(factor, torch.float32) for factor in (1.0, 1e4))
    assert small < 1e-6
    assert 1e-3 < large < 1e-1
    assert 1e3 < large / small < 1e5, "in proportion to the factor"
    assert moved_off_span(1e4, torch.float64) < 1e-10


@pytest.mark.parametrize("nesterov", [False, True])
def test_an_exact_replay_shrinks_the_off_span_part_as_the_decay_that_it_replays(seed, nesterov):
    model, found, inputs, labels = problem()
    method = ExactReplay(0.02)
    optimizer = torch.optim.SGD(
        method.param_groups(model, found, rest_weight_decay=0.0), lr=0.3, momentum=0.9, nesterov=nesterov
    )
    norms = 0.5 + torch.rand(N_STEPS, 4)
    method.attach(optimizer, found, replayed={"0.weight": norms})
    before = model[0].weight.detach()[:, 2].abs()
    law = OffSpanLaw(optimizer, found, "0.weight", before, replayed_weight_decay=0.02, replayed=norms)
    for step in range(N_STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[step]), labels[step]).backward()
        optimizer.step()
        law.step()
        torch.testing.assert_close(law.lengths, model[0].weight.detach()[:, 2].abs(), rtol=1e-6, atol=1e-12)
    assert (law.lengths / before).max() < 0.8


def test_plain_decay_is_geometric(seed):
    model, found, _, _ = problem()
    groups = WeightDecay(0.5).param_groups(model, found, rest_weight_decay=0.0)
    law = OffSpanLaw(torch.optim.SGD(groups, lr=0.5), found, "0.weight", torch.tensor([1.0, 2.0, 0.0, 4.0]))
    for _ in range(2):
        law.step()
    assert law.lengths.tolist() == [0.5625, 1.125, 0.0, 2.25]  # (1 − 0.25)² of it


def test_a_part_that_swings_through_zero_has_a_length(seed):
    model, found, _, _ = problem()
    groups = WeightDecay(3.0).param_groups(model, found, rest_weight_decay=0.0)
    law = OffSpanLaw(torch.optim.SGD(groups, lr=0.5), found, "0.weight", torch.ones(4))
    law.step()
    assert law.lengths.tolist() == [0.5] * 4  # 1 − 1.5


def test_a_law_goes_on_from_its_state(seed):
    model, found, _, _ = problem()
    groups = WeightDecay(0.02).param_groups(model, found, rest_weight_decay=0.0)
    optimizer = torch.optim.SGD(groups, lr=0.3, momentum=0.9)
    law, other = (OffSpanLaw(optimizer, found, "0.weight", torch.full((4,), start)) for start in (1.0, 7.0))
    law.step()
    other.load_state_dict(law.state_dict())
    law.step()
    other.step()
    assert torch.equal(law.lengths, other.lengths)


@pytest.mark.parametrize(
    ("step", "momentum", "squared_chord", "steps"),
    [
        (0, 0.0, 2 * 0.4 * 0.05, 1 / (4 * 0.4 * 0.05)),
        (0, 0.6, 2 * 0.4 * 0.05 / 1.6, 0.4 / (4 * 0.4 * 0.05)),
        (8, 0.6, 2 * 0.2 * 0.05 / 1.6, 0.4 / (4 * 0.2 * 0.05)),  # half of the first learning rate
    ],
)
def test_the_balance_under_decay_is_that_of_the_scheduled_learning_rate(step, momentum, squared_chord, steps):
    settings = recipe(learning_rate=0.4, optimizer=OptimizerSpec(momentum=momentum))
    balance = equilibrium_at(WeightDecay(0.05), settings, step)
    assert balance.angle_rad == pytest.approx(2 * math.asin(math.sqrt(squared_chord) / 2))
    assert balance.time_constant_steps == pytest.approx(steps)


def test_nesterov_turns_further(seed):
    plain, nesterov = (
        equilibrium_at(WeightDecay(0.01), recipe(optimizer=OptimizerSpec(nesterov=flag)), 0)
        for flag in (False, True)
    )
    assert 1.1 < nesterov.angle_rad / plain.angle_rad < 1.2


@pytest.mark.parametrize(
    "method", [NoTreatment(), LearningRateScaling(0.01), WRS()], ids=lambda method: method.name
)
def test_without_decay_there_is_no_balance(method):
    assert equilibrium_at(method, recipe(), 0) is None


def test_decay_that_is_decoupled_has_a_balance_of_its_own():
    spec = recipe(schedule="constant")
    coupled = equilibrium_at(WeightDecay(0.01), spec, 0)
    decoupled = equilibrium_at(WeightDecay(0.01, form="decoupled"), spec, 0)
    # √(1 − momentum).
    assert decoupled.angle_rad == pytest.approx(coupled.angle_rad * math.sqrt(0.1), rel=0.01)


def test_the_balance_of_other_optimizers_is_not_told():
    assert equilibrium_at(WeightDecay(0.01), recipe(optimizer=OptimizerSpec("adamw")), 0) is None
    assert equilibrium_at(WeightDecay(0.0), recipe(), 0) is None


def test_decay_that_would_turn_a_weight_around_in_a_step_has_no_balance():
    spec = recipe(schedule="constant", learning_rate=0.5)
    assert equilibrium_at(WeightDecay(2.0), spec, 0) is None
    assert equilibrium_at(WeightDecay(1.9), spec, 0) is not None


def test_rows_that_are_not_held_are_not_replayed(seed):
    model, found, _, _ = problem()
    known = found.to_dict()
    known["weights"][0] |= {"block_sizes": (1, 1), "starts": (1, 3)}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    replayed = torch.tensor([[1.0, 2.0], [2.0, 2.0]])
    some = Invariance.from_dict(known, model)
    law = OffSpanLaw(optimizer, some, "0.weight", torch.ones(4), replayed_weight_decay=0.5, replayed=replayed)
    law.step()
    law.step()
    # 1 − 0.1·0.5, then less 0.1·(0.9·0.5·r/r₋ + 0.5·0.95), where r/r₋ is 1/2 in row 1 and 1 elsewhere.
    assert law.lengths.tolist() == pytest.approx([0.8575, 0.88, 0.8575, 0.8575], rel=1e-12)
