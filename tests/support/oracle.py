"""Does scaling a parameter change what a model computes? Answered by doing it: copy, scale, run, compare.

The slow and obvious check of the discovery of scale-invariant weights. It takes no gradient, knows no layer
type and imports nothing from the package, so a fault of the Euler probe cannot hide in it. It does not say
why.
"""

import copy
import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

TINY_EPS = 1e-30
# The functions that take ε, and its position where it is passed by position.
_EPS_POSITION = {
    F.batch_norm: 7,
    F.instance_norm: 7,
    F.group_norm: 4,
    F.layer_norm: 4,
    F.rms_norm: 3,
    torch.batch_norm: 7,
}


class TinyEps(TorchFunctionMode):
    """Runs every functional normalization with ε = 1e-30, also where ε is written into the model's code."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        position = _EPS_POSITION.get(func)
        if position is not None and len(args) > position:
            args = (*args[:position], TINY_EPS, *args[position + 1 :])
        elif position is not None:
            kwargs["eps"] = TINY_EPS
        return func(*args, **kwargs)


def generic_copy(model: nn.Module, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    """A deep copy in ``dtype`` with ε at 1e-30, perturbed parameters and random running statistics.

    Nothing is zero, one or equal to anything else by initialization in the copy, so a scale that has no
    effect there has no effect by structure.
    """
    generator = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(model).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                size = parameter.square().mean().sqrt().clamp(min=0.1)
                parameter += 0.2 * size * _normal(parameter, generator)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(_normal(buffer, generator))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + _normal(buffer, generator).square())
    for module in model.modules():
        for name, value in vars(module).items():
            if "eps" in name and isinstance(value, float):
                setattr(module, name, TINY_EPS)
    return model


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.dtype)


def outputs(
    model: nn.Module,
    inputs: Any,
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    dtype: torch.dtype = torch.float64,
) -> list[Tensor]:
    """Every floating tensor in what the model returns, with the same random numbers each time.

    The model is copied first, so that buffers which a forward changes (running statistics, power iterations)
    start from the same values in every call.
    """
    model = copy.deepcopy(model)
    inputs = cast_floating(inputs, dtype)
    states = torch.get_rng_state(), random.getstate(), numpy.random.get_state()
    torch.manual_seed(7)
    random.seed(7)
    numpy.random.seed(7)
    try:
        with torch.no_grad(), TinyEps():
            if forward is not None:
                result = forward(model, inputs)
            elif isinstance(inputs, Mapping):
                result = model(**inputs)
            elif isinstance(inputs, tuple):
                result = model(*inputs)
            else:
                result = model(inputs)
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        numpy.random.set_state(states[2])
    found = [tensor.double() for tensor in _tensors(result) if tensor.is_floating_point()]
    assert found, "the model returns no floating tensor"
    return found


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from _tensors(item)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))


def cast_floating(value: Any, dtype: torch.dtype) -> Any:
    """The same nested inputs with floating tensors in ``dtype``; whole numbers are left alone."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: cast_floating(item, dtype) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(cast_floating(item, dtype) for item in value)
    return value


