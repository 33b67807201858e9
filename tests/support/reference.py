"""What rescaling and the optimizers must do: textbook formulas in float64, block by block, slow on purpose.

It never imports decayfree: every formula here comes from the papers, so that agreement with the library means
something. Symbols: w a weight, g its gradient, v a momentum buffer, r a norm, c a factor, η the learning
rate, λ the weight decay, μ the momentum coefficient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn


@dataclass
class BlockSpec:
    """Which rows of one weight have a scale in common; written down by hand for each test network."""

    weight: str
    sizes: tuple[int, ...]
    bias: str | None = None
    axis: int = 0
    groups: int = 1
    starts: tuple[int, ...] = ()  # the first row of each block, where some rows are in none


@dataclass
class Rescaling:
    """Weight rescaling as in the paper: each block gets its target norm after every ``every``-th step."""

    specs: Sequence[BlockSpec]
    targets: dict[str, list[float]]  # weight name -> target norm of each block
    every: int = 1
    moments_follow: bool = False  # the orbit action: v/c for first moments, v/c² for second ones


@dataclass
class Rule:
    """One optimizer's settings; ``name`` is one of sgd, adam, adamw."""

    name: str
    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


@dataclass
class Moments:
    """What an optimizer remembers of one parameter."""

    first: Tensor
    second: Tensor
    n_steps: int = 0


@dataclass
class History:
    """One entry a step, for one block: what the identities of norm growth are about."""

    norms: list[float] = field(default_factory=list)  # before each step, and after the last
    gradient_norms: list[float] = field(default_factory=list)
    buffer_norms: list[float] = field(default_factory=list)  # after each update of the buffer


def train(
    model: nn.Module,
    losses: Sequence[Callable[[nn.Module], Tensor]],
    rule: Rule,
    rescaling: Rescaling | None = None,
) -> list[dict[str, Tensor]]:
    """Take a step for each of ``losses``, changing ``model``; return a copy of all parameters after each."""
    moments = {
        name: Moments(torch.zeros_like(p), torch.zeros_like(p)) for name, p in model.named_parameters()
    }
    parameters = dict(model.named_parameters())
    snapshots = []
    for step, loss in enumerate(losses, start=1):
        gradients = torch.autograd.grad(loss(model), list(parameters.values()))
        with torch.no_grad():
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
                parameter.copy_(optimizer_step(rule, parameter, gradient, moments[name]))
            if rescaling is not None and step % rescaling.every == 0:
                for spec in rescaling.specs:
                    rescale_one(parameters, moments, spec, rescaling)
        snapshots.append({name: p.detach().clone() for name, p in parameters.items()})
    return snapshots


def optimizer_step(rule: Rule, w: Tensor, g: Tensor, moments: Moments) -> Tensor:
    """The weight after one step; updates ``moments``."""
    if rule.name == "sgd":
        return sgd_step(rule, w, g, moments)
    return adam_step(rule, w, g, moments)


def sgd_step(rule: Rule, w: Tensor, g: Tensor, moments: Moments) -> Tensor:
    """SGD with L2 regularization and (Nesterov) momentum, no dampening: v ← μv + g, w ← w − ηv."""
    g = g + rule.weight_decay * w
    moments.first = rule.momentum * moments.first + g
    step = g + rule.momentum * moments.first if rule.nesterov else moments.first
    return w - rule.lr * step


def adam_step(rule: Rule, w: Tensor, g: Tensor, moments: Moments) -> Tensor:
    """Adam (Kingma, Ba 2015, 1412.6980, algorithm 1); ``adamw`` decays the weight instead of the gradient."""
    beta1, beta2 = rule.betas
    moments.n_steps += 1
    if rule.name == "adamw":
        w = w - rule.lr * rule.weight_decay * w
    else:
        g = g + rule.weight_decay * w
    moments.first = beta1 * moments.first + (1 - beta1) * g
    moments.second = beta2 * moments.second + (1 - beta2) * g * g
    first_hat = moments.first / (1 - beta1**moments.n_steps)
    second_hat = moments.second / (1 - beta2**moments.n_steps)
    return w - rule.lr * first_hat / (second_hat.sqrt() + rule.eps)


def rescale_one(
    parameters: dict[str, nn.Parameter], moments: dict[str, Moments], spec: BlockSpec, rescaling: Rescaling
) -> None:
    """Rescale the blocks of one weight in place and, where asked, let its moments follow."""
    names = [spec.weight] if spec.bias is None else [spec.weight, spec.bias]
    bias = None if spec.bias is None else parameters[spec.bias]
    factors = rescale(parameters[spec.weight], rescaling.targets[spec.weight], spec, bias)
    if not rescaling.moments_follow:
        return
    for name in names:
        own = BlockSpec(name, spec.sizes, starts=spec.starts) if name == spec.bias else spec
        scale(moments[name].first, [1 / c for c in factors], own)
        scale(moments[name].second, [1 / c**2 for c in factors], own)


