"""The orbit symmetry of a whole training run: scaled weights with matching settings train to the same bits.

(w, η, λ, ε) → (cw, c²η, λ/c², c²ε) for SGD, momentum and Nesterov with L2; (cw, cη, ε/c for Adam's ε) for
Adam, with λ/c for AdamW. For c a power of two every product is exact, so nothing less than equality of all
bits is asked for. One weight that was wrongly called invariant, one block cut wrongly, one forgotten row or
one rounding breaks it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import decayfree
from decayfree.blocks import scale_blocks_
from support.networks import digit_batch, digit_losses, find, mixed_net

N_STEPS = 100
NORM_EPS = 1e-5


@dataclass(frozen=True)
class Row:
    """One optimizer, and by which powers of c its settings go along with the weights."""

    make: Callable[..., torch.optim.Optimizer]
    lr: float
    lr_power: int
    decay: float = 0.0
    decay_power: int = 0
    eps: float | None = None


SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
ROWS = {
    "sgd": Row(SGD, lr=0.1, lr_power=2, decay=1e-2, decay_power=-2),
    "momentum": Row(partial(SGD, momentum=0.9), lr=0.03, lr_power=2, decay=1e-2, decay_power=-2),
    "nesterov": Row(
        partial(SGD, momentum=0.9, nesterov=True), lr=0.03, lr_power=2, decay=1e-2, decay_power=-2
    ),
    "adam": Row(partial(Adam, foreach=False), lr=1e-2, lr_power=1, decay=1e-2, decay_power=-2, eps=1e-6),
    "adamw": Row(partial(AdamW, foreach=False), lr=1e-2, lr_power=1, decay=1e-1, decay_power=-1, eps=1e-6),
}
# One power that is not the symmetry's: what the tests below are worth.
LEFT_BEHIND = {
    "the learning rate of SGD": ("sgd", {"lr_power": 1}),
    "the decay of momentum": ("momentum", {"decay_power": 0}),
    "the learning rate of Adam": ("adam", {"lr_power": 2}),
    "the decay of AdamW": ("adamw", {"decay_power": -2}),
}


@dataclass(frozen=True)
class Result:
    """Everything that a run leaves behind."""

    losses: tuple[Tensor, ...]
    invariant: dict[str, Tensor]
    rest: dict[str, Tensor]
    statistics: dict[str, Tensor]
    evaluated: Tensor


@cache
def trained(
    row: Row, dtype: torch.dtype, c: float, radius: float | None = None, momentum: str = "keep"
) -> Result:
    """Train from the weights scaled by c, with settings to match; with ``radius``, hold them there."""
    model = mixed_net(dtype, eps=NORM_EPS * c**2)
    found = find(model)
    names = {name for weight in found for name in (weight.name, weight.bias) if name is not None}
    parameters = dict(model.named_parameters())
    for weight in found:
        bias = None if weight.bias is None else parameters[weight.bias]
        scale_blocks_(
            parameters[weight.name],
            torch.full((weight.blocks.n_blocks,), c, dtype=dtype),
            weight.blocks,
            bias,
        )
    for name, statistic in statistics_of(model).items():
        statistic.mul_(c ** power_of(name))
    optimizer = row.make(
        [
            {
                "params": [p for name, p in parameters.items() if name in names],
                "lr": row.lr * c**row.lr_power,
                "weight_decay": 0.0 if radius is not None else row.decay * c**row.decay_power,
            }
            | ({} if row.eps is None else {"eps": row.eps / c}),
            {"params": [p for name, p in parameters.items() if name not in names]}
            | ({} if row.eps is None else {"eps": row.eps}),
        ],
        lr=row.lr,
        weight_decay=row.decay,
    )
    if radius is not None:
        decayfree.WeightRescaling(optimizer, found, radius=radius, momentum=momentum)
    losses = []
    for loss in digit_losses(N_STEPS, dtype):
        optimizer.zero_grad()
        value = loss(model)
        value.backward()
        optimizer.step()
        losses.append(value.detach())
    model.eval()
    with torch.no_grad():
        evaluated = model(digit_batch(-1, dtype)[0])
    return Result(
        tuple(losses),
        {name: p.detach() for name, p in parameters.items() if name in names},
        {name: p.detach() for name, p in parameters.items() if name not in names},
        statistics_of(model),
        evaluated,
    )


def statistics_of(model: nn.Module) -> dict[str, Tensor]:
    """Running means and variances, by buffer name."""
    return {
        name: buffer for name, buffer in model.named_buffers() if not name.endswith("num_batches_tracked")
    }


def power_of(statistic: str) -> int:
    """A variance goes with the square of its weights."""
    return 2 if statistic.endswith("running_var") else 1


def assert_same_orbit(run: Result, base: Result, c: float) -> None:
    assert base.losses[-1] < base.losses[0] / 2
    assert torch.equal(torch.stack(run.losses), torch.stack(base.losses))
    for name, weight in base.invariant.items():
        assert torch.equal(run.invariant[name], c * weight), name
    for name, weight in base.rest.items():
        assert torch.equal(run.rest[name], weight), name
    for name, statistic in base.statistics.items():
        assert torch.equal(run.statistics[name], c ** power_of(name) * statistic), name
    assert torch.equal(run.evaluated, base.evaluated)


def test_the_networks_blocks_are_those_known_by_hand() -> None:
    model = mixed_net()
    found = find(model)
    assert {(w.name, w.block_sizes, w.bias, w.axis, w.groups) for w in found} == {
        (spec.weight, spec.sizes, spec.bias, spec.axis, spec.groups) for spec in model.specs
    }
    assert sum(isinstance(module, _BatchNorm) for module in model.modules()) == 3


@pytest.mark.parametrize("c", [2.0, 4.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", ROWS)
def test_a_scaled_run_is_bitwise_the_same_run(kind: str, dtype: torch.dtype, c: float) -> None:
    assert_same_orbit(trained(ROWS[kind], dtype, c), trained(ROWS[kind], dtype, 1.0), c)


@pytest.mark.parametrize("c", [2.0, 4.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("kind", "momentum"),
    [("sgd", "keep"), ("momentum", "keep"), ("momentum", "scale"), ("adam", "scale")],
)
def test_holding_another_radius_is_bitwise_the_same_run(
    kind: str, momentum: str, dtype: torch.dtype, c: float
) -> None:
    held = trained(ROWS[kind], dtype, 1.0, radius=1.0, momentum=momentum)
    assert_same_orbit(trained(ROWS[kind], dtype, c, radius=c, momentum=momentum), held, c)
    assert not torch.equal(held.evaluated, trained(ROWS[kind], dtype, 1.0).evaluated)


@pytest.mark.parametrize("what", LEFT_BEHIND)
def test_a_setting_left_behind_breaks_the_symmetry(what: str) -> None:
    kind, wrong = LEFT_BEHIND[what]
    run = trained(replace(ROWS[kind], **wrong), torch.float64, 2.0)
    base = trained(ROWS[kind], torch.float64, 1.0)
    assert not torch.allclose(torch.stack(run.losses), torch.stack(base.losses), rtol=1e-6)
