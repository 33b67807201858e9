"""How is what the inputs never reach taken out of trained weights, so that nothing they reach notices?

Projects weights onto the span of the inputs that were watched, all or none. Touches neither statistics nor
moments: nothing has to follow.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from decayfree.arguments.stored import unsupported_weights
from decayfree.arguments.wrappers import model_faults
from decayfree.columns import aligned
from decayfree.errors import (
    Fault,
    InvalidInputError,
    MismatchError,
    NonFiniteWeightError,
    UnsupportedWeightError,
    faults_of,
    raise_all,
)
from decayfree.forward import Forward, ProcessRandomness, Surroundings, call_model, movement, tensors_in
from decayfree.shards import is_sharded
from decayfree.span.input_span import InputSpan
from decayfree.span.layer_span import LayerSpan

Mode = Literal["train", "eval"]

CLEANING_TOLERANCE = 1e-12
"""Inputs that reach a direction by less than a millionth of what they reach the first one by
do not reach it.
"""

MAX_MOVED = 1e-5
"""No row's output may move by more than this share of its own spread."""


@dataclass(frozen=True)
class CleanedWeight:
    """What was done to one weight.

    Args:
        name: Of the parameter.
        shape: Of the parameter.
        ranks: Dimension of the inputs' span, for each group.
        n_features: Numbers in a row.
        n_samples: Inputs that were watched.
        off_span_share: Norm of what was removed as a share of the norm before; no unit.
        norm_before: Of the whole weight.
        norm_after: Of the whole weight.
        moved: Root mean square movement of the layer's outputs over the watched inputs, for the row that
            moved most, as a share of the spread of that row's outputs; computed from the second moment. 0
            where it is less than the rounding of the weight's precision.
    """

    name: str
    shape: tuple[int, ...]
    ranks: tuple[int, ...]
    n_features: int
    n_samples: int
    off_span_share: float
    norm_before: float
    norm_after: float
    moved: float


@dataclass(frozen=True, repr=False)
class Cleaning:
    """What :func:`remove_off_span_` did. Printing it shows a table.

    Args:
        weights: In the model's order, those that had nothing to remove included.
        left_out: Weights that were not looked at, with the reason.
        outputs_moved: Relative movement of the model's outputs on ``inputs``, in train and in eval mode;
            empty where none were given.
    """

    weights: tuple[CleanedWeight, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    outputs_moved: Mapping[Mode, float] = field(default_factory=dict)

    def __getitem__(self, name: str) -> CleanedWeight:
        for weight in self.weights:
            if weight.name == name:
                return weight
        raise MismatchError(f"{name}: {self.left_out.get(name, 'no such weight was looked at')}")

    def __iter__(self) -> Iterator[CleanedWeight]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)

    def __repr__(self) -> str:
        n_changed = sum(weight.off_span_share > 0 for weight in self.weights)
        lines = [
            f"{n_changed} of {len(self)} weights had a part that the watched inputs do "
            "not reach; it was removed."
        ]
        if self.outputs_moved:
            moved = " and ".join(f"{value:.0e} in {mode} mode" for mode, value in self.outputs_moved.items())
            lines.append(f"The model's outputs moved by {moved} (relative).")
        head = ("weight", "shape", "rank", "samples", "off-span share", "norm before", "norm after")
        rows = [(*head, "outputs moved")]
        for weight in self.weights:
            least, most = min(weight.ranks), max(weight.ranks)
            rank = f"{least}" if least == most else f"{least} to {most}"
            begin = weight.name, str(weight.shape), f"{rank} of {weight.n_features}", f"{weight.n_samples:,}"
            norms = f"{weight.norm_before:.4g}", f"{weight.norm_after:.4g}"
            moved = f"{weight.moved:.0e}" if weight.moved else "0"
            rows.append((*begin, f"{weight.off_span_share:.4f}", *norms, moved))
        lines += ["", *aligned(rows)]
        if self.left_out:
            lines += ["", f"Left out: {len(self.left_out)}"]
            lines += [f"  {line}" for line in aligned(list(self.left_out.items()))]
        return "\n".join(lines)


