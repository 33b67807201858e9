"""The function a model computes, before and after a rescale: the same in train and in eval mode, up to ε.

Training runs are test_weight_rescaling.py's question; which weights are found is test_discovery.py's.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import decayfree
from support import reference
from support.available import import_or_skip
from support.epsilon import LEAST_AT_SMALL_RADII, MODELS, MOST, RADII, SMALL_RADII
from support.networks import TINY_EPS, digit_losses, find, mixed_net, step_once

N_IMAGES, N_CHANNELS = 16, 3


class Concatenated(nn.Module):
    """Two weights into one normalization, as in DenseNet; the first also into another one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(N_CHANNELS, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 2, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(4)
        self.norm2 = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        first = self.first(images)
        second = self.second(self.norm1(first).relu())
        return self.head(self.norm2(torch.cat([first, second], dim=1)).relu().mean((2, 3)))


class Reused(nn.Module):
    """One weight used at two sizes, each with a normalization of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(N_CHANNELS, 4, 3, padding=1)
        self.norm1, self.norm2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        large = self.norm1(self.shared(images)).relu().mean((2, 3))
        small = self.norm2(self.shared(images[..., ::2, ::2])).relu().mean((2, 3))
        return self.head(torch.cat([large, small], dim=1))


class Shuffled(nn.Module):
    """Channels change places, and half pass a ReLU and a pool, between weight and normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(N_CHANNELS, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.max_pool2d(F.channel_shuffle(self.conv(images), 2), 2)
        maps = torch.cat([maps[:, :3].relu(), maps[:, 3:]], dim=1)
        return self.head(self.norm(maps).tanh().mean((2, 3)))


class Added(nn.Module):
    """A parameter that is no layer's bias is added before the normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(N_CHANNELS, 4, 3, padding=1, bias=False)
        self.offset = nn.Parameter(torch.linspace(-2.0, 2.0, 4))
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(images) + self.offset.view(1, -1, 1, 1)).relu().mean((2, 3)))


class FusedNorm(nn.BatchNorm2d):
    """A normalization that calls the function itself, with the activation inside."""

    def forward(self, maps: Tensor) -> Tensor:
        training = self.training
        return F.batch_norm(
            maps,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training,
            self.momentum or 0.0,
            self.eps,
        ).relu()


def chain(conv: nn.Module, norm: nn.Module, width: int, *between: nn.Module) -> nn.Module:
    return nn.Sequential(conv, *between, norm, nn.ReLU(), Mean(), nn.Linear(width, 5))


class Mean(nn.Module):
    """Average over everything but images and channels."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.flatten(2).mean(2) if maps.ndim > 2 else maps


def conv(width: int = 4, **settings: object) -> nn.Conv2d:
    return nn.Conv2d(N_CHANNELS, width, 3, padding=1, **settings)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolution with bias": (lambda: chain(conv(), nn.BatchNorm2d(4), 4), (8, 8)),
    "convolution without bias": (lambda: chain(conv(bias=False), nn.BatchNorm2d(4), 4), (8, 8)),
    "affine=False": (lambda: chain(conv(), nn.BatchNorm2d(4, affine=False), 4), (8, 8)),
    "track_running_stats=False": (
        lambda: chain(conv(), nn.BatchNorm2d(4, track_running_stats=False), 4),
        (8, 8),
    ),
    "momentum=None": (lambda: chain(conv(), nn.BatchNorm2d(4, momentum=None), 4), (8, 8)),
    "SyncBatchNorm": (lambda: chain(conv(), nn.SyncBatchNorm(4), 4), (8, 8)),
    "activation inside": (lambda: chain(conv(), FusedNorm(4), 4), (8, 8)),
    "instance norm with statistics": (
        lambda: chain(conv(), nn.InstanceNorm2d(4, affine=True, track_running_stats=True), 4),
        (8, 8),
    ),
    "linear": (lambda: chain(nn.Linear(N_CHANNELS, 6), nn.BatchNorm1d(6), 6), ()),
    "one dimension": (lambda: chain(nn.Conv1d(N_CHANNELS, 4, 3), nn.BatchNorm1d(4), 4), (9,)),
    "three dimensions": (lambda: chain(nn.Conv3d(N_CHANNELS, 4, 2), nn.BatchNorm3d(4), 4), (4, 4, 4)),
    "depthwise": (lambda: chain(conv(6, groups=3), nn.BatchNorm2d(6), 6), (8, 8)),
    "transposed": (lambda: chain(nn.ConvTranspose2d(N_CHANNELS, 4, 3), nn.BatchNorm2d(4), 4), (6, 6)),
    "transposed in groups": (
        lambda: chain(nn.ConvTranspose2d(N_CHANNELS, 6, 3, groups=3), nn.BatchNorm2d(6), 6),
        (6, 6),
    ),
    "two linear layers in a row": (
        lambda: chain(conv(6, bias=False), nn.BatchNorm2d(4), 4, nn.Conv2d(6, 4, 1)),
        (8, 8),
    ),
    "a ReLU and a pool between": (
        lambda: chain(conv(bias=False), nn.BatchNorm2d(4), 4, nn.ReLU(), nn.AvgPool2d(2)),
        (8, 8),
    ),
    "group norm": (lambda: chain(conv(), nn.GroupNorm(2, 4), 4), (8, 8)),
    "layer norm": (lambda: chain(nn.Linear(N_CHANNELS, 6), nn.LayerNorm(6), 6), ()),
    "concatenation": (Concatenated, (8, 8)),
    "one weight, two normalizations": (Reused, (8, 8)),
    "shuffled channels": (Shuffled, (8, 8)),
    "an offset of its own": (Added, (8, 8)),
}
# Those where forgetting the running statistics does no harm, because eval mode uses none.
WITHOUT_STATISTICS = {"track_running_stats=False", "group norm", "layer norm"}


def prepared(
    kind: str, eps: float = TINY_EPS, dtype: torch.dtype = torch.float64
) -> tuple[nn.Module, Tensor]:
    """A network in train mode, with running statistics of real batches, and inputs that it has not seen."""
    factory, size = NETWORKS[kind]
    model = factory().to(dtype)
    for module in model.modules():
        if hasattr(module, "eps"):
            module.eps = eps
    with torch.no_grad():
        for _ in range(4):
            model(torch.randn(N_IMAGES, N_CHANNELS, *size, dtype=dtype) + 0.3)
    return model, torch.randn(N_IMAGES, N_CHANNELS, *size, dtype=dtype)


def outputs(model: nn.Module, inputs: Tensor, *, train: bool) -> Tensor:
    """What a copy of the model says, so that its statistics stay."""
    with torch.no_grad():
        return copy.deepcopy(model).train(train)(inputs)


def moved(after: Tensor, before: Tensor) -> float:
    """The largest change relative to the largest output; no unit."""
    return float((after - before).abs().max() / before.abs().max())


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_rescale_leaves_the_outputs_alone(kind: str, train: bool, seed: int) -> None:
    model, inputs = prepared(kind)
    before = outputs(model, inputs, train=train)
    factors = decayfree.rescale_(model, decayfree.find_invariant(model, inputs), radius=3.0)
    assert factors
    assert min(float(factor.min()) for factor in factors.values()) > 1.5
    assert moved(outputs(model, inputs, train=train), before) < 1e-10


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_attaching_leaves_the_outputs_alone(kind: str, train: bool, seed: int) -> None:
    model, inputs = prepared(kind)
    before = outputs(model, inputs, train=train)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    decayfree.WeightRescaling(optimizer, decayfree.find_invariant(model, inputs), radius=0.2)
    assert moved(outputs(model, inputs, train=train), before) < 1e-10


@pytest.mark.parametrize("kind", NETWORKS)
def test_without_the_statistics_eval_mode_would_be_wrong(kind: str, seed: int) -> None:
    # What the tests above are worth: with the old statistics put back, outputs move wherever there are any.
    model, inputs = prepared(kind)
    before, buffers = outputs(model, inputs, train=False), [b.clone() for b in model.buffers()]
    decayfree.rescale_(model, decayfree.find_invariant(model, inputs), radius=3.0)
    for buffer, old in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(old)
    if kind in WITHOUT_STATISTICS:
        assert moved(outputs(model, inputs, train=False), before) < 1e-10
    else:
        assert moved(outputs(model, inputs, train=False), before) > 1e-2


@pytest.mark.parametrize("bias", [False, True])
def test_running_statistics_follow_the_closed_form(bias: bool, seed: int) -> None:
    model = chain(conv(bias=bias), nn.BatchNorm2d(4), 4).double()
    convolution, norm = model[0], model[1]
    inputs = torch.randn(N_IMAGES, N_CHANNELS, 8, 8, dtype=torch.float64)
    model(inputs)
    mean, variance, n_batches = (
        norm.running_mean.clone(),
        norm.running_var.clone(),
        norm.num_batches_tracked.clone(),
    )
    shift = convolution.bias.detach().clone() if bias else 0.0
    factor = decayfree.rescale_(model, decayfree.find_invariant(model, inputs), radius=2.0)["0.weight"]
    expected_mean, expected_variance = reference.running_statistics_after(mean, variance, factor, shift)
    torch.testing.assert_close(norm.running_mean, expected_mean, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(norm.running_var, expected_variance, rtol=1e-13, atol=0)
    assert torch.equal(norm.num_batches_tracked, n_batches)
    if bias:
        assert torch.equal(convolution.bias, shift)


def test_a_weight_that_is_not_rescaled_keeps_its_statistics(seed: int) -> None:
    model, inputs = prepared("concatenation")
    found = decayfree.find_invariant(model, inputs, exclude=["second.*"])
    before = outputs(model, inputs, train=False)
    mean = model.norm2.running_mean.clone()
    factors = decayfree.rescale_(model, found, radius=3.0)
    assert list(factors) == ["first.weight"]
    assert torch.equal(model.norm2.running_mean[4:], mean[4:])
    assert moved(outputs(model, inputs, train=False), before) < 1e-10


def test_outputs_are_those_without_the_rescale_after_many_steps() -> None:
    # Ten large steps between two rescales: the twin takes the tenth step too, and is not rescaled. What
    # eval mode's statistics must be then is test_statistics_seen.py's question.
    model, losses = mixed_net(), digit_losses(10)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    decayfree.WeightRescaling(optimizer, find(model), every=10)
    for loss in losses[:9]:
        step_once(model, optimizer, loss)
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    step_once(model, optimizer, losses[9])
    step_once(twin, twin_optimizer, losses[9])
    shrunk = model.conv.weight.norm() / twin.conv.weight.norm()
    assert shrunk < 0.9
    inputs = torch.rand(N_IMAGES, 1, 8, 8, dtype=torch.float64)
    assert moved(outputs(model, inputs, train=True), outputs(twin, inputs, train=True)) < 1e-10


def test_after_small_steps_statistics_stay_those_of_the_forward_passes() -> None:
    # With a rescale after every step, forward passes have seen weights on their radius only. Eval mode moves
    # by the growth of one step, about 1e-4.
    model, losses = mixed_net(), digit_losses(40)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9)
    decayfree.WeightRescaling(optimizer, find(model))
    inputs = torch.rand(N_IMAGES, 1, 8, 8, dtype=torch.float64)
    largest = 0.0
    for loss in losses:
        optimizer.zero_grad()
        loss(model).backward()
        buffers = [buffer.clone() for buffer in model.buffers()]
        twin, twin_optimizer = copy.deepcopy((model, optimizer))
        optimizer.step()
        for grown, parameter in zip(twin.parameters(), model.parameters(), strict=True):
            grown.grad = parameter.grad
        twin_optimizer.step()
        assert all(torch.equal(buffer, old) for buffer, old in zip(model.buffers(), buffers, strict=True))
        largest = max(largest, moved(outputs(model, inputs, train=False), outputs(twin, inputs, train=False)))
    assert 1e-6 < largest < 1e-3


def test_statistics_follow_weights_that_were_loaded_between_two_steps() -> None:
    # Weights and statistics of a network that is three times as large, as from a checkpoint of a run without
    # rescaling.
    model, (loss,) = mixed_net(), digit_losses(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    decayfree.WeightRescaling(optimizer, find(model))
    for _ in range(3):
        loss(model)
    large = copy.deepcopy(model)
    decayfree.rescale_(large, find(large), radius=3.0)
    inputs = torch.rand(N_IMAGES, 1, 8, 8, dtype=torch.float64)
    before = outputs(large, inputs, train=False)
    model.load_state_dict(large.state_dict())
    model.conv.weight.grad = torch.zeros_like(model.conv.weight)
    optimizer.step()
    assert model.conv.weight.norm() < 0.5 * large.conv.weight.norm()
    assert moved(outputs(model, inputs, train=False), before) < 1e-10


def test_a_second_rescale_to_the_same_radius_changes_nothing(seed: int) -> None:
    model, inputs = prepared("concatenation")
    found = decayfree.find_invariant(model, inputs)
    decayfree.rescale_(model, found, radius=3.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    factors = decayfree.rescale_(model, found, radius=3.0)
    for factor in factors.values():
        torch.testing.assert_close(factor, torch.ones_like(factor), rtol=1e-15, atol=0)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_statistics_follow_in_their_own_precision(dtype: torch.dtype, seed: int) -> None:
    model, inputs = prepared("convolution with bias", dtype=dtype)
    model[1].float()  # a normalization in float32 behind a weight of low precision, as mixed precision has it
    mean, shift = model[1].running_mean.clone(), model[0].bias.detach().float()
    found = decayfree.find_invariant(copy.deepcopy(model).float(), inputs.float())
    found = decayfree.Invariance.from_dict(found.to_dict(), model)
    factor = decayfree.rescale_(model, found, radius=2.0)["0.weight"]
    assert model[1].running_mean.dtype == torch.float32
    torch.testing.assert_close(model[1].running_mean, factor * (mean - shift) + shift, rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------------------------------------- the default ε


def test_rescale_warns_where_epsilon_takes_part(seed: int) -> None:
    model, inputs = prepared("convolution with bias", eps=1e-5)
    before = outputs(model, inputs, train=True)
    found = decayfree.find_invariant(model, inputs)
    with pytest.warns(UserWarning, match=r"eps|ε|epsilon"):
        decayfree.rescale_(model, found, radius=0.01)
    assert moved(outputs(model, inputs, train=True), before) > 1e-3


def test_rescale_is_silent_where_epsilon_takes_no_part(seed: int) -> None:
    model, inputs = prepared("convolution with bias", eps=1e-5)
    before = outputs(model, inputs, train=True)
    found = decayfree.find_invariant(model, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decayfree.rescale_(model, found, radius=1.0)
    assert moved(outputs(model, inputs, train=True), before) < 1e-3


def test_kernels_that_epsilon_alone_keeps_silent_are_counted_and_not_made_millions(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
    )
    inputs = torch.randn(16, 3, 6, 6)
    with torch.no_grad():
        model[0].weight[:2] *= 1e-7
        for _ in range(400):
            model(inputs)
    found = decayfree.find_invariant(model, inputs)
    before = outputs(model, inputs, train=False)
    with pytest.warns(
        UserWarning, match=r"up to ([\d.]+)%.*0\.weight \(2 of 8 blocks\).*set them to zero"
    ) as told:
        decayfree.rescale_(model, found)
    change = moved(outputs(model, inputs, train=False), before)
    figure = float(re.search(r"up to ([\d.]+)%", str(told[0].message)).group(1)) / 100
    assert 0.1 * change < figure < 10 * change


@pytest.fixture(scope="module")
def torchvision_model() -> Callable[[str], tuple[nn.Module, dict[str, object], Tensor, Tensor]]:
    """The model with real running statistics, what was found, an input, outputs in eval mode; made once."""
    models = import_or_skip("torchvision").models
    made: dict[str, tuple[nn.Module, dict[str, object], Tensor, Tensor]] = {}

    def make(name: str) -> tuple[nn.Module, dict[str, object], Tensor, Tensor]:
        if name not in made:
            made.clear()  # one at a time: VGG's classifier alone is half a gigabyte
            generator = torch.Generator().manual_seed(0)
            torch.manual_seed(0)
            model = models.get_model(name, num_classes=10)
            with torch.no_grad():
                for _ in range(4):
                    model(torch.randn(8, 3, 64, 64, generator=generator))
            inputs = torch.randn(4, 3, 64, 64, generator=generator)
            found = decayfree.find_invariant(model, inputs)
            made[name] = model, found.to_dict(), inputs, outputs(model, inputs, train=False)
        return made[name]

    return make


@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize("name", MODELS)
def test_large_models_move_by_epsilon_only(
    name: str,
    radius: float,
    torchvision_model: Callable[[str], tuple[nn.Module, dict[str, object], Tensor, Tensor]],
) -> None:
    original, found, inputs, before = torchvision_model(name)
    model = copy.deepcopy(original)
    decayfree.rescale_(model, decayfree.Invariance.from_dict(found, model), radius=radius)
    assert moved(outputs(model, inputs, train=False), before) <= MOST


@pytest.mark.parametrize("radius", SMALL_RADII)
@pytest.mark.parametrize("name", MODELS)
def test_large_models_are_warned_of_before_epsilon_moves_their_outputs(
    name: str,
    radius: float,
    torchvision_model: Callable[[str], tuple[nn.Module, dict[str, object], Tensor, Tensor]],
) -> None:
    original, found, inputs, before = torchvision_model(name)
    model = copy.deepcopy(original)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decayfree.rescale_(model, decayfree.Invariance.from_dict(found, model), radius=radius)
    change = moved(outputs(model, inputs, train=False), before)
    assert change <= 1e-3 or any("ε" in str(warning.message) for warning in caught)
    assert change > LEAST_AT_SMALL_RADII  # at radius 0.3 already: the line above is no empty promise at 0.1


def test_statistics_do_not_shrink_step_after_step(seed: int) -> None:
    # Norms that grow by 5 % a step: forward passes see weights on their radius only, and so must the
    # statistics.
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(16 * 16, 4)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    decayfree.WeightRescaling(optimizer, decayfree.find_invariant(model, torch.randn(8, 3, 6, 6)))
    weight = model[0].weight
    for _ in range(60):
        model(torch.randn(64, 3, 6, 6))
        gradient = torch.randn_like(weight)
        gradient -= weight.detach() * (gradient * weight.detach()).sum((1, 2, 3), keepdim=True)
        gradient *= (1.05**2 - 1) ** 0.5 / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        optimizer.zero_grad()
        weight.grad = gradient
        optimizer.step()
    variance = model[0](torch.randn(512, 3, 6, 6)).detach().var((0, 2, 3)).mean()
    assert abs(float(model[1].running_var.mean() / variance) - 1) < 0.05
