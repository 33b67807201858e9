"""What fails changes nothing, what does not move keeps its bits, and what joins late is noticed."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

import decayfree
from decayfree import InvalidInputError, Invariance, MismatchError, UnsupportedWeightError, WeightRescaling


def net(*, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=bias), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4)
    )


INPUTS = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def found_in(model: nn.Module) -> Invariance:
    return decayfree.find_invariant(model, INPUTS)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(INPUTS).square().mean().backward()
    optimizer.step()


@contextmanager
def nothing_changes(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Iterator[None]:
    before = copy.deepcopy(model.state_dict())
    hooks = len(optimizer._optimizer_step_post_hooks) if optimizer else 0
    yield
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not optimizer or len(optimizer._optimizer_step_post_hooks) == hooks


class OneNumber(torch.optim.SGD):
    """Remembers one number a weight, as layerwise optimizers do, under a name that usually means entries."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["exp_avg_sq"] = torch.tensor(1.0)
        return super().step(closure)


class OwnMemory(torch.optim.SGD):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["mine"] = torch.zeros_like(parameter)
        return super().step(closure)


def test_a_memory_of_another_shape_is_refused_before_anything_changes():
    model = net()
    optimizer = OneNumber(model.parameters(), lr=0.1)
    step(model, optimizer)
    found = found_in(model)
    with nothing_changes(model, optimizer), pytest.raises(InvalidInputError, match="exp_avg_sq"):
        decayfree.rescale_(model, found, optimizer=optimizer)
    with pytest.warns(UserWarning, match="OneNumber's 'exp_avg_sq' stays as it is"):
        wrs = WeightRescaling(optimizer, found)  # momentum="keep" asks nothing of it
    assert wrs.check().problems == ()


def test_an_unknown_memory_that_appears_in_the_first_step_is_not_passed_over():
    model = net()
    optimizer = OwnMemory(model.parameters(), lr=0.1)
    WeightRescaling(optimizer, found_in(model), momentum="scale")
    with pytest.raises(InvalidInputError, match="'mine'"):
        step(model, optimizer)


def test_what_belongs_to_a_model_with_other_parts_is_refused_before_anything_changes():
    described = found_in(net()).to_dict()
    others = [net(bias=False), net(), net()]
    others[1][1] = nn.Identity()
    others[2][1] = nn.BatchNorm2d(8, track_running_stats=False)
    for other, said in zip(
        others, ["0.bias: no such bias", "Identity keeps no", "BatchNorm2d keeps no"], strict=True
    ):
        with nothing_changes(other), pytest.raises(MismatchError, match=said):
            Invariance.from_dict(described, other)
    with pytest.raises(MismatchError, match="has no confirmed_to, dtype, verdicts, weights"):
        Invariance.from_dict({}, net())


def test_the_optimizer_of_another_model_is_refused_by_rescale():
    model, other = net(), net()
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    found = found_in(model)
    with nothing_changes(model), pytest.raises(MismatchError, match="none of the 1 scale-invariant weights"):
        decayfree.rescale_(model, found, optimizer=optimizer)


@pytest.mark.parametrize("radius", [1e-50, 1e50, True, {1: 2.0}], ids=str)
def test_a_radius_that_float32_cannot_hold_is_refused(radius):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = found_in(model)
    with nothing_changes(model, optimizer), pytest.raises(InvalidInputError, match="radius"):
        WeightRescaling(optimizer, found, radius=radius)


def test_a_state_that_is_none_is_refused_and_nothing_is_lost():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrs = WeightRescaling(optimizer, found_in(model), radius=2.0)
    state = wrs.state_dict()
    for wrong, error in (
        ({}, MismatchError),
        (state | {"every": 0}, InvalidInputError),
        (optimizer.state_dict(), MismatchError),
    ):
        with pytest.raises(error):
            wrs.load_state_dict(wrong)
    assert wrs.every == 1
    assert torch.equal(wrs.radii["0.weight"], state["radii"]["0.weight"])


