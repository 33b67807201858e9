"""How is a model copied so that every run of the copy starts from the same state?

Copies parameters, buffers and all else that modules hold, without graphs and in the probe's precision, and
puts everything but the parameters back. Runs nothing.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import CellType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from decayfree.errors import DecayFreeError, UnsupportedWeightError, faults_of, raise_all
from decayfree.forward import cast

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_REGISTERED = ("_parameters", "_buffers", "_modules")
# What every module holds for itself, hooks among it; its mode is put back.
_OF_MODULES = frozenset(vars(nn.Module())) - {"training"}


class Twin:
    """A deep copy in another precision, with modes and hooks, that can be put back to its start.

    Args:
        model: Any module; never changed, and its tensors are in memory once more only in ``dtype``.
        dtype: float64 or float32.
        change_: Changes the copy, for good.

    Raises:
        UnsupportedWeightError: If a part of the model is a script.
        DecayFreeError: If the model cannot be copied.
    """

    def __init__(
        self, model: nn.Module, dtype: torch.dtype, change_: Callable[[nn.Module], None] = lambda _: None
    ) -> None:
        memo: dict[int, Any] = {}
        self.model = _copied(model, dtype, memo)
        change_(self.model)
        # Scripts keep what they hold out of Python's sight.
        modules = [one for one in self.model.modules() if not isinstance(one, torch.jit.ScriptModule)]
        self._registered = [
            (module, key, dict(vars(module)[key])) for module in modules for key in _REGISTERED
        ]
        self._buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        self._kept = {id(one): one for one in (*modules, *self.model.parameters(), *self.model.buffers())}
        originals = (*model.modules(), *model.parameters(), *model.buffers())
        self._of_original = {id(one): memo[id(one)] for one in originals if id(one) in memo}
        held = [(module, _plain(vars(module))) for module in modules]
        memo = self._kept | self._of_original
        start = self._fresh([plain for _, plain in held], memo)
        # Hooks, and functions that modules keep, such as a forward that was patched in, know the original's.
        with _Detached(None):
            self._functions = [
                (holder, key, _own(function, memo))
                for module in modules
                for holder in (*(vars(module)[name] for name in _HOOKS), vars(module))
                for key, function in holder.items()
                if holder is not vars(module) or (isinstance(function, FunctionType) and function.__closure__)
            ]
        # What is not a new object in a copy cannot change.
        self._plain = [
            (module, {key: copied.get(key, value) for key, value in plain.items()})
            for (module, plain), copied in zip(held, start, strict=True)
        ]
        self._changing = [
            {key for key, value in plain.items() if copied.get(key, value) is not value}
            for (_, plain), copied in zip(held, start, strict=True)
        ]

    @torch.no_grad()
    def put_back(self) -> None:
        """All but the values of parameters as at the start, without what runs have made, such as caches."""
        for module, key, registered in self._registered:
            vars(module)[key].clear()
            vars(module)[key].update(registered)
        for buffer, values in self._buffers:
            if buffer.requires_grad:
                buffer.detach_()
            if buffer.shape == values.shape:
                buffer.copy_(values)
            else:
                buffer.set_(values.clone())  # type: ignore[call-overload]
        memo = self._kept | self._of_original
        fresh = self._fresh(
            [
                {key: plain[key] for key in changing}
                for (_, plain), changing in zip(self._plain, self._changing, strict=True)
            ],
            memo,
        )
        for (module, plain), new in zip(self._plain, fresh, strict=True):
            holds = vars(module)
            for key in _plain(holds).keys() - plain.keys():
                del holds[key]
            holds.update(plain | new)
        with _Detached(None):
            for holder, key, function in self._functions:
                holder[key] = _own(function, memo)
        for parameter in self.model.parameters():
            parameter.grad = None

    @staticmethod
    def _fresh(held: Iterable[Mapping[str, Any]], memo: dict[int, Any]) -> list[dict[str, Any]]:
        """Copies that share what modules share, without those that cannot be copied, such as locks."""
        fresh: list[dict[str, Any]] = []
        with _Detached(None):
            for one in held:
                fresh.append({})
                for key, value in one.items():
                    try:
                        fresh[-1][key] = copy.deepcopy(value, memo)
                    except Exception:  # whatever a class raises that is not to be copied
                        continue
        return fresh


class _Detached(TorchFunctionMode):
    """While active, deep copies of tensors have no graph, and are in ``dtype`` if one is given."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is not Tensor.__deepcopy__:
            copied = func(*args, **(kwargs or {}))
            return self._in_dtype(copied) if func is Tensor.clone else copied  # of parameters in lists
        tensor, memo = args
        if id(tensor) not in memo:
            values = self._in_dtype(tensor.detach().clone())
            memo[id(tensor)] = values.requires_grad_(tensor.requires_grad and tensor.is_leaf)
        return memo[id(tensor)]

    def _in_dtype(self, tensor: Tensor) -> Tensor:
        return tensor if self._dtype is None else cast(tensor, self._dtype)


