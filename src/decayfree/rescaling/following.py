"""What else must change when blocks are scaled, so that the model computes the same?

Running statistics of the normalizations behind them, and the optimizer's moments. Scales no weight.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from decayfree.blocks import Blocks, Part, scale_blocks_
from decayfree.errors import listed
from decayfree.invariance.exact_arithmetic import eps_of
from decayfree.invariance.running_statistics import UNKNOWN_SHIFT, NormLayer
from decayfree.invariance.verdict import ScaleInvariantWeight
from decayfree.optimizers import OPTIMIZERS, nearest_row, twins_in
from decayfree.rescaling.held import Held
from decayfree.shards import is_sharded

# A second moment that is kept by its rows and its columns.
_FACTORED = next(row.factored for row in OPTIMIZERS if row.factored is not None)
# What optimizers call what they remember; a number by another name is a count.
_NAMES = frozenset(key for row in OPTIMIZERS for key in row.state)

# A change of the outputs by more than this, caused by ε, is worth a warning.
_EPS_WARNING = 1e-3
_MUCH_SMALLER = 0.1
# A channel that ε makes this much smaller than it should be is silent.
_SILENT = 0.1


def follow_statistics_(
    model: nn.Module,
    relations: Iterable[tuple[NormLayer, Tensor]],
    biases: Mapping[str, Tensor],
) -> None:
    """Let running statistics follow.

    running_mean ← c(running_mean − b) + b and running_var ← c²·running_var, per channel.

    Args:
        model: Holds the normalizations.
        relations: A normalization and the factors of the blocks that it follows, (n_blocks,).
        biases: By name, whole, for the shift b.
    """
    modules = dict(model.named_modules())
    with torch.no_grad():
        for layer, factors in relations:
            if layer.blocks:
                _follow_one_(modules[layer.name], layer, factors, biases)


def follow_moments_(
    optimizer: Optimizer,
    held: Iterable[tuple[Held, Tensor]],
    *,
    momentum: Literal["keep", "scale"] = "scale",
) -> None:
    """Apply the orbit action to the optimizer's state: what holds k powers of the gradient is divided by c^k.

    Args:
        optimizer: Its state is changed in place.
        held: A weight and the factors its blocks were scaled by, (n_blocks,).
        momentum: ``"keep"`` leaves all alone but what holds the weight at another point; so it is of weights
            that have a scale.
    """
    known = _degrees_in(optimizer)
    twins = {key: known[key] for key in twins_in(optimizer)}
    with torch.no_grad():
        for one, factors in held:
            is_all = momentum == "scale" and not one.has_scale
            degrees = known if is_all else twins
            for parameter, blocks in one.by_tensor():
                state = optimizer.state.get(parameter, {})
                for key, value in state.items():
                    is_memory = isinstance(value, Tensor) and value.shape == parameter.shape
                    if key in degrees and is_memory and _is_scalable(value):
                        scale_blocks_(value, factors.pow(-degrees[key]), blocks)
                rows, columns = (state.get(key) for key in _FACTORED)
                if (
                    is_all
                    and _is_factored(optimizer)
                    and isinstance(rows, Tensor)
                    and isinstance(columns, Tensor)
                ):
                    _scale_factored_(rows, columns, factors, blocks)


def follow_gradients_(held: Iterable[tuple[Held, Tensor]]) -> None:
    """Divide gradients by the factors of their blocks, (n_blocks,): g(cw) = g(w)/c."""
    with torch.no_grad():
        for one, factors in held:
            for parameter, blocks in [] if one.has_scale else one.by_tensor():
                if parameter.grad is not None and parameter.grad.layout == torch.strided:
                    scale_blocks_(parameter.grad, 1 / factors, blocks)


def unknown_moments(optimizer: Optimizer, parts: Iterable[Part]) -> list[str]:
    """What the optimizer remembers that does not say how it reacts to scaling a weight."""
    if isinstance(optimizer, torch.optim.LBFGS):  # one memory of all parameters together, under the first
        return ["LBFGS's history"] if any(len(state) > 2 for state in optimizer.state.values()) else []
    known, unknown = _degrees_in(optimizer), set()
    for one in parts:
        for key, value in optimizer.state.get(one.weight, {}).items():
            if not isinstance(value, Tensor) or (key in _FACTORED and _is_factored(optimizer)):
                continue
            is_memory = value.numel() > 1 or key in _NAMES
            if value.shape != one.weight.shape if key in known else is_memory:
                unknown.add(f"{type(optimizer).__name__}'s {key!r}")
    return sorted(unknown)


def warn_of_unknown_moments(optimizer: Optimizer, parts: Iterable[Part], *, stacklevel: int) -> None:
    """Warn of what the optimizer remembers that stays as it is, since nobody knows what it is."""
    unknown = unknown_moments(optimizer, parts)
    if unknown:
        warnings.warn(
            f"{', '.join(unknown[:4])} stays as it is: nobody knows how it reacts to scaling a weight",
            stacklevel=stacklevel + 1,
        )


def unscalable_moments(optimizer: Optimizer, parts: Iterable[Part]) -> list[str]:
    """What the optimizer remembers in a form in which blocks of it cannot be multiplied, such as 8 bits."""
    known = _degrees_in(optimizer)
    return sorted(
        {
            f"{type(optimizer).__name__}'s {key!r} ({type(value).__name__}, {value.dtype})"
            for one in parts
            for key, value in optimizer.state.get(one.weight, {}).items()
            if isinstance(value, Tensor)
            and not _is_scalable(value)
            and (known.get(key) or (key not in known and _is_packed(value)))
        }
    )


def _is_scalable(value: Tensor) -> bool:
    is_float = (value.is_floating_point() or value.is_complex()) and value.element_size() > 1
    return _is_ordinary(value) and value.layout == torch.strided and is_float


def _is_packed(value: Tensor) -> bool:
    """Whether its numbers stand for others, as in the states of optimizers that save memory."""
    is_of_bytes = value.element_size() == 1 and value.dtype != torch.bool
    return value.numel() > 1 and (is_of_bytes or not _is_ordinary(value))


def _is_ordinary(value: Tensor) -> bool:
    return type(value) in (Tensor, nn.Parameter) or is_sharded(value)


def eps_movements(model: nn.Module, relations: Iterable[tuple[NormLayer, Tensor]]) -> dict[str, float]:
    """How much ε moves the outputs of each normalization when the weights before it are scaled.

    Relative, root mean square of channels. One that was nearly silent counts by what it is beside the others:
    many times nothing is still little.
    """
    modules = dict(model.named_modules())
    moved: dict[str, float] = {}
    for layer, factors in relations:
        if layer.blocks:
            before, after = _sizes_under_eps(modules[layer.name], layer, factors)
            size = before.clamp(min=float(before.square().mean().sqrt()) / 3).clamp(min=1e-30)
            one = float(((after - before) / size).square().mean().sqrt())
            moved[layer.name] = max(moved.get(layer.name, 0.0), one)
    return moved


def _sizes_under_eps(module: nn.Module, layer: NormLayer, factors: Tensor) -> tuple[Tensor, Tensor]:
    """√(σ²/(σ² + ε)) of each channel, which is to be 1, before and after scaling; (n_channels,)."""
    eps = eps_of(module)
    var = module.get_buffer("running_var").double().flatten()[list(layer.channels)]
    c = factors.detach().double().to(var.device)[list(layer.blocks)]
    before, after = ((size / (size + eps)).sqrt() for size in (var, c * c * var))
    return torch.where(var > 0, before, 0.0), torch.where(var > 0, after, 0.0)


def _woken(model: nn.Module, weight: ScaleInvariantWeight, factors: Tensor) -> set[int]:
    """Blocks that ε alone keeps silent: as long as others, they are heard."""
    modules = dict(model.named_modules())
    woken: set[int] = set()
    for layer in weight.norm_layers:
        if layer.blocks:
            before, after = _sizes_under_eps(modules[layer.name], layer, factors)
            is_woken = (before < _SILENT) & (after > 2 * before)
            woken |= {block for block, one in zip(layer.blocks, is_woken.tolist(), strict=True) if one}
    return woken


def warn_of_eps(
    model: nn.Module,
    weights: Sequence[ScaleInvariantWeight],
    factors: Mapping[str, Tensor],
    *,
    stacklevel: int,
) -> None:
    """Warn where ε may move an output by more than 0.1 %.

    Also where that cannot be told and blocks become much smaller.

    What it moves each normalization's own outputs by adds up over the layers: the sum was above the movement
    of the model's outputs for ResNet-18, DenseNet-121, MobileNetV2 and VGG11-BN at every radius tried from
    0.1 to 4.

    Args:
        model: With its weights as they still are.
        weights: That are to be scaled.
        factors: By weight those of its blocks, (n_blocks,).
        stacklevel: As for :func:`warnings.warn`.
    """
    modules = dict(model.named_modules())
    relations = [
        (layer, factors[weight.name])
        for weight in weights
        for layer in weight.norm_layers
        if bool((factors[weight.name] != 1).any())
    ]
    untold = {
        layer.name
        for layer, values in relations
        if not layer.channels and eps_of(modules[layer.name]) > 0 and float(values.min()) < _MUCH_SMALLER
    }
    if untold:
        warnings.warn(
            f"weights before {', '.join(sorted(untold))} become more than ten times smaller, and whether its "
            "ε is still small beside their variance cannot be told: these normalizations keep no running "
            "statistics; compare outputs before and after",
            stacklevel=stacklevel + 1,
        )
    moved = eps_movements(model, relations)
    together = sum(moved.values())
    if together > _EPS_WARNING:
        worst = max(moved, key=lambda name: moved[name])
        woken = {weight.name: len(_woken(model, weight, factors[weight.name])) for weight in weights}
        silent = [
            f"{weight.name} ({woken[weight.name]} of {weight.blocks.n_blocks} blocks)"
            for weight in sorted(weights, key=lambda one: -woken[one.name])
            if woken[weight.name]
        ]
        cure = (
            f". Blocks of {listed(silent, 3)} are so short that ε alone keeps them silent, and wake up at "
            "any radius: set them to zero, and they are left alone, or leave their weight out"
            if silent
            else ". A larger radius, or a smaller ε, makes that as small as you like"
        )
        warnings.warn(
            "the ε of normalizations is not small beside the variance of what they normalize: rescaling may "
            f"move the model's outputs by up to {together:.1%} ({len(moved)} normalizations together; "
            f"{worst} by {moved[worst]:.2%}){cure}",
            stacklevel=stacklevel + 1,
        )


def warn_of_unknown_shifts(layers: Iterable[NormLayer], *, stacklevel: int) -> None:
    """Warn of normalizations whose running mean cannot follow exactly."""
    names = sorted({layer.name for layer in layers if layer.shift == UNKNOWN_SHIFT})
    if names:
        warnings.warn(
            f"the running statistics of {', '.join(names)} change with the weights before them in a way that "
            "cannot be followed exactly: outputs in eval mode are right again after some training steps (or "
            "torch.optim.swa_utils.update_bn)",
            stacklevel=stacklevel + 1,
        )


def _follow_one_(module: nn.Module, layer: NormLayer, factors: Tensor, biases: Mapping[str, Tensor]) -> None:
    mean, var = module.get_buffer("running_mean").flatten(), module.get_buffer("running_var").flatten()
    c = factors.to(mean.device)[list(layer.blocks)]
    channels = torch.tensor(layer.channels, device=mean.device)
    old = mean[channels].to(c.dtype)
    if layer.shift in (None, UNKNOWN_SHIFT):
        moved = c * old
    else:
        bias = biases[str(layer.shift)][list(layer.shift_rows)].to(old)
        moved = torch.where(c == 1, old, c * (old - bias) + bias)
    mean[channels] = moved.to(mean.dtype)
    var[channels] = (c * c * var[channels].to(c.dtype)).to(var.dtype)


def _degrees_in(optimizer: Optimizer) -> Mapping[str, int]:
    """The degrees of its row, or of the nearest class that it derives from; a key alone says nothing."""
    row = nearest_row(type(optimizer))
    return {} if row is None else row.state


def _is_factored(optimizer: Optimizer) -> bool:
    row = nearest_row(type(optimizer))
    return row is not None and row.factored is not None


def _scale_factored_(row_var: Tensor, col_var: Tensor, factors: Tensor, blocks: Blocks) -> None:
    """Adafactor's second moment row_var·col_var/mean(row_var), so that it is divided by c² as a whole."""
    # The rows of the weight run along the columns of the factorization.
    if row_var.ndim == 2 and blocks.axis == 1:
        scale_blocks_(col_var, factors.pow(-2), blocks)
        return
    before = row_var.mean(-2, keepdim=True)
    scale_blocks_(row_var, factors.pow(-2), blocks)
    col_var.mul_(torch.where(before > 0, row_var.mean(-2, keepdim=True) / before, 1.0))
