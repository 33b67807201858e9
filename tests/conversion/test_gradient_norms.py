"""Gradient norms at unit norm: by hand, beside a training, and what is left out."""

import pytest
import torch
from torch import nn

import decayfree
from decayfree.conversion.gradient_norms import GradientNorms
from decayfree.errors import InvalidInputError, MismatchError
from support.networks import digit_losses, find, mixed_net, step_once


@pytest.fixture
def model(seed):
    return nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2), nn.Linear(2, 2))


@pytest.fixture
def found(model):
    return decayfree.find_invariant(model, torch.randn(8, 2))


def sgd(model, **settings):
    return torch.optim.SGD(model.parameters(), lr=0.0, **settings)


def give(model, weight, gradient):
    model[0].weight.data = torch.tensor(weight)
    model[0].weight.grad = torch.tensor(gradient)


def test_it_is_the_root_mean_square_over_steps_of_gradient_norm_times_norm(model, found):
    optimizer = sgd(model)
    with GradientNorms(optimizer, found) as measured:
        give(model, [[3.0, 4.0], [1.0, 0.0]], [[-0.8, 0.6], [0.0, 2.0]])  # 5·1 and 1·2
        optimizer.step()
        give(model, [[0.0, 1.0], [2.0, 0.0]], [[7.0, 0.0], [0.0, 2.0]])  # 1·7 and 2·2
        optimizer.step()
    # (25 + 49)/2, (4 + 16)/2.
    torch.testing.assert_close(measured["0.weight"], torch.tensor([37.0, 10.0]).sqrt())
    assert dict(measured).keys() == {"0.weight"}
    assert repr(measured) == "GradientNorms(1 weights, 2 steps)"


def test_nothing_counts_after_the_end(model, found):
    optimizer = sgd(model)
    with GradientNorms(optimizer, found) as measured:
        give(model, [[3.0, 4.0], [1.0, 0.0]], [[-0.8, 0.6], [0.0, 2.0]])
        optimizer.step()
    before = measured["0.weight"]
    give(model, [[3.0, 4.0], [1.0, 0.0]], [[-8.0, 6.0], [0.0, 20.0]])
    optimizer.step()
    assert measured.n_steps == 1
    assert torch.equal(measured["0.weight"], before)


def test_l2_regularization_and_the_weights_scale_play_no_part(seed):
    norms = []
    for factor, settings in ((1.0, {}), (8.0, {}), (1.0, {"weight_decay": 10.0})):
        model = mixed_net()
        with torch.no_grad():
            for name in ("conv.weight", "hidden.weight", "hidden.bias"):
                model.get_parameter(name).mul_(factor)
        optimizer = sgd(model, **settings)
        with GradientNorms(optimizer, find(model)) as measured:
            for loss in digit_losses(3):
                step_once(model, optimizer, loss)
        norms.append(dict(measured))
    for other in norms[1:]:
        for name, values in norms[0].items():
            torch.testing.assert_close(values, other[name], rtol=1e-9, atol=0)
    assert norms[0]["transposed.weight"].shape == (4,)
    assert norms[0]["hidden.weight"].shape == (1,)


def test_a_bias_that_belongs_to_the_block_counts(seed):
    model = nn.Sequential(nn.Linear(1, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    found = decayfree.find_invariant(model, torch.randn(8, 1))
    optimizer = sgd(model)
    with GradientNorms(optimizer, found) as measured:
        model[0].weight.data, model[0].bias.data = (
            torch.tensor([[1.0], [0.0], [2.0]]),
            torch.tensor([0.0, 2.0, 0.0]),
        )
        model[0].weight.grad, model[0].bias.grad = torch.zeros(3, 1), torch.tensor([0.0, 3.0, 4.0])
        optimizer.step()
    assert measured["0.weight"].tolist() == [15.0]  # √(1 + 4 + 4)·5


def test_steps_without_a_finite_gradient_are_left_out(model, found):
    optimizer = sgd(model)
    with GradientNorms(optimizer, found) as measured:
        optimizer.step()
        give(model, [[3.0, 4.0], [1.0, 0.0]], [[float("inf"), 0.6], [0.0, 2.0]])
        optimizer.step()
        give(model, [[3.0, 4.0], [1.0, 0.0]], [[-0.8, 0.6], [0.0, 4.0]])
        optimizer.step()
    assert measured.n_steps == 3
    torch.testing.assert_close(measured["0.weight"], torch.tensor([5.0, 10**0.5]))


def test_a_grad_scaler_plays_no_part_even_where_the_step_unscales(seed):
    norms = []
    for scale, settings in ((None, {}), (4.0, {}), (4.0, {"fused": True})):
        model = mixed_net()
        optimizer = sgd(model, **settings)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        with GradientNorms(optimizer, find(model)) as measured:
            for loss in digit_losses(2):
                optimizer.zero_grad()
                scaler.scale(loss(model)).backward()
                scaler.step(optimizer)
                scaler.update()
        norms.append(measured["conv.weight"])
    torch.testing.assert_close(norms[1], norms[0])
    torch.testing.assert_close(norms[2], norms[0])


def test_training_is_not_touched(seed):
    runs = []
    for is_measured in (False, True):
        model = mixed_net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        measured = GradientNorms(optimizer, find(model)) if is_measured else None
        for loss in digit_losses(3):
            step_once(model, optimizer, loss)
        runs.append(model.state_dict())
        assert measured is None or measured.n_steps == 3
    assert all(torch.equal(values, runs[1][name]) for name, values in runs[0].items())


def test_what_was_not_seen_is_an_error(model, found):
    measured = GradientNorms(sgd(model), found)
    with pytest.raises(
        MismatchError, match=r"0\.weight: no finite gradient was seen in 0 steps; train a few"
    ):
        measured["0.weight"]
    with pytest.raises(MismatchError, match=r"'2\.weight' is none of the 1 weights that were measured"):
        measured["2.weight"]


def test_another_models_optimizer_is_refused(model, found):
    other = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    with pytest.raises(
        MismatchError, match=r"none of the 1 scale-invariant weights .* is among the optimizer's 2"
    ):
        GradientNorms(other, found)


def test_arguments_of_another_kind_are_refused(model, found):
    with pytest.raises(InvalidInputError, match=r"got Sequential; found must .* got list"):
        GradientNorms(model, [])
