"""State in 8 bits or less, of real classes: refused in one sentence before anything changes."""

import copy

import pytest
import torch
from torch import nn

import decayfree
from decayfree import InvalidInputError, WeightRescaling
from support.available import import_or_skip

INPUTS = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))
# By class: where it is, what it wants to keep small tensors in few bits too, and what it keeps so.
KINDS = {
    "AdamW8bit": ("torchao.optim", {"block_size": 64}, "exp_avg"),
    "AdamW4bit": ("torchao.optim", {"block_size": 64}, "exp_avg"),
    "AdamWFp8": ("torchao.optim", {"block_size": 64}, "exp_avg"),
    "PagedAdamW8bit": ("bitsandbytes.optim", {"min_8bit_size": 256}, "state1"),
    "Lion8bit": ("bitsandbytes.optim", {"min_8bit_size": 256}, "state1"),
}


@pytest.fixture(autouse=True)
def nothing_is_compiled():
    with torch.compiler.set_stance("force_eager"):
        yield


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.Linear(128, 4))


def optimizer_of(kind: str, model: nn.Module, **settings) -> torch.optim.Optimizer:
    package, own, _ = KINDS[kind]
    return getattr(import_or_skip(package), kind)(model.parameters(), **own, **settings)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(INPUTS).square().mean().backward()
    optimizer.step()


pytestmark = pytest.mark.filterwarnings("ignore:Paged optimizers are not supported")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("momentum", ["keep", "scale"])
def test_it_is_refused_before_anything_is_written(kind, momentum):
    model = net()
    optimizer = optimizer_of(kind, model, lr=0.01, weight_decay=0.0)
    step(model, optimizer)
    found = decayfree.find_invariant(model, INPUTS)
    before = copy.deepcopy(model.state_dict())
    said = rf"^{kind}'s '{KINDS[kind][2]}' \(.*\) cannot be scaled along with the weights: use [^;]*"
    with pytest.raises(InvalidInputError, match=said + r'radius="init"'):
        WeightRescaling(optimizer, found, momentum=momentum)
    with pytest.raises(InvalidInputError, match=said + "optimizer=None, or a new optimizer$"):
        decayfree.rescale_(model, found, optimizer=optimizer)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("kind", KINDS)
def test_both_cures_hold(kind):
    model = net()
    optimizer = optimizer_of(kind, model, lr=0.01, weight_decay=0.1)
    found = decayfree.find_invariant(model, INPUTS)
    assert decayfree.exempt_(optimizer, found) == ["0.weight"]
    wrs = WeightRescaling(optimizer, found)
    for _ in range(3):
        step(model, optimizer)
    assert wrs.check().problems == ()
    wrs.detach()
    weight = model[0].weight.detach().clone()
    wrs = WeightRescaling(optimizer, found, radius="init")
    assert torch.equal(model[0].weight, weight)
    for _ in range(3):
        step(model, optimizer)
    assert wrs.check().problems == ()


@pytest.mark.parametrize("kind", KINDS)
def test_a_moment_that_is_to_be_scaled_after_the_first_step_is_told_in_it(kind):
    model = net()
    optimizer = optimizer_of(kind, model, lr=0.01, weight_decay=0.0)
    WeightRescaling(optimizer, decayfree.find_invariant(model, INPUTS), momentum="scale")
    with pytest.raises(InvalidInputError, match=r"cannot be scaled along.*momentum=.keep"):
        step(model, optimizer)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn], ids=str)
def test_a_known_memory_in_bytes_is_refused_and_left_alone_where_it_comes_later(dtype):
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    found = decayfree.find_invariant(model, INPUTS)
    wrs = WeightRescaling(optimizer, found)
    step(model, optimizer)
    state = optimizer.state[model[0].weight]
    state["exp_avg"] = state["exp_avg"].to(dtype)
    with torch.no_grad():
        model[0].weight *= 2
    wrs._before_step(optimizer, (), {})  # what was written from outside goes back onto the radius
    assert wrs.check().largest < 1e-6
    wrs.detach()
    with pytest.raises(InvalidInputError, match=rf"AdamW's 'exp_avg' \(Tensor, {dtype}\) cannot be scaled"):
        WeightRescaling(optimizer, found)
