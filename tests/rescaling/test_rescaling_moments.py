"""What an optimizer remembers follows a rescale (the orbit action): the run goes on to the same bits.

Where gradients shrink by c, a memory of gradients shrinks by c, of their squares by c², and a memory of steps
grows by c.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn, optim

import decayfree
from decayfree.errors import DecayFreeError
from support.networks import SmallNet, digit_batch, digit_losses, find, mixed_net, small_net, step_once

C = 2.0
N_BEFORE, N_AFTER = 8, 20


@dataclass(frozen=True)
class Row:
    """One optimizer, and by which powers of c the settings of the rescaled weights go along."""

    make: Callable[..., optim.Optimizer]
    lr: float
    lr_power: int
    names: tuple[str, ...] = ("conv.weight", "hidden.weight")


ROWS = {
    "SGD": Row(partial(optim.SGD), 0.1, 2),
    "momentum": Row(partial(optim.SGD, momentum=0.9), 0.05, 2),
    "dampening": Row(partial(optim.SGD, momentum=0.9, dampening=0.5), 0.05, 2),
    "nesterov": Row(partial(optim.SGD, momentum=0.9, nesterov=True), 0.05, 2),
    "Adam": Row(partial(optim.Adam, eps=1e-6), 0.01, 1),
    "Adam amsgrad": Row(partial(optim.Adam, eps=1e-6, amsgrad=True), 0.01, 1),
    "AdamW": Row(partial(optim.AdamW, eps=1e-6, weight_decay=0.0), 0.01, 1),
    "NAdam": Row(partial(optim.NAdam, eps=1e-6), 0.01, 1),
    "RAdam": Row(partial(optim.RAdam, eps=1e-6), 0.05, 1),  # adaptive from its sixth step on
    "Adamax": Row(partial(optim.Adamax, eps=1e-6), 0.01, 1),
    "Adagrad": Row(partial(optim.Adagrad, eps=1e-6), 0.05, 1),
    "RMSprop": Row(partial(optim.RMSprop, eps=1e-6), 0.01, 1),
    "RMSprop centered momentum": Row(partial(optim.RMSprop, eps=1e-6, momentum=0.9, centered=True), 0.01, 1),
    "Muon": Row(partial(optim.Muon, weight_decay=0.0), 0.02, 1, names=("hidden.weight",)),
    # Adafactor's steps are relative to the weight's size already.
    "Adafactor": Row(partial(optim.Adafactor), 0.05, 0),
}


def unit_net(dtype: torch.dtype) -> SmallNet:
    """A network whose kernels are exactly of norm one: four entries of ±1/2 each."""
    model = small_net(dtype)
    with torch.no_grad():
        for weight in (model.conv.weight, model.hidden.weight):
            rows = weight.flatten(1)
            places = torch.stack([torch.randperm(rows.shape[1])[:4] for _ in rows])
            signs = torch.randint(0, 2, places.shape).to(dtype) - 0.5
            weight.copy_(torch.zeros_like(rows).scatter_(1, places, signs).view_as(weight))
    return model


def optimizer_of(row: Row, model: SmallNet) -> optim.Optimizer:
    """Of the rescaled weights only: what follows them is in question, and Muon takes no vectors."""
    parameters = dict(model.named_parameters())
    return row.make([parameters[name] for name in row.names], lr=0.0)


def train(model: nn.Module, optimizer: optim.Optimizer, steps: range) -> list[Tensor]:
    dtype = next(model.parameters()).dtype
    losses = []
    for loss in digit_losses(steps.stop, dtype)[steps.start :]:
        optimizer.zero_grad()
        value = loss(model)
        value.backward()
        optimizer.step()
        losses.append(value.detach())
    return losses


def set_rates(optimizer: optim.Optimizer, row: Row, c: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = row.lr * c**row.lr_power
        if isinstance(group.get("eps"), float) and not isinstance(optimizer, optim.Muon):
            group["eps"] /= c


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_run_goes_on_to_the_same_bits_after_a_rescale(row: Row, dtype: torch.dtype, seed: int) -> None:
    model = unit_net(dtype)
    optimizer = optimizer_of(row, model)
    before = copy.deepcopy(model.state_dict())
    train(model, optimizer, range(N_BEFORE))  # at learning rate 0: fills the moments, moves no weight
    assert torch.equal(model.conv.weight, before["conv.weight"])

    scaled, scaled_optimizer = copy.deepcopy((model, optimizer))
    factors = decayfree.rescale_(scaled, only(row, scaled), radius=C, optimizer=scaled_optimizer)
    assert all(torch.equal(factor, torch.full_like(factor, C)) for factor in factors.values())
    for name in row.names:
        getattr(scaled, {"conv.weight": "norm1", "hidden.weight": "norm2"}[name]).eps *= C**2
    set_rates(optimizer, row, 1.0)
    set_rates(scaled_optimizer, row, C)

    steps = range(N_BEFORE, N_BEFORE + N_AFTER)
    losses, scaled_losses = train(model, optimizer, steps), train(scaled, scaled_optimizer, steps)
    assert torch.equal(torch.stack(losses), torch.stack(scaled_losses))
    assert len(set(losses)) == N_AFTER
    for (name, parameter), other in zip(model.named_parameters(), scaled.parameters(), strict=True):
        assert torch.equal(other, C * parameter if name in row.names else parameter), name


def only(row: Row, model: SmallNet) -> decayfree.Invariance:
    """What is found of the row's weights."""
    images, _ = digit_batch(0, model.conv.weight.dtype, size=16)
    return decayfree.find_invariant(model, images, include=list(row.names))


