"""Weight rescaling under every optimizer in torch.optim: one table of rows, one test for each promise.

The rows and their exceptions are in optimizer_rows.py. Long runs against the reference are
test_weight_rescaling.py's question.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import decayfree
from support import reference
from support.networks import SmallNet, TiedNet, digit_losses, find, small_net
from support.optimizer_rows import REFUSED, ROWS, Row

N_STEPS = 3
PRECISIONS: dict[str, tuple[torch.dtype, torch.memory_format]] = {
    "float32": (torch.float32, torch.preserve_format),
    "bfloat16": (torch.bfloat16, torch.preserve_format),
    "float16": (torch.float16, torch.preserve_format),
    "channels_last": (torch.float32, torch.channels_last),
}
every_row = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)


@cache
def found_in(kind: type[SmallNet]) -> dict[str, Any]:
    return find(small_net(kind=kind)).to_dict()


def attached(
    row: Row, model: SmallNet, **settings: Any
) -> tuple[torch.optim.Optimizer, decayfree.WeightRescaling]:
    """The row's optimizer of this model, rescaled."""
    optimizer = row.optimizer(model)
    found = decayfree.Invariance.from_dict(found_in(type(model)), model)
    return optimizer, decayfree.WeightRescaling(optimizer, found, **settings)


def specs_held(row: Row, model: SmallNet) -> list[reference.BlockSpec]:
    return [spec for spec in model.specs if row.names is None or spec.weight in row.names]


