"""What happens to a model's outputs when its weights grow along themselves?

Runs a float64 copy at a generic point, forward and backward, as often as it is asked to. Draws no conclusion:
radial.py, partition.py and evidence.py do.
"""

import copy
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from decayfree.errors import DecayFreeError, InvalidInputError
from decayfree.forward import (
    Forward,
    ProcessRandomness,
    Surroundings,
    call_model,
    cast,
    movement,
    tensors_in,
)
from decayfree.invariance.exact_arithmetic import NEGLIGIBLE_EPS, ExactArithmetic, Jittered, use_eps_
from decayfree.invariance.perturbed_buffers import perturb_buffers_
from decayfree.invariance.running_statistics import Statistics, statistics_in, tracked_modules

_NOISE = 0.1  # standard deviation of the perturbation, relative to the parameter's own size
_NOISE_LENGTH = 1_000_003


@dataclass(frozen=True)
class Ran:
    """What one run of the copy gave.

    Args:
        outputs: The floating outputs, flattened to a list, with their graph.
        start: The running statistics with which the run began, by module.
        statistics: The running statistics that the run left, by module; copies, which later runs leave alone.
        n_updates: By module, how often the run updated these statistics with momentum ½; 0 if the module
            averages them by itself.
    """

    outputs: list[Tensor]
    start: Mapping[str, Statistics]
    statistics: Mapping[str, Statistics]
    n_updates: Mapping[str, int]


class ForwardError(Exception):
    """The model raised; ``args[0]`` is what."""


