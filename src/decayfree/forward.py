"""How is any model run on any inputs, with nothing of the process switched?

Calls it, finds the tensors in what goes in and comes out, and gives the thread that runs it random numbers
and a default precision of its own: other threads draw and compute as before. Only what a model itself moves,
Python's and numpy's random states and torch.manual_seed, is seeded and put back. Copies no model.
"""

import math
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass
from functools import cache
from types import FrameType, MappingProxyType, MethodType
from typing import Any, Literal, TypeVar

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode, _push_mode

Forward = Callable[[nn.Module, Any], Any]
_T = TypeVar("_T")

_DOUBLE = dict.fromkeys((torch.float16, torch.bfloat16, torch.float32), torch.float64) | dict.fromkeys(
    (torch.complex32, torch.complex64), torch.complex128
)
_FLOATING_NOISE = (
    torch.ops.aten.rand.default,
    torch.ops.aten.rand.generator,
    torch.ops.aten.randn.default,
    torch.ops.aten.randn.generator,
    torch.ops.aten.normal.float_float,
)


def call_model(model: nn.Module, inputs: Any) -> Any:
    """``model(*inputs)`` for a tuple or list, ``model(**inputs)`` for a mapping, else ``model(inputs)``."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def on_default_device(forward: Forward | None) -> tuple[Forward | None, AbstractContextManager[Any]]:
    """A call of a model on the default device, and a context in which all else is made on the host.

    Without ``torch.set_default_device`` both are as they would be.
    """
    device = torch.get_default_device()
    if device.type == "cpu":
        return forward, nullcontext()

    def there(model: nn.Module, inputs: Any) -> Any:
        with device:
            return (forward or call_model)(model, inputs)

    return there, torch.device("cpu")


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


class Surroundings(TorchDispatchMode):
    """While active, the running thread has its own random numbers and its own default precision.

    Operations draw from generators that start from ``seed``, those too that are passed a generator: from a
    twin of it, and nobody's generator moves. What is checkpointed draws the same numbers again when it is
    recomputed; for a backward pass enter the same object again.

    Args:
        seed: Where all random numbers start.
        dtype: The precision of what is made without a word about it; with float64 nothing is made in a lower
            one either. None leaves precisions alone.
        instead: What to call instead of some operations, with their arguments.
    """

    supports_higher_order_operators = True

    def __init__(
        self,
        seed: int,
        dtype: torch.dtype | None = None,
        instead: Mapping[Any, Callable[..., Any]] = MappingProxyType({}),
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._instead = instead
        self._explicit = _DOUBLE if dtype == torch.float64 else {}
        default = torch.get_default_dtype()
        self._made = self._explicit or ({} if dtype in (None, default) else {default: dtype})
        self._root = _Stream(seed)
        self._seeds: dict[int, tuple[Tensor, int]] = {}  # by the id of what a checkpoint keeps, kept with it
        self._open: dict[int, tuple[FrameType, _Stream]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if any(kind.__torch_dispatch__ is not Tensor.__torch_dispatch__ for kind in types):
            return NotImplemented  # a DTensor, say: what it is made of comes here by itself
        kwargs = dict(kwargs or {})
        kind = _kind(func)
        if kind == "composed":  # comes whole in inference mode only
            _push_mode(self)
            try:
                return func.decompose(*args, **kwargs)
            finally:
                _pop_mode()
        if kwargs.get("dtype") in self._explicit and not _has_floating((*args, *kwargs.values())):
            kwargs["dtype"] = self._explicit[kwargs["dtype"]]
        if kind == "random":
            if self._made and func in _FLOATING_NOISE and kwargs.get("dtype") is None:
                kwargs["dtype"] = self._made.get(torch.get_default_dtype())
            return self._drawn(func, args, kwargs)
        result = self._instead.get(func, func)(*args, **kwargs)
        if isinstance(result, Tensor) and result.dtype in self._made and _is_made(func, args, kwargs):
            dtype = self._made[result.dtype]
            return func(*args, **kwargs, dtype=dtype) if "dtype" in _arguments(func) else result.to(dtype)
        return result

    # torch's own way in and out sets variables of the process besides, and imports its compiler: a second.

    def __enter__(self) -> "Surroundings":
        if "torch._dynamo" in sys.modules:  # a compiled function inside would have it compile what is here
            self.__torch_dispatch__ = MethodType(_NOT_COMPILED, self)  # type: ignore[method-assign]
        _push_mode(self)
        return self

    def __exit__(self, *details: object) -> None:
        self._open.clear()  # frames keep activations alive
        _pop_mode()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def _drawn(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        device = _device_of(args, kwargs)
        names = list(_arguments(func))[: len(args)]
        given = args[names.index("generator")] if "generator" in names else kwargs.pop("generator", None)
        args = args[: names.index("generator")] if "generator" in names else args
        if device.type == "meta":
            return func(*args, **kwargs)
        twin = _with_generator(func)
        if twin is not None:
            return twin(*args, **kwargs, generator=self._stream().generator(device, given))
        if func is torch.ops.aten.native_dropout.default:
            return _dropout(args[0], args[1], args[2], self._stream().generator(device))
        if not _is_like(func) and (device.type == "cpu" or not _drops_out(func, args, kwargs)):
            return func(*args, **kwargs)
        own = torch.default_generator
        if device.type != "cpu":
            own = torch.get_device_module(device).default_generators[device.index or 0]
        return _in_a_moment_of(own, self._stream().next_seed(), lambda: func(*args, **kwargs))

    def _stream(self) -> "_Stream":
        """The stream from which the operation that is running draws: that of the innermost checkpoint.

        Each checkpoint has a seed, drawn when it first runs; each time that it runs its stream starts anew.
        """
        stream = self._root
        for kept, frame in _running_checkpoints():
            if id(kept) not in self._seeds:
                self._seeds[id(kept)] = kept, stream.next_seed()
            opened = self._open.get(id(kept))
            if opened is None or opened[0] is not frame:
                opened = self._open[id(kept)] = frame, _Stream(self._seeds[id(kept)][1])
            stream = opened[1]
        return stream


_NOT_COMPILED = torch._disable_dynamo(Surroundings.__torch_dispatch__)  # type: ignore[attr-defined]


# Two searches that move the states of the process would meet each other's, and put them back in turns.
_ONE_AT_A_TIME = threading.RLock()


class ProcessRandomness:
    """The random states of the process, for calls of one kind that reach for them by themselves.

    The first call shows whether they do: it moves them, and no other thread does, for then they lie still.
    If so it is repeated, and it and all later ones start from a seed; afterwards the states are put back.
    Other threads that draw from them meanwhile draw from that seed, too. Otherwise nobody touches them.
    """

    def __init__(self) -> None:
        self._drawn_from: set[_Source] | None = None

    def call(self, function: Callable[[], _T], seed: int) -> _T:
        """``function()``, if need be with these states at ``seed``."""
        if self._drawn_from is not None and not self._drawn_from:
            return function()
        with _ONE_AT_A_TIME:
            return self._call_from(seed, function)

    def _call_from(self, seed: int, function: Callable[[], _T]) -> _T:
        before = _states()
        if self._drawn_from is None:
            try:
                result = function()
            finally:
                self._drawn_from = _moved_since(before)
                self._drawn_from -= _still_moving() if self._drawn_from else set()
                _put_back(before, self._drawn_from)
            if not self._drawn_from:
                return result
            del result  # with its graph
        if "python" in self._drawn_from:
            random.seed(seed)
        if "numpy" in self._drawn_from:
            _numpy_random().seed(seed % 2**32)
        try:
            return function()
        finally:
            _put_back(before, self._drawn_from)


class _Stream:
    """Random numbers on all devices, and instead of all generators that are passed, from one seed."""

    def __init__(self, seed: int) -> None:
        self._seeds = torch.Generator().manual_seed(seed)
        self._generators: dict[Any, torch.Generator] = {}
        self._seed = seed

    def next_seed(self) -> int:
        return int(torch.randint(2**62, (), generator=self._seeds, device="cpu"))

    def generator(self, device: torch.device, given: torch.Generator | None = None) -> torch.Generator:
        key = given or str(device)
        if key not in self._generators:
            own = torch.Generator(device)
            self._generators[key] = own.set_state(given.get_state()) if given else own.manual_seed(self._seed)
        return self._generators[key]


_COMPOSED = torch._C.DispatchKey.CompositeImplicitAutograd


@cache
def _kind(func: Any) -> Literal["plain", "random", "composed"]:
    if not isinstance(func, torch._ops.OpOverload):
        return "plain"
    # Said by hand, since torch's own `_can_decompose` came after 2.4.
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSED):
        return "composed"
    return "random" if torch.Tag.nondeterministic_seeded in func.tags else "plain"


@cache
def _arguments(func: Any) -> dict[str, str]:
    """The arguments of an operation with their types, in order."""
    schema = getattr(func, "_schema", None)  # what takes functions has none
    return {one.name: str(one.type) for one in schema.arguments} if schema else {}


@cache
def _with_generator(func: Any) -> Any:
    """The overload of an operation that takes a generator, or None."""

    def others(overload: Any) -> list[tuple[str, str]]:
        return [item for item in _arguments(overload).items() if item[0] != "generator"]

    overloads = [getattr(func.overloadpacket, name) for name in func.overloadpacket.overloads()]
    taking = [one for one in overloads if "generator" in _arguments(one) and others(one) == others(func)]
    return taking[0] if taking else None


def _is_like(func: Any) -> bool:
    """Whether it is ``rand_like`` or another such, which take a generator in newer versions of torch only."""
    return str(func.overloadpacket.__name__).endswith("_like")


def _drops_out(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    values = {**dict(zip(_arguments(func), args, strict=False)), **kwargs}
    return any(values.get(name, 0.0) for name in ("dropout_p", "dropout"))


def _dropout(
    values: Tensor, p: float, train: bool | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    if train is False:
        return values.clone(), torch.ones_like(values, dtype=torch.bool)
    kept = torch.rand(values.shape, generator=generator, device=values.device) >= p
    return values * kept * (1 / (1 - p) if p < 1 else 0.0), kept


def _in_a_moment_of(generator: torch.Generator, seed: int, call: Callable[[], _T]) -> _T:
    """Call what takes no generator but its device's own, and put that back: fused attention, `rand_like`."""
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        return call()
    finally:
        generator.set_state(before)


