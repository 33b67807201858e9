"""Kernels held in one pass over memory: what is held so, to which numbers, and what is left alone.

Whole training runs against the reference are in test_weight_rescaling.py, which has cases with
``fused=True``.
"""

from __future__ import annotations

import copy
import io
import math
import pickle
import sys
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch
from torch import Tensor

import decayfree
from decayfree.blocks import Blocks
from decayfree.errors import InvalidInputError, MissingExtraError, NonFiniteWeightError
from decayfree.rescaling import fused_holder as fusing
from decayfree.rescaling.fused_holder import FusedHolder, fused_holders_of
from decayfree.rescaling.held import Held
from decayfree.rescaling.holder import Holder
from support.networks import (
    attached,
    digit_batch,
    digit_losses,
    find,
    largest_deviation,
    mixed_net,
    small_net,
    step_once,
)
from support.unchanged import bits, sgd, unchanged

LOSSES = digit_losses(3, torch.float32)


def held(weight: Tensor, target: float | Tensor = 1.0) -> Held:
    """A weight whose rows are its blocks, each held at a norm."""
    targets = torch.as_tensor(target, dtype=weight.dtype).expand(len(weight)).clone()
    return Held(weight, None, Blocks(0, (1,) * len(weight)), "weight", targets)


def holder_of(one: Held) -> FusedHolder:
    (holder,) = fused_holders_of([one])
    assert isinstance(holder, FusedHolder)
    return holder


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------------------------------------- numbers


def test_rows_are_put_on_their_targets() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.0, 0.5], [6.0, 8.0]])
    holder = holder_of(held(weight, torch.tensor([1.0, 2.0, 5.0])))
    assert holder.hold_() == 3.0  # the second row grew fourfold
    assert weight.equal(torch.tensor([[0.6, 0.8], [0.0, 2.0], [3.0, 4.0]]))
    assert holder.norms.tolist() == [5.0, 0.5, 10.0]
    assert holder.factors.tolist() == [pytest.approx(0.2), 4.0, 0.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(7, 5), (6, 3, 3, 3), (5, 4, 3), (1, 1), (300, 1000)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_norms_and_weights_are_those_of_float64(
    shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format
) -> None:
    weight = random(*shape, dtype=dtype)
    if weight.ndim == 4:
        weight = weight.contiguous(memory_format=layout)
    rows = weight.double().flatten(1).clone()
    norms = rows.square().sum(1).sqrt()
    holder = holder_of(held(weight, 2.0))
    holder.hold_()
    eps = torch.finfo(dtype).eps
    if dtype == torch.float32:  # the norm is rounded once, at the end
        assert holder.norms.equal(norms.float())
    torch.testing.assert_close(holder.norms.double(), norms, rtol=8 * eps, atol=0)
    torch.testing.assert_close(weight.double().flatten(1), rows * (2 / norms)[:, None], rtol=8 * eps, atol=0)


def test_a_weight_twice_as_long_ends_at_the_same_bits() -> None:
    weight = random(20, 33)
    other = 2 * weight
    for one in (weight, other):
        holder_of(held(one)).hold_()
    assert bits(weight) == bits(other)


def test_a_row_on_its_target_keeps_its_bits_beside_one_that_moves() -> None:
    weight = random(8, 100)
    holder = holder_of(held(weight))
    holder.hold_()
    weight[3] *= 1.5
    before = weight.clone()
    assert holder.hold_() == pytest.approx(1 / 3)
    others = [row for row in range(8) if row != 3]
    assert bits(weight[others]) == bits(before[others])
    assert (holder.factors[others] == 1).all()


def test_several_weights_and_both_precisions_are_held_together() -> None:
    weights = [random(4, 3), random(5, 2, 3, 3), random(6, 7, dtype=torch.float64)]
    holders = fused_holders_of([held(weight) for weight in weights])
    assert [type(holder) for holder in holders] == [FusedHolder, FusedHolder]
    for holder in holders:
        holder.hold_()
    for weight in weights:
        assert (weight.flatten(1).norm(dim=1) - 1).abs().max() < 1e-6


# ----------------------------------------------------------------------------------------- what is left alone


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e25], ids=str)
def test_a_row_that_has_no_norm_is_left_alone_and_told(bad: float) -> None:
    # 1e25 is finite in float32, and its square is not.
    weight = random(4, 50)
    weight[1, 7:9] = bad
    before = weight.clone()
    holder = holder_of(held(weight))
    assert holder.hold_() == math.inf
    assert bits(weight[1]) == bits(before[1])
    assert holder.factors[1] == 1
    assert (weight[[0, 2, 3]].norm(dim=1) - 1).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("row", "target"),
    [
        ([0.0, 0.0], 1.0),
        ([1e-25, 0.0], 1.0),
        ([1e-18, 0.0], 1e25),
        ([1e18, 0.0], 1e-30),
        ([3.0, 4.0], 0.0),
    ],
    ids=["norm zero", "its square zero in float32", "factor infinite", "factor zero", "no target"],
)
def test_a_row_that_cannot_be_scaled_is_left_alone(row: list[float], target: float) -> None:
    weight = torch.tensor([row, [3.0, 4.0]])
    before = weight.clone()
    holder = holder_of(held(weight, torch.tensor([target, 1.0])))
    assert holder.hold_() == pytest.approx(0.8)  # of the other row
    assert bits(weight[0]) == bits(before[0])
    assert holder.factors.tolist() == [1.0, pytest.approx(0.2)]
    # The other holder leaves the same rows alone.
    plain = Holder([held(before, torch.tensor([target, 1.0]))])
    plain.hold_()
    assert plain.factors.tolist() == [1.0, pytest.approx(0.2)]