class Probe:
    """A copy of a model at a generic point, that can be run and scaled without touching the original.

    Args:
        model: Any module; copied, never changed.
        inputs: As for :func:`decayfree.find_invariant`.
        forward: As for :func:`decayfree.find_invariant`.
        dtype: float64, or float32 for models that cannot run in float64.
        seed: Seeds the perturbation, the functionals and everything random in the model.
        eps: The ε of all normalizations.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        forward: Forward | None,
        dtype: torch.dtype,
        seed: int,
        eps: float = NEGLIGIBLE_EPS,
    ) -> None:
        self.dtype = dtype
        self.seed = seed
        self.eps = eps
        self.copy = copy_in(model, dtype)
        self.parameters = dict(self.copy.named_parameters())  # without second names of tied ones
        self._inputs = tree_map(lambda leaf: cast(leaf, dtype, copy=True), inputs)
        self._forward = forward or call_model
        perturb_buffers_(self.copy, seed)
        self._original = model if forward else nn.Module()  # which call_model cannot call
        self._buffers = {name: buffer.clone() for name, buffer in self.copy.named_buffers()}
        self._registered = [(module, dict(module._buffers)) for module in self.copy.modules()]
        self._n_perturbed = 0
        self._process_randomness = ProcessRandomness()
        self._surroundings = Surroundings(seed, dtype)
        use_eps_(self.copy, eps)

    @torch.no_grad()
    def perturb_(self) -> None:
        """Move every parameter a little, so that no zero and no symmetry of the start hides anything."""
        generator = torch.Generator().manual_seed(self.seed + 7919 * self._n_perturbed)
        offsets = {
            name: 997 * (index % 500)
            for index, (name, parameter) in enumerate(self.parameters.items())
            if parameter.is_floating_point() and parameter.numel()
        }
        length = max((self.parameters[name].numel() + offset for name, offset in offsets.items()), default=0)
        noise = _noise(min(length, _NOISE_LENGTH), generator, self.dtype)
        for name, offset in offsets.items():
            _add_noise_(self.parameters[name], noise, offset)
        self._n_perturbed += 1

    @torch.no_grad()
    def jittered(self, outputs: list[Tensor]) -> tuple[float, float]:
        """What a little noise does, of the size of rounding and ε, at all that is normalized.

        Args:
            outputs: Of a run without it.

        Returns:
            By which share it changes the result of a normalization at most, each asked by itself; and by
            which share it moves the outputs, after all layers.
        """
        mode = Jittered(self.dtype, self.eps)

        def run() -> Any:
            self._restore_buffers()
            with Surroundings(self.seed, self.dtype), mode:
                return self._forward(self.copy, self._inputs)

        moved = self._process_randomness.call(run, self.seed)
        floating = [
            tensor for tensor in tensors_in(moved) if tensor.is_floating_point() or tensor.is_complex()
        ]
        return mode.moved, movement(outputs, floating)

    def run(self, *, start: Mapping[str, float] | None = None) -> Ran:
        """Run the copy with its buffers and all randomness as at the start.

        Args:
            start: Buffers that start from a number instead.
        """
        return self._process_randomness.call(lambda: self._run(start or {}), self.seed)

    def _run(self, start: Mapping[str, float]) -> Ran:
        self._restore_buffers()
        for name, value in start.items():
            self.copy.get_buffer(name).fill_(value)
        statistics_at_start = statistics_in(self.copy)
        surroundings = Surroundings(self.seed, self.dtype)
        if torch.is_grad_enabled():
            self._surroundings = surroundings  # of the graph that comes
        with _refused_calls(self._original), surroundings, ExactArithmetic(self.dtype, self.eps) as exact:
            try:
                outputs = self._forward(self.copy, self._inputs)
            except DecayFreeError:
                raise
            except Exception as error:
                raise ForwardError(error) from error
        return Ran(
            [output for output in tensors_in(outputs) if output.is_floating_point() or output.is_complex()],
            statistics_at_start,
            statistics_in(self.copy),
            {
                name: exact.n_calls[id(self.copy.get_submodule(name)._buffers["running_mean"])]
                for name in tracked_modules(self.copy)
            },
        )

    def gradients(self, outputs: list[Tensor]) -> dict[str, Tensor]:
        """Gradient of φ = Σ_k ⟨r_k, y_k⟩/‖y_k‖, r_k standard normal, for parameters that reach outputs y_k.

        It is taken before the next run puts buffers back: autograd refuses a graph whose buffers were
        touched.
        """
        functional = self._functional(outputs)
        with self._surroundings, ExactArithmetic(self.dtype, self.eps):
            try:
                found: list[Tensor | None] = list(
                    torch.autograd.grad(functional, list(self.parameters.values()), allow_unused=True)
                )
            except RuntimeError as error:
                if "checkpoint" not in str(error).lower():
                    raise ForwardError(error) from error
                functional.backward()  # reentrant checkpoints know no other way
                found = [parameter.grad for parameter in self.parameters.values()]
        for parameter in self.parameters.values():
            parameter.grad = None
        return {
            name: gradient
            for name, gradient in zip(self.parameters, found, strict=True)
            if gradient is not None
        }

    @torch.no_grad()
    def _restore_buffers(self) -> None:
        """As at the start, without those that a run has made, such as caches."""
        for module, registered in self._registered:
            module._buffers.clear()
            module._buffers.update(registered)
        for name, buffer in self.copy.named_buffers():
            if buffer.shape == self._buffers[name].shape:
                buffer.copy_(self._buffers[name])
            else:
                buffer.set_(self._buffers[name].clone())  # type: ignore[call-overload]

    def functional_change(self, outputs: list[Tensor], after: list[Tensor]) -> float:
        """φ of other outputs less φ of ``outputs``, whose gradients are taken; NaN for other shapes."""
        if [output.shape for output in outputs] != [output.shape for output in after]:
            return math.nan
        return sum(
            float((direction * (_as_real(after[index]) - _as_real(outputs[index].detach()))).sum())
            for index, direction in self._directions(outputs).items()
        )

    def _directions(self, outputs: list[Tensor]) -> dict[int, Tensor]:
        """For each output that depends on a parameter r/‖y‖, with which φ sees it, by its place."""
        generator = torch.Generator().manual_seed(self.seed + 1 + self._n_perturbed)
        directions = {}
        for index, output in enumerate(outputs):
            values = _as_real(output)
            norm = torch.linalg.vector_norm(values.detach())
            if values.requires_grad and norm > 0:
                direction = torch.randn(values.shape, generator=generator, dtype=torch.float32)
                directions[index] = direction.to(values) / norm
        return directions

    def _functional(self, outputs: list[Tensor]) -> Tensor:
        functional = torch.zeros((), dtype=torch.float64)
        for index, direction in self._directions(outputs).items():
            functional = functional.to(direction.device) + (direction * _as_real(outputs[index])).sum()
        if not functional.requires_grad:
            raise InvalidInputError(
                "no floating output of the model depends on its parameters, so nothing can be measured: "
                "return logits, features or a loss (also check that `forward` calls "
                "the model that it is given)"
            )
        return functional


@contextmanager
def _refused_calls(model: nn.Module) -> Iterator[None]:
    """Refuse a ``forward`` that calls the original, not what it is given, before it can change anything."""
    here = threading.get_ident()

    def refuse(module: nn.Module, args: Any) -> None:
        if threading.get_ident() != here:
            return  # another thread trains the model
        raise InvalidInputError(
            "forward must call the model that it is given, a copy, and not the original: "
            "forward=lambda model, x: model(x)"
        )

    handles = [module.register_forward_pre_hook(refuse) for module in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def copy_in(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A deep copy in ``dtype`` with modes and hooks, without gradients; never doubles originals in memory."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        values = cast(parameter.detach(), dtype, copy=True)
        memo[id(parameter)] = nn.Parameter(
            values, requires_grad=values.is_floating_point() or values.is_complex()
        )
    tensors = [
        *model.buffers(),
        *(
            value
            for module in model.modules()
            for value in vars(module).values()
            if isinstance(value, Tensor)
        ),
    ]
    for tensor in tensors:
        memo.setdefault(id(tensor), cast(tensor.detach(), dtype, copy=True))
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise DecayFreeError(
            f"the probe works on a deep copy, and this {type(model).__name__} cannot be deep-copied "
            f"({type(error).__name__}: {error}); pass the plain module inside it, and look for weights "
            "before sharding (fully_shard) or compiling it"
        ) from error


def _as_real(output: Tensor) -> Tensor:
    return torch.view_as_real(output) if output.is_complex() else output


def _noise(length: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Centered uniform noise of unit variance; large parameters repeat it, which no symmetry survives."""
    return torch.rand(length, generator=generator, dtype=dtype).sub_(0.5).mul_(12**0.5)


def _add_noise_(parameter: Tensor, noise: Tensor, offset: int) -> None:
    # 1, or 1/√fan-in.
    typical = 1.0 if parameter.ndim <= 1 else (parameter.shape[0] / parameter.numel()) ** 0.5
    size = max(float(torch.linalg.vector_norm(parameter)) / parameter.numel() ** 0.5, typical)
    flat = (
        parameter.view(-1)
        if parameter.is_contiguous()
        else parameter.permute(_memory_order(parameter)).view(-1)
    )
    for piece in flat.split(_NOISE_LENGTH - offset):
        piece.add_(noise[offset : offset + len(piece)].to(piece.device), alpha=_NOISE * size)


def _memory_order(tensor: Tensor) -> list[int]:
    return sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
