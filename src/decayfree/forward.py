"""How is any model run on any inputs, and left as it was?

Calls it, finds the tensors in what goes in and comes out, and puts precision and random states back. Copies
no model.
"""

import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

Forward = Callable[[nn.Module, Any], Any]


def call_model(model: nn.Module, inputs: Any) -> Any:
    """``model(*inputs)`` for a tuple or list, ``model(**inputs)`` for a mapping, else ``model(inputs)``."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def movement(before: list[Tensor], after: list[Tensor]) -> float:
    """Largest relative change among outputs; no unit, infinity where shapes differ or one is not finite."""
    if [output.shape for output in before] != [output.shape for output in after]:
        return float("inf")
    moved = 0.0
    for old, new in zip(before, after, strict=True):
        norm, change = (
            torch.linalg.vector_norm(old.detach()),
            torch.linalg.vector_norm(new.detach() - old.detach()),
        )
        relative = float(change / norm) if norm > 0 else float(change)
        moved = max(moved, relative if math.isfinite(relative) else math.inf)
    return moved


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples, mappings, dataclasses and plain objects, in order."""
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


def cast(value: Any, dtype: torch.dtype, *, copy: bool = False) -> Any:
    """A floating or complex tensor in ``dtype`` or its complex twin; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    if value.is_complex():
        return value.to(torch.complex128 if dtype == torch.float64 else torch.complex64, copy=copy)
    if value.is_floating_point():
        return value.to(dtype, copy=copy)
    return value.clone() if copy else value


@contextmanager
def seeded(seed: int, model: nn.Module) -> Iterator[None]:
    """Everything random starts from ``seed``, and the global states are put back afterwards."""
    devices = sorted(
        {tensor.device.index or 0 for tensor in model.parameters() if tensor.device.type == "cuda"}
    )
    numpy_random = getattr(sys.modules.get("numpy"), "random", None)
    python_state, numpy_state = random.getstate(), numpy_random.get_state() if numpy_random else None
    is_on_host = all(tensor.device.type == "cpu" for tensor in model.parameters())
    with torch.random.fork_rng(devices=devices):
        # torch.manual_seed also queues the seed for accelerators, with a formatted stack: half a millisecond,
        # in every run.
        (torch.default_generator.manual_seed if is_on_host else torch.manual_seed)(seed)
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
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """What models make inside, without saying in which precision, is in ``dtype``."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
