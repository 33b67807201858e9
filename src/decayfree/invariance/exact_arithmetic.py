"""How does a model compute as if in exact arithmetic?

Sets the ε of normalizations, wherever it hides, to a negligible value, keeps float64 where the model would
cast down, and puts a known share of every batch into running statistics. Knows functions that take an ε, no
layer types.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

NEGLIGIBLE_EPS = 1e-30  # PyTorch refuses 0 in training

_EPS_NAMES = ("eps", "epsilon", "variance_epsilon", "layer_norm_eps", "norm_eps")

# Position of ε among the arguments.
_EPS_POSITION: dict[Callable[..., Any], int] = {
    functional.batch_norm: 7,
    torch.batch_norm: 7,
    functional.instance_norm: 7,
    torch.instance_norm: 7,
    functional.layer_norm: 4,
    torch.layer_norm: 4,
    functional.group_norm: 4,
    torch.group_norm: 4,
    functional.rms_norm: 3,
    torch.rms_norm: 3,
    functional.normalize: 3,
}
# Position of the momentum with which batch statistics enter the running ones, and of the running mean.
_MOMENTUM_POSITION: dict[Callable[..., Any], int] = {
    functional.batch_norm: 6,
    torch.batch_norm: 6,
    functional.instance_norm: 6,
    torch.instance_norm: 6,
}
_MEAN_POSITION: dict[Callable[..., Any], int] = {
    functional.batch_norm: 1,
    torch.batch_norm: 3,
    functional.instance_norm: 1,
    torch.instance_norm: 3,
}

_MOMENTUM = 0.5
_LOWER = (torch.float16, torch.bfloat16, torch.float32)
_DOWNCASTS = (Tensor.float, Tensor.half, Tensor.bfloat16)


class ExactArithmetic(TorchFunctionMode):
    """Make normalizing functions exact while it is active.

    They get a negligible ε and momentum ½, and casts to a lower precision than ``dtype`` go to ``dtype``.

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
        if func in _EPS_POSITION:
            args = _with(args, kwargs, _EPS_POSITION[func], "eps", self.eps)
        if func in _MOMENTUM_POSITION:
            args = _with(args, kwargs, _MOMENTUM_POSITION[func], "momentum", _MOMENTUM)
            at = _MEAN_POSITION[func]
            self.n_calls[id(args[at] if len(args) > at else kwargs.get("running_mean"))] += 1
        if self.dtype == torch.float64:
            if func in _DOWNCASTS:
                return args[0].double()
            args = tuple(self._raised(argument) for argument in args)
            kwargs = {key: self._raised(value) for key, value in kwargs.items()}
        return func(*args, **kwargs)

    def _raised(self, argument: Any) -> Any:
        return self.dtype if isinstance(argument, torch.dtype) and argument in _LOWER else argument


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
