"""What a run costs: bytes that can be counted by hand, seconds that are divided by epochs."""

import pytest
import torch
from torch import nn

from decayfree import find_invariant
from decayfree.methods import WRS, LearningRateScaling, NoTreatment
from decayfree.study.training.cost import cost_of


@pytest.fixture
def parts(seed):
    """A layer of 6 numbers before a BatchNorm of 4: 40 bytes of parameters."""
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2))
    found = find_invariant(model, torch.randn(8, 3))
    return model, found, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def step(model, optimizer):
    model(torch.randn(8, 3)).square().sum().backward()
    optimizer.step()


def test_bytes_are_those_of_parameters_and_of_what_the_optimizer_remembers(parts):
    model, found, optimizer = parts
    method = NoTreatment().attach(optimizer, found)
    assert cost_of(model, optimizer, method, steps_s=0.0, n_epochs=0.0) == {
        "seconds_per_epoch": 0.0,
        "parameter_bytes": 40.0,
        "optimizer_state_bytes": 0.0,
        "method_state_bytes": 0.0,
    }
    step(model, optimizer)
    cost = cost_of(model, optimizer, method, steps_s=6.0, n_epochs=4.0)
    assert (cost["seconds_per_epoch"], cost["optimizer_state_bytes"]) == (1.5, 40.0)


def test_what_a_method_holds_counts_and_the_model_that_it_knows_does_not(parts):
    model, found, optimizer = parts
    scaling = LearningRateScaling(0.1).attach(optimizer, found, replayed={"0.weight": torch.ones(5, 2)})
    step(model, optimizer)
    held = cost_of(model, optimizer, scaling, steps_s=1.0, n_epochs=1.0)["method_state_bytes"]
    assert held == 4 * 5 * 2  # the norms that it replays, and nothing of the step


def test_rescaling_holds_a_few_numbers_for_each_block(parts):
    model, found, optimizer = parts
    rescaling = WRS().attach(optimizer, found)
    step(model, optimizer)
    held = cost_of(model, optimizer, rescaling, steps_s=1.0, n_epochs=1.0)["method_state_bytes"]
    assert 0 < held <= 200


def test_views_of_weights_are_not_counted_again(seed):
    """What a rescaling holds of many weights are views of them."""
    model = nn.Sequential(
        *(layer for _ in range(4) for layer in (nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64)))
    )
    found = find_invariant(model, torch.randn(32, 64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    cost = cost_of(model, optimizer, WRS().attach(optimizer, found), steps_s=1.0, n_epochs=1.0)
    assert cost["method_state_bytes"] < 0.2 * cost["parameter_bytes"]
