"""How are the rows of a weight decayed that are not held, where others are?

An optimizer decays whole parameters. So the group of such a weight has no decay, and a setting that says what
its other rows get, which is done here before every step. Holds nothing and makes no groups.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from decayfree.blocks import Blocks, Part, scale_blocks_, scale_other_rows_
from decayfree.errors import InvalidInputError, faults_of, raise_all
from decayfree.optimizers import DecayForm, decay_form_in

OTHER_ROWS = "other_rows_weight_decay"
"""The setting of a parameter group: decay of the rows that are not held, as its optimizer understands it."""


@torch.no_grad()
def decay_other_rows_(
    optimizer: Optimizer,
    parts: Iterable[Part],
    *,
    forms: Collection[str] = get_args(DecayForm),
) -> list[tuple[Tensor, Tensor]]:
    """Decay the other rows of partly held weights as the optimizer would in its next step.

    To be called before a step. Decoupled decay multiplies them by 1 − ηλ; coupled decay adds λw to their
    gradient, in a copy that the optimizer sees instead. What has no gradient is left alone, as by the
    optimizer.

    Args:
        optimizer: Groups with :data:`OTHER_ROWS` are looked at.
        parts: Weights that are held, with the biases that belong to them.
        forms: Of decay; groups with another are left alone.

    Returns:
        Parameters and their own gradients, to be put back after the step.

    Raises:
        InvalidInputError: If nobody knows what the optimizer's decay does.
    """
    before: list[tuple[Tensor, Tensor]] = []
    for tensor, blocks, group in _decayed(optimizer, parts, forms):
        gradient = tensor.grad
        if gradient is None:
            continue
        decay = float(group[OTHER_ROWS])
        if decay_form_in(type(optimizer), group) == "decoupled":
            scale_other_rows_(tensor, 1 - _shrinkage(optimizer, group), blocks)
            continue
        alpha = -decay if group.get("maximize", False) else decay
        scale = getattr(optimizer, "grad_scale", None)
        rows = _other_rows(tensor, blocks)
        tensor.grad = gradient.add(rows if scale is None else rows * scale, alpha=alpha)
        before.append((tensor, gradient))
    return before


def other_rows_faults(optimizer: Optimizer) -> list[str]:
    """What speaks against decaying other rows under this optimizer, with the cure."""
    kind = type(optimizer).__name__
    wrong = [
        f"parameter group {index} has {OTHER_ROWS}={group[OTHER_ROWS]!r}: it must be a finite number, at "
        "least 0"
        for index, group in enumerate(optimizer.param_groups)
        if OTHER_ROWS in group and not 0 <= _decay_of(group) < math.inf
    ]
    return (
        wrong
        or [
            f"nobody knows what weight decay does under {kind}, so that rows that are not held cannot get "
            f"{OTHER_ROWS}={float(group[OTHER_ROWS]):g}: set it to 0, or make two parameters of the weight"
            for group in _groups(optimizer)
            if decay_form_in(type(optimizer), group) is None
        ][:1]
    )


class OtherRows:
    """Decays the other rows of weights once in every step, also where the step evaluates the model itself."""

    def __init__(self) -> None:
        self._own_gradients: list[tuple[Tensor, Tensor | None, Tensor]] = []
        self._late: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def before_(self, optimizer: Optimizer, parts: Iterable[Part], *, evaluates: bool) -> None:
        """To be called before a step; where it ``evaluates`` the model, there are no gradients yet."""
        self.put_gradients_back_()  # the step before this one has raised
        self._late = []
        if not evaluates:
            self._decay_(optimizer, parts, get_args(DecayForm))
            return
        # However often it evaluates, it decays the weights that it began with, once.
        for tensor, blocks, group in _decayed(optimizer, parts, ("decoupled",)):
            # With the rounding of the factor that an optimizer would multiply by.
            share = 1 - (1 - _shrinkage(optimizer, group))
            self._late.append((tensor, _other_rows(tensor, blocks) * share))

    def after_evaluation_(self, optimizer: Optimizer, parts: Iterable[Part]) -> None:
        """To be called when gradients have been made inside a step."""
        self._decay_(optimizer, parts, ("coupled",))

    @torch.no_grad()
    def after_(self) -> None:
        """To be called after a step."""
        self.put_gradients_back_()
        for tensor, decay in self._late:
            if tensor.grad is not None:
                tensor.sub_(decay)
        self._late = []

    def put_gradients_back_(self) -> None:
        """Give parameters their own gradients, unless somebody has given them others."""
        for tensor, decayed, gradient in self._own_gradients:
            if tensor.grad is decayed:
                tensor.grad = gradient
        self._own_gradients = []

    def _decay_(self, optimizer: Optimizer, parts: Iterable[Part], forms: Collection[str]) -> None:
        before = decay_other_rows_(optimizer, parts, forms=forms)
        self._own_gradients = [(tensor, tensor.grad, gradient) for tensor, gradient in before]


def _decayed(
    optimizer: Optimizer, parts: Iterable[Part], forms: Collection[str]
) -> list[tuple[Tensor, Blocks, Mapping[str, Any]]]:
    """Tensors with rows to decay, how their rows are divided, and their groups."""
    groups = {id(one): group for group in _groups(optimizer) for one in group["params"]}
    decayed = [
        (tensor, blocks, groups[id(tensor)])
        for one in parts
        if one.blocks.is_partial
        for tensor, blocks in zip(one.tensors, (one.blocks, one.blocks.of_bias), strict=False)
        if id(tensor) in groups
    ]
    raise_all(faults_of(InvalidInputError, other_rows_faults(optimizer)) if decayed else [])
    return [one for one in decayed if decay_form_in(type(optimizer), one[2]) in forms]


def _shrinkage(optimizer: Optimizer, group: Mapping[str, Any]) -> Any:
    """ηλ, a number or a tensor; 0 where a fused optimizer skips the step for its GradScaler."""
    skipped = getattr(optimizer, "found_inf", None)
    shrinkage = group["lr"] * float(group[OTHER_ROWS])
    return shrinkage if skipped is None else shrinkage * (skipped == 0)


def _other_rows(tensor: Tensor, blocks: Blocks) -> Tensor:
    """A copy with zeros in the rows that are held."""
    rows = tensor.detach().clone()
    scale_blocks_(rows, torch.zeros(blocks.n_blocks, device=rows.device), blocks)
    return rows


def _groups(optimizer: Optimizer) -> Iterator[Mapping[str, Any]]:
    """Those that decay other rows."""
    return (group for group in optimizer.param_groups if _decay_of(group) != 0.0)


def _decay_of(group: Mapping[str, Any]) -> float:
    """What a group says, NaN where that is no number."""
    try:
        return float(group.get(OTHER_ROWS, 0.0))
    except (TypeError, ValueError, RuntimeError):
        return math.nan
