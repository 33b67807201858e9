"""Is a weight stored in a way that it can be scaled slice by slice?

Says why not, and the cure. Scales nothing.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from decayfree.shards import is_sharded, shard_fault


def is_flat_parameter(parameter: Tensor) -> bool:
    """Whether FSDP1 has flattened several weights into this one, or this one into another."""
    marks = ("_is_flat_param", "_fsdp_flattened")
    return any(getattr(parameter, mark, False) for mark in marks) or "FlatParameter" in (
        kind.__name__ for kind in type(parameter).__mro__
    )


def packed_weights(parameters: Mapping[str, Tensor]) -> list[str]:
    """Say of each parameter whose numbers are stored in another form, or elsewhere, how that is and the cure.

    Such ones may have another shape than the weight that they stand for.
    """
    faults = {name: _packed(parameter) for name, parameter in parameters.items()}
    return [f"{name} {tuple(parameters[name].shape)} {fault}" for name, fault in faults.items() if fault]


def _packed(parameter: Tensor) -> str | None:
    kind = type(parameter).__name__
    if is_flat_parameter(parameter):
        return (
            "is a flat parameter of FSDP1, with or without use_orig_params: use FSDP2 (fully_shard) instead "
            "of FullyShardedDataParallel"
        )
    if hasattr(parameter, "ds_id"):
        return "is partitioned by DeepSpeed ZeRO-3: use ZeRO up to stage 2, or FSDP2 (fully_shard)"
    is_packed = not (parameter.is_floating_point() or parameter.is_complex() or parameter.is_quantized)
    if is_packed or not (is_sharded(parameter) or _can_be_measured(parameter)):
        return f"is quantized ({kind}, {parameter.dtype}): hold it before quantization, or leave it out"
    return None


def _can_be_measured(parameter: Tensor) -> bool:
    """Whether norms are defined for it; only what does torch's operators by itself is asked."""
    if type(parameter).__torch_dispatch__ is Tensor.__torch_dispatch__:
        return True
    try:
        torch.linalg.vector_norm(parameter.detach())
    except (NotImplementedError, RuntimeError, TypeError):
        return False
    return True


def unsupported_weights(parameters: Mapping[str, Tensor]) -> list[str]:
    """Say of each parameter that cannot be scaled slice by slice why that is so."""
    faults = []
    for name, parameter in parameters.items():
        shape = (
            "" if isinstance(parameter, nn.parameter.UninitializedParameter) else f" {tuple(parameter.shape)}"
        )
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            faults.append(f"{name} is lazy and has no shape yet: run the model once")
        elif packed := packed_weights({name: parameter}):
            faults += packed
        elif parameter.is_meta:
            faults.append(
                f"{name}{shape} is on the meta device and has no values: materialize the model first"
            )
        elif parameter.layout != torch.strided:
            faults.append(f"{name}{shape} is sparse ({parameter.layout}): convert it with .to_dense()")
        elif any(
            stride == 0 and size > 1 for stride, size in zip(parameter.stride(), parameter.shape, strict=True)
        ):
            faults.append(
                f"{name}{shape} is expanded: several of its entries are one number in "
                "memory; use .contiguous()"
            )
        elif parameter.is_quantized:
            faults.append(f"{name}{shape} is quantized: rescale before quantization")
        elif fault := shard_fault(parameter):
            faults.append(f"{name}{shape} {fault}")
        elif parameter.is_complex():
            faults.append(f"{name}{shape} is complex: leave it out with exclude=, or train its real pairs")
    return faults
