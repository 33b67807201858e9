"""What does an entry of the zoo say?

A model, its inputs, and the known answer for every parameter, with the reason. These are the words in which
the zoo's files write it down; no model and no check is in here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

NOT = "not_invariant"
UNDECIDED = "undecided"
FROZEN = "frozen"
# A bias that only works together with its weight: invariant, and part of the weight's answer.
JOINT = "joint"
# A bias without any effect in training that is scaled along with its weight, so that more can be said of it.
ALONG = "along"
# Rows of one number, or none at all (gains, scalars): invariant by measurement but left out, as they have no
# direction.
LEFT_OUT = "left out"


@dataclass(frozen=True)
class Follows:
    """A normalization whose running statistics follow the scale of a weight."""

    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    shift: str | None = None
    shift_rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class Scaled:
    """The known answer for a scale-invariant weight."""

    block_sizes: tuple[int, ...]
    axis: int = 0
    groups: int = 1
    bias: str | None = None
    norms: Mapping[str, Follows] = ()  # type: ignore[assignment]
    starts: tuple[int, ...] = ()  # first row of each block, where some rows are in none

    @property
    def n_blocks(self) -> int:
        return len(self.block_sizes)


@dataclass(frozen=True)
class ZooModel:
    """One model with its known answer.

    Attributes:
        name: A sentence's worth of words, joined by underscores.
        reason: Why the answer is what it is.
        build: Makes the model, its modes set as the probe shall meet them; called with a fixed seed.
        inputs: Makes the inputs from a generator: a tensor, a tuple, a mapping, or anything for ``forward``.
        known: Parameter name → answer, for every parameter.
        forward: As for ``find_invariant``.
        dtype: The precision in which the model can run and be checked.
        factor: By which a weight is scaled to see whether it is not invariant.
    """

    name: str
    reason: str
    build: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator], Any]
    known: Mapping[str, Scaled | str]
    forward: Callable[[nn.Module, Any], Any] | None = None
    dtype: torch.dtype = torch.float64
    factor: float = 1.7

    def make(self) -> tuple[nn.Module, Any]:
        """The model and its inputs, float32, the same ones every time; no global random state is touched."""
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model = self.build()
        return model, self.inputs(torch.Generator().manual_seed(4))


def kernels(n: int, *, bias: str | None = None, axis: int = 0, groups: int = 1, **norms: Follows) -> Scaled:
    """Every row is a block. A name in ``norms`` writes a dot as two underscores."""
    return Scaled((1,) * n, axis, groups, bias, _dotted(norms))


def blocks(
    *sizes: int,
    bias: str | None = None,
    axis: int = 0,
    groups: int = 1,
    starts: tuple[int, ...] = (),
    **norms: Follows,
) -> Scaled:
    """Blocks of the given numbers of rows; a single number is the whole weight."""
    return Scaled(sizes, axis, groups, bias, _dotted(norms), starts)


def _dotted(norms: Mapping[str, Follows]) -> dict[str, Follows]:
    return {name.replace("__", "."): follows for name, follows in norms.items()}


def each(n: int, *, offset: int = 0, shift: str | None = None) -> Follows:
    """Channel ``offset + i`` follows block i."""
    rows = tuple(range(n))
    return Follows(tuple(offset + i for i in rows), rows, shift, rows if shift else ())


def all_with_one(n: int, *, shift: str | None = None) -> Follows:
    """All n channels follow the only block there is."""
    return Follows(tuple(range(n)), (0,) * n, shift, tuple(range(n)) if shift else ())


def net(**modules: nn.Module) -> nn.Sequential:
    """A Sequential whose members have names, in the order given."""
    sequential = nn.Sequential()
    for name, module in modules.items():
        sequential.add_module(name, module)
    return sequential


def tail(n: int, dimensions: int = 2) -> dict[str, nn.Module]:
    """ReLU, mean over positions, a linear head: outputs that see the shape of what the norm puts out."""
    pool = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[dimensions](1)
    return {"act": nn.ReLU(), "pool": pool, "flat": nn.Flatten(), "head": nn.Linear(n, 3)}


HEAD = {"head.weight": NOT, "head.bias": NOT}
NORM = {"norm.weight": NOT, "norm.bias": NOT}
NORM_AND_HEAD = NORM | HEAD


def images(generator: torch.Generator) -> Tensor:
    """(5, 3, 7, 6), float32."""
    return torch.randn(5, 3, 7, 6, generator=generator)


def images4(generator: torch.Generator) -> Tensor:
    """(5, 4, 6, 5), float32: as many channels as two groups can share."""
    return torch.randn(5, 4, 6, 5, generator=generator)


def tokens(generator: torch.Generator) -> Tensor:
    """(4, 5, 8), float32: batch, positions, features."""
    return torch.randn(4, 5, 8, generator=generator)


def rows(generator: torch.Generator) -> Tensor:
    """(12, 5), float32: batch, features."""
    return torch.randn(12, 5, generator=generator)


def word_ids(generator: torch.Generator) -> Tensor:
    """(4, 5), whole numbers below 7, each of them at least once."""
    return torch.cat([torch.arange(7), torch.randint(7, (13,), generator=generator)]).reshape(4, 5)