def movement(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Largest relative change, max|after − before| / max|before|, over a model's output tensors."""
    assert len(before) == len(after)
    moved = 0.0
    for old, new in zip(before, after, strict=True):
        assert old.shape == new.shape
        assert bool(torch.isfinite(old).all()), "an output is not finite"
        if old.numel() == 0:
            continue
        moved = max(moved, float((new - old).abs().max() / old.abs().max().clamp(min=1e-300)))
    return moved


def row_view(weight: Tensor, axis: int, groups: int = 1) -> Tensor:
    """A view of ``weight`` as (n_rows, ...) for axis 0 or (groups, rows per group, ...) for axis 1.

    Row ``g·R + j`` of a grouped transposed convolution is entry ``j`` of dimension 1 within group ``g`` of
    dimension 0.
    """
    if axis == 0:
        return weight
    assert weight.shape[0] % groups == 0
    return weight.unflatten(0, (groups, weight.shape[0] // groups)).transpose(1, 2)


def scale_rows_(weight: Tensor, factors: Tensor, *, axis: int = 0, groups: int = 1) -> None:
    """Multiply row i of ``weight`` by ``factors[i]``, in place.

    Args:
        weight: (*shape). Rows run along dimension ``axis``.
        factors: (n_rows,).
        axis: 0, or 1 as in transposed convolutions.
        groups: For axis 1: dimension 0 falls into this many groups.
    """
    view = row_view(weight, axis, groups)
    factors = factors.to(weight.dtype)
    if axis == 1:
        factors = factors.reshape(view.shape[0], view.shape[1])
    with torch.no_grad():
        view.mul_(factors.reshape(factors.shape + (1,) * (view.ndim - factors.ndim)))


def expand(
    block_factors: Tensor, block_sizes: Sequence[int], starts: Sequence[int] = (), n_rows: int = 0
) -> Tensor:
    """(n_blocks,) factors of blocks → (n_rows,) factors of their rows, 1 for rows in no block."""
    if not starts:
        return torch.repeat_interleave(block_factors, torch.tensor(block_sizes))
    factors = block_factors.new_ones(n_rows)
    for factor, start, size in zip(block_factors, starts, block_sizes, strict=True):
        factors[start : start + size] = factor
    return factors


def random_factors(n: int, generator: torch.Generator, *, spread: float = 3.0) -> Tensor:
    """(n,) positive factors, log-uniform between 1/spread and spread, float64."""
    uniform = 2.0 * torch.rand(n, generator=generator, dtype=torch.float64) - 1.0
    return torch.exp(uniform * torch.log(torch.tensor(spread, dtype=torch.float64)))


def finest_block_sizes(
    n_rows: int, is_invariant_under: Callable[[Tensor], bool], *, factor: float = 1.7
) -> tuple[int, ...] | None:
    """The finest contiguous partition of rows into blocks of their own scale, by scaling prefixes.

    Args:
        n_rows: Number of rows.
        is_invariant_under: Says for (n_rows,) factors whether the outputs stay where they are.
        factor: By which the rows before a possible cut are scaled.

    Returns:
        Rows per block, or None if not even the whole weight has a scale.
    """
    ends = []
    for end in range(1, n_rows + 1):
        factors = torch.ones(n_rows, dtype=torch.float64)
        factors[:end] = factor
        if is_invariant_under(factors):
            ends.append(end)
    if not ends or ends[-1] != n_rows:
        return None
    return tuple(end - start for start, end in zip([0, *ends[:-1]], ends, strict=True))


def follow_running_statistics_(
    norm: nn.Module, channels: Sequence[int], factors: Tensor, shift: Tensor | None = None
) -> None:
    """Rm ← c(rm − b) + b and rv ← c²rv for the given channels, in place.

    Args:
        norm: Any module with ``running_mean`` and ``running_var``, (n_channels,).
        channels: Which of them.
        factors: (len(channels),). c.
        shift: (len(channels),). b, the bias that is added before the normalization and not scaled; None
            for 0.
    """
    shifts = torch.zeros(len(channels)) if shift is None else shift.detach()
    with torch.no_grad():
        for channel, factor, b in zip(channels, factors.tolist(), shifts.tolist(), strict=True):
            norm.running_mean[channel] = factor * (norm.running_mean[channel] - b) + b
            norm.running_var[channel] *= factor**2


class Bench:
    """A model in which changes are tried: made, run, compared with the outputs before, and undone.

    Args:
        model: Usually a :func:`generic_copy`; its parameters and buffers are changed and put back.
        inputs: As for ``find_invariant``; cast to the model's precision.
        forward: As for ``find_invariant``.
    """

    def __init__(
        self, model: nn.Module, inputs: Any, *, forward: Callable[[nn.Module, Any], Any] | None = None
    ) -> None:
        self.model = model
        self.inputs = inputs
        self.forward = forward
        self.dtype = next(
            parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()
        )
        self.before = self.run()

    def run(self) -> list[Tensor]:
        """The outputs as the model is now."""
        return outputs(self.model, self.inputs, forward=self.forward, dtype=self.dtype)

    def eval(self) -> "Bench":
        """A bench of a copy in eval mode."""
        return Bench(copy.deepcopy(self.model).eval(), self.inputs, forward=self.forward)

    def movement_after(self, change: Callable[[nn.Module], None]) -> float:
        """How far the outputs move if ``change`` is done to the model."""
        kept = [(tensor, tensor.clone()) for tensor in (*self.model.parameters(), *self.model.buffers())]
        with torch.no_grad():
            change(self.model)
            after = self.run()
            for tensor, values in kept:
                tensor.copy_(values)
        return movement(self.before, after)

    def movement_when_scaled(self, name: str, factor: float, *others: str) -> float:
        """How far the outputs move if whole parameters are scaled by one factor."""

        def scale(model: nn.Module) -> None:
            for each in (name, *others):
                model.get_parameter(each).mul_(factor)

        return self.movement_after(scale)
