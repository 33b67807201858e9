"""Is everything bit by bit what it was, after an error?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def bits(tensor: torch.Tensor) -> bytes:
    """What the numbers are made of: NaN equals itself here, and −0 is not 0."""
    return bytes(tensor.detach().reshape(-1).view(torch.uint8).tolist())


@contextmanager
def unchanged(model: nn.Module, *optimizers: torch.optim.Optimizer) -> Iterator[None]:
    """Fail unless the model and the optimizers are, bit by bit, what they were."""

    def everything() -> list[Any]:
        hooks = [
            list(value)
            for optimizer in optimizers
            for name, value in sorted(vars(optimizer).items())
            if name.endswith("_hooks")
        ]
        tensors = [(name, bits(value)) for name, value in model.state_dict().items()]
        states = [flat(optimizer.state_dict()) for optimizer in optimizers]
        addresses = [(name, p.data_ptr(), p.requires_grad) for name, p in model.named_parameters()]
        return [hooks, tensors, states, addresses]

    before = everything()
    yield
    assert everything() == before


def flat(value: Any) -> Any:
    """The same nested structure with bytes for tensors."""
    if isinstance(value, torch.Tensor):
        return bits(value)
    if isinstance(value, dict):
        return [(key, flat(item)) for key, item in value.items()]
    return [flat(item) for item in value] if isinstance(value, (list, tuple)) else value


def sgd(model: nn.Module, **settings: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1, **settings)
