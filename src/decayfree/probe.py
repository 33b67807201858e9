"""What happens to a model's outputs when its weights grow along themselves?

Runs a float64 copy at a generic point and reads the radial derivative of every row of every parameter from one backward pass. Draws no
conclusion: that is what partition.py and invariance.py do.
"""

import copy
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from decayfree.errors import DecayFreeError, InvalidInputError
from decayfree.exact import NEGLIGIBLE_EPS, ExactArithmetic, use_eps_

Forward = Callable[[nn.Module, Any], Any]

_NOISE = 0.1  # standard deviation of the perturbation, relative to the parameter's own size


@dataclass(frozen=True)
class RadialDerivatives:
    """How the outputs react to scaling each row of a weight, in one probe.

    Args:
        radial: (n_rows,), float64. ⟨w_i, ∂φ/∂w_i⟩, the change of φ, in units of the outputs' own norm, per relative growth of row i.
        sizes: (n_rows,), float64. ‖w_i‖.
        gradient_sizes: (n_rows,), float64. ‖∂φ/∂w_i‖.
    """

    radial: Tensor
    sizes: Tensor
    gradient_sizes: Tensor

    @property
    def magnitude(self) -> Tensor:
        """(n_rows,), float64. ‖w_i‖‖∂φ/∂w_i‖, the largest value that ``radial`` could have."""
        return self.sizes * self.gradient_sizes

    def joined(self, bias: Tensor, bias_gradient: Tensor) -> "RadialDerivatives":
        """The same of each row together with its entry of a bias, (n_rows,)."""
        values, gradients = bias.detach().double().cpu(), bias_gradient.double().cpu()
        return RadialDerivatives(self.radial + values * gradients, self.sizes.hypot(values), self.gradient_sizes.hypot(gradients))


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
        self, model: nn.Module, inputs: Any, forward: Forward | None, dtype: torch.dtype, seed: int, eps: float = NEGLIGIBLE_EPS
    ) -> None:
        self.dtype = dtype
        self.seed = seed
        self.eps = eps
        self.copy = _copy_in(model, dtype)
        self._inputs = tree_map(lambda leaf: _cast(leaf, dtype, copy=True), inputs)
        self._forward = forward or call_model
        self._buffers = {name: buffer.clone() for name, buffer in self.copy.named_buffers()}
        self._n_perturbed = 0
        self._replaced: set[int] = set()
        use_eps_(self.copy, eps)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The copy's parameters by name, without second names of tied ones."""
        return dict(self.copy.named_parameters())

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The copy's buffers by name, as the last run left them."""
        return dict(self.copy.named_buffers())

    def start_of(self, buffer: str) -> Tensor:
        """A buffer as it is at the start of every run."""
        return self._buffers[buffer]

    @torch.no_grad()
    def perturb_(self) -> None:
        """Move every parameter a little, so that no zero and no symmetry of the initial point hides anything."""
        generator = torch.Generator().manual_seed(self.seed + 7919 * self._n_perturbed)
        for parameter in self.parameters.values():
            if parameter.is_floating_point() and parameter.numel():
                _add_noise_(parameter, generator)
        self._n_perturbed += 1

    def holds_last_batch(self, module: nn.Module) -> bool:
        """Whether a module's running statistics were replaced by the last batch's in every run, instead of averaged with it."""
        return id(getattr(module, "running_mean", None)) in self._replaced

    def run(self, *, start: Mapping[str, float] | None = None) -> list[Tensor]:
        """Run the copy with its buffers and all randomness as at the start.

        Args:
            start: Buffers that start from a number instead.

        Returns:
            The floating outputs, flattened to a list, with their graph.
        """
        with torch.no_grad():
            for name, buffer in self.copy.named_buffers():
                if buffer.shape == self._buffers[name].shape:
                    buffer.copy_(self._buffers[name])
                if start and name in start:
                    buffer.fill_(start[name])
        with _seeded(self.seed, self.copy), _default_dtype(self.dtype), ExactArithmetic(self.dtype, self.eps) as exact:
            outputs = self._forward(self.copy, self._inputs)
        self._replaced |= exact.replaced
        return [output for output in tensors_in(outputs) if output.is_floating_point() or output.is_complex()]

    def backward(self, outputs: list[Tensor]) -> None:
        """Leave in each parameter's ``grad`` the gradient of φ = Σ_k ⟨r_k, y_k⟩/‖y_k‖, r_k standard normal, y_k the outputs."""
        generator = torch.Generator().manual_seed(self.seed + 1 + self._n_perturbed)
        functional = torch.zeros((), dtype=torch.float64)
        for output in outputs:
            values = torch.view_as_real(output) if output.is_complex() else output
            norm = torch.linalg.vector_norm(values.detach())
            if values.requires_grad and norm > 0:
                direction = torch.randn(values.shape, generator=generator, dtype=torch.float32).to(values)
                functional = functional.to(values.device) + (direction * values).sum() / norm
        if not functional.requires_grad:
            raise InvalidInputError(
                "no floating output of the model depends on its parameters, so nothing can be measured: return logits, features or a loss "
                "(also check that `forward` calls the model that it is given)"
            )
        for parameter in self.copy.parameters():
            parameter.grad = None
        with _default_dtype(self.dtype), ExactArithmetic(self.dtype, self.eps):
            functional.backward()  # type: ignore[no-untyped-call]


