"""Is every way to pass an ε or a momentum known?

One model for each row of the tables, and the table without it. In each model nothing but this one function,
or a module with this one name for its ε, takes the scale away.
"""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decayfree import find_invariant
from decayfree.invariance import exact_arithmetic
from decayfree.invariance.exact_arithmetic import _EPS_NAMES, _FUNCTIONS, NEGLIGIBLE_EPS, use_eps_
from decayfree.invariance.probe import Probe
from support.zoo_entry import NOT, images, net

INVARIANT = "invariant"
EPS = 0.5  # so large that nobody could overlook it
N_CHANNELS = 6


def name_of(function: Callable[..., Any]) -> str:
    return f"{'F' if function.__module__ == F.__name__ else 'torch'}.{function.__name__}"


EVERY_FUNCTION = pytest.mark.parametrize("function", _FUNCTIONS, ids=name_of)
WITH_RUNNING_STATISTICS = pytest.mark.parametrize(
    "function", [function for function, at in _FUNCTIONS.items() if at.mean is not None], ids=name_of
)
EITHER_WAY = pytest.mark.parametrize("is_positional", [True, False], ids=["by position", "by name"])

# What each function takes after its input, in its order.
ORDER = {
    F.batch_norm: "running_mean running_var weight bias training momentum eps",
    torch.batch_norm: "weight bias running_mean running_var training momentum eps cudnn_enabled",
    F.instance_norm: "running_mean running_var weight bias use_input_stats momentum eps",
    torch.instance_norm: "weight bias running_mean running_var use_input_stats momentum eps cudnn_enabled",
    F.layer_norm: "normalized_shape weight bias eps",
    torch.layer_norm: "normalized_shape weight bias eps",
    F.group_norm: "num_groups weight bias eps",
    torch.group_norm: "num_groups weight bias eps",
    F.rms_norm: "normalized_shape weight eps",
    torch.rms_norm: "normalized_shape weight eps",
    F.normalize: "p dim eps",
}
# The values of these arguments; those that are not here are None.
VALUES = {
    "training": True,
    "use_input_stats": True,
    "cudnn_enabled": False,
    "momentum": 0.1,
    "eps": EPS,
    "normalized_shape": (7, 6),
    "num_groups": 2,
    "p": 2.0,
    "dim": 1,
}


class Normalized(nn.Module):
    """A convolution without bias, one function, ReLU."""

    def __init__(
        self, function: Callable[..., Any], *, is_positional: bool, momentum: float | None = None
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, N_CHANNELS, 3, padding=1, bias=False)
        self.function, self.is_positional = function, is_positional
        self.arguments = {name: VALUES.get(name) for name in ORDER[function].split()}
        if function is F.normalize:
            self.arguments["eps"] = 100.0  # it divides by the larger of norm and ε
        if momentum is not None:
            self.arguments["momentum"] = momentum
            self.register_buffer("running_mean", torch.zeros(N_CHANNELS))
            self.register_buffer("running_var", torch.ones(N_CHANNELS))

    def forward(self, x: Tensor) -> Tensor:
        statistics = {name: buffer for name, buffer in self.named_buffers() if "running" in name}
        arguments = self.arguments | statistics
        x = self.conv(x)
        if self.is_positional:
            return F.relu(self.function(x, *arguments.values()))
        return F.relu(self.function(x, **arguments))


def built(make: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return make(), images(torch.Generator().manual_seed(4))


def verdict_of(model: nn.Module, inputs: Tensor) -> str:
    return find_invariant(model, inputs).verdicts["conv.weight"].verdict


@EVERY_FUNCTION
@EITHER_WAY
def test_the_eps_of_a_function_is_set_aside(
    function: Callable[..., Any], is_positional: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = built(lambda: Normalized(function, is_positional=is_positional))
    assert verdict_of(model, inputs) == INVARIANT
    monkeypatch.delitem(_FUNCTIONS, function)
    assert verdict_of(model, inputs) == NOT


@pytest.mark.parametrize(
    "function",
    [
        function
        for function in _FUNCTIONS
        if function not in (torch.batch_norm, torch.instance_norm)  # which have no defaults
    ],
    ids=name_of,
)
def test_an_eps_that_is_not_passed_is_set_aside_too(function: Callable[..., Any]) -> None:
    """The default 1e-5 (or that of the precision, or 1e-12) shows where inputs are small."""
    model, inputs = built(lambda: Normalized(function, is_positional=False))
    del model.arguments["eps"]
    assert verdict_of(model, 1e-7 * inputs) == INVARIANT


@WITH_RUNNING_STATISTICS
@EITHER_WAY
def test_a_momentum_of_zero_is_replaced(
    function: Callable[..., Any], is_positional: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics that stand still would not show that they follow the kernels."""
    model, inputs = built(lambda: Normalized(function, is_positional=is_positional, momentum=0.0))

    def following_channels() -> tuple[int, ...]:
        return sum((layer.channels for layer in find_invariant(model, inputs)["conv.weight"].norm_layers), ())

    assert following_channels() == tuple(range(N_CHANNELS))
    monkeypatch.setitem(_FUNCTIONS, function, _FUNCTIONS[function]._replace(momentum=None))
    assert following_channels() == ()


@WITH_RUNNING_STATISTICS
@EITHER_WAY
def test_updates_of_the_running_mean_are_counted(
    function: Callable[..., Any], is_positional: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = built(lambda: Normalized(function, is_positional=is_positional, momentum=0.1))

    def n_updates() -> int:
        return Probe(model, inputs, None, torch.float64, seed=0).run().n_updates[""]

    assert n_updates() == 1
    monkeypatch.setitem(_FUNCTIONS, function, _FUNCTIONS[function]._replace(mean=None))
    assert n_updates() == 0


@pytest.mark.parametrize(
    "function", [function for function in _FUNCTIONS if function.__module__ == F.__name__], ids=name_of
)
def test_positions_are_those_of_the_signature(function: Callable[..., Any]) -> None:
    names = list(inspect.signature(function).parameters)
    at = _FUNCTIONS[function]
    assert names[at.eps] == "eps"
    assert (at.momentum is None) == ("momentum" not in names)
    assert at.momentum is None or (names[at.momentum], names[at.mean]) == ("momentum", "running_mean")


class HandRootMeanSquare(nn.Module):
    """Divides by the root mean square over positions; its ε has a name of choice."""

    def __init__(self, eps_name: str) -> None:
        super().__init__()
        self.eps_name = eps_name
        setattr(self, eps_name, EPS)

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.sqrt(x.square().mean((0, 2, 3), keepdim=True) + getattr(self, self.eps_name))


@pytest.mark.parametrize("name", _EPS_NAMES)
def test_an_eps_of_this_name_is_set_aside(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = built(
        lambda: net(conv=nn.Conv2d(3, 6, 3, bias=False), norm=HandRootMeanSquare(name), act=nn.ReLU())
    )
    assert verdict_of(model, inputs) == INVARIANT
    assert getattr(model.norm, name) == EPS, "the model itself is not touched"
    others = tuple(other for other in _EPS_NAMES if other != name)
    monkeypatch.setattr(exact_arithmetic, "_EPS_NAMES", others)
    assert verdict_of(model, inputs) == NOT


def test_only_a_number_is_an_eps() -> None:
    """A module may keep something else under such a name."""
    module = nn.Module()
    module.eps, module.epsilon, module.norm_eps = nn.Parameter(torch.ones(2)), "large", 1
    use_eps_(module, NEGLIGIBLE_EPS)
    assert (tuple(module.eps.shape), module.epsilon, module.norm_eps) == ((2,), "large", 1)