class _OfOneProcess(nn.SyncBatchNorm):
    """A SyncBatchNorm that sees its own process: the copy may be run by one alone, and on the host."""

    forward = _BatchNorm.forward


def _copied(model: nn.Module, dtype: torch.dtype, memo: dict[int, Any]) -> nn.Module:
    _check_kinds(model)
    for parameter in model.parameters():
        values = cast(parameter.detach(), dtype, copy=True)
        memo[id(parameter)] = nn.Parameter(
            values, requires_grad=values.is_floating_point() or values.is_complex()
        )
    for buffers in _in_one_memory(model.buffers()):
        flat = buffers[0].new_empty(0).set_(buffers[0].untyped_storage())
        flat = cast(flat, dtype, copy=True)
        for one in buffers:
            memo[id(one)] = flat.as_strided(one.shape, one.stride(), one.storage_offset())
    try:
        with _Detached(dtype):
            twin = copy.deepcopy(model, memo)
    except Exception as error:
        raise DecayFreeError(
            f"the probe works on a deep copy, and this {type(model).__name__} cannot be deep-copied "
            f"({type(error).__name__}: {error}); pass the plain module inside it, and look for weights "
            "before sharding (fully_shard) or compiling it"
        ) from error
    for module in twin.modules():
        if isinstance(module, nn.SyncBatchNorm):
            kind = type(module)
            module.__class__ = (
                _OfOneProcess if kind is nn.SyncBatchNorm else type(kind.__name__, (kind, _OfOneProcess), {})
            )
    return twin


def _check_kinds(model: nn.Module) -> None:
    modules = dict(model.named_modules())
    scripts = [
        name or type(module).__name__
        for name, module in modules.items()
        if isinstance(module, torch.jit.ScriptModule) and any(True for _ in module.parameters())
    ]
    quantized = [
        name or type(module).__name__
        for name, module in modules.items()
        if "quantized" in type(module).__module__.split(".")
    ]
    faults = []
    if scripts:
        faults.append(
            f"{scripts[0]} is a script, which hides how it computes: probe the module before "
            "torch.jit.script or torch.jit.trace; a script of it has the same parameters, so that the result "
            "holds for both, with an optimizer of either"
        )
    if quantized:
        faults.append(
            f"{quantized[0]} is quantized and passes no gradient: probe the floating model, or the one that "
            "is prepared for training (prepare_qat)"
        )
    raise_all(faults_of(UnsupportedWeightError, faults))


def _own(value: Any, memo: dict[int, Any]) -> Any:
    """A copy of what functions hold, where one can be made; functions that hold something too."""
    if isinstance(value, FunctionType):
        return memo.get(id(value)) or _apart(value, memo)
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # whatever a class raises that is not to be copied
        return value


def _apart(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    """The same function on copies of what it holds and of the containers that it knows by global names.

    What is copied already, by its id in ``memo``, is not copied again: a function that knows itself, too.
    """
    world = dict(function.__globals__)
    cells = tuple(CellType() for _ in function.__closure__ or ())
    apart = FunctionType(function.__code__, world, function.__name__, None, cells)
    memo[id(function)] = apart
    for name in function.__code__.co_names:
        if isinstance(world.get(name), (list, dict, set, deque)):
            world[name] = _own(world[name], memo)
    for cell, held in zip(cells, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # nothing in it yet
            cell.cell_contents = _own(held.cell_contents, memo)
    vars(apart).update(vars(function))
    apart.__defaults__ = _own(function.__defaults__, memo)
    apart.__kwdefaults__ = _own(function.__kwdefaults__, memo)
    return apart


def _in_one_memory(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Groups of tensors of which what is written to one is read from another."""
    groups: dict[tuple[int, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        if type(tensor) is Tensor and tensor.layout == torch.strided and not tensor.is_quantized:
            groups.setdefault((tensor.untyped_storage().data_ptr(), tensor.dtype), []).append(tensor)
    return [group for group in groups.values() if len(group) > 1 and group[0].numel()]


def _plain(held: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in held.items() if key not in _OF_MODULES}