def call_model(model: nn.Module, inputs: Any) -> Any:
    """``model(*inputs)`` for a tuple or list, ``model(**inputs)`` for a mapping, ``model(inputs)`` for anything else."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def radial_derivatives(weight: Tensor, gradient: Tensor, axis: int, groups: int) -> RadialDerivatives:
    """Radial derivative of every row of a weight.

    Args:
        weight: (*shape), of at least two dimensions.
        gradient: (*shape), of φ.
        axis: 0, or 1 where rows run along dimension 1 within ``groups`` parts of dimension 0.
        groups: 1 for ``axis=0``.
    """
    n_rows = len(weight)
    cut = (n_rows, 1, weight.numel() // n_rows, 1) if axis == 0 else (groups, n_rows // groups, weight.shape[1], -1)
    dims = (2,) if axis == 0 else (1, 3)
    values, gradients = weight.detach().reshape(cut), gradient.reshape(cut)
    radial = (values * gradients).sum(dims).flatten()
    sizes, gradient_sizes = (torch.linalg.vector_norm(part, dim=dims).flatten() for part in (values, gradients))
    return RadialDerivatives(radial.double().cpu(), sizes.double().cpu(), gradient_sizes.double().cpu())


def movement(before: list[Tensor], after: list[Tensor]) -> float:
    """Largest relative change among outputs; no unit, infinity where their shapes differ."""
    if [output.shape for output in before] != [output.shape for output in after]:
        return float("inf")
    moved = 0.0
    for old, new in zip(before, after, strict=True):
        norm, change = torch.linalg.vector_norm(old.detach()), torch.linalg.vector_norm(new.detach() - old.detach())
        moved = max(moved, float(change / norm) if norm > 0 else float(change))
    return moved


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in a nested structure of lists, tuples, mappings, dataclasses and plain objects, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from tensors_in(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name))
    elif hasattr(value, "__dict__") and not isinstance(value, (type, nn.Module)) and not callable(value):
        for item in vars(value).values():
            yield from tensors_in(item)


def _copy_in(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A deep copy of ``model`` in ``dtype``, with modes and hooks but without gradients; the originals are never doubled in memory."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        values = _cast(parameter.detach(), dtype, copy=True)
        memo[id(parameter)] = nn.Parameter(values, requires_grad=values.is_floating_point() or values.is_complex())
    tensors = [*model.buffers(), *(value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor))]
    for tensor in tensors:
        memo.setdefault(id(tensor), _cast(tensor.detach(), dtype, copy=True))
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise DecayFreeError(
            f"the probe works on a deep copy, and this {type(model).__name__} cannot be deep-copied ({type(error).__name__}: {error}); "
            "pass the plain module inside it"
        ) from error


def _cast(value: Any, dtype: torch.dtype, *, copy: bool = False) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.is_complex():
        return value.to(torch.complex128 if dtype == torch.float64 else torch.complex64, copy=copy)
    if value.is_floating_point():
        return value.to(dtype, copy=copy)
    return value.clone() if copy else value


def _add_noise_(parameter: Tensor, generator: torch.Generator) -> None:
    typical = 1.0 if parameter.ndim <= 1 else (parameter.shape[0] / parameter.numel()) ** 0.5  # 1, or 1/√fan-in
    size = max(float(torch.linalg.vector_norm(parameter)) / parameter.numel() ** 0.5, typical)
    uniform = torch.rand(parameter.shape, generator=generator, dtype=torch.float32).sub_(0.5)
    parameter.add_(uniform.to(parameter.device), alpha=_NOISE * size * 12**0.5)


@contextmanager
def _seeded(seed: int, model: nn.Module) -> Iterator[None]:
    """Everything random starts from ``seed``, and the global states are put back afterwards."""
    devices = sorted({tensor.device.index or 0 for tensor in model.parameters() if tensor.device.type == "cuda"})
    numpy_random = getattr(sys.modules.get("numpy"), "random", None)
    python_state, numpy_state = random.getstate(), numpy_random.get_state() if numpy_random else None
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        random.seed(seed)
        if numpy_random:
            numpy_random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python_state)
            if numpy_random:
                numpy_random.set_state(numpy_state)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