@torch.no_grad()
def remove_off_span_(
    model: nn.Module,
    span: InputSpan,
    *,
    tolerance: float = CLEANING_TOLERANCE,
    inputs: Any = None,
    forward: Forward | None = None,
) -> Cleaning:
    """Remove from every watched weight the part that no watched input reaches; after training, for instance.

    The span must not be centered. What is removed then has a zero product with every input that was watched,
    so that each layer computes the same on them as before, in the modes (train, eval) in which they were
    watched and whatever follows the layer. A weight that the model also uses outside its own module
    (``F.linear(h, encoder.weight.t())``) is not watched there, and cleaning it changes the model: give
    ``inputs`` to see that. In float16 and bfloat16 the weights that are written are rounded, and outputs move
    by that much. The part off a *centered* span has an equal product with all inputs instead, which is not
    zero: removing it would shift outputs by a constant, which a BatchNorm takes away in train mode but not in
    eval mode, nor anything else.

    Args:
        model: The model that was watched, or a copy of it, with the weights that it had then. Changed in
            place.
        span: With ``centered=False``; watched on the data that matter. What was not watched counts as not
            reached.
        tolerance: A direction is off the span if the inputs' mean square along it is at most this share of
            the largest one.
        inputs: To measure with how far the model's outputs move: as for :func:`decayfree.find_invariant`, all
            or some of what was watched, or others. Buffers, modes and random states stay as they are.
        forward: As for :func:`decayfree.find_invariant`.

    Returns:
        What was removed, weight by weight.

    Raises:
        InvalidInputError: If the span is centered, empty or still watching, its inputs were not finite, or
            ``tolerance`` is so large that a row's outputs on the watched inputs would move by more than 1e-5
            of their spread.
        MismatchError: If the span is that of another model.
        NonFiniteWeightError: If a weight holds NaN or infinity.
        UnsupportedWeightError: If a weight is sharded, sparse, quantized or without data. After an error
            nothing has changed.

    References:
        Liu, Cui, Wan, Mao, Chan, 2021, arXiv 2102.03497v1: without weight decay the part off the span stays
        as it was initialized.

    Example:
        No input has a second feature.

        >>> model = nn.Linear(2, 1)
        >>> _ = model.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> with InputSpan(model, centered=False) as span:
        ...     _ = model(torch.tensor([[1.0, 0.0], [2.0, 0.0]]))
        >>> cleaning = remove_off_span_(model, span)
        >>> model.weight.data, cleaning["weight"].off_span_share
        (tensor([[3., 0.]]), 0.8)
    """
    _check(model, span, tolerance, forward)
    parts: dict[str, tuple[Tensor, CleanedWeight]] = {}
    faults: list[Fault] = []
    for name in span:
        try:
            parts[name] = _split(span[name], model.get_parameter(name), tolerance)
        except (InvalidInputError, NonFiniteWeightError) as error:
            faults.append((type(error), str(error)))
    faults += _movement_faults([cleaned for _, cleaned in parts.values()])
    raise_all(faults)
    randomness = ProcessRandomness()
    before = {} if inputs is None else _outputs(model, inputs, forward or call_model, randomness)
    _warn_of_few_samples(span)
    for name, (off, _) in parts.items():
        weight = model.get_parameter(name)
        weight.copy_(weight.double() - off)
    after = {} if inputs is None else _outputs(model, inputs, forward or call_model, randomness)
    moved = {mode: movement(before[mode], after[mode]) for mode in before}
    _warn_of_movement(moved, model)
    return Cleaning(tuple(cleaned for _, cleaned in parts.values()), span.left_out, moved)


def _warn_of_movement(moved: Mapping[Mode, float], model: nn.Module) -> None:
    rounding = max(
        (torch.finfo(p.dtype).eps for p in model.parameters() if p.is_floating_point()), default=0.0
    )
    if max(moved.values(), default=0.0) > max(MAX_MOVED, 10 * rounding):
        warnings.warn(
            f"cleaning moved the outputs by {max(moved.values()):.1g} (relative) on the inputs that were "
            "given: either these reach what no watched input reached, or the model uses a cleaned weight "
            "outside its own module, where it was not watched",
            stacklevel=3,
        )


def _check(model: object, span: object, tolerance: object, forward: object) -> None:
    said = model_faults(model)
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 <= tolerance < 1:
        said.append(f"tolerance must be a number from 0 to below 1, got {tolerance!r}")
    if forward is not None and not callable(forward):
        said.append(f"forward must be a function of a model and its inputs, got {forward!r}")
    if not isinstance(span, InputSpan):
        said.append(f"span must be a span.InputSpan, got {type(span).__name__}")
    else:
        said += _span_faults(span)
    raise_all(faults_of(InvalidInputError, said))
    assert isinstance(model, nn.Module)
    assert isinstance(span, InputSpan)
    raise_all(list(_weight_faults(model, span)))


def _span_faults(span: InputSpan) -> Iterator[str]:
    if span.is_watching:
        yield "the span is still watching: leave its with block first"
    if span.centered is not False:
        yield (
            f"the span is centered ({span.centered!r}), and what lies off it may still shift outputs by a "
            "constant, which eval mode would see: watch with InputSpan(model, centered=False)"
        )
    if not len(span):
        yield (
            "the span has seen no input: run the model, uncompiled, inside `with InputSpan(model, "
            "centered=False) as span:`"
        )


def _weight_faults(model: nn.Module, span: InputSpan) -> Iterator[Fault]:
    parameters = dict(model.named_parameters())
    for name in span:
        shape = tuple(parameters[name].shape) if name in parameters else None
        if shape != span[name].layout.shape:
            yield (
                MismatchError,
                f"the span is that of another model: it has {name} {span[name].layout.shape}, the model "
                f"has {shape or 'no such parameter'}",
            )
    mine = {name: parameters[name] for name in span if name in parameters}
    yield from faults_of(UnsupportedWeightError, unsupported_weights(mine))
    for name, parameter in mine.items():
        if is_sharded(parameter):
            at = f"{name} {tuple(parameter.shape)}"
            yield UnsupportedWeightError, f"{at} is sharded: clean the gathered model"


