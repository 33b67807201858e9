"""Where in the model does the scale of a weight disappear?

Compares what every module takes in and puts out before and after scaling, and follows the autograd graph from
a weight to the first modules that no longer notice. The places are for people to read, and say which weights
to scale alone; no verdict depends on them. The graph also shows along which dimension the operation that uses
a weight has its output channels (``output_rows``), and that does decide the axis of a weight which is one
block along any.
"""

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor

from decayfree.forward import tensors_in
from decayfree.invariance.exact_arithmetic import outside_of_modes

_UNMOVED = 1e-5  # relative; scaling by a random factor moves a sum by far more


@dataclass(frozen=True)
class Call:
    """One call of a module: fingerprints of what went in and came out."""

    taken: Tensor | None = None
    given: Tensor | None = None
    node: Any = None


# By module and how many calls of it came before.
Calls = dict[tuple[str, int], Call]


@contextmanager
def watched(model: nn.Module) -> Iterator[Calls]:
    """Remember the calls of all modules while it is open."""
    calls: Calls = {}
    fingerprints = _Fingerprints()
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue  # takes no hooks
        before, after = _hooks(name, calls, fingerprints)
        handles += [
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after),
        ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def places(
    outputs: list[Tensor], before: Calls, after: Calls, weights: dict[str, nn.Parameter]
) -> dict[str, tuple[str, ...]]:
    """For each weight the modules in which its scale is lost, nearest first.

    Args:
        outputs: Of the run before scaling, with their graph.
        before: The calls of that run.
        after: The calls of a run with scaled weights.
        weights: The weights that were scaled.

    Returns:
        Module names by weight; empty where the graph does not show them.
    """
    ends = _unmoved_calls(before, after)
    consumers, leaves = reversed_graph(outputs)
    return {
        name: _first_ends(name, leaves.get(id(weight)), consumers, ends) for name, weight in weights.items()
    }


def reversed_graph(outputs: list[Tensor]) -> tuple[dict[Any, list[Any]], dict[int, Any]]:
    """Consumers of each autograd node behind ``outputs``, and each parameter's leaf node by its id."""
    consumers: dict[Any, list[Any]] = defaultdict(list)
    leaves: dict[int, Any] = {}
    stack = [output.grad_fn for output in outputs if output.grad_fn is not None]
    seen = set(stack)
    while stack:
        node = stack.pop()
        if hasattr(node, "variable"):
            leaves[id(node.variable)] = node
        for parent, _ in node.next_functions:
            if parent is None:
                continue
            consumers[parent].append(node)
            if parent not in seen:
                seen.add(parent)
                stack.append(parent)
    return consumers, leaves


def output_rows(leaf: Any, consumers: dict[Any, list[Any]]) -> tuple[int, int]:
    """Where the operation that uses a weight has its output channels: (axis, groups)."""
    users = consumers.get(leaf, ())
    for node in users:
        if type(node).__name__.startswith("ConvolutionBackward") and getattr(
            node, "_saved_transposed", False
        ):
            return 1, int(node._saved_groups)
    # Not through a transposition, as F.linear has it.
    is_multiplied = bool(users) and all(
        type(node).__name__.startswith(("MmBackward", "AddmmBackward")) for node in users
    )
    return (1, 1) if is_multiplied else (0, 1)


def _unmoved_calls(first: Calls, second: Calls) -> dict[Any, tuple[str, bool]]:
    """Nodes whose values scaling does not change: the module of each, and whether what it took in changed."""
    nodes: dict[Any, tuple[str, bool]] = {}
    for key, before in first.items():
        after = second.get(key, Call())
        if before.node is not None and _is_unmoved(before.given, after.given):
            nodes.setdefault(before.node, (key[0], not _is_unmoved(before.taken, after.taken)))
    return nodes


def _hooks(
    name: str, calls: Calls, fingerprints: "_Fingerprints"
) -> tuple[Callable[..., None], Callable[..., None]]:
    open_calls: list[tuple[int, Tensor | None]] = []
    n_calls = 0

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        nonlocal n_calls
        open_calls.append((n_calls, fingerprints.of((args, kwargs))[0]))
        n_calls += 1

    def after(module: nn.Module, args: Any, output: Any) -> None:
        index, taken = open_calls.pop()
        calls[name, index] = Call(taken, *fingerprints.of(output))  # inner modules come first

    return before, after


class _Fingerprints:
    """Sums and norms, once of each tensor: what one module gives the next takes."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], int, Tensor]] = {}

    def of(self, values: Any) -> tuple[Tensor | None, Any]:
        """Sum and norm of all floating tensors together, and the node of the first."""
        tensors = [
            tensor
            for tensor in tensors_in(values)
            if tensor.is_floating_point() and not is_functorch_wrapped_tensor(tensor)
        ]
        if not tensors:
            return None, None
        with outside_of_modes(tensors):
            each = [self._of_one(tensor) for tensor in tensors]
            node = tensors[0].grad_fn
            if len(each) == 1:
                return each[0], node
            together = torch.stack(each)
            return torch.stack([together[:, 0].sum(), torch.linalg.vector_norm(together[:, 1])]), node

    def _of_one(self, tensor: Tensor) -> Tensor:
        version = -1 if tensor.is_inference() else tensor._version  # those of inference mode count none
        known = self._known.get(id(tensor))
        if known and known[0]() is tensor and known[1] == version >= 0:
            return known[2]
        values = _values_of(tensor.detach())
        fingerprint = torch.stack([values.sum(), torch.linalg.vector_norm(values)])
        self._known[id(tensor)] = weakref.ref(tensor), version, fingerprint
        return fingerprint


def _values_of(tensor: Tensor) -> Tensor:
    """What a tensor in any layout holds, such as the adjacency of a graph."""
    if tensor.layout == torch.sparse_coo:
        return tensor._values()  # values() wants duplicates summed up first
    return tensor.values() if tensor.is_nested or tensor.layout != torch.strided else tensor


def _is_unmoved(before: Tensor | None, after: Tensor | None) -> bool:
    """Equal but for doublings, which come from the gains and biases of normalizations."""
    if before is None or after is None or not bool((before[1] > 0) & (after[1] > 0)):
        return False
    doublings = (after[1] / before[1]).log2().round().exp2()
    return bool(((after - doublings * before).abs() <= _UNMOVED * after[1]).all())


def _first_ends(
    name: str, leaf: Any, consumers: dict[Any, list[Any]], ends: dict[Any, tuple[str, bool]]
) -> tuple[str, ...]:
    if leaf is None:
        return ()
    found: list[str] = []
    level, seen = [leaf], {leaf}
    while level:
        following = []
        for node in (consumer for child in level for consumer in consumers.get(child, ())):
            if node in ends:
                module, took_in_a_change = ends[node]
                is_inside = not module or name.startswith(f"{module}.")
                found.append(module if took_in_a_change or is_inside else module.rpartition(".")[0])
            elif node not in seen:
                seen.add(node)
                following.append(node)
        level = following
    return tuple(dict.fromkeys(found))
