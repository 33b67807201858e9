"""Rescaling and recording are the same on the host and on a GPU, where there is one.

What is done on an accelerator alone is tried on a stand-in, in test_on_an_accelerator.py.
"""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import decayfree
from decayfree.errors import NonFiniteWeightError

GENERATOR = torch.Generator().manual_seed(1)
IMAGES = torch.randn(16, 3, 8, 8, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.randint(0, 5, (16,), generator=GENERATOR)
# Held in kernels, in groups with their bias, and as a whole.
HELD = {"0.weight": 8, "3.weight": 2, "8.weight": 1}

on_devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def net(device: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        *(nn.Linear(8, 6, bias=False), nn.LayerNorm(6), nn.Linear(6, 5)),
    ).to(device=device, dtype=dtype, memory_format=torch.channels_last)


def loss_of(model: nn.Module) -> Tensor:
    like = next(model.parameters())
    return cross_entropy(model(IMAGES.to(like)), LABELS.to(like.device))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss_of(model).backward()
    optimizer.step()


def found_in(model: nn.Module) -> decayfree.Invariance:
    return decayfree.find_invariant(model, IMAGES.to(next(model.parameters())))


@torch.no_grad()
def put_on_radius_(model: nn.Module) -> None:
    """As one would write it first."""
    for name, n_blocks in HELD.items():
        weight = model.get_parameter(name)
        tensors = [weight] + [model[3].bias] * (name == "3.weight")
        rows = torch.cat([tensor.reshape(n_blocks, -1) for tensor in tensors], dim=1)
        factors = (len(weight) / n_blocks) ** 0.5 / rows.norm(dim=1)
        for tensor in tensors:
            of_rows = factors.repeat_interleave(len(weight) // n_blocks)
            tensor.mul_(of_rows.view(-1, *(1,) * (tensor.ndim - 1)))


@on_devices
def test_weights_are_those_of_a_loop_by_hand_on_the_host(device: str) -> None:
    model, by_hand = net(device), net("cpu")
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.1, momentum=0.9) for one in (model, by_hand)]
    found = found_in(model)
    assert {weight.name: weight.blocks.n_blocks for weight in found} == HELD
    wrs = decayfree.WeightRescaling(optimizers[0], found)
    put_on_radius_(by_hand)
    for _ in range(5):
        step(model, optimizers[0])
        step(by_hand, optimizers[1])
        put_on_radius_(by_hand)
    for one, other in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-9, atol=1e-9)
    assert wrs.check().problems == ()


@on_devices
@torch.backends.cudnn.flags(enabled=True, deterministic=True)
def test_a_run_resumes_to_the_bit_and_angles_can_be_set(device: str) -> None:
    model = net(device, torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    turning = decayfree.Turning(optimizer, found_in(model), steps_per_epoch=10, memory_epochs=2)
    step(model, optimizer)
    model_state, optimizer_state, state = map(
        copy.deepcopy, (model.state_dict(), optimizer.state_dict(), turning.state_dict())
    )
    step(model, optimizer)
    after = copy.deepcopy(model.state_dict())
    model.load_state_dict(model_state)
    optimizer.load_state_dict(optimizer_state)
    turning.load_state_dict(state)
    step(model, optimizer)
    assert all(torch.equal(value, after[name]) for name, value in model.state_dict().items())


@on_devices
def test_a_sample_has_the_numbers_of_the_host(device: str) -> None:
    samples = {}
    for where in {device, "cpu"}:
        model = net(where)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        found = found_in(model)
        decayfree.WeightRescaling(optimizer, found)
        decayfree.Recorder(optimizer, found, every=2, sink=samples.setdefault(where, []).append)
        for _ in range(4):
            step(model, optimizer)
    for there, here in zip(samples[device], samples["cpu"], strict=True):
        assert there.flat() == pytest.approx(here.flat(), rel=1e-5, nan_ok=True)


@on_devices
@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_grad_scaler_skips_does_not_count(device: str, fused: bool) -> None:
    model = net(device, torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0, fused=fused)
    wrs = decayfree.WeightRescaling(optimizer, found_in(model), every=2)
    scaler = torch.amp.GradScaler(device, init_scale=8.0)
    for factor in (1.0, math.inf, 1.0, 1.0):
        optimizer.zero_grad()
        scaler.scale(loss_of(model) * factor).backward()
        scaler.step(optimizer)
        scaler.update()
    assert wrs.n_steps == 3
    step(model, optimizer)
    assert torch.allclose(model[0].weight.flatten(1).norm(dim=1), torch.ones((), device=device))


@on_devices
def test_a_weight_that_a_step_makes_not_finite_is_told(device: str) -> None:
    model = net(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    decayfree.WeightRescaling(optimizer, found_in(model))

    def broken_step_and_another() -> None:
        loss_of(model).backward()
        model[0].weight.grad.fill_(math.nan)
        optimizer.step()
        if device != "cpu":  # which tells it once it has come so far
            torch.cuda.synchronize()
        optimizer.step()

    with pytest.raises(NonFiniteWeightError, match=r"after optimizer step 1 .*: 0\.weight"):
        broken_step_and_another()


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["WeightRescaling", "Recorder"])
def test_the_host_waits_for_nothing_between_samples(kind: str) -> None:
    model = net("cuda", torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    settings = {"every": 100, "sink": print} if kind == "Recorder" else {}
    getattr(decayfree, kind)(optimizer, found_in(model), **settings)
    step(model, optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model).backward()
        torch.cuda.set_sync_debug_mode("error")
        try:
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
