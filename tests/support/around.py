"""One small network for tests of models of every kind: a convolution without a scale, and a head with one."""

from typing import Any

import torch
from torch import Tensor, nn

from decayfree import find_invariant
from support.zoo_entry import images, net

N_KERNELS = 6


def body() -> nn.Sequential:
    """On (n, 3, 7, 6): one convolution without a scale, and a head with one."""
    return net(
        conv=nn.Conv2d(3, N_KERNELS, 3, bias=False),
        norm=nn.BatchNorm2d(N_KERNELS),
        act=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(2),
        flat=nn.Flatten(),
        head=nn.Linear(4 * N_KERNELS, 2),
    )


def pictures() -> Tensor:
    return images(torch.Generator().manual_seed(4))


class Around(nn.Module):
    """The small network, and something around it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = body()


def names_in(model: nn.Module, inputs: Any, **options: Any) -> list[str]:
    return [weight.name for weight in find_invariant(model, inputs, **options)]


def assert_found(model: nn.Module, inputs: Any = None, names: tuple[str, ...] = ("net.conv.weight",)) -> None:
    """These weights and no others are found, in kernels where they are convolutions, in float64."""
    found = find_invariant(model, pictures() if inputs is None else inputs)
    assert tuple(weight.name for weight in found) == names, found
    assert found.dtype == torch.float64
    assert found.confirmed_to < 1e-9
