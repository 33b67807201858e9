"""Which normalizations see two values at a time?

Of two values a normalization by mean and variance leaves plus and minus one, whatever they are: all gradients
before it vanish, and no scale shows. Watches calls of the functions; says nothing of weights.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# Functions whose first argument is normalized together with others of its batch or picture. A larger batch or
# picture gives them more values, which nothing gives to LayerNorm(2).
_OVER_BATCH = (functional.batch_norm, torch.batch_norm)
_OVER_POSITIONS = (functional.instance_norm, torch.instance_norm)
_OVER_GROUPS = (functional.group_norm, torch.group_norm)


class _Watch(TorchFunctionMode):
    """Remembers the modules in which a function normalized two values."""

    def __init__(self) -> None:
        super().__init__()
        self.open_modules: list[str] = []
        self.found: list[str] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (*_OVER_BATCH, *_OVER_POSITIONS, *_OVER_GROUPS) and _n_values(func, args, kwargs) == 2:
            self.found.append(self.open_modules[-1] if self.open_modules else "")
        return func(*args, **kwargs)


@contextmanager
def norms_of_two_values(model: nn.Module) -> Iterator[list[str]]:
    """The names, in the order of their calls, of modules that normalize two values while it is open."""
    watch = _Watch()
    handles = []
    for name, module in model.named_modules():
        handles += [
            module.register_forward_pre_hook(lambda *_, name=name: watch.open_modules.append(name)),
            module.register_forward_hook(lambda *_: (watch.open_modules.pop(), None)[1], always_call=True),
        ]
    try:
        with watch:
            yield watch.found
    finally:
        for handle in handles:
            handle.remove()


def _n_values(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """How many values share a mean and a variance; 0 where stored ones are taken."""
    values: Tensor = args[0] if args else kwargs["input"]
    if func in _OVER_GROUPS:
        groups = int(args[1] if len(args) > 1 else kwargs["num_groups"])
        return values.numel() // (values.shape[0] * groups)
    flag, default = ("training", False) if func in _OVER_BATCH else ("use_input_stats", True)
    if not (args[5] if len(args) > 5 else kwargs.get(flag, default)):
        return 0
    sets = values.shape[1] if func in _OVER_BATCH else values.shape[0] * values.shape[1]
    return values.numel() // sets
