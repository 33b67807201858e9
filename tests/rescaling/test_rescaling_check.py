"""What check() notices, and what becomes of blocks without a direction.

Errors at the call are test_rescaling_errors.py's question.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
from torch import nn

import decayfree
from decayfree.errors import MismatchError
from support.networks import (
    TiedNet,
    attached,
    digit_losses,
    equal,
    find,
    largest_deviation,
    small_net,
    step_once,
)

LOSSES = digit_losses(12, torch.float32)


# --------------------------------------------------------------------------------------- what check() notices


def test_a_healthy_run_has_no_problems() -> None:
    model = small_net()
    optimizer, wrs = attached(model)
    for loss in LOSSES[:3]:
        step_once(model, optimizer, loss)
    report = wrs.check()
    assert report.problems == ()
    assert report.n_steps == 3
    assert report.largest < 1e-6
    assert report.is_attached
    assert report.unwatched == ()
    assert report.zero_blocks == {}


def pruned(model: nn.Sequential) -> None:
    torch.nn.utils.prune.l1_unstructured(model[0], "weight", amount=0.3)


def wrapped(model: nn.Sequential) -> None:
    model[0] = nn.Sequential(model[0])


def without_normalization(model: nn.Sequential) -> None:
    model[1] = nn.Identity()


CHANGES = [(pruned, "0.weight (8, 4)"), (wrapped, "0.weight (8, 4)"), (without_normalization, "1: Identity")]


@pytest.mark.parametrize(("change", "named"), CHANGES)
def test_what_has_gone_or_was_renamed_is_named(change: Callable[[nn.Sequential], None], named: str) -> None:
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)), torch.randn(16, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrs = decayfree.WeightRescaling(optimizer, decayfree.find_invariant(model, inputs), every=2)
    change(model)
    [problem] = [problem for problem in wrs.check().problems if "find the weights again" in problem]
    assert named in problem
    model(inputs).square().mean().backward()
    if change is pruned:  # a weight that is still there is held, whatever it is called
        with pytest.warns(UserWarning, match=r"0\.weight is 0\.weight_orig"):
            optimizer.step()
        optimizer.step()
        assert wrs.check().largest < 1e-6
    else:
        with pytest.raises(MismatchError, match="find the weights again"):
            optimizer.step()


def test_between_two_rescales_a_deviation_is_told_and_no_problem() -> None:
    model = small_net()
    optimizer, wrs = attached(model, every=5)
    step_once(model, optimizer, LOSSES[0])
    step_once(model, optimizer, LOSSES[1])
    report = wrs.check()
    assert report.problems == ()
    assert report.largest == pytest.approx(largest_deviation(model), rel=1e-3)
    assert report.largest > 1e-5
    assert report.where in ("conv.weight", "hidden.weight")


def test_looking_changes_nothing() -> None:
    model = small_net()
    optimizer, wrs = attached(model)
    step_once(model, optimizer, LOSSES[0])
    before, state = copy.deepcopy(model), copy.deepcopy(optimizer.state_dict())
    wrs.check()
    repr(wrs.check())
    assert equal(model, before)
    assert repr(optimizer.state_dict()) == repr(state)


COPIES: dict[str, Callable[[Any], Any]] = {
    "copied": copy.deepcopy,
    "pickled": lambda objects: pickle.loads(pickle.dumps(objects)),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam], ids=lambda make: make.__name__)
def test_a_copy_without_its_hook_is_noticed(make: Callable[..., torch.optim.Optimizer], how: str) -> None:
    model = small_net()
    optimizer = make(model.parameters(), lr=0.1)
    wrs = decayfree.WeightRescaling(optimizer, find(model))
    step_once(model, optimizer, LOSSES[0])
    twin, twin_optimizer, twin_wrs = COPIES[how]((model, optimizer, wrs))
    step_once(twin, twin_optimizer, LOSSES[1])
    assert largest_deviation(twin) > 1e-5  # PyTorch drops the hooks of copied optimizers
    report = twin_wrs.check()
    assert not report.is_attached
    assert any("copied" in problem for problem in report.problems)
    assert not wrs.check().problems
    # The cure that the report names: a new one, for what was found in the copy.
    decayfree.WeightRescaling(twin_optimizer, find(twin))
    step_once(twin, twin_optimizer, LOSSES[2])
    assert largest_deviation(twin) < 1e-6


@pytest.mark.parametrize("every", [1, 5])
def test_an_optimizer_that_was_copied_alone_is_noticed(every: int) -> None:
    # Frameworks copy or rebuild the optimizer; the object still looks at the first one, whose steps stand
    # still.
    model = small_net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    wrs = decayfree.WeightRescaling(optimizer, find(model), every=every)
    rebuilt = torch.optim.Adam(model.parameters(), lr=0.1)
    for loss in LOSSES[:5]:
        step_once(model, rebuilt, loss)
    report = wrs.check()
    assert report.problems
    assert report.largest > 1e-3


def test_a_hook_that_somebody_removed_is_noticed() -> None:
    model = small_net()
    optimizer, wrs = attached(model)
    step_once(model, optimizer, LOSSES[0])
    optimizer._optimizer_step_post_hooks.clear()
    report = wrs.check()
    assert not report.is_attached
    assert report.problems


def test_steps_taken_without_the_hook_are_noticed() -> None:
    model = small_net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    wrs = decayfree.WeightRescaling(optimizer, find(model), every=2)
    step_once(model, optimizer, LOSSES[0])
    hooks = dict(optimizer._optimizer_step_post_hooks)
    optimizer._optimizer_step_post_hooks.clear()
    step_once(model, optimizer, LOSSES[1])
    optimizer._optimizer_step_post_hooks.update(hooks)
    step_once(model, optimizer, LOSSES[2])
    report = wrs.check()
    assert (report.n_steps, report.n_optimizer_steps) == (2, 3)
    assert report.problems


def test_attaching_in_mid_run_counts_from_there() -> None:
    model = small_net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for loss in LOSSES[:3]:
        step_once(model, optimizer, loss)
    wrs = decayfree.WeightRescaling(optimizer, find(model))
    for loss in LOSSES[3:5]:
        step_once(model, optimizer, loss)
    assert wrs.check().problems == ()
    assert wrs.check().n_steps == 2


def test_a_group_that_was_added_later_is_noticed() -> None:
    model = small_net()
    optimizer, wrs = attached(model)
    later = nn.Linear(3, 4)
    optimizer.add_param_group({"params": later.parameters()})
    report = wrs.check()
    assert len(report.unwatched) == 2
    assert "(4, 3)" in report.unwatched[0]
    assert report.problems


def test_a_group_of_weights_that_were_looked_at_is_no_problem() -> None:
    model = small_net()
    found = find(model)
    optimizer = torch.optim.SGD([model.conv.weight], lr=0.1)
    wrs = decayfree.WeightRescaling(optimizer, found)
    optimizer.add_param_group({"params": model.head.parameters()})
    assert wrs.check().problems == ()


def test_a_scale_invariant_weight_that_was_added_later_is_noticed() -> None:
    model = small_net()
    found = find(model)
    optimizer = torch.optim.SGD([model.conv.weight], lr=0.1)
    wrs = decayfree.WeightRescaling(optimizer, found)
    optimizer.add_param_group({"params": [model.hidden.weight]})
    report = wrs.check()
    assert any("hidden.weight" in problem for problem in report.problems)


def test_a_weight_that_was_unfrozen_is_noticed() -> None:
    model = small_net(kind=TiedNet)
    _, wrs = attached(model)
    assert wrs.check().problems == ()
    model.conv.weight.requires_grad_(True)
    report = wrs.check()
    assert len(report.unwatched) == 1
    assert "conv.weight" in report.unwatched[0]
    assert report.problems


def test_weight_decay_that_was_switched_on_later_is_noticed() -> None:
    model = small_net()
    optimizer, wrs = attached(model)
    optimizer.param_groups[0]["weight_decay"] = 5e-4
    assert any(
        "weight_decay=0.0005" in problem and "hidden.weight" in problem for problem in wrs.check().problems
    )


def test_weights_that_were_loaded_over_are_noticed_and_put_back_by_the_next_step() -> None:
    model = small_net()
    optimizer, wrs = attached(model)
    step_once(model, optimizer, LOSSES[0])
    model.load_state_dict(small_net(seed=1).state_dict())
    assert any("radius" in problem for problem in wrs.check().problems)
    step_once(model, optimizer, LOSSES[1])
    assert wrs.check().problems == ()


def test_a_weight_that_is_not_finite_is_noticed() -> None:
    model = small_net()
    _, wrs = attached(model)
    with torch.no_grad():
        model.hidden.weight[0, 0] = float("nan")
    assert wrs.check().problems


# ---------------------------------------------------------------------------------------------- zero blocks


def test_a_zero_block_is_left_alone_and_reported() -> None:
    model = small_net()
    found = find(model)
    with torch.no_grad():
        model.hidden.weight[2] = 0.0
    before = model.hidden.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match=r"hidden\.weight \(1 of 6\)"):
        wrs = decayfree.WeightRescaling(optimizer, found)
    assert torch.equal(model.hidden.weight[2], before[2])
    norms = model.hidden.weight.detach().norm(dim=1)
    assert norms[torch.arange(6) != 2].allclose(torch.ones(5))
    assert wrs.check().zero_blocks == {"hidden.weight": 1}
    assert wrs.check().largest < 1e-6


def test_rescale_leaves_a_zero_block_alone_and_says_so() -> None:
    model = small_net()
    found = find(model)
    with torch.no_grad():
        model.conv.weight[[0, 3]] = 0.0
    with pytest.warns(UserWarning, match=r"conv\.weight \(2 of 4\)"):
        factors = decayfree.rescale_(model, found)
    assert factors["conv.weight"][[0, 3]].tolist() == [1.0, 1.0]
    assert not model.conv.weight[[0, 3]].any()
    assert torch.isfinite(model.norm1.running_mean).all()


def test_a_zero_block_that_moves_is_held_from_then_on() -> None:
    model = small_net()
    found = find(model)
    with torch.no_grad():
        model.hidden.weight[2] = 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="norm zero"):
        wrs = decayfree.WeightRescaling(optimizer, found)
    optimizer.zero_grad()
    model.hidden.weight.grad = torch.ones_like(model.hidden.weight)
    optimizer.step()
    assert model.hidden.weight.detach().norm(dim=1).allclose(torch.ones(6))
    assert wrs.check().zero_blocks == {}


def test_a_zero_block_has_no_radius_of_its_own() -> None:
    # Held at "init", a zero kernel would be put back to zero for ever once it moved.
    model = small_net()
    found = find(model)
    with torch.no_grad():
        model.hidden.weight[2] = 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="norm zero"):
        decayfree.WeightRescaling(optimizer, found, radius="init")
    optimizer.zero_grad()
    model.hidden.weight.grad = torch.ones_like(model.hidden.weight)
    optimizer.step()
    assert model.hidden.weight[2].any()
    assert torch.isfinite(model.hidden.weight).all()


def test_a_block_that_a_step_makes_zero_stays_zero_and_is_reported() -> None:
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    wrs = decayfree.WeightRescaling(optimizer, find(model))
    optimizer.zero_grad()
    model.hidden.weight.grad = torch.zeros_like(model.hidden.weight)
    model.hidden.weight.grad[1] = model.hidden.weight[1].detach()
    optimizer.step()
    assert not model.hidden.weight[1].any()
    assert wrs.check().zero_blocks == {"hidden.weight": 1}
    assert torch.isfinite(model.norm2.running_var).all()
