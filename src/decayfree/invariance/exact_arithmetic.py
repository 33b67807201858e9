"""How does a model compute as if in exact arithmetic?

Sets the ε of normalizations, wherever it hides, to a negligible value, keeps float64 where the model would
cast down, and puts a known share of every batch into running statistics. Knows functions that take an ε, no
layer types.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

NEGLIGIBLE_EPS = 1e-30  # PyTorch refuses 0 in training

# Attributes under which modules keep their ε.
_EPS_NAMES = ("eps", "epsilon", "variance_epsilon", "layer_norm_eps", "norm_eps")


class _Positions(NamedTuple):
    """Where arguments stand when they are passed by position.

    Args:
        eps: ε.
        momentum: The momentum with which batch statistics enter the running ones; None where there are none.
        mean: The running mean; None where there is none.
    """

    eps: int
    momentum: int | None = None
    mean: int | None = None


# Every function of PyTorch that takes an ε and divides by what it sees. The functions of torch are written in
# C++ and have other orders than those of torch.nn.functional that call them.
_FUNCTIONS: dict[Callable[..., Any], _Positions] = {
    functional.batch_norm: _Positions(eps=7, momentum=6, mean=1),
    torch.batch_norm: _Positions(eps=7, momentum=6, mean=3),
    functional.instance_norm: _Positions(eps=7, momentum=6, mean=1),
    torch.instance_norm: _Positions(eps=7, momentum=6, mean=3),
    functional.layer_norm: _Positions(eps=4),
    torch.layer_norm: _Positions(eps=4),
    functional.group_norm: _Positions(eps=4),
    torch.group_norm: _Positions(eps=4),
    functional.rms_norm: _Positions(eps=3),
    torch.rms_norm: _Positions(eps=3),
    functional.normalize: _Positions(eps=3),
}

_MOMENTUM = 0.5
_LOWER = (torch.float16, torch.bfloat16, torch.float32)
_DOWNCASTS = (Tensor.float, Tensor.half, Tensor.bfloat16)


class ExactArithmetic(TorchFunctionMode):
    """While active, normalizing functions get a negligible ε and momentum ½, no cast goes below ``dtype``.

    Args:
        dtype: float64 or float32.
        eps: What to use for ε.

    Attributes:
        n_calls: How often each running mean, by its id, was updated so: of what it held before, ½ to that
            power is left.
    """

    def __init__(self, dtype: torch.dtype, eps: float = NEGLIGIBLE_EPS) -> None:
        super().__init__()
        self.dtype = dtype
        self.eps = eps
        self.n_calls: Counter[int] = Counter()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        at = _FUNCTIONS.get(func) or _of_operation(func)
        if at is not None:
            args = _with(args, kwargs, at.eps, "eps", self.eps)
            if at.momentum is not None and at.mean is not None:
                args = _with(args, kwargs, at.momentum, "momentum", _MOMENTUM)
                mean = args[at.mean] if len(args) > at.mean else kwargs.get("running_mean")
                self.n_calls[id(mean)] += 1
        if self.dtype == torch.float64:
            if func in _DOWNCASTS:
                return args[0].double()
            args = tuple(self._raised(argument) for argument in args)
            kwargs = {key: self._raised(value) for key, value in kwargs.items()}
        return func(*args, **kwargs)

    def _raised(self, argument: Any) -> Any:
        return self.dtype if isinstance(argument, torch.dtype) and argument in _LOWER else argument


@cache
def _of_operation(func: Callable[..., Any]) -> _Positions | None:
    """The same of an operation that exported modules call, such as ``torch.ops.aten.layer_norm.default``."""
    if not isinstance(func, torch._ops.OpOverload):
        return None
    names = [argument.name for argument in func._schema.arguments]
    if "eps" not in names or "norm" not in func.name() or "backward" in func.name():
        return None
    if "momentum" not in names:
        return _Positions(names.index("eps"))
    return _Positions(*(names.index(name) for name in ("eps", "momentum", "running_mean")))


class Jittered(ExactArithmetic):
    """Moves what every normalizing function normalizes by rounding and by √ε.

    Attributes:
        moved: Largest share by which a result moved then.
    """

    def __init__(self, dtype: torch.dtype, eps: float = NEGLIGIBLE_EPS) -> None:
        super().__init__(dtype, eps)
        self.moved = 0.0
        self._generator = torch.Generator().manual_seed(0)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        result = super().__torch_function__(func, types, args, kwargs)
        if (func in _FUNCTIONS or _of_operation(func)) and isinstance(result, Tensor):
            values = args[0] if args else kwargs["input"]
            rounding = torch.finfo(values.dtype).eps
            # Numbers of its own, so that the model's are those that they would be without it.
            noise = torch.randn(values.shape, generator=self._generator, device="cpu").to(values)
            jittered = values * (1 + (rounding + self.eps**0.5) * noise)
            named = {"input": jittered} if not args else {}
            again = super().__torch_function__(func, types, (jittered, *args[1:]), {**kwargs, **named})
            norm = torch.linalg.vector_norm
            self.moved = max(self.moved, float(norm(again - result) / norm(result).clamp(min=1e-30)))
            return again
        return result


@contextmanager
def outside_of_modes(tensors: Iterable[Tensor]) -> Iterator[None]:
    """While it is open, no mode sees what is done with tensors, unless some are of kinds that need one.

    For what measures between the operations of a model: modes have nothing to say there, and double its time.
    """
    if all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors):
        with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
            yield
    else:
        yield


def use_eps_(model: nn.Module, eps: float) -> None:
    """Set every module's ε attribute, for normalizations that are written by hand."""
    for module in model.modules():
        for name in _EPS_NAMES:
            if name in vars(module) and isinstance(vars(module)[name], float):
                setattr(module, name, eps)


def eps_of(module: nn.Module) -> float:
    """The ε of a normalization module; 0 where it has none that can be read."""
    found = (inspect.getattr_static(module, name, None) for name in _EPS_NAMES)
    return next((value for value in found if isinstance(value, float)), 0.0)


def _with(
    args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str, value: float
) -> tuple[Any, ...]:
    """Put one argument in, where it stands or by name."""
    if len(args) > position:
        return (*args[:position], value, *args[position + 1 :])
    kwargs[name] = value
    return args
