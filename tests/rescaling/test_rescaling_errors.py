"""Bad input: one clear error that names what is wrong and what to do, and nothing changed anywhere.

Every test calls ``unchanged``: parameters, buffers, the optimizer's state and its hooks are compared bit by
bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import decayfree
from decayfree.errors import DecayFreeError
from support.networks import SmallNet, digit_losses, find, mixed_net, small_net, step_once
from support.unchanged import bits, sgd, unchanged

LOSS = digit_losses(1, torch.float32)[0]


# ---------------------------------------------------------------------------------------------- the optimizer


def test_an_optimizer_of_another_model_is_refused() -> None:
    model, other = small_net(), small_net()
    found, optimizer = find(model), sgd(other)
    with unchanged(model, optimizer), pytest.raises(DecayFreeError, match=r"conv\.weight"):
        decayfree.WeightRescaling(optimizer, found)


def test_weight_decay_on_a_rescaled_weight_names_groups_and_cure() -> None:
    model = small_net()
    found = find(model)
    groups = [
        {"params": model.head.parameters(), "weight_decay": 0.1},  # fine: nothing here is rescaled
        {"params": model.conv.parameters(), "weight_decay": 0.0},  # fine: no decay
        {"params": model.hidden.parameters(), "weight_decay": 5e-4},
        {"params": [*model.norm1.parameters(), *model.norm2.parameters()], "weight_decay": 0.1},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    step_once(model, optimizer, LOSS)
    with unchanged(model, optimizer), pytest.raises(DecayFreeError, match="split_params") as error:
        decayfree.WeightRescaling(optimizer, found)
    message = str(error.value)
    assert "hidden.weight" in message
    assert "0.0005" in message
    assert "group 2" in message or "groups 2" in message or "param_groups[2]" in message
    assert "conv.weight" not in message
    assert "head.weight" not in message


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.Muon], ids=lambda make: make.__name__)
def test_a_default_weight_decay_is_weight_decay(make: Callable[..., torch.optim.Optimizer]) -> None:
    model = small_net()
    optimizer = make([model.hidden.weight])
    with unchanged(model, optimizer), pytest.raises(DecayFreeError, match="split_params"):
        decayfree.WeightRescaling(optimizer, find(model))


def test_weight_decay_on_a_joint_bias_is_weight_decay() -> None:
    # hidden.weight only has a direction together with hidden.bias; decay on either changes it.
    model = mixed_net()
    found = find(model)
    rest = [p for name, p in model.named_parameters() if name != "hidden.bias"]
    groups = [{"params": rest}, {"params": [model.hidden.bias], "weight_decay": 0.1}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    with unchanged(model, optimizer), pytest.raises(DecayFreeError, match=r"hidden\.bias"):
        decayfree.WeightRescaling(optimizer, found)


def test_weight_decay_as_a_tensor_is_weight_decay() -> None:
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=torch.tensor(0.1))
    with unchanged(model), pytest.raises(DecayFreeError, match="split_params"):
        decayfree.WeightRescaling(optimizer, find(model))


def test_the_cure_works() -> None:
    model = small_net()
    found = find(model)
    groups = decayfree.split_params(model, found, weight_decay=0.1)
    decayed = {id(p) for group in groups if group["weight_decay"] == 0.1 for p in group["params"]}
    free = {id(p) for group in groups if group["weight_decay"] == 0.0 for p in group["params"]}
    assert free == {id(model.conv.weight), id(model.hidden.weight)}
    assert free | decayed == {id(p) for p in model.parameters()}
    assert not free & decayed
    decayfree.WeightRescaling(torch.optim.SGD(groups, lr=0.1), found)


def test_split_params_without_decay_still_holds_every_parameter_once() -> None:
    model = mixed_net()
    model.again = model.conv  # a tied module
    groups = decayfree.split_params(model, find(model))
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    assert all(group["weight_decay"] == 0.0 for group in groups)


# ---------------------------------------------------------------------------------------------- the settings


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan"), float("inf")], ids=str)
def test_a_radius_that_is_no_norm_is_refused(radius: float) -> None:
    model = small_net()
    found, optimizer = find(model), sgd(model)
    with unchanged(model, optimizer), pytest.raises(DecayFreeError, match="radius"):
        decayfree.WeightRescaling(optimizer, found, radius=radius)
    with unchanged(model, optimizer), pytest.raises(DecayFreeError, match="radius"):
        decayfree.rescale_(model, found, radius=radius)
    with unchanged(model, optimizer), pytest.raises(DecayFreeError, match="radius"):
        decayfree.WeightRescaling(optimizer, found, radius={"*": 1.0, "hidden.*": radius})


@pytest.mark.parametrize("radius", ["unit", None, "1.0", (1.0,)], ids=str)
def test_a_radius_of_another_kind_is_refused(radius: Any) -> None:
    model = small_net()
    found, optimizer = find(model), sgd(model)
    with unchanged(model, optimizer), pytest.raises(DecayFreeError, match="radius"):
        decayfree.WeightRescaling(optimizer, found, radius=radius)


def test_a_pattern_that_matches_nothing_is_named() -> None:
    model = small_net()
    found, optimizer = find(model), sgd(model)
    with unchanged(model, optimizer), pytest.raises(DecayFreeError, match=r"convs\.\*") as error:
        decayfree.WeightRescaling(optimizer, found, radius={"*": 1.0, "convs.*": 2.0})
    assert "conv.weight" in str(error.value)  # what there is to match
    with unchanged(model, optimizer), pytest.raises(DecayFreeError, match=r"head\.\*"):  # not scale-invariant
        decayfree.rescale_(model, found, radius={"*": 1.0, "head.*": 2.0})


@pytest.mark.parametrize("every", [0, -1, 1.5, float("nan")], ids=str)
def test_every_must_be_a_count(every: Any) -> None:
    model = small_net()
    found, optimizer = find(model), sgd(model)
    with unchanged(model, optimizer), pytest.raises(DecayFreeError, match="every"):
        decayfree.WeightRescaling(optimizer, found, every=every)


def test_momentum_must_be_one_of_its_words() -> None:
    model = small_net()
    optimizer = sgd(model)
    with unchanged(model, optimizer), pytest.raises(DecayFreeError, match="momentum") as error:
        decayfree.WeightRescaling(optimizer, find(model), momentum="rotate")
    assert "keep" in str(error.value)
    assert "scale" in str(error.value)


def test_arguments_of_another_type_are_named() -> None:
    model = small_net()
    found, optimizer = find(model), sgd(model)
    with (
        unchanged(model, optimizer),
        pytest.raises(DecayFreeError, match=r"torch\.optim\.Optimizer, got SmallNet"),
    ):
        decayfree.WeightRescaling(model, found)
    with unchanged(model, optimizer), pytest.raises(DecayFreeError, match="find_invariant, got SmallNet"):
        decayfree.WeightRescaling(optimizer, model)


def test_a_model_without_normalization_has_nothing_to_hold(seed: int) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    found, optimizer = decayfree.find_invariant(model, torch.randn(8, 4)), sgd(model)
    with (
        unchanged(model, optimizer),
        pytest.raises(DecayFreeError, match="no scale-invariant weight was found"),
    ):
        decayfree.WeightRescaling(optimizer, found)


@pytest.mark.parametrize("weight_decay", [-0.1, float("nan"), float("inf")], ids=str)
def test_a_weight_decay_that_is_none_is_refused(weight_decay: float) -> None:
    model = small_net()
    with pytest.raises(DecayFreeError, match="weight_decay must be"):
        decayfree.split_params(model, find(model), weight_decay=weight_decay)


def test_a_single_rescale_wants_a_number() -> None:
    model = small_net()
    with unchanged(model), pytest.raises(DecayFreeError, match="give a number"):
        decayfree.rescale_(model, find(model), radius="init")


def test_all_faults_are_told_at_once() -> None:
    model = small_net()
    found, optimizer = find(model), sgd(model, weight_decay=0.1)
    with unchanged(model, optimizer), pytest.raises(DecayFreeError, match="radius") as error:
        decayfree.WeightRescaling(optimizer, found, radius=-1.0, every=0, momentum="rotate")
    for word in ("every", "momentum", "split_params"):
        assert word in str(error.value)


# ---------------------------------------------------------------------------------------- twice, or elsewhere


def test_attaching_twice_is_refused() -> None:
    model = small_net()
    found, optimizer = find(model), sgd(model)
    first = decayfree.WeightRescaling(optimizer, found)
    with unchanged(model, optimizer), pytest.raises(DecayFreeError, match=r"conv\.weight"):
        decayfree.WeightRescaling(optimizer, found, radius=2.0)
    first.detach()
    decayfree.WeightRescaling(optimizer, found, radius=2.0)
    assert model.conv.weight.flatten(1).norm(dim=1).allclose(torch.tensor(2.0))


def test_attaching_after_the_first_object_was_dropped_is_still_attaching_twice() -> None:
    # The hook lives as long as the optimizer: dropping the object does not detach.
    model = small_net()
    found, optimizer = find(model), sgd(model)
    decayfree.WeightRescaling(optimizer, found)
    with unchanged(model, optimizer), pytest.raises(DecayFreeError, match="detach"):
        decayfree.WeightRescaling(optimizer, found)


def test_what_was_found_in_another_model_is_refused() -> None:
    model, other = small_net(), mixed_net()
    optimizer = sgd(model)
    with unchanged(model, optimizer), pytest.raises(DecayFreeError):
        decayfree.WeightRescaling(optimizer, find(other))
    with unchanged(model, optimizer), pytest.raises(DecayFreeError):
        decayfree.rescale_(model, find(other))
    with unchanged(model, optimizer), pytest.raises(DecayFreeError):
        decayfree.split_params(model, find(other))


def test_a_weight_that_was_replaced_since_is_refused() -> None:
    model = small_net()
    found = find(model)
    model.hidden = nn.Linear(36, 5, bias=False)  # other rows than the blocks speak of
    optimizer = sgd(model)
    with unchanged(model, optimizer), pytest.raises(DecayFreeError, match=r"hidden\.weight"):
        decayfree.WeightRescaling(optimizer, found)
    with unchanged(model, optimizer), pytest.raises(DecayFreeError, match=r"hidden\.weight"):
        decayfree.rescale_(model, found)


# ------------------------------------------------------------------------------------- how weights are stored


class FlatParameter(nn.Parameter):
    """Stands in for FSDP1's: one dimension, many weights behind one another."""

    _is_flat_param = True