def _split(layer: LayerSpan, weight: Tensor, tolerance: float) -> tuple[Tensor, CleanedWeight]:
    """The part of a weight to remove, (*shape), float64, and what is to be said about it."""
    if not bool(torch.isfinite(weight).all()):
        raise NonFiniteWeightError(f"{layer.name} {tuple(weight.shape)} holds NaN or infinity")
    off = layer.off_span(weight, tolerance)
    before, after, removed = (
        float(torch.linalg.vector_norm(part.double())) for part in (weight, weight.double() - off, off)
    )
    rounding = max(torch.finfo(weight.dtype).eps, layer.n_features * torch.finfo(torch.float64).eps)
    if removed <= rounding * before:  # as after a first cleaning
        off, after, removed = torch.zeros_like(off), before, 0.0
    return off, CleanedWeight(
        layer.name,
        tuple(weight.shape),
        tuple(layer.rank(tolerance).tolist()),
        layer.n_features,
        layer.n_samples,
        removed / before if before else 0.0,
        before,
        after,
        _moved(layer, weight, off),
    )


def _moved(layer: LayerSpan, weight: Tensor, off: Tensor) -> float:
    """Largest movement of a row's outputs on the watched inputs, as a share of their spread."""
    directions, variances, mean = layer.directions, layer.spectrum()[:, None], layer.mean[:, :, None]
    rows = layer.layout.rows(weight).to(directions)
    moves = (layer.layout.rows(off).to(directions) @ directions).square()
    # What a sum of squares in float64 cannot tell from zero is no movement.
    resolution = layer.n_features * torch.finfo(torch.float64).eps * variances[..., :1]
    moved = (moves * torch.where(variances > resolution, variances, 0.0)).sum(dim=2).sqrt()
    spread = ((rows @ directions).square() * variances).sum(dim=2) - (rows @ mean)[..., 0].square()
    norms = torch.linalg.vector_norm(rows, dim=2)
    rounding = torch.finfo(weight.dtype).eps * norms * variances.sum(dim=2).sqrt()
    floor = torch.maximum(rounding, norms * resolution[..., 0].sqrt())
    return float(torch.where(moved > floor, moved / spread.clamp_min(0).sqrt(), 0.0).max())


def _movement_faults(weights: Sequence[CleanedWeight]) -> Iterator[Fault]:
    moved = [f"{weight.name} ({weight.moved:.0e})" for weight in weights if weight.moved > MAX_MOVED]
    if moved:
        yield (
            InvalidInputError,
            f"with this tolerance outputs on the watched inputs would move by more than {MAX_MOVED:.0e} of "
            f"their spread: {', '.join(moved)}; choose a smaller one",
        )


def _warn_of_few_samples(span: InputSpan) -> None:
    few = [
        f"{name} ({span[name].n_samples} inputs for {span[name].n_features} features)"
        for name in span
        if span[name].n_samples < span[name].n_features
    ]
    if few:
        warnings.warn(
            "fewer inputs were watched than a row has features, so that much of what counts as unreached was "
            f"only not seen: {', '.join(few)}",
            stacklevel=4,
        )


def _outputs(
    model: nn.Module, inputs: Any, forward: Callable[..., Any], randomness: ProcessRandomness
) -> dict[Mode, list[Tensor]]:
    """Floating outputs in train and in eval mode, of those modes in which the model runs on these inputs."""
    outputs: dict[Mode, list[Tensor]] = {}
    errors = []
    modes: tuple[Mode, Mode] = ("train", "eval")

    def run(mode: Mode) -> list[Tensor]:
        with _undisturbed(model), Surroundings(0):
            model.train(mode == "train")
            found = tensors_in(forward(model, inputs))
            return [tensor.clone() for tensor in found if tensor.is_floating_point()]

    for mode in modes:
        try:
            found = randomness.call(partial(run, mode), 0)
        # Whatever a model raises; in train mode many want more than one image, or targets.
        except Exception as error:
            errors.append(f"in {mode} mode it raised {type(error).__name__}: {error}")
            continue
        if found:
            outputs[mode] = found
        else:
            errors.append(f"in {mode} mode it returned no real numbers")
    if not outputs:
        raise InvalidInputError(f"the model does not run on inputs: {'; '.join(errors)}; nothing was changed")
    return outputs


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Put modes and buffers back."""
    modules = [(module, module.training, dict(module._buffers)) for module in model.modules()]
    values = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for module, training, buffers in modules:
            module.training = training
            module._buffers.update(buffers)
        for buffer, value in values:
            buffer.copy_(value)