def rescale(
    weight: Tensor, targets: Sequence[float], spec: BlockSpec, bias: Tensor | None = None
) -> list[float]:
    """Give each block its target norm, in place; return the factors, 1 for a block of zeros."""
    norms = norms_of(weight, spec, bias)
    factors = [1.0 if norm == 0 else target / norm for norm, target in zip(norms, targets, strict=True)]
    scale(weight, factors, spec, bias)
    return factors


def scale(weight: Tensor, factors: Sequence[float], spec: BlockSpec, bias: Tensor | None = None) -> None:
    """Multiply each block by its factor, in place."""
    with torch.no_grad():
        for factor, members in zip(factors, blocks_of(spec), strict=True):
            for row in members:
                row_of(weight, row, spec).mul_(factor)
                if bias is not None:
                    bias[row] *= factor


def norms_of(weight: Tensor, spec: BlockSpec, bias: Tensor | None = None) -> list[float]:
    """The Euclidean norm of each block, its bias entries included."""
    return [math.sqrt(math.fsum(x * x for x in numbers)) for numbers in numbers_of(weight, spec, bias)]


def dots_of(
    a: Tensor, b: Tensor, spec: BlockSpec, bias_a: Tensor | None = None, bias_b: Tensor | None = None
) -> list[float]:
    """The inner product of each block of ``a`` with the same block of ``b``."""
    pairs = zip(numbers_of(a, spec, bias_a), numbers_of(b, spec, bias_b), strict=True)
    return [math.fsum(x * y for x, y in zip(first, second, strict=True)) for first, second in pairs]


def numbers_of(weight: Tensor, spec: BlockSpec, bias: Tensor | None = None) -> list[list[float]]:
    """All numbers of each block, as Python floats."""
    result = []
    for members in blocks_of(spec):
        numbers: list[float] = []
        for row in members:
            numbers += row_of(weight, row, spec).detach().double().flatten().tolist()
            if bias is not None:
                numbers.append(bias[row].item())
        result.append(numbers)
    return result


def blocks_of(spec: BlockSpec) -> list[range]:
    """The row numbers of each block, which are contiguous; blocks are too, unless they have starts."""
    if spec.starts:
        return [range(start, start + size) for start, size in zip(spec.starts, spec.sizes, strict=True)]
    ends = [sum(spec.sizes[: i + 1]) for i in range(len(spec.sizes))]
    return [range(start, end) for start, end in pairwise([0, *ends])]


def row_of(weight: Tensor, row: int, spec: BlockSpec) -> Tensor:
    """A view of one output channel: along dim 0, or if transposed along dim 1 of its group of dim 0."""
    if spec.axis == 0:
        return weight[row]
    group, channel = divmod(row, weight.shape[1])
    inputs_per_group = weight.shape[0] // spec.groups
    return weight[group * inputs_per_group : (group + 1) * inputs_per_group, channel]


def target_norms(spec: BlockSpec, radius: float) -> list[float]:
    """The radius counts per row: a block of R rows has norm radius·√R."""
    return [radius * math.sqrt(size) for size in spec.sizes]


def running_statistics_after(
    mean: Tensor, variance: Tensor, factor: Tensor, shift: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """BatchNorm's running statistics once its input minus ``shift`` (a bias) was scaled by ``factor``."""
    return factor * (mean - shift) + shift, factor**2 * variance


def predicted_norms(
    history: History, lr: float, momentum: float = 0.0, weight_decay: float = 0.0
) -> list[float]:
    """‖w‖ after each step of SGD(M) with L2, from ‖v‖ (and ‖w‖ in the decay term): no angle is measured.

    ‖w'‖² = ‖w‖² − 2ηa + η²‖v‖², a = μ(a₋ − η‖v₋‖²) + λ‖w‖², a = ⟨w, v⟩, which is λ‖w‖² in the first step.
    """
    result = []
    alignment, previous_buffer = 0.0, 0.0  # a₋ and ‖v₋‖²
    for norm, buffer_norm in zip(history.norms, history.buffer_norms, strict=False):
        alignment = momentum * (alignment - lr * previous_buffer) + weight_decay * norm**2
        result.append(math.sqrt(norm**2 - 2 * lr * alignment + lr**2 * buffer_norm**2))
        previous_buffer = buffer_norm**2
    return result


def predicted_norms_before_rescale(
    history: History, lr: float, momentum: float, radius: float
) -> list[float]:
    """‖w‖ = r̃ after each step of SGDM, just before it is put back on ``radius``; the buffer is kept.

    r̃² = R² − 2ηa + η²‖v‖², a = (R μ / r̃₋)(a₋ − η‖v₋‖²), a = 0 in the first step.
    """
    result: list[float] = []
    alignment, previous_buffer, previous_norm = 0.0, 0.0, radius
    for buffer_norm in history.buffer_norms:
        alignment = radius * momentum / previous_norm * (alignment - lr * previous_buffer)
        result.append(math.sqrt(radius**2 - 2 * lr * alignment + lr**2 * buffer_norm**2))
        previous_buffer, previous_norm = buffer_norm**2, result[-1]
    return result
