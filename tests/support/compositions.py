"""Which networks can be composed at random?

Convolutions × norms × activations × ways to wire them, as strategies. No known answer is in here:
test_discovery_properties.py checks what is true of them.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

N = 6  # channels everywhere, so that any two stages can be wired to each other

LAYERS: dict[str, Callable[[bool], nn.Module]] = {
    "conv": lambda bias: nn.Conv2d(N, N, 3, padding=1, bias=bias),
    "grouped": lambda bias: nn.Conv2d(N, N, 3, padding=1, groups=2, bias=bias),
    "depthwise": lambda bias: nn.Conv2d(N, N, 3, padding=1, groups=N, bias=bias),
    "pointwise": lambda bias: nn.Conv2d(N, N, 1, bias=bias),
    "transposed": lambda bias: nn.ConvTranspose2d(N, N, 3, padding=1, bias=bias),
    "grouped transposed": lambda bias: nn.ConvTranspose2d(N, N, 3, padding=1, groups=3, bias=bias),
    "linear": lambda bias: Channels(nn.Linear(N, N, bias=bias)),
    "fused": lambda bias: Fused(bias),
    "binary": lambda bias: Channels(Binary(bias)),
}
NORMS: dict[str, Callable[[], nn.Module]] = {
    "batch": lambda: nn.BatchNorm2d(N),
    "batch without gain": lambda: nn.BatchNorm2d(N, affine=False),
    "batch in eval mode": lambda: nn.BatchNorm2d(N).eval(),
    "frozen batch": lambda: nn.BatchNorm2d(N, affine=False).eval(),
    "instance": lambda: nn.InstanceNorm2d(N, affine=True),
    "groups": lambda: nn.GroupNorm(3, N),
    "all channels": lambda: nn.GroupNorm(1, N),
    "layer": lambda: Channels(nn.LayerNorm(N)),
    "rms": lambda: Channels(nn.RMSNorm(N)),
    "none": nn.Identity,
}
# Homogeneous ones and others; before the norm they decide whether a weight has a scale.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(0.2),
    "pool": lambda: nn.AvgPool2d(3, stride=1, padding=1),
    "dropout": lambda: nn.Dropout(0.2),
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    # Clips, most of which nothing reaches yet.
    "relu6": nn.ReLU6,
    "clip above": lambda: nn.Hardtanh(-1e9, 20.0),
    "clip both": lambda: nn.Hardtanh(-1.5, 3.0),
    "shrink": lambda: nn.Hardshrink(0.02),
}
WIRINGS = ("plain", "residual", "sum before the norm", "two branches", "used twice", "concatenated")


class Binary(nn.Linear):
    """The signs of a weight, with a gradient as if it were the weight: straight through."""

    def __init__(self, bias: bool) -> None:
        super().__init__(N, N, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight + (self.weight.sign() - self.weight).detach(), self.bias)


class Fused(nn.Module):
    """Three parts of one projection; the rows of the first two alone have no scale."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(N, 3 * N, bias=bias)
        self.q_norm, self.k_norm = nn.LayerNorm(N), nn.RMSNorm(N)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.movedim(1, -1)).chunk(3, dim=-1)
        return (self.q_norm(q).tanh() * self.k_norm(k) + v).movedim(-1, 1)


class Channels(nn.Module):
    """A layer for channels in the last place, on images."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.movedim(1, -1)).movedim(-1, 1)


@dataclass(frozen=True)
class StageSpec:
    """How one stage is made: layer → middle → norm → after, wired to the stages before it."""

    layer: str
    bias: bool
    middle: str
    norm: str
    after: str
    wiring: str

    def build(self) -> "Stage":
        return Stage(self)


class Stage(nn.Module):
    """One stage of a random network."""

    def __init__(self, spec: StageSpec) -> None:
        super().__init__()
        self.wiring = spec.wiring
        self.layer = LAYERS[spec.layer](spec.bias)
        self.middle, self.after = ACTIVATIONS[spec.middle](), ACTIVATIONS[spec.after]()
        self.norm = NORMS[spec.norm]()
        if spec.wiring in ("two branches", "used twice"):
            self.second_norm = NORMS[spec.norm]()
        if spec.wiring == "two branches":
            self.second = LAYERS["pointwise"](spec.bias)
        if spec.wiring == "concatenated":
            self.mix = nn.Conv2d(2 * N, N, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.middle(self.layer(x))
        match self.wiring:
            case "residual":
                return x + self.after(self.norm(y))
            case "sum before the norm":
                return self.after(self.norm(x + y))
            case "two branches":
                return self.after(self.norm(y) + self.second_norm(self.second(x)))
            case "used twice":
                return self.after(self.norm(y)) - self.after(self.second_norm(self.layer(x.flip(2))))
            case "concatenated":
                return self.after(self.mix(torch.cat([x, self.norm(y)], dim=1)))
        return self.after(self.norm(y))


@dataclass(frozen=True)
class NetworkSpec:
    """Stages in a row, or the first of them repeated, and a linear head that reads every position."""

    stages: tuple[StageSpec, ...]
    reuse_first: bool
    frozen: int | None = None  # the stage whose parameters are not trained
    seed: int = field(default=0)

    def build(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return Network(self)


class Network(nn.Module):
    """A random network on images of N channels, 5 × 4."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stage.build() for stage in spec.stages)
        if spec.frozen is not None and spec.frozen < len(spec.stages):
            self.stages[spec.frozen].requires_grad_(False)
        self.reuse_first = spec.reuse_first
        self.head = nn.Linear(20 * N, 4)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        if self.reuse_first:
            x = self.stages[0](x)
        return self.head(x.flatten(1))


STAGES = st.builds(
    StageSpec,
    layer=st.sampled_from(sorted(LAYERS)),
    bias=st.booleans(),
    middle=st.sampled_from(sorted(ACTIVATIONS)),
    norm=st.sampled_from(sorted(NORMS)),
    after=st.sampled_from(sorted(ACTIVATIONS)),
    wiring=st.sampled_from(WIRINGS),
)
NETWORKS = st.builds(
    NetworkSpec,
    stages=st.lists(STAGES, min_size=1, max_size=3).map(tuple),
    reuse_first=st.booleans(),
    frozen=st.none() | st.integers(0, 2),
    seed=st.integers(0, 2**16),
)


def network_of(number: int) -> NetworkSpec:
    """One network for every whole number, of the same kinds."""
    draw = random.Random(number)
    stages = tuple(
        StageSpec(
            layer=draw.choice(sorted(LAYERS)),
            bias=draw.random() < 0.5,
            middle=draw.choice(sorted(ACTIVATIONS)),
            norm=draw.choice(sorted(NORMS)),
            after=draw.choice(sorted(ACTIVATIONS)),
            wiring=draw.choice(WIRINGS),
        )
        for _ in range(draw.randint(1, 3))
    )
    frozen = draw.randint(0, 2) if draw.random() < 0.2 else None
    return NetworkSpec(stages, draw.random() < 0.2, frozen, number)


def pictures(seed: int) -> Tensor:
    """(6, N, 5, 4), float32."""
    return torch.randn(6, N, 5, 4, generator=torch.Generator().manual_seed(seed))
