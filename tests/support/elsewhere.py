"""Tensors on the host that say they are on an accelerator: for what the package does there and nowhere else.

Values and arithmetic are the host's; the device is what they say, and every time that the host would wait for
it is noted. No test is here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

HOST = torch.device("cpu")
# What gives numbers to Python, which an accelerator is waited for.
_WAITS = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "cpu", "numpy"}


class Elsewhere(Tensor):
    """A tensor whose ``device`` is an accelerator, the first of the kind that is set with `elsewhere`."""

    kind = "cuda"
    waits: list[str] = []  # noqa: RUF012  # of all of them, since `elsewhere` began

    @property
    def device(self) -> torch.device:
        return torch.device(self.kind, 0)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in _WAITS:
            cls.waits.append(func.__name__)
        result = super().__torch_function__(func, types, args, kwargs)
        to_host = func.__name__ == "cpu" or (func.__name__ == "to" and {"cpu", HOST} & set(args[1:2]))
        return result.as_subclass(Tensor) if to_host else result


class _Factories(TorchFunctionMode):
    """Makes on the host what was to be made on the accelerator, and lets it say otherwise."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        is_there = any(map(_is_elsewhere, (*args, *kwargs.values())))
        args = [HOST if _is_elsewhere(value) else value for value in args]
        result = func(
            *args, **{key: HOST if _is_elsewhere(value) else value for key, value in kwargs.items()}
        )
        return result.as_subclass(Elsewhere) if is_there else result


def _is_elsewhere(value: object) -> bool:
    return isinstance(value, torch.device) and value.type == Elsewhere.kind


@contextmanager
def elsewhere(kind: str = "cuda") -> Iterator[list[str]]:
    """Within it there is an accelerator of this kind; what the host waited for it with, in order."""
    before = Elsewhere.kind
    Elsewhere.kind, Elsewhere.waits = kind, []
    try:
        with _Factories():
            yield Elsewhere.waits
    finally:
        Elsewhere.kind = before


def put_elsewhere_(model: nn.Module) -> None:
    """Let the parameters and buffers of a model say that they are on the accelerator."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                there = parameter.detach().as_subclass(Elsewhere)
                module._parameters[name] = nn.Parameter(there, parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.as_subclass(Elsewhere)


def flag(is_set: bool) -> Tensor:
    """What a GradScaler leaves on the accelerator: 1 if it found infinities, else 0."""
    return torch.tensor(float(is_set)).as_subclass(Elsewhere)


class Event:
    """In place of ``torch.cuda.Event``; ``is_over`` once the device has come so far, as by waiting for it."""

    is_over = True
    n_waits = 0

    def record(self) -> None:
        """The device works in order: nothing to note."""

    def query(self) -> bool:
        return Event.is_over

    def synchronize(self) -> None:
        Event.is_over = True
        Event.n_waits += 1
