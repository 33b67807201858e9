"""What a WeightRescaling saves, and how it lives beside other objects and with weights that move.

Optimizers' memories are test_rescaling_moments.py's question, what check() says test_rescaling_check.py's.
"""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

import decayfree
from decayfree.errors import DecayFreeError
from support import reference
from support.networks import (
    attached,
    digit_losses,
    equal,
    find,
    largest_deviation,
    mixed_net,
    small_net,
    step_once,
)

LOSSES = digit_losses(12, torch.float32)


# ------------------------------------------------------------------------------------------- saved and loaded


def saved(*states: Any) -> list[Any]:
    """Through a file that holds nothing but tensors and plain values."""
    buffer = io.BytesIO()
    torch.save(list(states), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


# Attaching rescales at once. In the middle of a cycle of five steps that moves weights, so that they are to
# be loaded after it; with a rescale after every step it finds them on their radius and moves nothing.
# After seven steps a cycle of seven has just ended.
ORDERS = [("attach, load", 1), ("attach, load", 5), ("attach, load", 7), ("load, attach", 1)]


@pytest.mark.parametrize(("order", "every"), ORDERS)
@pytest.mark.parametrize("radius", [1.0, 2.0, "init"])
def test_a_run_resumes_bitwise(radius: Any, order: str, every: int) -> None:
    settings = {"radius": radius, "every": every, "momentum": "scale"}
    model = small_net()
    optimizer, wrs = attached(model, **settings)
    for loss in LOSSES[:7]:
        step_once(model, optimizer, loss)
    weights, moments, state = saved(model.state_dict(), optimizer.state_dict(), wrs.state_dict())
    for loss in LOSSES[7:]:
        step_once(model, optimizer, loss)

    resumed = small_net(seed=1)
    found = find(resumed)
    other = torch.optim.SGD(resumed.parameters(), lr=0.1, momentum=0.9)
    if order == "attach, load":
        other_wrs = decayfree.WeightRescaling(other, found, **settings)
    resumed.load_state_dict(weights)
    other.load_state_dict(moments)
    if order == "load, attach":
        other_wrs = decayfree.WeightRescaling(other, found, **settings)
    other_wrs.load_state_dict(state)
    for loss in LOSSES[7:]:
        step_once(resumed, other, loss)
    assert equal(model, resumed)
    assert not other_wrs.check().problems


def test_radii_are_saved_by_name_and_fixed_when_the_object_was_made() -> None:
    model = mixed_net()
    optimizer, wrs = attached(model, radius="init")
    before = {name: radii.clone() for name, radii in wrs.radii.items()}
    for loss in digit_losses(3):
        step_once(model, optimizer, loss)
    (state,) = saved(wrs.state_dict())
    assert {name: radii.tolist() for name, radii in before.items()} == {
        name: radii.tolist() for name, radii in state["radii"].items()
    }
    # Another start has other norms; what was saved counts.
    other = mixed_net(seed=1)
    other_optimizer, other_wrs = attached(other, radius="init")
    assert not torch.equal(other_wrs.radii["conv.weight"], before["conv.weight"])
    other_wrs.load_state_dict(state)
    step_once(other, other_optimizer, digit_losses(1)[0])
    for spec in other.specs:
        assert torch.equal(other_wrs.radii[spec.weight], before[spec.weight])
        norms = reference.norms_of(
            other.get_parameter(spec.weight), spec, other.hidden.bias if spec.bias else None
        )
        targets = before[spec.weight] * torch.tensor(spec.sizes).double().sqrt()
        torch.testing.assert_close(torch.tensor(norms, dtype=torch.float64), targets, rtol=1e-12, atol=0)


def test_settings_travel_with_the_state() -> None:
    _, wrs = attached(small_net(), every=3, momentum="scale", radius=2.0)
    _, other = attached(small_net())
    other.load_state_dict(wrs.state_dict())
    assert (other.every, other.momentum) == (3, "scale")


def test_a_saved_state_does_not_change_with_the_object() -> None:
    model = small_net()
    optimizer, wrs = attached(model)
    state = wrs.state_dict()
    before = copy.deepcopy(state)
    step_once(model, optimizer, LOSSES[0])
    wrs.radii["conv.weight"].fill_(7.0)
    assert torch.equal(state["radii"]["conv.weight"], before["radii"]["conv.weight"])
    assert state["n_steps"] == before["n_steps"]


def test_the_state_of_another_model_is_refused_unchanged() -> None:
    model = small_net()
    _, wrs = attached(model, radius=2.0)
    _, other = attached(mixed_net())
    before = wrs.state_dict()
    with pytest.raises(DecayFreeError, match=r"grouped\.weight"):
        wrs.load_state_dict(other.state_dict())
    after = wrs.state_dict()
    assert after["n_steps"] == before["n_steps"]
    assert all(torch.equal(after["radii"][name], radii) for name, radii in before["radii"].items())


SPOILED: list[tuple[str, Any]] = [
    ("radii", None),
    ("radii", {"conv.weight": 1.0, "hidden.weight": 1.0}),
    ("radii", lambda radii: {name: -values for name, values in radii.items()}),
    ("radii", lambda radii: {name: values * math.nan for name, values in radii.items()}),
    ("radii", lambda radii: {name: values * 0 for name, values in radii.items()}),
    ("norms", {"other": torch.ones(4)}),
    ("norms", {"conv.weight": torch.ones(99)}),
    ("norms", lambda norms: {name: values * math.inf for name, values in norms.items()}),
    ("norms", 3),
    ("biases", 3),
    ("biases", {"other": {"average": torch.ones(4), "n_passes": None}}),
    ("biases", lambda biases: {name: {"average": None} for name in [*biases, "other"]}),
    ("n_steps", -1),
    ("n_steps", "two"),
    ("optimizer_steps_before", "one"),
]


@pytest.mark.parametrize(("key", "value"), SPOILED)
def test_a_spoiled_state_is_refused_unchanged(key: str, value: Any) -> None:
    model = small_net()
    optimizer, wrs = attached(model, every=3)
    step_once(model, optimizer, LOSSES[0])
    before = wrs.state_dict()
    with pytest.raises(DecayFreeError):
        wrs.load_state_dict({**before, key: value(before[key]) if callable(value) else value})
    after = wrs.state_dict()
    assert after.keys() == before.keys()
    for part in ("radii", "norms"):
        assert all(torch.equal(after[part][name], values) for name, values in before[part].items())
    wrs.load_state_dict(before)


@pytest.mark.parametrize("state", [None, 3, [], {}])
def test_what_is_no_state_is_refused(state: Any) -> None:
    _, wrs = attached(small_net())
    with pytest.raises(DecayFreeError, match="no state of a WeightRescaling"):
        wrs.load_state_dict(state)


def test_a_state_with_another_number_of_blocks_is_refused() -> None:
    _, wrs = attached(small_net())
    state = wrs.state_dict()
    state["radii"]["conv.weight"] = torch.ones(5)
    with pytest.raises(DecayFreeError, match=r"conv\.weight"):
        wrs.load_state_dict(state)


# ---------------------------------------------------------------------------------------------- beside others


def test_hooks_of_others_see_rescaled_weights_even_if_they_came_first() -> None:
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: dict[str, list[float]] = {"before": [], "after": [], "global": []}
    found = find(model)
    optimizer.register_step_post_hook(lambda *_: seen["before"].append(largest_deviation(model)))
    decayfree.WeightRescaling(optimizer, found)
    optimizer.register_step_post_hook(lambda *_: seen["after"].append(largest_deviation(model)))
    everywhere = register_optimizer_step_post_hook(lambda *_: seen["global"].append(largest_deviation(model)))
    try:
        step_once(model, optimizer, LOSSES[0])
    finally:
        everywhere.remove()
    assert all(len(deviations) == 1 and deviations[0] < 1e-6 for deviations in seen.values())


def test_detaching_leaves_the_hooks_of_others() -> None:
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = optimizer.register_step_post_hook(lambda *_: None)
    wrs = decayfree.WeightRescaling(optimizer, find(model))
    second = optimizer.register_step_post_hook(lambda *_: None)
    wrs.detach()
    assert list(optimizer._optimizer_step_post_hooks) == [first.id, second.id]
    wrs.detach()  # twice does no harm
    step_once(model, optimizer, LOSSES[0])
    assert largest_deviation(model) > 1e-5


def test_leaving_the_context_detaches_even_after_an_error() -> None:
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrs = decayfree.WeightRescaling(optimizer, find(model))
    assert wrs.is_attached
    with pytest.raises(ZeroDivisionError), wrs:
        raise ZeroDivisionError
    assert not wrs.is_attached
    assert not optimizer._optimizer_step_post_hooks


def test_two_optimizers_each_hold_their_own_weights() -> None:
    model = small_net()
    found = find(model)
    optimizers = [torch.optim.SGD([p], lr=0.1) for p in (model.conv.weight, model.hidden.weight)]
    objects = [
        decayfree.WeightRescaling(o, found, radius=r) for o, r in zip(optimizers, (1.0, 2.0), strict=True)
    ]
    LOSSES[0](model).backward()
    for optimizer in optimizers:
        optimizer.step()
    assert [set(wrs.radii) for wrs in objects] == [{"conv.weight"}, {"hidden.weight"}]
    assert model.conv.weight.flatten(1).norm(dim=1).allclose(torch.ones(4))
    assert model.hidden.weight.norm(dim=1).allclose(torch.full((6,), 2.0))


# ------------------------------------------------------------------------------------ weights that move house


def test_weights_that_change_their_storage_are_still_held() -> None:
    model = small_net()
    optimizer, wrs = attached(model)
    step_once(model, optimizer, LOSSES[0])
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # as .to() does
    model.to(memory_format=torch.channels_last)
    step_once(model, optimizer, LOSSES[1])
    assert largest_deviation(model) < 1e-6
    assert wrs.check().problems == ()


def test_a_model_that_changes_its_precision_is_still_held() -> None:
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrs = decayfree.WeightRescaling(optimizer, find(model))
    step_once(model, optimizer, LOSSES[0])
    model.double()
    step_once(model, optimizer, digit_losses(2)[1])
    assert largest_deviation(model) < 1e-12
    assert wrs.check().problems == ()


def test_parameters_that_were_replaced_are_noticed() -> None:
    model = small_net()
    optimizer, wrs = attached(model)
    step_once(model, optimizer, LOSSES[0])
    # Other objects: the optimizer trains the old ones.
    model.load_state_dict(small_net(seed=1).state_dict(), assign=True)
    assert wrs.check().problems
