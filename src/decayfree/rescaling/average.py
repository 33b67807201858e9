"""What does an average of weights compute, once it is on its radius and has statistics of its own?

Makes a model of it to evaluate or to keep; the average itself goes on averaging. Averages nothing.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from decayfree.arguments.wrappers import model_faults, plain
from decayfree.attachment import found_faults
from decayfree.errors import InvalidInputError, faults_of, listed, raise_all
from decayfree.forward import Forward, tensors_in
from decayfree.invariance.result import Invariance
from decayfree.invariance.running_statistics import tracked_modules
from decayfree.rescaling.rescale_once import rescale_


def averaged(
    average: nn.Module,
    found: Invariance,
    batches: Iterable[Any] | None = None,
    *,
    radius: float | Mapping[str, float] = 1.0,
    forward: Forward | None = None,
) -> nn.Module:
    """The model of averaged weights (EMA, SWA): on its radius, with running statistics of its own.

    An average of weights of one norm is shorter than they are, and statistics that were copied or averaged
    along with it belong to longer weights, so that BatchNorm's outputs in eval mode are too small. Here they
    are measured anew on ``batches``, with :func:`torch.optim.swa_utils.update_bn`, and follow the weights
    onto the radius. Without running statistics (LayerNorm, GroupNorm, RMSNorm) nothing needs to be measured.

    Args:
        average: A copy of the probed model with other weights, or what keeps one: AveragedModel, timm's
            ModelEma, ema-pytorch's EMA. Stays as it is.
        found: The scale-invariant weights of the model.
        batches: Training inputs, a loader for instance, or one tensor: of a list or tuple the first entry
            counts, as in ``update_bn``, and a mapping is passed as ``model(**batch)``. All of them are used;
            some dozens are enough: ``itertools.islice(loader, 50)``.
        radius: As for :func:`decayfree.rescale_`.
        forward: ``forward(model, batch)`` for anything else.

    Returns:
        A new model in eval mode, without wrappers, with the names of the probed one.

    Raises:
        InvalidInputError: If the model has running statistics and there are no batches to measure them on,
            they do not fit, or statistics are such as cannot be measured.
        MismatchError: If ``found`` does not fit.

    Example:
        >>> from decayfree import find_invariant
        >>> model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 2))
        >>> inputs = torch.randn(64, 4)
        >>> found = find_invariant(model, inputs)
        >>> ema = torch.optim.swa_utils.AveragedModel(model)
        >>> ema.update_parameters(model)
        >>> averaged(ema, found, [inputs])[0].weight.norm(dim=1).detach()
        tensor([1.0000, 1.0000, 1.0000, 1.0000, 1.0000, 1.0000, 1.0000, 1.0000])
    """
    raise_all(faults_of(InvalidInputError, _faults(average, found, batches, forward)))
    inner = plain(average)
    found.check_fits(inner)
    model = copy.deepcopy(inner)
    tracked = {name: model.get_submodule(name) for name in tracked_modules(model)}
    other = [name for name, module in tracked.items() if not isinstance(module, _BatchNorm)]
    if other:
        raise InvalidInputError(
            f"the running statistics of {', '.join(other[:4])} cannot be measured anew: "
            f"{type(tracked[other[0]]).__name__} is no BatchNorm"
        )
    if tracked:
        _measure_statistics(model, list(tracked), batches, forward)
    rescale_(model, found, radius=radius)
    return model.eval()


def _faults(average: object, found: object, batches: object, forward: object) -> list[str]:
    faults = model_faults(average) + found_faults(found)
    if not (batches is None or isinstance(batches, Iterable)):
        faults.append(f"batches must be a loader or another iterable of inputs, got {batches!r:.60}")
    if not (forward is None or callable(forward)):
        faults.append(f"forward must be a function of a model and a batch, got {forward!r:.60}")
    return faults


class _Caller(nn.Module):
    """Calls a model on what a loader gives."""

    def __init__(self, model: nn.Module, forward: Forward | None) -> None:
        super().__init__()
        self.model = model
        self._forward = forward

    def forward(self, batch: "_Batch") -> Any:
        inputs = batch.inputs
        if self._forward is not None:
            return self._forward(self.model, inputs)
        if isinstance(inputs, Mapping):
            return self.model(**inputs)
        first = inputs[0] if isinstance(inputs, (list, tuple)) else inputs
        if isinstance(first, Tensor):
            first = first.to(next(self.model.parameters()).device)
        return self.model(first)


class _Batch:
    """What update_bn does not look into."""

    def __init__(self, inputs: Any) -> None:
        self.inputs = inputs


def _measure_statistics(
    model: nn.Module, names: list[str], batches: Iterable[Any] | None, forward: Forward | None
) -> None:
    n_batches = 0

    def counted() -> Iterator[_Batch]:
        nonlocal n_batches
        for batch in [batches] if isinstance(batches, Tensor) else () if batches is None else batches:
            tensors = list(tensors_in(batch))
            if tensors and not any(tensor.numel() for tensor in tensors):
                continue  # which BatchNorm averages as if it had seen something
            n_batches += 1
            yield _Batch(batch)

    with torch.no_grad():
        try:
            update_bn(counted(), _Caller(model, forward))
        except (TypeError, ValueError, RuntimeError, AttributeError, LookupError) as error:
            raise InvalidInputError(
                f"batch {n_batches} does not fit {type(model).__name__}: {type(error).__name__}: "
                f"{str(error).splitlines()[0]}; of a list or tuple the first entry goes in, for anything "
                "else pass forward="
            ) from error
    if not n_batches:
        raise InvalidInputError(
            f"{len(names)} normalizations ({names[0]}, …) keep running statistics, which belong to other "
            "weights than their average: give batches of training inputs to measure them on, and a loader "
            "rather than an iterator that is used up"
        )
    broken = [
        name
        for name in names
        for module in [model.get_submodule(name)]
        if not all(bool(torch.isfinite(buffer).all()) for buffer in module.buffers(recurse=False))
    ]
    if broken:
        raise InvalidInputError(
            f"on these batches the statistics of {listed(broken)} are NaN or infinite: look for such values "
            "in the batches, and in the weights of the average"
        )
