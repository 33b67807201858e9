"""Averages that exist when norms are set go on as if the weights had been so long from the start."""

import copy
import gc
import warnings

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import decayfree
from decayfree import InvalidInputError, MismatchError, UnsupportedWeightError, WeightRescaling
from support.available import import_or_skip

INPUTS = torch.randn(16, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def net(scale: float = 1.0) -> nn.Sequential:
    """With weights before BatchNorm and LayerNorm of so many times the usual norm."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Linear(4, 8), nn.BatchNorm1d(8, eps=1e-30), nn.ReLU()),
        *(nn.Linear(8, 6), nn.LayerNorm(6, eps=1e-30), nn.Linear(6, 2)),
    ).double()
    with torch.no_grad():
        for tensor in (model[0].weight, model[3].weight, model[3].bias):
            tensor.mul_(scale)
        model[1].running_mean.copy_(model[0].bias * (1 - scale))
        model[1].running_var.mul_(scale**2)
    return model


def ema_of(model: nn.Module) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, average: AveragedModel) -> None:
    for _ in range(5):
        optimizer.zero_grad()
        model(INPUTS).square().mean().backward()
        optimizer.step()
        average.update_parameters(model)


def warm(scale: float) -> tuple[nn.Sequential, AveragedModel, torch.optim.Optimizer]:
    """Trained for some steps at a rate that makes the runs at all scales the same but for their norms."""
    model = net(scale)
    average = ema_of(model)
    held = [model[0].weight, model[3].weight, model[3].bias]
    ids = set(map(id, held))
    rest = [one for one in model.parameters() if id(one) not in ids]
    optimizer = torch.optim.SGD([{"params": held, "lr": 0.1 * scale**2}, {"params": rest, "lr": 0.1}])
    train(model, optimizer, average)
    optimizer.param_groups[0]["lr"] = 0.1
    return model, average, optimizer


def test_a_copy_that_is_passed_averages_as_if_the_norms_had_always_been_so():
    ends = []
    for scale in (1.0, 4.0):
        model, average, optimizer = warm(scale)
        found = decayfree.find_invariant(model, INPUTS)
        wrs = WeightRescaling(optimizer, found, copies=average)
        train(model, optimizer, average)
        assert wrs.check().problems == ()
        ends.append((average.module, average.module.eval()(INPUTS)))
    one, other = ends
    for name, tensor in one[0].state_dict().items():
        assert torch.allclose(tensor, other[0].state_dict()[name], rtol=1e-9), name
    assert torch.allclose(one[1], other[1], rtol=1e-9)


def test_its_outputs_do_not_move_when_it_is_scaled():
    model, average, optimizer = warm(4.0)
    before = copy.deepcopy(average.module).eval()(INPUTS)
    WeightRescaling(optimizer, decayfree.find_invariant(model, INPUTS), copies=[average])
    assert torch.allclose(average.module.eval()(INPUTS), before, rtol=1e-9)


def test_an_average_that_was_not_passed_is_told_of_and_found_too_long():
    model, average, optimizer = warm(4.0)
    found = decayfree.find_invariant(model, INPUTS)
    with pytest.warns(UserWarning, match="an AveragedModel of this model keeps weights of their old norms"):
        wrs = WeightRescaling(optimizer, found)
    assert wrs.check().problems == ()
    (problem,) = wrs.check(average).problems
    assert "times as long as the radius in" in problem
    decayfree.rescale_(average, found)
    assert wrs.check([average]).problems == ()


@pytest.mark.parametrize("kind", ["ModelEmaV3", "EMA"])
def test_averages_of_others_are_known(kind):
    model = net(4.0)
    make = {
        "ModelEmaV3": lambda: import_or_skip("timm.utils").ModelEmaV3(model),
        "EMA": lambda: import_or_skip("ema_pytorch").EMA(model),
    }[kind]
    average = make()
    found = decayfree.find_invariant(model, INPUTS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match=f"an {kind} of this model keeps"):
        WeightRescaling(optimizer, found).detach()
    del average
    gc.collect()
    with torch.no_grad():
        model[0].weight.mul_(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        WeightRescaling(optimizer, found)


def test_an_average_made_afterwards_is_no_news():
    model = net()
    found = decayfree.find_invariant(model, INPUTS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrs = WeightRescaling(optimizer, found)
    average = ema_of(model)
    train(model, optimizer, average)
    assert wrs.check(average).problems == ()


def with_first_of(first: nn.Module, model: nn.Module) -> nn.Module:
    """A copy of a model with the first weight of another."""
    other = copy.deepcopy(model)
    other[0].weight = first[0].weight
    return other


def test_a_copy_that_is_named_twice_is_scaled_once():
    model, average, optimizer = warm(4.0)
    other = copy.deepcopy(average.module)
    wrs = WeightRescaling(
        optimizer, decayfree.find_invariant(model, INPUTS), copies=[average, average.module]
    )
    assert wrs.copies == [average.module]
    expected = other[0].weight * wrs.factors["0.weight"].unsqueeze(1)
    assert torch.equal(average.module[0].weight, expected)


def test_a_copy_that_holds_nan_is_told_by_check():
    model, average, optimizer = warm(1.0)
    wrs = WeightRescaling(optimizer, decayfree.find_invariant(model, INPUTS), copies=average)
    with torch.no_grad():
        average.module[3].weight[2] = float("nan")
    assert "copies[0] holds NaN or infinity in 3.weight" in wrs.check().problems


def test_copies_that_do_not_fit_are_refused_before_anything_moves():
    model = net(4.0)
    found = decayfree.find_invariant(model, INPUTS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = copy.deepcopy(model.state_dict())
    average = copy.deepcopy(model)
    with torch.device("meta"):
        meta = nn.Sequential(
            *(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6), nn.LayerNorm(6))
        )
    refusals = [
        ([5], InvalidInputError, "of the copies a model must be a torch.nn.Module, got int"),
        ([copy.deepcopy(model), nn.Linear(2, 2)], MismatchError, r"0\.weight \(8, 4\)"),
        (meta, UnsupportedWeightError, "meta"),
        (5, InvalidInputError, "copies"),
        (model, InvalidInputError, r"copies\[0\] has 0\.weight, 3\.weight in common with the model, so that"),
        (with_first_of(model, average), InvalidInputError, r"copies\[0\] has 0\.weight in common with the m"),
        (
            [average, with_first_of(average, model)],
            InvalidInputError,
            r"copies\[1\] has 0\.weight in common with copies\[0\]",
        ),
    ]
    for copies, error, message in refusals:
        with pytest.raises(error, match=message):
            WeightRescaling(optimizer, found, copies=copies)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not optimizer._optimizer_step_post_hooks
    wrs = WeightRescaling(optimizer, found)
    assert "does not fit" in wrs.check(nn.Linear(2, 2)).problems[0]