def _device_of(args: Any, kwargs: Mapping[str, Any]) -> torch.device:
    tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
    found = next((tensor.device for tensor in tensors), kwargs.get("device"))
    return torch.device("cpu") if found is None else found


def _is_made(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation chose the precision of its result: it took in none, and was told none."""
    is_literal = func is torch.ops.aten.lift_fresh.default  # torch.tensor(0.5)
    return is_literal or not (
        "dtype" in kwargs or _has_floating(args) or _has_floating(list(kwargs.values()))
    )


def _has_floating(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.is_floating_point() or value.is_complex()
    return isinstance(value, (tuple, list)) and any(_has_floating(item) for item in value)


def _running_checkpoints() -> list[tuple[Tensor, FrameType]]:
    """Of each of torch's checkpoints that is running, outermost first, the random state that it keeps.

    The tensor is one object for the first run and for the recomputation; frames tell them apart.
    """
    found = []
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename == torch.utils.checkpoint.__file__:
            names = frame.f_locals
            maker = getattr(names.get("gen"), "gi_frame", None)
            kept = names.get("fwd_cpu_state") if maker is None else maker.f_locals.get("fwd_cpu_state")
            kept = getattr(names.get("ctx"), "fwd_cpu_state", kept)
            if isinstance(kept, Tensor):
                found.append((kept, frame))
        frame = frame.f_back
    return found[::-1]


_Source = Literal["python", "numpy", "torch"]
_States = dict[_Source, Any]


def _numpy_random() -> Any:
    return sys.modules.get("numpy.random")  # numpy loads it when it is asked for: 10 ms


def _states() -> _States:
    numpy_random = _numpy_random()
    return {
        "python": random.getstate(),
        "numpy": numpy_random.get_state() if numpy_random else None,
        "torch": torch.default_generator.get_state(),
    }


def _moved_since(before: _States) -> set[_Source]:
    now = _states()
    old, new = before["numpy"], now["numpy"]
    moved: dict[_Source, bool] = {
        "python": now["python"] != before["python"],
        "numpy": new is not None and (old is None or new[2:] != old[2:] or bool((new[1] != old[1]).any())),
        "torch": not torch.equal(now["torch"], before["torch"]),
    }
    return {source for source, is_moved in moved.items() if is_moved}


def _still_moving() -> set[_Source]:
    """From which somebody else is drawing: 20 ms are long for a thread that does."""
    before = _states()
    time.sleep(0.02)
    return _moved_since(before)


def _put_back(states: _States, sources: set[_Source]) -> None:
    if "python" in sources:
        random.setstate(states["python"])
    if "numpy" in sources and states["numpy"] is not None:
        _numpy_random().set_state(states["numpy"])
    if "torch" in sources:
        torch.default_generator.set_state(states["torch"])
