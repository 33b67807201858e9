"""What a run costs: seconds of an epoch, and bytes that optimizer and method keep between two steps.

Reads what it is given; measures no time itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from decayfree.methods.method import AttachedMethod


def cost_of(
    model: nn.Module, optimizer: Optimizer, method: AttachedMethod, *, steps_s: float, n_epochs: float
) -> dict[str, float]:
    """What a run has cost so far.

    Args:
        model: Its parameters count as they are.
        optimizer: All tensors in its state count.
        method: All tensors that it holds count, but for those of the model and the optimizer.
        steps_s: Seconds spent in steps, without evaluation.
        n_epochs: That these steps make.

    Returns:
        ``seconds_per_epoch`` and, in bytes, ``parameter_bytes``, ``optimizer_state_bytes``,
        ``method_state_bytes``; with a model on CUDA also ``peak_memory_bytes``, the most that torch had
        allocated at once.
    """
    parameters = list(model.parameters())
    in_optimizer = list(_tensors(optimizer.state, set()))
    known = {_memory(tensor) for tensor in (*parameters, *model.buffers(), *in_optimizer)}
    known |= {_memory(parameter.grad) for parameter in parameters if parameter.grad is not None}
    held = {_memory(tensor): tensor for tensor in _tensors(method, {id(optimizer), id(model)})}
    cost = {
        "seconds_per_epoch": steps_s / n_epochs if n_epochs else 0.0,
        "parameter_bytes": _n_bytes(parameters),
        "optimizer_state_bytes": _n_bytes(in_optimizer),
        "method_state_bytes": _n_bytes([tensor for memory, tensor in held.items() if memory not in known]),
    }
    device = next((parameter.device for parameter in parameters), torch.device("cpu"))
    if device.type == "cuda":
        cost["peak_memory_bytes"] = torch.cuda.max_memory_allocated(device)
    return cost


def _tensors(holder: Any, seen: set[int]) -> Iterator[Tensor]:
    """Every tensor that can be reached through containers and this package's own objects, once."""
    if id(holder) in seen:
        return
    seen.add(id(holder))
    if isinstance(holder, Tensor):
        yield holder
    elif isinstance(holder, Mapping):
        for value in holder.values():
            yield from _tensors(value, seen)
    elif isinstance(holder, list | tuple | set):
        for value in holder:
            yield from _tensors(value, seen)
    elif type(holder).__module__.startswith("decayfree.") and not isinstance(holder, nn.Module | Optimizer):
        yield from _tensors(getattr(holder, "__dict__", {}), seen)


def _memory(tensor: Tensor) -> int:
    """Where a tensor lies; its views, which are other objects, lie there too."""
    return tensor.untyped_storage().data_ptr()


def _n_bytes(tensors: Sequence[Tensor]) -> float:
    return float(sum(tensor.numel() * tensor.element_size() for tensor in tensors))
