"""What holds for every method: its settings, its parameter groups, its state."""

import dataclasses
import io
import math

import pytest
import torch
from torch import nn

from decayfree import find_invariant
from decayfree.methods import (
    METHODS,
    WRS,
    ExactReplay,
    Hyperball,
    LearningRateScaling,
    NoTreatment,
    Projection,
    RotationalEquilibrium,
    RunLength,
    TurningMethod,
    WeightDecay,
    WeightNormalization,
    WeightStandardization,
)
from support.small_study import METHODS as STUDIED

ONE_OF_EACH = (
    *STUDIED,
    ExactReplay(replayed_weight_decay=0.01),
    TurningMethod(),
    Projection(),
    WeightStandardization(),
    WeightNormalization(),
    Hyperball(),
    RotationalEquilibrium(weight_decay=0.01),
)
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
    """An optimizer with the method at work, and what is scale-invariant under it."""
    found = method.prepare(model, found)
    groups = method.param_groups(model, found, rest_weight_decay=0.0)
    settings = {"lr": 0.1, "momentum": 0.9}
    optimizer = method.optimizer("sgd", groups, settings) or torch.optim.SGD(groups, **settings)
    replayed = {weight.name: torch.full((20, weight.blocks.n_blocks), 0.7) for weight in found}
    length = RunLength(5, 20)
    replayed = replayed if method.replays else None
    return optimizer, method.attach(optimizer, found, replayed=replayed, length=length), found


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
    found = method.prepare(model, found)
    groups = method.param_groups(model, found, rest_weight_decay=0.25)
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert sum(len(group["params"]) for group in groups) == len(decay) == len(trained)
    expected = 0.01 if method.name == "weight_decay" else 0.0
    for name, parameter in trained.items():
        assert decay[id(parameter)] == (expected if found.holds(name) else 0.25)


@each_method
def test_the_state_loads_with_weights_only(method, model, found):
    optimizer, at_work, _ = attached(method, model, found)
    step(model, optimizer)
    file = io.BytesIO()
    torch.save(at_work.state_dict(), file)
    file.seek(0)
    at_work.load_state_dict(torch.load(file, weights_only=True))


@each_method
def test_the_learning_rate_of_a_block_is_what_its_update_got(method, model, found):
    optimizer, at_work, (weight,) = attached(method, model, found)
    tensor = model.get_parameter(weight.name)
    before = tensor.detach().clone()
    rates = at_work.learning_rates(weight, 0.1)
    step(model, optimizer)
    if bool(rates.isnan().any()):  # known once the size of an update is
        rates = at_work.learning_rates(weight, 0.1)
    gradient = tensor.grad + (0.01 * before if method.name == "weight_decay" else 0)
    if method.name == "weight_standardization":
        centered = before - before.mean(dim=(1, 2, 3), keepdim=True)
        rates = rates * (norms(centered) / norms(before)).square().flatten()
    expected = before - rates.broadcast_to(4).view(4, 1, 1, 1) * gradient
    if method.name == "exact_replay":
        expected -= 0.1 * 0.01 * before
    if method.name in ("wrs", "exact_replay"):
        expected *= getattr(method, "radius", 1.0) / norms(expected)
    if method.name in ("hyperball", "rotational_equilibrium", "turning"):
        expected *= norms(before) / norms(expected)
    torch.testing.assert_close(tensor.detach(), expected, rtol=1e-4, atol=1e-6)


def test_wrs_rescales_as_often_and_as_it_is_told(model, found):
    optimizer, _, _ = attached(WRS(2.0, every=2, momentum="scale"), model, found)
    for group in optimizer.param_groups:
        group["lr"] = 10.0
    for n_steps in (1, 2):
        buffer = optimizer.state.get(model[0].weight, {}).get("momentum_buffer", torch.zeros(()))
        before = buffer.clone()
        step(model, optimizer)
        on_radius = torch.allclose(norms(model[0].weight), torch.tensor(2.0), rtol=1e-6)
        assert on_radius == (n_steps == 2)
    plain = 0.9 * before + model[0].weight.grad
    ratios = optimizer.state[model[0].weight]["momentum_buffer"] / plain
    assert (ratios > 1.001).all()  # divided by factors below 1