def test_blocks_that_did_not_move_keep_their_bits_beside_one_that_did():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    WeightRescaling(optimizer, found_in(model))
    before = model[0].weight.detach().clone()
    for _ in range(50):
        optimizer.zero_grad()
        model[0].weight.grad = torch.zeros_like(model[0].weight)
        model[0].weight.grad[3] = 0.1 * torch.randn_like(model[0].weight[3])
        optimizer.step()
    still = [row for row in range(8) if row != 3]
    assert torch.equal(model[0].weight[still], before[still])
    assert not torch.equal(model[0].weight[3], before[3])
    assert abs(float(model[0].weight[3].detach().norm()) - 1) < 1e-6


def test_only_the_channel_of_a_kernel_that_was_loaded_follows():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    WeightRescaling(optimizer, found_in(model))
    for _ in range(3):
        model(INPUTS)
    mean, var = model[1].running_mean.clone(), model[1].running_var.clone()
    with torch.no_grad():
        model[0].weight[2] *= 3  # as a loaded checkpoint would
    optimizer.zero_grad()
    model[0].weight.grad = torch.zeros_like(model[0].weight)
    model[0].weight.grad[4] = -0.5 * model[0].weight[4].detach()  # the step makes it half as long again
    optimizer.step()
    others = [channel for channel in range(8) if channel != 2]
    assert torch.equal(model[1].running_mean[others], mean[others])
    assert torch.equal(model[1].running_var[others], var[others])
    assert torch.allclose(model[1].running_var[2], var[2] / 9, rtol=1e-5)
    shift = model[0].bias[2].detach()
    assert torch.allclose(model[1].running_mean[2], (mean[2] - shift) / 3 + shift, rtol=1e-5)


def test_a_running_mean_with_a_shift_keeps_its_bits_where_the_factor_is_one():
    model = net()
    found = found_in(model)
    decayfree.rescale_(model, found)
    model(INPUTS)
    mean = model[1].running_mean.clone()
    decayfree.rescale_(model, found, radius=1.0)
    assert torch.equal(model[1].running_mean, mean)


def test_steps_are_counted_from_the_attachment_also_after_a_load():
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(3):
        step(model, optimizer)
    found = found_in(model)
    wrs = WeightRescaling(optimizer, found)
    step(model, optimizer)
    states = copy.deepcopy((model.state_dict(), optimizer.state_dict(), wrs.state_dict()))
    fresh = net()
    fresh_optimizer = torch.optim.Adam(fresh.parameters(), lr=1e-3)
    fresh_wrs = WeightRescaling(fresh_optimizer, found_in(fresh))
    for target, state in zip((fresh, fresh_optimizer, fresh_wrs), states, strict=True):
        target.load_state_dict(state)
    step(fresh, fresh_optimizer)
    seen = fresh_wrs.check()
    assert (seen.n_steps, seen.n_optimizer_steps, seen.problems) == (2, 2, ())


def test_decay_under_another_name_is_refused():
    model = net()
    optimizer = torch.optim.ASGD(model.parameters(), lr=0.1)
    found = found_in(model)
    with (
        nothing_changes(model, optimizer),
        pytest.raises(
            decayfree.WeightDecayError, match=r"exempt_.*whose norm is held.*lambd=0\.0001.*split_params"
        ),
    ):
        WeightRescaling(optimizer, found)


def test_plain_sgd_counts_no_steps():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrs = WeightRescaling(optimizer, found_in(model))
    step(model, optimizer)
    assert wrs.check().n_optimizer_steps is None


def test_two_models_share_an_optimizer():
    first, second = net(), net()
    optimizer = torch.optim.SGD([*first.parameters(), *second.parameters()], lr=0.1)
    both = [WeightRescaling(optimizer, found_in(model)) for model in (first, second)]
    step(first, optimizer)
    assert all(wrs.check().problems == () for wrs in both)
    assert repr(both[0]) == "WeightRescaling(1 weights, 8 blocks, every=1, 1 steps)"
    both[0].detach()
    assert "9 weights" not in repr(both[1].check())
    assert any("not looked after" in problem for problem in both[1].check().problems)


