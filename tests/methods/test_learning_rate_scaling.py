"""Learning-rate scaling: the factor by hand, resuming, and what it refuses."""

import copy
import re

import pytest
import torch
from torch import nn

from decayfree import find_invariant
from decayfree.errors import InvalidInputError, MismatchError
from decayfree.methods import LearningRateScaling

METHOD = LearningRateScaling(replayed_weight_decay=0.01)


@pytest.fixture
def model(seed):
    return nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2), nn.Linear(2, 2))


@pytest.fixture
def found(model):
    return find_invariant(model, torch.randn(8, 2))


def sgd(model, **settings):
    return torch.optim.SGD(model.parameters(), lr=0.5, **settings)


def test_rows_of_norm_5_and_10_against_norm_5_get_one_and_four_times_the_rate(model, found):
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 4.0], [6.0, 8.0]]))
    at_work = METHOD.attach(sgd(model), found, replayed={"0.weight": torch.full((1, 2), 5.0)})
    assert torch.equal(at_work.learning_rates(found["0.weight"], 0.5), torch.tensor([0.5, 2.0]))


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.Adagrad])
def test_where_the_effective_rate_goes_with_one_over_the_norm_the_factor_does_too(model, found, kind):
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 4.0], [6.0, 8.0]]))
    optimizer = kind(model.parameters(), lr=0.5)
    at_work = METHOD.attach(optimizer, found, replayed={"0.weight": torch.full((1, 2), 5.0)})
    assert torch.equal(at_work.learning_rates(found["0.weight"], 0.5), torch.tensor([0.5, 1.0]))


def test_an_optimizer_that_nobody_knows_is_refused(model, found):
    with pytest.raises(InvalidInputError, match="LBFGS has no effective learning rate"):
        METHOD.attach(torch.optim.LBFGS(model.parameters()), found, replayed={"0.weight": torch.ones(1, 2)})


def test_the_whole_update_is_scaled_momentum_included(model, found):
    optimizer = sgd(model, momentum=0.5)
    replayed = {"0.weight": torch.full((2, 2), 1.0)}
    METHOD.attach(optimizer, found, replayed=replayed)
    expected = torch.zeros(2, 2)
    for gradient in (torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [4.0, 0.0]])):
        weight = model[0].weight.detach().clone()
        model[0].weight.grad = gradient
        expected = 0.5 * expected + gradient  # the buffer
        optimizer.step()
        step = 0.5 * expected * (weight**2).sum(dim=1, keepdim=True)
        torch.testing.assert_close(model[0].weight.detach(), weight - step)


def norm_after_one_gradient(model, found, angle, momentum):
    """Norm of a row of norm 1 that one gradient turns by ``angle``, 60 steps later, replaying a norm of 1."""
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=momentum)
    METHOD.attach(optimizer, found, replayed={"0.weight": torch.ones(60, 2)})
    for step in range(60):
        model[0].weight.grad = torch.tensor([[0.0, angle], [0.0, 0.0]]).double() * (step == 0)
        optimizer.step()
    return model[0].weight.detach()[0].norm().item()


@pytest.mark.parametrize(
    ("angle", "momentum", "low", "high"),
    [
        (0.1, 0.9, 1.5, 2.0),  # in continuous time √(1 + tan²(0.1/(1−μ))) = 1.85
        (0.15, 0.9, 5.0, 20.0),
        (0.18, 0.9, 1e15, 1e19),  # beyond π/2·(1−μ) = 0.157 only rounding ends it
        (0.18, 0.0, 1.01, 1.02),  # √(1 + 0.18²)
    ],
)
def test_with_momentum_a_norm_runs_away_beyond_a_certain_angle(model, found, angle, momentum, low, high):
    assert low < norm_after_one_gradient(model.double(), found, angle, momentum) < high


