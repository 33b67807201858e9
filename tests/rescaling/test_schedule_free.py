"""Schedule-free optimizers step from z and not from the weight: z follows the weight onto its radius."""

import copy

import pytest
import torch
from torch import nn

import decayfree
from support.available import import_or_skip

INPUTS = torch.randn(32, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).double()


def steps(model: nn.Module, optimizer, after=lambda: None) -> None:
    def loss():
        optimizer.zero_grad()
        value = (model(INPUTS) - 1).square().mean()
        value.backward()
        return value

    getattr(optimizer, "train", bool)()
    for _ in range(20):
        optimizer.step(loss)
        after()


@pytest.mark.parametrize("momentum", ["keep", "scale"])
@pytest.mark.parametrize("kind", ["SGDScheduleFree", "SGDScheduleFreeClosure", "AdamWScheduleFree"])
def test_z_is_scaled_with_the_weight_whatever_becomes_of_moments(kind, momentum):
    make = getattr(import_or_skip("schedulefree"), kind)
    models = [net(), net()]
    optimizers = [make(model.parameters(), lr=0.5 if "SGD" in kind else 0.05) for model in models]
    found = decayfree.find_invariant(models[0], INPUTS)
    decayfree.rescale_(models[1], found)

    def by_hand() -> None:
        weight = models[1][0].weight
        factors = 1 / weight.detach().norm(dim=1, keepdim=True)
        weight.data *= factors
        optimizers[1].state[weight]["z"] *= factors
        if momentum == "scale" and "exp_avg_sq" in optimizers[1].state[weight]:
            optimizers[1].state[weight]["exp_avg_sq"] /= factors**2

    decayfree.WeightRescaling(optimizers[0], found, momentum=momentum)
    steps(models[0], optimizers[0])
    steps(models[1], optimizers[1], by_hand)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_a_visit_to_eval_mode_changes_nothing():
    make = import_or_skip("schedulefree").AdamWScheduleFree
    model = net()
    optimizer = make(model.parameters(), lr=0.05)
    wrs = decayfree.WeightRescaling(optimizer, decayfree.find_invariant(model, INPUTS))
    steps(model, optimizer)
    before = copy.deepcopy(model.state_dict())
    optimizer.eval()
    assert "off its radius" in wrs.check().problems[0]
    optimizer.train()
    assert wrs.check().problems == ()
    wrs._before_step(optimizer, (), {})  # which looks whether somebody has written to the weights
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=1e-12, atol=1e-12)
