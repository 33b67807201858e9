"""Are large convolutions in float64 what PyTorch computes, and differentiated as it does?"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from decayfree.forward import Surroundings
from decayfree.invariance import convolutions
from decayfree.invariance.convolutions import IN_FLOAT64

CASES = {
    "square": ((2, 3, 28, 28), (7, 7), (3, 3)),
    "no padding": ((2, 3, 36, 40), (7, 7), (0, 0)),
    "more padding than kernel": ((1, 2, 28, 28), (7, 7), (9, 8)),
    "oblong": ((2, 3, 30, 28), (9, 7), (4, 2)),
}


def derivatives(values: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, int]) -> list[Tensor]:
    """The outputs, their first derivatives and those of these."""
    leaves = [one.clone().requires_grad_() for one in (values, weight, bias)]
    outputs = conv2d(*leaves, padding=padding, groups=values.shape[1] // weight.shape[1])
    slopes = torch.autograd.grad(outputs.sin().sum(), leaves, create_graph=True)
    return [outputs, *slopes, *torch.autograd.grad(sum(one.sin().sum() for one in slopes), leaves)]


@pytest.mark.usefixtures("seed")
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_derivatives_are_those_of_pytorch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, kernel, padding = CASES[name]
    n_calls, compute = 0, convolutions._depthwise

    def counted(*args: object) -> Tensor:
        nonlocal n_calls
        n_calls += 1
        return compute(*args)

    monkeypatch.setattr(convolutions, "_depthwise", counted)
    case = (torch.randn(shape), torch.randn(shape[1], 1, *kernel), torch.randn(shape[1]))
    values, weight, bias = (one.double() for one in case)
    expected = derivatives(values, weight, bias, padding)
    assert not n_calls
    with Surroundings(0, torch.float64, IN_FLOAT64):
        found = derivatives(values, weight, bias, padding)
    assert n_calls >= 2
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12 * float(other.detach().abs().max()))


@pytest.mark.parametrize("options", [{"stride": 2}, {"dilation": 2}, {"groups": 1}])
def test_others_are_left_to_pytorch(options: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "_depthwise", None)
    options = {"groups": 4, **options}
    values = torch.randn(2, 4, 30, 30, dtype=torch.float64)
    weight = torch.randn(4, 4 // options["groups"], 7, 7, dtype=torch.float64, requires_grad=True)
    with Surroundings(0, torch.float64, IN_FLOAT64):
        found = conv2d(values, weight, **options)
        found.sum().backward()
    assert torch.equal(found, conv2d(values, weight, **options))


DENSE = {
    "square": ((2, 3, 12, 12), 5, (3, 3), (1, 1)),
    "no padding": ((2, 3, 9, 12), 2, (2, 3), (0, 0)),
    "more padding than kernel": ((1, 2, 8, 9), 3, (3, 3), (4, 3)),
    "as large as the map": ((2, 2, 5, 6), 3, (5, 6), (0, 0)),
}


@pytest.mark.usefixtures("seed")
@pytest.mark.parametrize("name", DENSE)
def test_dense_ones_are_those_of_pytorch_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, n_outputs, kernel, padding = DENSE[name]
    monkeypatch.setattr(convolutions, "_LEAST_UNFOLDED", 1)
    monkeypatch.setattr(convolutions, "_MOST_NUMBERS", 30)
    calls = []

    def counted(name: str, compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: Any) -> Tensor:
            calls.append(name)
            return compute(*args)

        return call

    for name in ("_dense", "_of_dense_weight"):
        monkeypatch.setattr(convolutions, name, counted(name, getattr(convolutions, name)))
    case = (torch.randn(shape), torch.randn(n_outputs, shape[1], *kernel), torch.randn(n_outputs))
    values, weight, bias = (one.double() for one in case)
    expected = derivatives(values, weight, bias, padding)
    assert not calls
    with Surroundings(0, torch.float64, IN_FLOAT64):
        found = derivatives(values, weight, bias, padding)
    assert {*calls} == {"_dense", "_of_dense_weight"}
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12 * float(other.detach().abs().max()))


def test_small_dense_ones_are_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "_dense", None)
    values, weight = torch.randn(2, 64, 28, 28).double(), torch.randn(8, 64, 3, 3).double()
    with Surroundings(0, torch.float64, IN_FLOAT64):
        assert torch.equal(conv2d(values, weight), conv2d(values, weight))
