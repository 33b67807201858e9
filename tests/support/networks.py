"""Small networks with blocks known by hand, and real data for them: what the tests of rescaling train.

No test is here, and no list of all kinds of networks: the zoo has those.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import decayfree
from support import reference
from support.reference import BlockSpec

# Far below every variance that occurs: with it a normalization is scale-invariant to rounding. Zero is
# refused by torch.
TINY_EPS = 1e-30


class MixedNet(nn.Module):
    """One weight of each kind: kernels, grouped, transposed and grouped, and a layer tied to its bias."""

    specs = (
        BlockSpec("conv.weight", (1, 1, 1, 1)),
        BlockSpec("grouped.weight", (1,) * 6),
        BlockSpec("transposed.weight", (1,) * 4, axis=1, groups=2),
        BlockSpec("hidden.weight", (8,), bias="hidden.bias"),
    )

    def __init__(self, eps: float = TINY_EPS) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4, eps=eps)
        self.grouped = nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False)
        self.norm2 = nn.BatchNorm2d(6, eps=eps)
        self.transposed = nn.ConvTranspose2d(6, 4, 2, groups=2, bias=False)
        self.norm3 = nn.BatchNorm2d(4, eps=eps)
        self.hidden = nn.Linear(100, 8)
        self.norm4 = nn.LayerNorm(8, eps=eps)
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm1(self.conv(images)).relu()
        x = self.norm2(self.grouped(x)).tanh()
        x = self.norm3(self.transposed(x)).relu()
        x = self.norm4(self.hidden(x.flatten(1))).tanh()
        return self.head(x)


class SmallNet(nn.Module):
    """Two BatchNorm layers for tables of many cases: 1 ms a step. Grey images are three equal channels."""

    specs: tuple[BlockSpec, ...] = (BlockSpec("conv.weight", (1,) * 4), BlockSpec("hidden.weight", (1,) * 6))

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.hidden = nn.Linear(36, 6, bias=False)
        self.norm2 = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm1(self.conv(images.expand(-1, 3, -1, -1))).relu()
        return self.head(self.norm2(self.hidden(x.flatten(1))).relu())


class TiedNet(SmallNet):
    """A frozen convolution, and one weight that two layers share, each with a normalization of its own."""

    specs = (BlockSpec("hidden.weight", (1,) * 6), BlockSpec("tied1.weight", (1,) * 6))

    def __init__(self) -> None:
        super().__init__()
        self.conv.weight.requires_grad_(False)
        self.tied1, self.tied2 = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        self.tied2.weight = self.tied1.weight
        self.norm3, self.norm4 = nn.BatchNorm1d(6), nn.BatchNorm1d(6)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm1(self.conv(images.expand(-1, 3, -1, -1))).relu()
        x = self.norm2(self.hidden(x.flatten(1))).relu()
        x = self.norm3(self.tied1(x)).relu()
        return self.head(self.norm4(self.tied2(x)).relu())


def small_net(dtype: torch.dtype = torch.float32, seed: int = 0, kind: type[SmallNet] = SmallNet) -> SmallNet:
    """The same network for the same seed, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind().to(dtype)


def mixed_net(dtype: torch.dtype = torch.float64, seed: int = 0, eps: float = TINY_EPS) -> MixedNet:
    """The same network for the same seed, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MixedNet(eps).to(dtype)


@cache
def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 scans of digits: images (n, 1, 8, 8) float64 in [0, 1], labels (n,) int64."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.images / 16.0).unsqueeze(1), torch.tensor(data.target)


def digit_batch(step: int, dtype: torch.dtype, size: int = 32) -> tuple[Tensor, Tensor]:
    """Images and labels of one step; always the same ones for the same step."""
    images, labels = digits()
    chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(step))[:size]
    return images[chosen].to(dtype), labels[chosen]


def digit_loss(step: int, dtype: torch.dtype, model: nn.Module) -> Tensor:
    """The cross entropy of the batch of one step, taken in float32 at least."""
    images, labels = digit_batch(step, dtype)
    logits = model(images)
    return F.cross_entropy(logits if dtype == torch.float64 else logits.float(), labels)


def digit_losses(n_steps: int, dtype: torch.dtype = torch.float64) -> list[Callable[[nn.Module], Tensor]]:
    """The losses of a training run, as ``reference.train`` takes them."""
    return [partial(digit_loss, step, dtype) for step in range(n_steps)]


def find(model: nn.Module) -> decayfree.Invariance:
    """What decayfree finds in one of the networks above; the model must be in train mode."""
    images, _ = digit_batch(0, next(model.parameters()).dtype, size=16)
    return decayfree.find_invariant(model, images)


def step_once(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: Callable[[nn.Module], Tensor]
) -> Tensor:
    """One ordinary training step, with a closure, which every optimizer takes."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(model)
        value.backward()
        return value

    return optimizer.step(closure)


def attached(model: nn.Module, **settings: Any) -> tuple[torch.optim.Optimizer, decayfree.WeightRescaling]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return optimizer, decayfree.WeightRescaling(optimizer, find(model), **settings)


def largest_deviation(model: SmallNet, radius: float = 1.0) -> float:
    parameters = dict(model.named_parameters())
    norms = [norm for spec in model.specs for norm in reference.norms_of(parameters[spec.weight], spec)]
    return max(abs(norm / radius - 1.0) for norm in norms)


def equal(model: nn.Module, other: nn.Module) -> bool:
    values, others = model.state_dict(), other.state_dict()
    return all(torch.equal(value, others[name]) for name, value in values.items())