def test_a_normalization_that_is_frozen_later_is_noticed():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrs = WeightRescaling(optimizer, found_in(model))
    model.eval()
    assert wrs.check().problems == ()  # a validation
    model.train()
    model[1].eval()
    assert any("eval mode while the model trains" in problem for problem in wrs.check().problems)


def test_a_weight_whose_entries_share_memory_is_refused():
    model = net()
    model[0].weight = nn.Parameter(torch.randn(8, 3, 1, 1).expand(8, 3, 3, 3))
    with pytest.raises(UnsupportedWeightError, match=r"0\.weight .* is expanded"):
        found_in(model)


def test_a_warning_made_an_error_leaves_everything_as_it_was():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = found_in(model)
    with nothing_changes(model, optimizer), pytest.raises(UserWarning, match="ε"):
        WeightRescaling(optimizer, found, radius=1e-3)


def test_an_epsilon_that_cannot_be_judged_is_warned_of():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(8 * 16, 4))
    with pytest.warns(UserWarning, match="before 1 become more than ten times smaller"):
        decayfree.rescale_(model, found_in(model), radius=3e-3)


class Caching(nn.Module):
    """Fills one buffer at its first use and makes another, as rotary embeddings and masks do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = (
            nn.Conv2d(3, 8, 3, bias=False),
            nn.BatchNorm2d(8),
            nn.Linear(8 * 16, 4),
        )
        self.register_buffer("filled", None)

    def forward(self, images: Tensor) -> Tensor:
        if self.filled is None:
            self.filled = torch.ones(4)
            self.register_buffer("made", torch.ones(4))
        return self.head(self.norm(self.conv(images)).relu().flatten(1)) * self.filled * self.made


def test_buffers_that_appear_in_the_first_run_do_no_harm():
    model = Caching()
    assert [weight.name for weight in found_in(model)] == ["conv.weight"]
    assert model.filled is None
    assert not hasattr(model, "made")


class Own(nn.Module):
    """A wrapper that nobody knows."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def test_the_model_inside_an_unknown_wrapper_is_asked_for():
    model = net()
    found = found_in(model)
    with pytest.raises(MismatchError, match=r"model\.module"):
        decayfree.split_params(Own(model), found)


def test_an_error_in_the_users_own_forward_is_not_blamed_on_the_model():
    with pytest.raises(InvalidInputError, match="your forward raised IndexError"):
        decayfree.find_invariant(net(), (INPUTS,), forward=lambda model, batch: model(batch[2]))
    with pytest.raises(InvalidInputError, match="forward must be a function"):
        decayfree.find_invariant(net(), INPUTS, forward=5)


def test_a_weight_before_a_frozen_normalization_says_so():
    model = net()
    model[1].eval()
    with pytest.warns(UserWarning, match="eval mode"):
        found = found_in(model)
    assert "in eval mode, 1 divides by fixed numbers" in found.verdicts["0.weight"].reason


@pytest.mark.parametrize("momentum", ["keep", "scale"])
def test_state_in_eight_bits_is_found_out_before_anything_is_written(momentum):
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0)
    step(model, optimizer)
    found = found_in(model)
    state = optimizer.state[model[0].weight]
    state["exp_avg"] = state["exp_avg"].to(torch.int8)
    message = r"AdamW's 'exp_avg' \(Tensor, torch.int8\) cannot be scaled along"
    with nothing_changes(model, optimizer), pytest.raises(InvalidInputError, match=message):
        WeightRescaling(optimizer, found, momentum=momentum)
    with nothing_changes(model, optimizer), pytest.raises(InvalidInputError, match=message):
        decayfree.rescale_(model, found, optimizer=optimizer)
