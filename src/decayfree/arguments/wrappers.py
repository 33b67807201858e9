"""Is it a model, and what is inside the objects that people wrap around one?

Names of parameters are those of the model itself, whatever stands around. Copies no parameter, runs nothing.
"""

import copy
import gc
import sys
from functools import cache

from torch import nn

# Class -> where the module lies that it calls. Named, so that none of their packages is imported; FSDP1 is
# not among them: its parameters are flat, and what is inside computes nothing alone.
_AVERAGES = {
    "torch.optim.swa_utils.AveragedModel": "module",
    "timm.utils.model_ema.ModelEma": "ema",
    "timm.utils.model_ema.ModelEmaV2": "module",
    "timm.utils.model_ema.ModelEmaV3": "module",
    "ema_pytorch.ema_pytorch.EMA": "ema_model",
}
_WRAPPERS = _AVERAGES | {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.ActivationWrapper": (
        "_checkpoint_wrapped_module"
    ),
    "lightning.fabric.wrappers._FabricModule": "_forward_module",
    "lightning_fabric.wrappers._FabricModule": "_forward_module",
}


def model_faults(model: object) -> list[str]:
    """Say of what is no module that it must be one."""
    kind = type(model).__name__
    cure = ": pass its .module(), which has the same names" if kind == "ExportedProgram" else ""
    return [] if isinstance(model, nn.Module) else [f"model must be a torch.nn.Module, got {kind}{cure}"]


def plain(model: nn.Module) -> nn.Module:
    """The model without known wrappers around it and its parts; parameters and buffers are shared.

    Known are those of torch.compile, DataParallel, DistributedDataParallel, activation checkpointing and
    Lightning Fabric, and averages: AveragedModel, timm's ModelEma and ema-pytorch's EMA. A module with a
    wrapper inside comes back as a shallow copy.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        >>> plain(model) is model, plain(torch.compile(model, backend="eager")) is model
        (True, True)
        >>> [name for name, _ in plain(torch.optim.swa_utils.AveragedModel(model)).named_parameters()]
        ['0.weight', '0.bias', '1.weight', '1.bias']
    """
    found: dict[nn.Module, nn.Module] = {}

    def unwrapped(module: nn.Module) -> nn.Module:
        if module in found:
            return found[module]
        kind: type = type(module)
        where = _inside(kind)
        if where is not None:
            found[module] = unwrapped(getattr(module, where))
            return found[module]
        found[module] = module
        parts = {name: None if part is None else unwrapped(part) for name, part in module._modules.items()}
        if any(part is not module._modules[name] for name, part in parts.items()):
            found[module] = copy.copy(module)
            found[module]._modules = parts
        return found[module]

    return unwrapped(model)


def averages_of(model: nn.Module) -> list[nn.Module]:
    """Averages of known kinds that hold a copy of a model, wherever they are kept in this process."""
    kinds = {one for kind in map(_loaded, _AVERAGES) if kind is not None for one in _family(kind)}
    shapes = _shapes(model)

    def alive() -> list[nn.Module]:
        # By type(), since objects of others may do what they like when they are asked for their class.
        return [one for one in gc.get_objects() if type(one) in kinds and _shapes(plain(one)) == shapes]

    if not alive():
        return []
    gc.collect()  # some may only wait for that
    return alive()


def parallel_around(model: nn.Module) -> nn.parallel.DistributedDataParallel | None:
    """The DistributedDataParallel that has parameters of a model, wherever it is kept in this process."""
    kinds = _family(nn.parallel.DistributedDataParallel)
    own = set(map(id, model.parameters()))
    wrappers = (one for one in gc.get_objects() if type(one) in kinds)
    return next((one for one in wrappers if not own.isdisjoint(map(id, one.parameters()))), None)


@cache
def _inside(kind: type) -> str | None:
    """The attribute with the module that a class wraps; None where it is not known to wrap one."""
    names = (f"{one.__module__}.{one.__qualname__}" for one in kind.__mro__)
    return next((_WRAPPERS[name] for name in names if name in _WRAPPERS), None)


def _family(kind: type) -> set[type]:
    return {kind}.union(*map(_family, kind.__subclasses__()))


def _loaded(name: str) -> type | None:
    module, _, kind = name.rpartition(".")
    return getattr(sys.modules.get(module), kind, None)


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
