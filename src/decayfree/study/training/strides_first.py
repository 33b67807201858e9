"""Convolutions that a kernel for CPUs computes wrongly, written so that another one computes the same."""

from torch import Tensor, nn

_BLOCK = 16
"""Input channels that oneDNN takes at once: 16 with AVX-512, 8 with AVX2."""


def take_strides_first(model: nn.Module) -> None:
    """Let narrow 1x1 convolutions with strides see only the pixels that they use, and stride no more.

    Where images are in channels_last and a group has fewer input channels than a block, oneDNN writes beyond
    its memory as it computes the gradient of such a weight (its issue 6035, open in torch 2.13): with one
    thread trainings crash at times, with more the gradient is wrong by its own size.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and _is_computed_wrongly(module):
            height, width = module.stride
            module.register_forward_pre_hook(_EveryPixel(height, width))
            module.stride = (1, 1)


class _EveryPixel:
    """Every ``height``-th row and ``width``-th column; a class, so that copies of a model can be pickled."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width

    def __call__(self, module: nn.Module, args: tuple[Tensor]) -> Tensor:
        return args[0][..., :: self.height, :: self.width]


def _is_computed_wrongly(module: nn.Conv2d) -> bool:
    has_strides = module.kernel_size == (1, 1) and module.stride != (1, 1)
    is_padded = module.padding not in ((0, 0), "valid")
    return has_strides and not is_padded and module.in_channels // module.groups < _BLOCK