def test_a_groupnorm_block_is_scaled_with_its_bias(seed):
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(36, 2))
    found = find_invariant(model, torch.randn(4, 2, 3, 3))
    assert found["0.weight"].bias == "0.bias"
    optimizer = sgd(model)
    norm_of_two = torch.full((1, 2), 2.0)
    METHOD.attach(optimizer, found, replayed={"0.weight": norm_of_two})
    weight, bias = model[0].weight.detach().clone(), model[0].bias.detach().clone()
    model[0].weight.grad, model[0].bias.grad = torch.ones_like(weight), torch.ones_like(bias)
    optimizer.step()
    for rows in (slice(0, 2), slice(2, 4)):
        factor = (weight[rows].square().sum() + bias[rows].square().sum()) / 4
        torch.testing.assert_close(model[0].weight.detach()[rows], weight[rows] - 0.5 * factor)
        torch.testing.assert_close(model[0].bias.detach()[rows], bias[rows] - 0.5 * factor)


def test_a_step_that_takes_that_of_its_base_class_is_scaled_once(model, found):
    class Calling(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    twin = copy.deepcopy(model)
    replayed = {"0.weight": torch.full((3, 2), 2.0)}
    for network, kind in ((twin, torch.optim.SGD), (model, Calling)):  # torch prepares both classes
        optimizer = kind(network.parameters(), lr=0.5)
        of_network = find_invariant(network, torch.randn(8, 2))
        at_work = METHOD.attach(optimizer, of_network, replayed=replayed)
        for factor in (1.0, 2.0):
            optimizer.zero_grad()
            network(factor * torch.eye(2)).square().sum().backward()
            optimizer.step()
        assert at_work.state_dict() == {"n_steps": 2}
    for (name, mine), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, theirs), name


def test_what_is_not_scale_invariant_takes_the_optimizers_own_step(model, found):
    twin = copy.deepcopy(model)
    optimizer, plain = sgd(model), sgd(twin)
    METHOD.attach(optimizer, found, replayed={"0.weight": torch.full((1, 2), 9.0)})
    inputs = torch.randn(8, 2)
    for network, its_optimizer in ((model, optimizer), (twin, plain)):
        network(inputs).square().sum().backward()
        its_optimizer.step()
    assert torch.equal(model[2].weight, twin[2].weight)
    assert torch.equal(model[1].bias, twin[1].bias)
    assert not torch.equal(model[0].weight, twin[0].weight)


def test_it_goes_on_with_the_row_after_the_last(model, found):
    replayed = {"0.weight": torch.tensor([[1.0, 1.0], [2.0, 2.0]])}
    at_work = METHOD.attach(sgd(model), found, replayed=replayed)
    first = at_work.learning_rates(found["0.weight"], 1.0)
    at_work.load_state_dict({"n_steps": 1})
    assert torch.equal(at_work.learning_rates(found["0.weight"], 1.0), first / 4)
    assert at_work.state_dict() == {"n_steps": 1}


def test_norms_are_needed(model, found):
    with pytest.raises(InvalidInputError, match="needs the block norms of a weight-decay run: pass them"):
        METHOD.attach(sgd(model), found)


@pytest.mark.parametrize(
    ("norms", "message"),
    [
        (None, "0.weight: no norms are given for it"),
        (torch.ones(4, 3), "0.weight: expected shape (n_steps, 2), got (4, 3)"),
        (torch.ones(2), "0.weight: expected shape (n_steps, 2), got (2,)"),
        (torch.tensor([[1.0, 0.0]]), "0.weight: norms must be finite and above 0"),
        (torch.tensor([[1.0, float("nan")]]), "0.weight: norms must be finite and above 0"),
    ],
)
def test_norms_that_do_not_fit_are_refused(model, found, norms, message):
    with pytest.raises(MismatchError, match=re.escape(message)):
        METHOD.attach(sgd(model), found, replayed={} if norms is None else {"0.weight": norms})


def test_a_replayed_run_that_is_too_short_is_an_error_and_the_step_is_not_taken(model, found):
    optimizer = sgd(model)
    METHOD.attach(optimizer, found, replayed={"0.weight": torch.ones(1, 2)})
    model(torch.randn(8, 2)).square().sum().backward()
    optimizer.step()
    before = model[0].weight.detach().clone()
    with pytest.raises(MismatchError, match="the replayed run has 1 steps, and this would be step 2"):
        optimizer.step()
    assert torch.equal(model[0].weight, before)
