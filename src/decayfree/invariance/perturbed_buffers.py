"""Which buffers may hide something by being exactly zero or equal, and how are they moved a little?

A frozen BatchNorm with a running mean of exactly 0 lets a scale through to the next normalization that any
other mean would stop. Masks, tables of whole numbers and flags are left alone: to move them would ask another
question. A single number may be one: who runs the model tells those that outputs depend on smoothly.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

_NOISE = 0.1  # relative, as for parameters


@torch.no_grad()
def perturb_buffers_(model: nn.Module, seed: int, numbers: Collection[str] = ()) -> None:
    """Move every floating buffer of a model a little, in place; no sign changes.

    Args:
        model: A copy.
        seed: Seeds the noise.
        numbers: Names of buffers of one number that are to be moved as well.

    Example:
        >>> norm = nn.BatchNorm1d(2).eval()
        >>> perturb_buffers_(norm, seed=0)
        >>> bool((norm.running_mean > 0).all()), bool((norm.running_var != 1).all())
        (True, True)
    """
    generator = torch.Generator().manual_seed(seed + 104_729)
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue  # its weights are refused
        keeps_statistics = module._buffers.get("running_mean") is not None
        for leaf, buffer in module._buffers.items():
            is_asked_for = (f"{path}.{leaf}" if path else leaf) in numbers
            if buffer is None or not (is_asked_for or _can_be_moved(buffer, keeps_statistics)):
                continue
            noise = torch.rand(buffer.shape, generator=generator, dtype=torch.float64).to(buffer)
            # Zeros get a positive value, as a variance wants.
            buffer.copy_(torch.where(buffer == 0, _NOISE * noise, buffer * (1 + _NOISE * (2 * noise - 1))))


def lone_numbers(model: nn.Module) -> dict[str, Tensor]:
    """By name the floating buffers of one number that are left alone, since they may be flags."""
    return {
        name: buffer
        for name, buffer in model.named_buffers()
        if buffer.is_floating_point()
        and buffer.numel() == 1
        and bool(torch.isfinite(buffer).all())
        and model.get_submodule(name.rpartition(".")[0])._buffers.get("running_mean") is None
    }


def _can_be_moved(buffer: Tensor, keeps_statistics: bool) -> bool:
    """Whether its values are measured ones: not one number, not a mask, no counts.

    Ones and zeros alone are what statistics begin with, and what a mask is made of: where the module keeps no
    statistics, only vectors of one value count as a beginning.
    """
    if not buffer.is_floating_point() or not buffer.numel() or not bool(torch.isfinite(buffer).all()):
        return False
    if keeps_statistics:
        return True
    if buffer.numel() == 1:
        return False
    if bool((buffer == buffer.round()).all()):
        is_constant = bool((buffer == buffer.flatten()[0]).all())
        return is_constant and buffer.numel() == max(buffer.shape)
    return not bool((buffer == 0).any()) or bool((buffer < 0).any())
