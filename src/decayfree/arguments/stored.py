"""Is a weight stored in a way that it can be scaled slice by slice?

Says why not, and the cure. Scales nothing.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def is_flat_parameter(parameter: Tensor) -> bool:
    """Whether FSDP1 has flattened several weights into this one."""
    return bool(getattr(parameter, "_is_flat_param", False)) or "FlatParameter" in (
        kind.__name__ for kind in type(parameter).__mro__
    )


def unsupported_weights(parameters: Mapping[str, Tensor]) -> list[str]:
    """Say of each parameter that cannot be scaled slice by slice why that is so."""
    faults = []
    for name, parameter in parameters.items():
        shape = (
            "" if isinstance(parameter, nn.parameter.UninitializedParameter) else f" {tuple(parameter.shape)}"
        )
        if is_flat_parameter(parameter):
            faults.append(
                f"{name}{shape} is a flat parameter of FSDP1: use FSDP2 (fully_shard), "
                "or use_orig_params before wrapping"
            )
        elif isinstance(parameter, nn.parameter.UninitializedParameter):
            faults.append(f"{name} is lazy and has no shape yet: run the model once")
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
        elif parameter.is_complex():
            faults.append(f"{name}{shape} is complex: leave it out with exclude=, or train its real pairs")
    return faults