class Flattened(nn.Module):
    """What FSDP1 makes of a network: one flat parameter, and the weights are views of it."""

    def __init__(self, model: SmallNet) -> None:
        super().__init__()
        self.module = model
        self._flat_param = FlatParameter(torch.cat([p.detach().flatten() for p in model.parameters()]))


def test_flat_parameters_are_refused_by_name() -> None:
    model = small_net()
    found = find(model)
    flattened = Flattened(copy.deepcopy(model))
    optimizer = torch.optim.SGD([flattened._flat_param], lr=0.1)
    with unchanged(flattened, optimizer), pytest.raises(DecayFreeError, match="FSDP"):
        decayfree.WeightRescaling(optimizer, found)


def test_a_sparse_weight_is_refused() -> None:
    model = small_net()
    found = find(model)
    model.hidden.weight = nn.Parameter(model.hidden.weight.detach().to_sparse())
    before = model.hidden.weight.to_dense().detach().clone()
    optimizer = sgd(model)
    with pytest.raises(DecayFreeError, match=r"hidden\.weight.*sparse"):
        decayfree.WeightRescaling(optimizer, found)
    with pytest.raises(DecayFreeError, match=r"hidden\.weight.*sparse"):
        decayfree.rescale_(model, found)
    assert torch.equal(model.hidden.weight.to_dense(), before)
    assert torch.equal(model.conv.weight, small_net().conv.weight)


