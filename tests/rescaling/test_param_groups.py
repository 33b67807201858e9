"""Decay stays on the rest, in groups that are made and in groups that exist, and nothing else changes."""

import copy

import pytest
import torch
from torch import nn

import decayfree
from decayfree import InvalidInputError, MismatchError, WeightDecayError, WeightRescaling, exempt_
from support.available import import_or_skip

INPUTS = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)
    )


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(INPUTS).square().mean().backward()
    optimizer.step()


def layered(model: nn.Module) -> list[dict]:
    """One group a layer, as layer-wise learning rates want it."""
    return [
        {"params": list(layer.parameters()), "lr": 0.1 * 0.5**depth, "weight_decay": 0.05, "lr_scale": depth}
        for depth, layer in enumerate(model)
    ]


def settings(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict]:
    """By parameter everything that its group says, the order of names as a check that none is there twice."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    pairs = [(names[id(one)], group) for group in optimizer.param_groups for one in group["params"]]
    assert len(pairs) == len(dict(pairs)) == len(names)
    return {
        name: {key: value for key, value in group.items() if key not in ("params", "param_names")}
        for name, group in pairs
    }


def test_only_the_decay_of_held_weights_changes():
    model = net()
    found = decayfree.find_invariant(model, INPUTS)
    optimizer = torch.optim.AdamW(layered(model))
    step(model, optimizer)
    before, state = settings(model, optimizer), copy.deepcopy(optimizer.state_dict()["state"])
    groups = [id(group) for group in optimizer.param_groups]
    assert exempt_(optimizer, found) == ["0.weight", "2.weight"]
    after = settings(model, optimizer)
    for name in before:
        decay = 0.0 if name in found else 0.05
        assert after[name] == {**before[name], "weight_decay": decay}
    assert [id(group) for group in optimizer.param_groups][: len(groups)] == groups
    moments = {index: optimizer.state[one]["exp_avg"] for index, one in enumerate(model.parameters())}
    assert all(torch.equal(state[index]["exp_avg"], one) for index, one in moments.items())
    WeightRescaling(optimizer, found)
    assert exempt_(optimizer, found) == []  # a second time there is nothing left to do
    assert settings(model, optimizer) == after


def test_training_is_that_of_groups_made_so_from_the_start():
    trained = []
    for is_exempted in (False, True):
        model = net().double()
        found = decayfree.find_invariant(model, INPUTS.double())
        if is_exempted:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
            exempt_(optimizer, found)
        else:
            groups = decayfree.split_params(model, found, weight_decay=0.1)
            optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
        WeightRescaling(optimizer, found)
        for _ in range(5):
            optimizer.zero_grad()
            model(INPUTS.double()).square().mean().backward()
            optimizer.step()
        trained.append(model.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def test_groups_with_names_keep_them():
    model = net()
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=0.1)
    exempt_(optimizer, decayfree.find_invariant(model, INPUTS))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        assert group["param_names"] == [names[id(parameter)] for parameter in group["params"]]
    assert len(optimizer.param_groups) == 2


def test_a_learning_rate_in_a_tensor_stays_its_owners():
    model, lr = net(), torch.tensor(0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    exempt_(optimizer, decayfree.find_invariant(model, INPUTS))
    assert all(group["lr"] is lr for group in optimizer.param_groups)  # as where torch makes two groups


@pytest.mark.parametrize("name", ["ExponentialLR", "LinearLR", "CosineAnnealingLR"])
def test_a_scheduler_goes_the_same_way_with_a_learning_rate_in_a_tensor(name):
    rates = []
    for lr in (0.1, torch.tensor(0.1)):
        model = net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
        exempt_(optimizer, decayfree.find_invariant(model, INPUTS))
        given = {"ExponentialLR": {"gamma": 0.5}, "LinearLR": {}, "CosineAnnealingLR": {"T_max": 4}}[name]
        scheduler = getattr(torch.optim.lr_scheduler, name)(optimizer, **given)
        for _ in range(3):
            optimizer.step()
            scheduler.step()
            rates.append([float(group["lr"]) for group in optimizer.param_groups])
    for one, other in zip(rates[:3], rates[3:], strict=True):
        assert one == pytest.approx(other, rel=1e-6)


def test_asgds_own_decay_is_decay():
    model = net()
    found = decayfree.find_invariant(model, INPUTS)
    optimizer = torch.optim.ASGD(model.parameters(), lr=0.1, weight_decay=0.2)
    exempt_(optimizer, found)
    decays = {name: (one["lambd"], one["weight_decay"]) for name, one in settings(model, optimizer).items()}
    assert decays["0.weight"] == (0.0, 0.0)
    assert decays["0.bias"] == (1e-4, 0.2)
    WeightRescaling(optimizer, found)


def test_a_group_that_would_be_divided_is_left_to_its_scheduler():
    model = net()
    found = decayfree.find_invariant(model, INPUTS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    before = settings(model, optimizer)
    with pytest.raises(InvalidInputError, match="before the scheduler is made"):
        exempt_(optimizer, found)
    assert settings(model, optimizer) == before
    assert len(optimizer.param_groups) == 1
    # Where nothing is to be divided, a scheduler is no obstacle.
    held = [model[0].weight, model[2].weight]
    alone = torch.optim.SGD(held, lr=0.1, weight_decay=0.1)
    torch.optim.lr_scheduler.CosineAnnealingLR(alone, 10)
    assert exempt_(alone, found) == ["0.weight", "2.weight"]


def test_timms_groups_keep_their_layer_decay():
    create = import_or_skip("timm.optim").create_optimizer_v2
    timm = import_or_skip("timm")
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=3)
    found = decayfree.find_invariant(model, torch.randn(4, 3, 64, 64))
    optimizer = create(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75)
    before = settings(model, optimizer)
    assert set(exempt_(optimizer, found)) == {weight.name for weight in found}
    after = settings(model, optimizer)
    assert len({one["lr_scale"] for one in after.values()}) > 3
    for name, one in before.items():
        assert after[name] == {**one, "weight_decay": 0.0 if name in found else one["weight_decay"]}
    WeightRescaling(optimizer, found)


def test_groups_that_exist_are_split_before_there_is_an_optimizer():
    model = net()
    found = decayfree.find_invariant(model, INPUTS)
    groups = layered(model)
    split = decayfree.split_params(groups, found)
    assert [len(group["params"]) for group in groups] == [2, 2, 2, 2, 2]  # what was passed stays
    optimizer = torch.optim.AdamW(split)
    for name, one in settings(model, optimizer).items():
        depth = int(name[0])
        assert one["lr"] == 0.1 * 0.5**depth
        assert one["weight_decay"] == (0.0 if name in found else 0.05)
    only = decayfree.split_params([{"params": model[0].parameters()}], found, weight_decay=0.3)
    assert [(len(group["params"]), group["weight_decay"]) for group in only] == [(1, 0.0), (1, 0.3)]


@pytest.mark.parametrize(
    ("first", "error", "message"),
    [
        (None, InvalidInputError, "wants the model, or parameter groups .* got NoneType"),
        ([1, 2], InvalidInputError, "got list"),
        ([{"lr": 0.1}], InvalidInputError, "got list"),
        ([{"params": nn.Linear(2, 2).parameters()}], MismatchError, "is in these groups"),
    ],
    ids=["nothing", "numbers", "no params", "another model"],
)
def test_other_first_arguments_are_refused(first, error, message):
    found = decayfree.find_invariant(net(), INPUTS)
    with pytest.raises(error, match=message):
        decayfree.split_params(first, found)


def test_the_error_about_decay_is_short_and_its_first_cure_works():
    blocks = [nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)) for _ in range(30)]
    model = nn.Sequential(nn.Sequential(*blocks), nn.Linear(4, 2))
    model = nn.ModuleDict({"a_rather_long_name_of_a_module_that_somebody_gave_to_a_backbone": model})
    model.forward = next(iter(model.values())).forward
    found = decayfree.find_invariant(model, INPUTS)
    optimizer = torch.optim.AdamW([{"params": [one], "lr": 0.1} for one in model.parameters()])
    with pytest.raises(WeightDecayError, match=r"^decayfree\.exempt_\(optimizer, found\)") as error:
        WeightRescaling(optimizer, found)
    assert len(str(error.value)) <= 400
    assert len(exempt_(optimizer, found)) == 30
    WeightRescaling(optimizer, found)
