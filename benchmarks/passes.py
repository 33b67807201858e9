"""How often does a piece of work read or write the memory of some tensors?

Counts bytes operation by operation, which is the same on every machine. What fits into the cache and is used
up there is left out. Measures no time; measure.py does.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# What these get is only written.
_OVERWRITING = {"aten::copy_", "aten::fill_", "aten::zero_"}
# What these make is kept as what they get is.
_LIKE = {"aten::clone", "aten::empty_like"}


class Passes(TorchDispatchMode):
    """Counts bytes while it is entered.

    Args:
        held: What is in memory when the work begins, as weights and gradients are: always counted, and so are
            clones of it and what is made like it.
        cache_bytes: Other tensors up to this size are not: they are made and used up in the cache.
    """

    def __init__(self, held: Iterable[Tensor], cache_bytes: int) -> None:
        super().__init__()
        self.n_bytes = 0
        self._held: dict[int, Tensor] = {}  # by address; kept, so that none is used again
        self._hold(held)
        self._cache_bytes = cache_bytes

    def count(self, *tensors: Tensor) -> None:
        """Count tensors as read or written once."""
        for tensor in tensors:
            if self._is_in_memory(tensor):
                self.n_bytes += tensor.nbytes

    def _is_in_memory(self, tensor: Tensor) -> bool:
        storage = tensor.untyped_storage()
        return storage.data_ptr() in self._held or storage.nbytes() > self._cache_bytes

    def _hold(self, tensors: Iterable[Tensor]) -> None:
        self._held |= {tensor.untyped_storage().data_ptr(): tensor for tensor in tensors}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func._schema.name
        if name in _LIKE and self._is_in_memory(args[0]):
            self._hold([result])
        if func.is_view or "empty" in name:
            return result
        given = zip(func._schema.arguments, args, strict=False)
        named = ((one, kwargs[one.name]) for one in func._schema.arguments if one.name in kwargs)
        written = [_is_written(one) for one in func._schema.returns]
        for argument, value in (*given, *named):
            if not (_is_written(argument) and (name in _OVERWRITING or argument.kwarg_only)):
                self.count(*_tensors_in(value))
            if _is_written(argument):
                self.count(*_tensors_in(value))
        made = list(_tensors_in(result)) if not any(written) else []
        self.count(*made)
        return result


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors_in(part)