@pytest.mark.filterwarnings("ignore:.*quantiz.*")
def test_a_quantized_weight_is_refused() -> None:
    model = small_net()
    found = find(model)
    quantized = torch.quantize_per_tensor(model.hidden.weight.detach(), 0.01, 0, torch.qint8)
    model.hidden.weight = nn.Parameter(quantized, requires_grad=False)
    with pytest.raises(DecayFreeError, match=r"hidden\.weight.*quantized"):
        decayfree.rescale_(model, found)
    assert torch.equal(model.hidden.weight.int_repr(), quantized.int_repr())
    assert torch.equal(model.conv.weight, small_net().conv.weight)


def test_a_weight_without_data_is_refused() -> None:
    model = small_net()
    found = find(model)
    model.hidden.weight = nn.Parameter(model.hidden.weight.to("meta"))
    with pytest.raises(DecayFreeError, match=r"hidden\.weight.*meta"):
        decayfree.rescale_(model, found)
    assert torch.equal(model.conv.weight, small_net().conv.weight)


# ------------------------------------------------------------------------------------------- NaN and infinity


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")], ids=str)
def test_a_weight_that_is_not_finite_is_refused_with_nothing_changed(bad: float) -> None:
    model = small_net()
    found, optimizer = find(model), sgd(model, momentum=0.9)
    step_once(model, optimizer, LOSS)
    with torch.no_grad():
        model.hidden.weight[2, 3] = bad
    with unchanged(model, optimizer), pytest.raises(DecayFreeError, match=r"hidden\.weight") as error:
        decayfree.rescale_(model, found, optimizer=optimizer)
    assert "conv.weight" not in str(error.value)
    with unchanged(model, optimizer), pytest.raises(DecayFreeError, match=r"hidden\.weight"):
        decayfree.WeightRescaling(optimizer, found)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