def test_a_weight_that_a_step_makes_not_finite_is_named() -> None:
    model = small_net()
    optimizer, _ = attached(model, fused=True)
    LOSSES[0](model).backward()
    model.hidden.weight.grad[2, 3] = math.nan
    with pytest.raises(NonFiniteWeightError, match=r"nothing was written over it: hidden\.weight \(6, 36\)$"):
        optimizer.step()
    assert (model.conv.weight.detach().flatten(1).norm(dim=1) - 1).abs().max() < 1e-6


def test_what_is_not_in_one_run_of_memory_is_held_as_without_it() -> None:
    model = mixed_net()
    _, wrs = attached(model, fused=True)
    fused = {one.name for holder in wrs._holders if isinstance(holder, FusedHolder) for one in holder.held}
    assert fused == {"conv.weight", "grouped.weight", "hidden.weight"}
    assert {one.name for holder in wrs._holders for one in holder.held} == fused | {"transposed.weight"}


# ---------------------------------------------------------------------------------------------- beside torch


def test_a_backward_pass_through_weights_that_have_changed_is_refused() -> None:
    model = small_net()
    holders = fused_holders_of([held(model.hidden.weight, 2.0)])
    inputs = random(5, 36).requires_grad_()
    outputs = model.hidden(inputs)
    holders[0].hold_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()


def test_a_backward_pass_through_weights_that_have_not_changed_is_allowed() -> None:
    model = small_net()
    optimizer, _ = attached(model, fused=True)
    images, _ = digit_batch(0, torch.float32)
    outputs = model(images)
    outputs.sum().backward(inputs=[model.head.bias], retain_graph=True)
    optimizer.step()  # moves nothing but the head's bias
    (gradient,) = torch.autograd.grad(outputs[:, 0].sum(), model.conv.weight)
    assert gradient.isfinite().all()


def test_statistics_follow_weights_that_were_loaded_between_two_steps() -> None:
    model, twin = small_net(), small_net()
    for net, fused in ((model, True), (twin, False)):
        optimizer, _ = attached(net, fused=fused)
        step_once(net, optimizer, LOSSES[0])
        with torch.no_grad():
            net.conv.weight *= 3.0
        step_once(net, optimizer, LOSSES[1])
    torch.testing.assert_close(model.norm1.running_var, twin.norm1.running_var, rtol=1e-5, atol=0)
    torch.testing.assert_close(model.norm1.running_mean, twin.norm1.running_mean, rtol=1e-4, atol=1e-6)


def test_weights_that_change_their_storage_are_still_held() -> None:
    model = small_net()
    optimizer, wrs = attached(model, fused=True)
    step_once(model, optimizer, LOSSES[0])
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    model.to(memory_format=torch.channels_last)
    step_once(model, optimizer, LOSSES[1])
    assert largest_deviation(model) < 1e-6
    assert wrs.check().problems == ()