def take_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, *losses: Callable[[nn.Module], Tensor]
) -> Any:
    """One step with a closure that goes through ``losses``, as micro-batches; what ``step`` returns."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        before = [p.detach().clone() for p in model.parameters()]
        values = []
        for loss in losses:
            value = loss(model) / len(losses)
            value.backward()
            values.append(value.detach())
        for parameter, old in zip(model.parameters(), before, strict=True):
            assert torch.equal(parameter, old)  # only the optimizer's step counts
        return torch.stack(values).sum()

    return optimizer.step(closure)


def assert_a_step_is_a_plain_step_and_a_rescale(
    row: Row, model: SmallNet, optimizer: torch.optim.Optimizer, *losses: Callable[[nn.Module], Tensor]
) -> None:
    """The twin has equal weights and optimizer state, no rescaling; the reference rescales it by hand."""
    twin, twin_optimizer = twin_of(row, model, optimizer)
    value, expected_value = take_step(model, optimizer, *losses), take_step(twin, twin_optimizer, *losses)
    assert torch.equal(value, expected_value)
    expected = dict(twin.named_parameters())
    specs = {spec.weight: spec for spec in specs_held(row, model)}
    for name, parameter in model.named_parameters():
        assert parameter.stride() == expected[name].stride()
        if name not in specs:
            assert torch.equal(parameter, expected[name]), name
            continue
        exact = expected[name].detach().double()
        reference.rescale(exact, reference.target_norms(specs[name], 1.0), specs[name])
        # The product is rounded once, from a factor in float32; a norm that is right to 1e-6 may stay as it
        # is.
        limits = torch.finfo(parameter.dtype)
        rounding = {"rtol": limits.eps / 2 + 1e-6, "atol": limits.tiny * limits.eps / 2}
        torch.testing.assert_close(parameter.detach().double(), exact, **rounding, msg=name)


def twin_of(
    row: Row, model: SmallNet, optimizer: torch.optim.Optimizer
) -> tuple[SmallNet, torch.optim.Optimizer]:
    """The same weights and the same memory in other tensors, without hooks."""
    twin, state, groups = copy.deepcopy((model, optimizer.state, optimizer.param_groups))
    twin_optimizer = row.optimizer(twin)
    twin_optimizer.state, twin_optimizer.param_groups = state, groups
    return twin, twin_optimizer


def deviation_of(row: Row, model: SmallNet) -> float:
    """The largest distance of a norm from 1, by the reference."""
    parameters = dict(model.named_parameters())
    return max(
        abs(norm - 1.0)
        for spec in specs_held(row, model)
        for norm in reference.norms_of(parameters[spec.weight], spec)
    )


# -------------------------------------------------------------------------------------- the table is complete


def test_the_table_covers_every_optimizer_of_torch() -> None:
    offered = {
        value
        for value in vars(torch.optim).values()
        if isinstance(value, type)
        and issubclass(value, torch.optim.Optimizer)
        and value is not torch.optim.Optimizer
    }
    assert {type(row.optimizer(small_net())) for row in [*ROWS.values(), *REFUSED.values()]} == offered


@pytest.mark.parametrize("row", REFUSED.values(), ids=REFUSED)
def test_what_torch_refuses_is_torchs_own_error(row: Row) -> None:
    model = small_net()
    optimizer, _ = attached(row, model)
    with pytest.raises((RuntimeError, AssertionError), match=row.refused):
        take_step(model, optimizer, *digit_losses(1, torch.float32))


@pytest.mark.parametrize(
    ("row", "precision"),
    [pytest.param(row, p, id=f"{name}, {p}") for name, row in ROWS.items() for p in row.refused_in],
)
def test_what_torch_refuses_in_some_precision_is_torchs_own_error(row: Row, precision: str) -> None:
    dtype, layout = PRECISIONS[precision]
    model = small_net(dtype).to(memory_format=layout)
    optimizer, _ = attached(row, model)
    with pytest.raises(RuntimeError, match=row.refused_in[precision]):
        take_step(model, optimizer, *digit_losses(1, dtype))


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=name) for name, row in ROWS.items() if row.scaler_refused is not None]
)
def test_what_a_grad_scaler_refuses_is_torchs_own_error(row: Row) -> None:
    model, (loss,) = small_net(), digit_losses(1, torch.float32)
    optimizer, _ = attached(row, model)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(loss(model)).backward()
    with pytest.raises(RuntimeError, match=row.scaler_refused):
        scaler.step(optimizer, closure=lambda: loss(model))


# ---------------------------------------------------------------------------------------------- one step


@pytest.mark.parametrize(
    ("row", "precision"),
    [
        pytest.param(row, p, id=f"{name}, {p}")
        for name, row in ROWS.items()
        for p in PRECISIONS
        if p not in row.refused_in
    ],
)
def test_a_step_is_a_plain_step_and_a_rescale(row: Row, precision: str) -> None:
    dtype, layout = PRECISIONS[precision]
    model = small_net(dtype).to(memory_format=layout)
    optimizer, _ = attached(row, model)
    start = [p.detach().clone() for p in model.parameters()]
    for loss in digit_losses(N_STEPS, dtype):
        assert_a_step_is_a_plain_step_and_a_rescale(row, model, optimizer, loss)
    assert deviation_of(row, model) <= 4 * torch.finfo(dtype).eps
    assert any(not torch.equal(p, old) for p, old in zip(model.parameters(), start, strict=True))


@every_row
def test_frozen_weights_stay_and_tied_ones_are_rescaled_once(row: Row) -> None:
    model = small_net(kind=TiedNet)
    frozen = model.conv.weight.clone()
    optimizer, _ = attached(row, model)
    for loss in digit_losses(N_STEPS, torch.float32):
        assert_a_step_is_a_plain_step_and_a_rescale(row, model, optimizer, loss)
    assert torch.equal(model.conv.weight, frozen)
    assert model.tied1.weight is model.tied2.weight


@every_row
def test_gradients_can_be_accumulated(row: Row) -> None:
    model, losses = small_net(), digit_losses(2 * N_STEPS, torch.float32)
    optimizer, wrs = attached(row, model)
    for first, second in zip(losses[::2], losses[1::2], strict=True):
        assert_a_step_is_a_plain_step_and_a_rescale(row, model, optimizer, first, second)
    assert wrs.check().n_steps == N_STEPS


@every_row
@pytest.mark.parametrize("attach_first", [False, True])
def test_schedulers_take_the_optimizer_as_it_is(attach_first: bool, row: Row) -> None:
    model = small_net()
    optimizer = row.optimizer(model)
    found = decayfree.Invariance.from_dict(found_in(SmallNet), model)
    if attach_first:
        decayfree.WeightRescaling(optimizer, found)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    if not attach_first:
        decayfree.WeightRescaling(optimizer, found)
    start = float(optimizer.param_groups[0]["lr"])
    for loss in digit_losses(N_STEPS, torch.float32):
        take_step(model, optimizer, loss)
        assert deviation_of(row, model) < 1e-6
        scheduler.step()
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(start / 2**N_STEPS)


# ---------------------------------------------------------------------------------------------- GradScaler


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=name) for name, row in ROWS.items() if row.scaler_refused is None]
)
def test_a_step_that_the_grad_scaler_skips_does_not_count(row: Row) -> None:
    model, losses = small_net(), digit_losses(5, torch.float32)
    optimizer, wrs = attached(row, model, every=2)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    rescaled = []
    for step, loss in enumerate(losses):
        optimizer.zero_grad()
        scaler.scale(loss(model)).backward()
        before = [p.detach().clone() for p in model.parameters()]
        if step in (1, 2):
            model.hidden.weight.grad[0, 0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        if step in (1, 2):
            for parameter, old in zip(model.parameters(), before, strict=True):
                assert torch.equal(parameter, old)
        rescaled.append(deviation_of(row, model) < 1e-6)
    # Real steps are numbers 0, 3 and 4 of the loop: the second of them is a multiple of two.
    assert rescaled == [False, False, False, True, False]
    assert wrs.check().n_steps == 3


# ------------------------------------------------------------------------------------------ saved and resumed


@every_row
def test_a_run_resumed_in_mid_run_takes_bitwise_the_same_steps(row: Row) -> None:
    losses = digit_losses(6, torch.float32)
    model = small_net()
    optimizer, wrs = attached(row, model, radius="init", every=2)
    for loss in losses[:3]:
        take_step(model, optimizer, loss)
    buffer = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), wrs.state_dict()], buffer)
    for loss in losses[3:]:
        take_step(model, optimizer, loss)

    resumed = small_net(seed=1)
    resumed_optimizer, resumed_wrs = attached(row, resumed, radius="init", every=2)
    buffer.seek(0)
    weights, moments, radii = torch.load(buffer, weights_only=True)
    resumed.load_state_dict(weights)
    resumed_optimizer.load_state_dict(moments)
    resumed_wrs.load_state_dict(radii)
    for loss in losses[3:]:
        take_step(resumed, resumed_optimizer, loss)
    for (name, parameter), expected in zip(resumed.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(parameter, expected), name


# ---------------------------------------------------------------------------------------------- copies


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=name) for name, row in ROWS.items() if row.copy_refused is None]
)
def test_a_copy_that_lost_its_hook_is_noticed(row: Row) -> None:
    model, losses = small_net(), digit_losses(4, torch.float32)
    optimizer, wrs = attached(row, model)
    take_step(model, optimizer, losses[0])
    assert not wrs.check().problems
    twin, twin_optimizer, twin_wrs = copy.deepcopy((model, optimizer, wrs))
    take_step(twin, twin_optimizer, losses[1])
    assert twin_wrs.check().problems
    take_step(model, optimizer, losses[1])
    assert not wrs.check().problems


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=name) for name, row in ROWS.items() if row.copy_refused is not None]
)
def test_a_copy_that_torch_breaks_is_torchs_own_error(row: Row) -> None:
    model = small_net()
    optimizer, _ = attached(row, model)
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    with pytest.raises(AttributeError, match=row.copy_refused):
        take_step(twin, twin_optimizer, *digit_losses(1, torch.float32))


@every_row
def test_an_average_of_the_weights_can_be_kept_and_rescaled(row: Row) -> None:
    model = small_net()
    optimizer, wrs = attached(row, model)
    average = AveragedModel(model)
    points = []
    for loss in digit_losses(4, torch.float32):
        take_step(model, optimizer, loss)
        average.update_parameters(model)
        points.append({name: p.detach().clone() for name, p in model.named_parameters()})
    held = [spec.weight for spec in specs_held(row, model)]
    assert not wrs.check().problems
    assert deviation_of(row, model) < 1e-6
    averaged = dict(average.module.named_parameters())
    for name in held:
        mean = torch.stack([point[name] for point in points]).mean(0)
        torch.testing.assert_close(averaged[name], mean, rtol=1e-5, atol=1e-7)
        assert (averaged[name].flatten(1).norm(dim=1) < 1.0).all()  # the mean of unit vectors is shorter
    found = decayfree.Invariance.from_dict(found_in(SmallNet), average.module)
    decayfree.rescale_(average.module, found)
    assert deviation_of(row, average.module) < 1e-6


# ---------------------------------------------------------------------------------------------- detaching


@every_row
def test_detaching_leaves_no_trace(row: Row) -> None:
    losses = digit_losses(4, torch.float32)
    model = small_net()
    optimizer = row.optimizer(model)
    attributes = set(vars(optimizer))
    hooks = {name: list(value) for name, value in vars(optimizer).items() if name.endswith("_hooks")}
    found = decayfree.Invariance.from_dict(found_in(SmallNet), model)
    with decayfree.WeightRescaling(optimizer, found):
        take_step(model, optimizer, losses[0])
    assert set(vars(optimizer)) == attributes
    assert {name: list(value) for name, value in vars(optimizer).items() if name.endswith("_hooks")} == hooks
    plain, plain_optimizer = twin_of(row, model, optimizer)
    for loss in losses[1:]:
        take_step(model, optimizer, loss)
        take_step(plain, plain_optimizer, loss)
    for (name, parameter), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(parameter, expected), name
    state = optimizer.state_dict()
    assert state.keys() == plain_optimizer.state_dict().keys()
    assert [set(group) for group in state["param_groups"]] == [
        set(group) for group in row.optimizer(small_net()).state_dict()["param_groups"]
    ]


def test_the_suite_has_a_network_of_each_kind() -> None:
    assert [weight["name"] for weight in found_in(TiedNet)["weights"]] == [
        spec.weight for spec in TiedNet.specs
    ]
    assert [weight["name"] for weight in found_in(SmallNet)["weights"]] == [
        spec.weight for spec in SmallNet.specs
    ]
