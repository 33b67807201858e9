"""What holds for every method: its settings, its parameter groups, its state."""

import dataclasses
import io
import math

import pytest
import torch
from torch import nn

from decayfree import find_invariant
from decayfree.methods import METHODS, WRS, ExactReplay, LearningRateScaling, NoTreatment, WeightDecay
from small_study import METHODS as STUDIED

ONE_OF_EACH = (*STUDIED, ExactReplay(replayed_weight_decay=0.01))
each_method = pytest.mark.parametrize("method", ONE_OF_EACH, ids=lambda method: method.name)


@pytest.fixture
def model(seed):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
    )


@pytest.fixture
def found(model):
    return find_invariant(model, torch.randn(8, 3, 6, 6))


def attached(method, model, found):
    groups = method.param_groups(model, found, rest_weight_decay=0.0)
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    replayed = {weight.name: torch.full((20, weight.blocks.n_blocks), 0.7) for weight in found}
    return optimizer, method.attach(optimizer, found, replayed=replayed if method.replays else None)


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.randn(8, 3, 6, 6)).square().mean().backward()
    optimizer.step()


def test_one_of_each_is_tested():
    assert {method.name for method in ONE_OF_EACH} == set(METHODS)


@each_method
def test_a_method_is_made_again_from_its_settings(method):
    assert METHODS[method.name](**dataclasses.asdict(method)) == method


@each_method
def test_every_parameter_is_in_one_group_and_only_weight_decay_decays_the_found_ones(method, model, found):
    groups = method.param_groups(model, found, rest_weight_decay=0.25)
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(decay) == len(list(model.parameters()))
    expected = 0.01 if method.name == "weight_decay" else 0.0
    for name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (expected if name == "0.weight" else 0.25)


@each_method
def test_the_state_loads_with_weights_only(method, model, found):
    optimizer, at_work = attached(method, model, found)
    step(model, optimizer)
    file = io.BytesIO()
    torch.save(at_work.state_dict(), file)
    file.seek(0)
    at_work.load_state_dict(torch.load(file, weights_only=True))


@each_method
def test_the_learning_rate_of_a_block_is_what_its_update_got(method, model, found):
    optimizer, at_work = attached(method, model, found)
    weight = model[0].weight
    before = weight.detach().clone()
    rates = at_work.learning_rates(found["0.weight"], 0.1).broadcast_to(4).clone()
    step(model, optimizer)
    gradient = weight.grad + (0.01 * before if method.name == "weight_decay" else 0)
    expected = before - rates.view(4, 1, 1, 1) * gradient
    if method.name == "exact_replay":
        expected -= 0.1 * 0.01 * before
    if method.name in ("wrs", "exact_replay"):
        expected *= getattr(method, "radius", 1.0) / torch.linalg.vector_norm(
            expected, dim=(1, 2, 3), keepdim=True
        )
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-5, atol=1e-7)


def test_labels_name_the_settings():
    assert [
        method.label
        for method in (NoTreatment(), WeightDecay(5e-4), LearningRateScaling(5e-4), ExactReplay(5e-4), WRS())
    ] == [
        "no decay",
        "weight decay 0.0005",
        "learning-rate scaling (as 0.0005)",
        "exact replay (of 0.0005)",
        "WRS, radius 1",
    ]


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        (WeightDecay, "weight_decay"),
        (LearningRateScaling, "replayed_weight_decay"),
        (ExactReplay, "replayed_weight_decay"),
        (WRS, "radius"),
    ],
)
def test_a_setting_out_of_range_is_named(kind, setting, value):
    (fault,) = kind(value).faults()
    assert fault == f"{setting} must be a finite number above 0, got {value}"


def test_settings_in_range_have_no_fault():
    assert [method.faults() for method in ONE_OF_EACH] == [[], [], [], [], []]


def test_two_methods_replay_and_they_replay_weight_decay():
    assert {method.name: method.replays for method in ONE_OF_EACH} == {
        "none": None,
        "weight_decay": None,
        "learning_rate_scaling": WeightDecay(0.01),
        "exact_replay": WeightDecay(0.01),
        "wrs": None,
    }
