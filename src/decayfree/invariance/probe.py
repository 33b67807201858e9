"""What happens to a model's outputs when its weights grow along themselves?

Runs a float64 copy at a generic point, forward and backward, as often as it is asked to. Draws no conclusion:
radial.py, partition.py and evidence.py do.
"""

import math
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
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
from decayfree.invariance.convolutions import IN_FLOAT64
from decayfree.invariance.exact_arithmetic import NEGLIGIBLE_EPS, ExactArithmetic, Jittered, use_eps_
from decayfree.invariance.partition import TOLERANCES
from decayfree.invariance.perturbed_buffers import lone_numbers, perturb_buffers_
from decayfree.invariance.progress import Progress
from decayfree.invariance.running_statistics import Statistics, statistics_in, tracked_modules
from decayfree.invariance.twin import Twin

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


class UnequalRunsError(Exception):
    """Two runs that should be equal are not."""


class Probe:
    """A copy of a model at a generic point, that can be run and scaled without touching the original.

    Args:
        model: Any module; copied, never changed.
        inputs: As for :func:`decayfree.find_invariant`.
        forward: As for :func:`decayfree.find_invariant`.
        dtype: float64, or float32 for models that cannot run in float64.
        seed: Seeds the perturbation, the functionals and everything random in the model.
        eps: The ε of all normalizations.
        numbers: Names of buffers of one number that are no flags, and are moved as parameters are.
        is_wary: Whether an equal run without gradients comes before the first one, to be compared with it.
            Else that is left to ``check_equal``.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        forward: Forward | None,
        dtype: torch.dtype,
        seed: int,
        eps: float = NEGLIGIBLE_EPS,
        *,
        numbers: Collection[str] = (),
        is_wary: bool = False,
    ) -> None:
        self._numbers = numbers
        self.dtype = dtype
        self.seed = seed
        self.eps = eps
        self._twin = Twin(model, dtype, self._prepare_)
        self.copy = self._twin.model
        self.parameters = dict(self.copy.named_parameters())  # without second names of tied ones
        self._inputs = inputs
        self._forward = forward or call_model
        self._original = model
        self._n_perturbed = 0
        self._needs_grad = False
        self._is_wary = is_wary
        self._is_compared = is_wary
        # Outputs of the first run, and of one that differed, until another run was compared with them.
        self._first: list[Tensor] = []
        self._unsure: list[Tensor] = []
        self._process_randomness = ProcessRandomness()
        self._progress = Progress()
        self._surroundings = Surroundings(seed, dtype, IN_FLOAT64)

    def _prepare_(self, copy: nn.Module) -> None:
        use_eps_(copy, self.eps)
        perturb_buffers_(copy, self.seed, self._numbers)

    def smooth_numbers(self) -> frozenset[str]:
        """Buffers of one number that outputs depend on smoothly, so that a value may hide a dependence."""
        numbers = lone_numbers(self.copy)
        if not numbers:
            return frozenset()

        def run() -> list[Tensor | None]:
            inputs = self._put_back()
            with (
                _refused_calls(self._original),
                Surroundings(self.seed, self.dtype, IN_FLOAT64),
                ExactArithmetic(self.dtype, self.eps),
            ):
                for number in numbers.values():
                    number.requires_grad_()
                outputs = [one for one in tensors_in(self._forward(self.copy, inputs)) if one.requires_grad]
                slopes = torch.autograd.grad(
                    self._functional(outputs), list(numbers.values()), allow_unused=True
                )
                return list(slopes)

        try:
            slopes = self._process_randomness.call(run, self.seed)
        except Exception:
            # Written in place, or not differentiated: no smooth function of them, or none at all.
            return frozenset()
        return frozenset(
            name for name, slope in zip(numbers, slopes, strict=True) if slope is not None and slope.any()
        )

    @torch.no_grad()
    def perturb_(self) -> None:
        """Move every parameter a little, so that no zero and no symmetry of the start hides anything."""
        generator = torch.Generator().manual_seed(self.seed + 7919 * self._n_perturbed)
        offsets = {
            name: 997 * (index % 500)
            for index, (name, parameter) in enumerate(self.parameters.items())
            if (parameter.is_floating_point() or parameter.is_complex()) and parameter.numel()
        }
        length = max(
            (2 * self.parameters[name].numel() + offset for name, offset in offsets.items()), default=0
        )
        noise = _noise(min(length, _NOISE_LENGTH), generator, self.dtype)
        for name, offset in offsets.items():
            _add_noise_(as_real(self.parameters[name]), noise, offset)
        self._n_perturbed += 1
        if self._is_wary and self._n_perturbed == 1:
            self._first = self._repeatable({}).outputs

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
            inputs = self._put_back()
            with (
                torch.set_grad_enabled(self._needs_grad),
                Surroundings(self.seed, self.dtype, IN_FLOAT64),
                mode,
            ):
                return self._forward(self.copy, inputs)

        moved = self._process_randomness.call(run, self.seed)
        floating = [
            tensor for tensor in tensors_in(moved) if tensor.is_floating_point() or tensor.is_complex()
        ]
        return mode.moved, movement(outputs, floating)

    def run(self, *, start: Mapping[str, float] | None = None) -> Ran:
        """Run the copy with its state and all randomness as at the start.

        Without gradients where none are wanted, unless the model then fails or computes something else.

        Args:
            start: Buffers that start from a number instead.
        """
        self._progress.begin_run()
        ran = self._repeatable(start or {})
        if torch.is_grad_enabled() and self._first:
            if self._needs_grad or movement(self._first, ran.outputs) > TOLERANCES[self.dtype].confirm:
                self._needs_grad = True
                self._unsure = [output.detach().clone() for output in ran.outputs]
            self._first = []
        return ran

    def _put_back(self) -> Any:
        """Inputs for one run, with the copy as at the start."""
        self._twin.put_back()
        return tree_map(lambda leaf: _input(leaf, self.dtype), self._inputs)

    def _repeatable(self, start: Mapping[str, float]) -> Ran:
        return self._process_randomness.call(lambda: self._run_in_mode(start), self.seed)

    def _run_in_mode(self, start: Mapping[str, float]) -> Ran:
        if torch.is_grad_enabled():
            return self._run(start)
        try:
            with torch.set_grad_enabled(self._needs_grad):
                ran = self._run(start)
        except ForwardError:
            if self._needs_grad:
                raise
            with torch.enable_grad():  # perhaps it differentiates by itself
                ran = self._run(start)
            self._needs_grad = True
        return replace(ran, outputs=[output.detach() for output in ran.outputs])

    def _run(self, start: Mapping[str, float]) -> Ran:
        inputs = self._put_back()
        for name, value in start.items():
            self.copy.get_buffer(name).fill_(value)
        statistics_at_start = statistics_in(self.copy)
        surroundings = Surroundings(self.seed, self.dtype, IN_FLOAT64)
        if torch.is_grad_enabled():
            self._surroundings = surroundings  # of the graph that comes
        with _refused_calls(self._original), surroundings, ExactArithmetic(self.dtype, self.eps) as exact:
            try:
                outputs = self._forward(self.copy, inputs)
            except DecayFreeError:
                raise
            except Exception as error:
                raise ForwardError(error) from error
        if self._forward is call_model:
            self._original = nn.Module()  # what the copy alone did not call once it never calls
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
                found = _slopes(functional, list(self.parameters.values()))
            except RuntimeError as error:
                raise ForwardError(error) from error
        return {
            name: gradient.to_dense() if gradient.layout != torch.strided else gradient
            for name, gradient in zip(self.parameters, found, strict=True)
            if gradient is not None
        }

    @torch.no_grad()
    def check_equal(self, outputs: list[Tensor]) -> None:
        """Run once more without gradients, unless that was compared before.

        Wherever something else than this may be the reason that outputs move, or a run that is not compared
        comes next. A scaled run that moves nothing has compared them, too.

        Args:
            outputs: Of the newest probe.

        Raises:
            UnequalRunsError: If they are other ones: then a wary probe finds out what it is.
        """
        if self._is_compared:
            return
        self._is_compared = True
        if movement(outputs, self.run().outputs) > TOLERANCES[self.dtype].confirm:
            raise UnequalRunsError

    @torch.no_grad()
    def check_repetition(self) -> None:
        """Run once more where the first runs differed, with and without gradients: they must not again.

        After the gradients were taken, and without hooks on parameters, which a model that differentiates
        by itself would meet.

        Raises:
            DecayFreeError: If two equal runs differ.
        """
        if not self._unsure:
            return
        moved = movement(self._unsure, self.run().outputs)
        self._unsure = []
        if moved > TOLERANCES[self.dtype].confirm:
            raise DecayFreeError(
                f"two equal runs of this {type(self.copy).__name__} differ by {moved:.0e}, so that nothing "
                "can be said of its weights: something that it draws from, counts with or keeps lies outside "
                "of it. Hold generators, counters and caches as attributes of the module, or set them back "
                "in a function that you pass as forward=, before it calls the model"
            )

    def functional_change(self, outputs: list[Tensor], after: list[Tensor]) -> float:
        """φ of other outputs less φ of ``outputs``, whose gradients are taken; NaN for other shapes."""
        if [output.shape for output in outputs] != [output.shape for output in after]:
            return math.nan
        return sum(
            float((direction * (as_real(after[index]) - as_real(outputs[index].detach()))).sum())
            for index, direction in self._directions(outputs).items()
        )

    def _directions(self, outputs: list[Tensor]) -> dict[int, Tensor]:
        """For each output that depends on a parameter r/‖y‖, with which φ sees it, by its place."""
        generator = torch.Generator().manual_seed(self.seed + 1 + self._n_perturbed)
        directions = {}
        for index, output in enumerate(outputs):
            values = as_real(output)
            norm = torch.linalg.vector_norm(values.detach())
            if values.requires_grad and norm > 0:
                direction = torch.randn(values.shape, generator=generator, dtype=torch.float32)
                directions[index] = direction.to(values) / norm
        return directions

    def _functional(self, outputs: list[Tensor]) -> Tensor:
        functional = torch.zeros((), dtype=torch.float64)
        for index, direction in self._directions(outputs).items():
            functional = functional.to(direction.device) + (direction * as_real(outputs[index])).sum()
        if not functional.requires_grad:
            raise InvalidInputError(
                "no floating output of the model depends on its parameters, so nothing can be measured: "
                "return logits, features or a loss, with their graph (also check that `forward` calls "
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
            "forward=lambda model, x: model(x); a function that the model keeps must reach it through self"
        )

    handles = [
        module.register_forward_pre_hook(refuse)
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def as_real(values: Tensor) -> Tensor:
    """Complex numbers as pairs, (*shape, 2); others as they are."""
    return torch.view_as_real(values) if values.is_complex() else values


def in_real_terms(values: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """What grows outputs as complex values b and slopes g do: |b| and Re(b·ḡ)/|b|; real ones as they are."""
    if not values.is_complex():
        return values, slopes
    sizes = values.abs()
    return sizes, (values * slopes.conj()).real / sizes.clamp_min(torch.finfo(sizes.dtype).tiny)


def _input(value: Any, dtype: torch.dtype) -> Any:
    if not isinstance(value, Tensor):
        return value
    copied = cast(value.detach(), dtype, copy=True)
    return copied.requires_grad_(value.requires_grad)


def _slopes(functional: Tensor, parameters: list[nn.Parameter]) -> Sequence[Tensor | None]:
    """The gradient, with what is recomputed on the way inside of the modes that are active.

    torch.autograd.grad and backward would leave them. Reentrant checkpoints know but one way, which adds to
    the gradients of all leaves; those that are not of the copy get back what they had.
    """
    ones, leaves = (torch.ones_like(functional),), _leaves_of_reentrant_checkpoints(functional)
    if not leaves:
        wanted = tuple(parameter for parameter in parameters if parameter.requires_grad)
        slopes = _engine_run_backward((functional,), ones, False, False, wanted, True, accumulate_grad=False)
        gradients = dict(zip(map(id, wanted), slopes, strict=True))
        return [gradients.get(id(parameter)) for parameter in parameters]
    kept = [(leaf, leaf.grad) for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    try:
        _engine_run_backward((functional,), ones, False, False, (), True, accumulate_grad=True)
        return [parameter.grad for parameter in parameters]
    finally:
        for leaf, gradient in kept:
            leaf.grad = gradient


def _leaves_of_reentrant_checkpoints(functional: Tensor) -> list[Tensor]:
    """All leaves of the graph if there are such checkpoints in it."""
    leaves, is_reentrant = [], False
    stack: list[Any] = [functional.grad_fn]
    seen = set(stack)
    while stack:
        node = stack.pop()
        is_reentrant |= "Checkpoint" in type(node).__name__
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        following = {parent for parent, _ in node.next_functions if parent is not None} - seen
        seen |= following
        stack += following
    return leaves if is_reentrant else []


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