def test_a_weight_that_a_step_makes_not_finite_is_named_and_not_overwritten(bad: float, every: int) -> None:
    model = small_net()
    optimizer = sgd(model)
    decayfree.WeightRescaling(optimizer, find(model), every=every)
    for _ in range(every - 1):
        step_once(model, optimizer, LOSS)
    optimizer.zero_grad()
    LOSS(model).backward()
    model.hidden.weight.grad[2, 3] = bad
    twin, twin_optimizer = copy.deepcopy((model, optimizer))  # without the hook, and without gradients
    for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
        other.grad = parameter.grad.clone()
    twin_optimizer.step()
    with pytest.raises(DecayFreeError, match=r"hidden\.weight") as error:
        optimizer.step()
    assert "conv.weight" not in str(error.value)
    assert bits(model.hidden.weight) == bits(twin.hidden.weight)


def test_a_joint_bias_that_is_not_finite_is_refused() -> None:
    model = mixed_net()
    found, optimizer = find(model), sgd(model)
    with torch.no_grad():
        model.hidden.bias[1] = float("nan")
    with unchanged(model, optimizer), pytest.raises(DecayFreeError, match=r"hidden\."):
        decayfree.rescale_(model, found)


def test_a_norm_that_overflows_is_refused() -> None:
    # 3e38 is finite in float32; the norm of 36 of them is not, and a factor of 1/∞ would wipe the weight out.
    model = small_net()
    found, optimizer = find(model), sgd(model)
    with torch.no_grad():
        model.hidden.weight.fill_(3e38)
    with unchanged(model, optimizer), pytest.raises(DecayFreeError, match=r"hidden\.weight"):
        decayfree.rescale_(model, found)
