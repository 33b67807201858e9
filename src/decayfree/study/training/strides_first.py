"""Convolutions that a kernel for CPUs may compute wrongly, written so that another one computes the same."""

from typing import Any

from torch import Tensor, nn

_BLOCK = 16
"""Input channels that oneDNN takes at once: 16 with AVX-512, 8 with AVX2."""


def take_strides_first(model: nn.Module) -> None:
    """Let narrow 1x1 convolutions with strides see only the pixels that they use, and stride no more.

    Where images are in channels_last and a group has fewer input channels than a block, oneDNN writes beyond
    its memory as it computes the gradient of such a weight (its issue 6035, open in torch 2.13): with one
    thread trainings crash at times, with more the gradient is wrong by its own size. torch.compile puts
    convolutions into channels_last by itself.

    A class with a forward of its own is left as it is, since nobody knows what that does with the stride.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and _may_be_computed_wrongly(module):
            height, width = module.stride
            module.register_forward_pre_hook(_EveryPixel(height, width), with_kwargs=True)
            module.stride = (1, 1)


class _EveryPixel:
    """Every ``height``-th row and ``width``-th column; a class, so that copies of a model can be pickled."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Tensor], dict[str, Any]]:
        (inputs,) = (*args, *kwargs.values())
        return (inputs[..., :: self.height, :: self.width],), {}


def _may_be_computed_wrongly(module: nn.Conv2d) -> bool:
    kind = type(module)
    if kind.forward is not nn.Conv2d.forward or kind._conv_forward is not nn.Conv2d._conv_forward:
        return False
    has_strides = module.kernel_size == (1, 1) and module.stride != (1, 1)
    is_padded = module.padding not in ((0, 0), "valid")
    return has_strides and not is_padded and module.in_channels // module.groups < _BLOCK