def test_a_model_that_changes_to_half_precision_is_held_as_without_it() -> None:
    model = small_net()
    optimizer, wrs = attached(model, fused=True)
    step_once(model, optimizer, LOSSES[0])
    model.bfloat16()
    with torch.no_grad():
        model.conv.weight *= 1.5
    step_once(model, optimizer, digit_losses(2, torch.bfloat16)[1])
    assert not any(isinstance(holder, FusedHolder) for holder in wrs._holders)
    assert largest_deviation(model) < 1e-2


def saved_and_loaded(objects: Any) -> Any:
    file = io.BytesIO()
    torch.save(objects, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "not fused"])
@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda objects: pickle.loads(pickle.dumps(objects)), saved_and_loaded],
    ids=["copied", "pickled", "saved and loaded"],
)
def test_a_copy_holds_its_own_weights(copied: Callable[[Any], Any], fused: bool) -> None:
    model = small_net()
    optimizer, wrs = attached(model, fused=fused)
    step_once(model, optimizer, LOSSES[0])
    twin, twin_optimizer, twin_wrs = copied((model, optimizer, wrs))
    before = bits(model.conv.weight)
    # What the copy looks at is its own memory, wherever the allocator has put it.
    addresses = {view.data_ptr() for holder in twin_wrs._holders for view in views_of(holder)}
    assert addresses == {twin.conv.weight.data_ptr(), twin.hidden.weight.data_ptr()}
    assert {name: factors.tolist() for name, factors in twin_wrs.factors.items()} == {
        name: factors.tolist() for name, factors in wrs.factors.items()
    }
    twin_wrs._attach()
    step_once(twin, twin_optimizer, LOSSES[1])
    assert bits(model.conv.weight) == before
    assert largest_deviation(twin) < 1e-6


def views_of(holder: Holder) -> list[Tensor]:
    if isinstance(holder, FusedHolder):
        return [torch.from_numpy(memory) for memory in holder._memory]
    return [rows for group in holder._groups for rows in group.scaled[0]]


def test_what_is_sent_to_another_process_can_be_used_further_here() -> None:
    # Sending moves tensors to shared memory: views of where they were would be read and written after their
    # memory was freed.
    model = small_net()
    optimizer, wrs = attached(model, fused=True)
    model.share_memory()
    step_once(model, optimizer, LOSSES[0])
    norms = [(holder.norms, holder.norms.data_ptr()) for holder in wrs._holders]
    ForkingPickler.dumps(wrs)
    assert all(tensor.data_ptr() == address for tensor, address in norms)
    step_once(model, optimizer, LOSSES[1])
    assert largest_deviation(model) < 1e-6


def test_a_kernel_in_every_weight_is_known_to_have_changed() -> None:
    model = small_net()
    _, wrs = attached(model, fused=True)
    with torch.no_grad():
        model.hidden.weight[2] *= 1.5
    before = {name: weight._version for name, weight in model.named_parameters()}
    wrs._holders[0].hold_()
    grown = {name: weight._version - before[name] for name, weight in model.named_parameters()}
    assert {name for name, more in grown.items() if more} == {"hidden.weight"}


# ---------------------------------------------------------------------------------------------- refusals


def test_numba_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_net()
    found, optimizer = find(model), sgd(model)
    monkeypatch.setitem(sys.modules, "numba", None)
    fusing._compiled.cache_clear()
    with unchanged(model, optimizer), pytest.raises(MissingExtraError, match=r"numba.*decayfree\[fused\]"):
        decayfree.WeightRescaling(optimizer, found, fused=True)
    fusing._compiled.cache_clear()


def test_where_nothing_can_be_fused_it_says_so() -> None:
    model = small_net(torch.bfloat16)
    found, optimizer = find(model), sgd(model)
    with unchanged(model, optimizer), pytest.raises(InvalidInputError, match=r"none of the 2 that are held"):
        decayfree.WeightRescaling(optimizer, found, fused=True)


@pytest.mark.parametrize("fused", [None, 1, "yes"], ids=repr)
def test_fused_is_yes_or_no(fused: Any) -> None:
    model = small_net()
    found, optimizer = find(model), sgd(model)
    with unchanged(model, optimizer), pytest.raises(InvalidInputError, match="fused must be True or False"):
        decayfree.WeightRescaling(optimizer, found, fused=fused)


def test_without_it_nothing_is_fused() -> None:
    _, wrs = attached(small_net())
    assert [type(holder) for holder in wrs._holders] == [Holder]