# How many powers of the gradient each memory holds: worked out from the update rules in PyTorch's
# documentation.
DEGREES: dict[str, tuple[Callable[..., optim.Optimizer], dict[str, int]]] = {
    "momentum": (partial(optim.SGD, lr=0.1, momentum=0.9), {"momentum_buffer": 1}),
    "Adam": (partial(optim.Adam, amsgrad=True), {"exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2}),
    "Adamax": (optim.Adamax, {"exp_avg": 1, "exp_inf": 1}),
    "Adagrad": (optim.Adagrad, {"sum": 2}),
    "Adadelta": (optim.Adadelta, {"square_avg": 2, "acc_delta": -2}),  # the second one holds squares of steps
    "RMSprop": (
        partial(optim.RMSprop, momentum=0.9, centered=True),
        {"square_avg": 2, "grad_avg": 1, "momentum_buffer": 0},  # its buffer holds gradients over their size
    ),
    "Rprop": (optim.Rprop, {"prev": 1, "step_size": -1}),  # steps of a weight twice as long are twice as long
    "ASGD": (partial(optim.ASGD, lambd=0.0), {"ax": -1}),  # the average of the weights
    "Muon": (partial(optim.Muon, weight_decay=0.0), {"momentum_buffer": 1}),
}


@pytest.mark.parametrize("kind", DEGREES)
def test_every_block_has_its_own_factor(kind: str) -> None:
    make, degrees = DEGREES[kind]
    model = small_net(torch.float64)
    optimizer = make([model.hidden.weight])
    train(model, optimizer, range(3))
    state = optimizer.state[model.hidden.weight]
    before = {key: state[key].clone() for key in degrees}
    counters = {key: copy.deepcopy(value) for key, value in state.items() if key not in degrees}
    factors = decayfree.rescale_(model, find(model), radius=3.0, optimizer=optimizer)["hidden.weight"]
    assert factors.std() > 0.01
    for key, degree in degrees.items():
        expected = before[key] / factors[:, None] ** degree
        torch.testing.assert_close(state[key], expected, rtol=1e-14, atol=0, msg=key)
    assert {key: value for key, value in state.items() if key not in degrees} == counters


class FromTheRight(nn.Module):
    """A linear layer that keeps its weight the other way round: its rows run along dim 1."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_inputs, n_outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weight


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "matrix": (lambda: nn.Linear(3, 4, bias=False), (3,)),
    "kernels": (lambda: nn.Conv2d(3, 4, 3, bias=False), (3, 5, 5)),
    "one-dimensional kernels": (lambda: nn.Conv1d(3, 4, 3, bias=False), (3, 5)),
    "matrix, applied from the right": (lambda: FromTheRight(3, 4), (3,)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3, bias=False), (3, 5, 5)),
    "transposed, one-dimensional": (lambda: nn.ConvTranspose1d(3, 4, 3, bias=False), (3, 5)),
    "transposed, in groups": (lambda: nn.ConvTranspose2d(4, 2 * 2, 3, groups=2, bias=False), (4, 5, 5)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_factored_memory_is_divided_as_a_whole(kind: str, seed: int) -> None:
    # Adafactor keeps means of squares along the last two dimensions: V = row_var · col_var / mean(row_var).
    make, shape = LAYERS[kind]
    layer, norm = make(), nn.BatchNorm2d(4) if len(shape) == 3 else nn.BatchNorm1d(4)
    model = nn.Sequential(layer, norm).double()
    inputs = torch.randn(8, *shape, dtype=torch.float64)
    optimizer = optim.Adafactor([layer.weight], lr=0.01)
    outputs = model(inputs)
    (outputs * torch.randn_like(outputs)).sum().backward()
    optimizer.step()
    before, weight = factored(optimizer, layer.weight), layer.weight.detach().clone()
    decayfree.rescale_(model, decayfree.find_invariant(model, inputs), radius=3.0, optimizer=optimizer)
    grown = layer.weight.detach() / weight
    assert grown.std() > 0.01
    torch.testing.assert_close(factored(optimizer, layer.weight), before / grown**2, rtol=1e-10, atol=0)


def factored(optimizer: optim.Optimizer, weight: Tensor) -> Tensor:
    """The second moment that Adafactor divides by."""
    rows, columns = optimizer.state[weight]["row_var"], optimizer.state[weight]["col_var"]
    return rows @ columns / rows.mean(dim=-2, keepdim=True)


def test_memories_of_other_weights_stay() -> None:
    model = small_net()
    optimizer = optim.Adam(model.parameters())
    train(model, optimizer, range(3))
    others = (model.head.weight, model.norm1.weight, model.norm2.bias)
    before = [value.clone() for p in others for value in optimizer.state[p].values()]
    decayfree.rescale_(model, find(model), radius=3.0, optimizer=optimizer)
    after = [value for p in others for value in optimizer.state[p].values()]
    assert all(torch.equal(value, old) for value, old in zip(after, before, strict=True))


def test_a_joint_bias_has_its_memories_too() -> None:
    model = mixed_net()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer, range(3))
    before = [optimizer.state[p]["momentum_buffer"].clone() for p in (model.hidden.weight, model.hidden.bias)]
    factor = decayfree.rescale_(model, find(model), radius=3.0, optimizer=optimizer)["hidden.weight"]
    for parameter, buffer in zip((model.hidden.weight, model.hidden.bias), before, strict=True):
        torch.testing.assert_close(
            optimizer.state[parameter]["momentum_buffer"], buffer / factor, rtol=1e-14, atol=0
        )


@pytest.mark.parametrize("momentum", ["keep", "scale"])
def test_memories_follow_when_attaching(momentum: str) -> None:
    # Attaching in mid-run is a rescale of any size; "keep" is about the small ones after each step.
    model = small_net(torch.float64)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer, range(3))
    buffer = optimizer.state[model.hidden.weight]["momentum_buffer"].clone()
    norms = model.hidden.weight.detach().norm(dim=1, keepdim=True)
    decayfree.WeightRescaling(optimizer, find(model), radius=3.0, momentum=momentum)
    expected = buffer * norms / 3.0
    torch.testing.assert_close(
        optimizer.state[model.hidden.weight]["momentum_buffer"], expected, rtol=1e-14, atol=0
    )


class Strange(optim.SGD):
    """An optimizer that remembers something of which nobody knows how it goes along."""

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["mystery"] = torch.ones_like(parameter)
        return super().step(closure)


def test_an_unknown_memory_is_named_where_it_should_follow() -> None:
    model = small_net()
    found, optimizer = find(model), Strange(model.parameters(), lr=0.1)
    train(model, optimizer, range(1))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(DecayFreeError, match=r"Strange.*mystery"):
        decayfree.WeightRescaling(optimizer, found, momentum="scale")
    with pytest.raises(DecayFreeError, match=r"Strange.*mystery"):
        decayfree.rescale_(model, found, optimizer=optimizer)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not optimizer._optimizer_step_post_hooks


def test_what_lbfgs_remembers_cannot_follow() -> None:
    model = small_net()
    found, optimizer = find(model), optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    step_once(model, optimizer, digit_losses(1, torch.float32)[0])
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(DecayFreeError, match="LBFGS"):
        decayfree.rescale_(model, found, optimizer=optimizer)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