def test_wrs_with_the_initial_radius_keeps_the_norms_of_initialization(model, found):
    before = norms(model[0].weight.detach())
    optimizer, _, _ = attached(WRS("init"), model, found)
    for _ in range(3):
        step(model, optimizer)
    torch.testing.assert_close(norms(model[0].weight.detach()), before)


def norms(weight):
    return torch.linalg.vector_norm(weight, dim=(1, 2, 3), keepdim=True)


def test_labels_name_the_settings_and_tell_methods_apart():
    labels = {
        NoTreatment(): "no decay",
        WeightDecay(5e-4): "weight decay 0.0005",
        WeightDecay(0.0): "weight decay 0",
        WeightDecay(5e-4, "coupled"): "coupled weight decay 0.0005",
        WeightDecay(5e-4, "decoupled"): "decoupled weight decay 0.0005",
        LearningRateScaling(5e-4): "learning-rate scaling (as 0.0005)",
        ExactReplay(5e-4): "exact replay (of 0.0005)",
        WRS(): "WRS, radius 1",
        WRS("init"): "WRS, initial radius",
        WRS(2.0, 10, "scale"): "WRS, radius 2, every 10 steps, momentum scaled",
        Projection(): "SGDP / AdamP",
        Projection(0.2, 0.5, 0.01): "SGDP / AdamP, weight decay 0.01, delta 0.2, wd_ratio 0.5",
        WeightStandardization(): "weight standardization",
        WeightNormalization(): "weight normalization",
        Hyperball(): "Hyperball",
        RotationalEquilibrium(5e-4): "rotational equilibrium (of 0.0005)",
        RotationalEquilibrium(5e-4, 0.0): "rotational equilibrium (of 0.0005, averaging 0)",
    }
    assert {method: method.label for method in labels} == labels
    assert len(set(labels.values())) == len(labels)


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        (WeightDecay, "weight_decay"),
        (LearningRateScaling, "replayed_weight_decay"),
        (ExactReplay, "replayed_weight_decay"),
        (Projection, "delta"),
        (Projection, "wd_ratio"),
        (Projection, "weight_decay"),
    ],
)
def test_a_setting_out_of_range_is_named(kind, setting, value):
    (fault,) = kind(**{setting: value}).faults()
    assert fault == f"{setting} must be a finite number from 0, got {value}"
    assert not kind(**{setting: 0.0}).faults()


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize(("kind", "setting"), [(WRS, "radius"), (RotationalEquilibrium, "weight_decay")])
def test_a_setting_that_must_be_above_zero_says_so(kind, setting, value):
    (fault,) = kind(**{setting: value}).faults()
    assert fault == f"{setting} must be a finite number above 0, got {value}"


def test_all_faults_are_there_at_once():
    assert WRS(0.0, 0).faults() == [
        "radius must be a finite number above 0, got 0.0",
        "every must be a whole number of at least 1, got 0",
    ]
    assert RotationalEquilibrium(0.0, 1.0).faults() == [
        "weight_decay must be a finite number above 0, got 0.0",
        "averaging must be at least 0 and below 1, got 1.0",
    ]
    assert not WRS("init").faults()


def test_settings_in_range_have_no_fault():
    assert [method.faults() for method in ONE_OF_EACH] == [[] for _ in ONE_OF_EACH]


def test_two_methods_replay_and_they_replay_weight_decay():
    assert {method.name: method.replays for method in ONE_OF_EACH if method.replays is not None} == {
        "learning_rate_scaling": WeightDecay(0.01),
        "exact_replay": WeightDecay(0.01),
    }
