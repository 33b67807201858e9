"""Exact replay: the directions of a weight-decay run, step for step, and what it refuses."""

import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from decayfree import WeightDecayError, find_invariant
from decayfree.blocks import block_norms
from decayfree.errors import InvalidInputError, MismatchError
from decayfree.methods import ExactReplay, NoTreatment, WeightDecay

N_STEPS, PEAK, DECAY = 400, 0.03, 0.02
METHOD = ExactReplay(replayed_weight_decay=DECAY)


@pytest.fixture
def model(seed):
    layers = [nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16), nn.Tanh()]
    layers += [nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 4)]
    model = nn.Sequential(*layers).double()
    model[1].eps = model[4].eps = 1e-30
    return model


@pytest.fixture
def batches(seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(N_STEPS, 32, 8, generator=generator, dtype=torch.float64)
    return list(zip(inputs, (inputs[..., :4] + inputs[..., 4:]).argmax(dim=-1), strict=True))


def learning_rate(step, schedule):
    return PEAK if schedule == "constant" else PEAK / 2 * (1 + math.cos(math.pi * step / N_STEPS))


def train(model, method, batches, schedule, *, replayed=None, decoupled=False, **settings):
    """Norms of every block before each step, (n_steps, n_blocks) by name; decoupled decay by hand."""
    found = find_invariant(model, batches[0][0])
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.SGD(method.param_groups(model, found, rest_weight_decay=0.0), lr=PEAK, **settings)
    options = {"decoupled": decoupled} if method is METHOD else {}
    method.attach(optimizer, found, replayed=replayed, **options)
    norms = {weight.name: [] for weight in found}
    for step, (inputs, labels) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, schedule)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        for weight in found:
            tensor = parameters[weight.name].detach()
            norms[weight.name].append(block_norms(tensor, weight.blocks))
            if decoupled and method is not METHOD:
                tensor.mul_(1 - learning_rate(step, schedule) * DECAY)
        optimizer.step()
    return {name: torch.stack(values) for name, values in norms.items()}


def distance(ours, theirs):
    """Largest distance between directions of the same row."""
    pairs = [(ours[index].weight.detach(), theirs[index].weight.detach()) for index in (0, 3)]
    return max(float((F.normalize(a) - F.normalize(b)).norm(dim=1).max()) for a, b in pairs)


@pytest.mark.parametrize(
    ("schedule", "settings"),
    [
        ("constant", {"momentum": 0.9}),
        ("cosine", {"momentum": 0.9}),
        ("cosine", {}),
        ("cosine", {"momentum": 0.9, "nesterov": True}),
        ("cosine", {"momentum": 0.9, "dampening": 0.3}),
    ],
    ids=["constant", "cosine", "plain", "nesterov", "dampening"],
)
def test_the_fixed_norm_twin_takes_the_directions_of_the_decay_run(model, batches, schedule, settings):
    decayed = copy.deepcopy(model)
    norms = train(decayed, WeightDecay(DECAY), batches, schedule, **settings)
    ours = train(model, METHOD, batches, schedule, replayed=norms, **settings)
    assert distance(model, decayed) < 1e-12
    assert float((norms["0.weight"][-1] / norms["0.weight"][0] - 1).abs().max()) > 0.1  # norms did move
    torch.testing.assert_close(ours["0.weight"], torch.ones_like(ours["0.weight"]), rtol=1e-12, atol=0)


def test_the_twin_of_a_run_with_decoupled_decay(model, batches):
    decayed = copy.deepcopy(model)
    norms = train(decayed, NoTreatment(), batches, "cosine", decoupled=True, momentum=0.9)
    train(model, METHOD, batches, "cosine", replayed=norms, decoupled=True, momentum=0.9)
    assert distance(model, decayed) < 1e-12


def fixed_norm_loop(model, batches, norms, *, momentum_factor):
    """At unit norm: b ← μ·(r_t/r_{t−1})·b + g + λr_t²u, u ← u − (η/r_t²)·b on two weights, else plain SGD."""
    held = {"0.weight", "3.weight"}
    with torch.no_grad():
        for index in (0, 3):
            model[index].weight.copy_(F.normalize(model[index].weight))
    buffers = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for step, (inputs, labels) in enumerate(batches):
        gradients = torch.autograd.grad(F.cross_entropy(model(inputs), labels), list(model.parameters()))
        with torch.no_grad():
            for (name, p), g in zip(model.named_parameters(), gradients, strict=True):
                if name not in held:
                    buffers[name] = 0.9 * buffers[name] + g
                    p -= PEAK * buffers[name]
                    continue
                r, before = (norms[name][max(at, 0)].unsqueeze(1) for at in (step, step - 1))
                mu = 0.9 * r / before if momentum_factor else 0.9
                buffers[name] = mu * buffers[name] + g + DECAY * r**2 * p
                p -= PEAK / r**2 * buffers[name]
                p.copy_(F.normalize(p))


def test_it_is_a_learning_rate_and_a_momentum_factor_for_every_block(model, batches):
    decayed, by_hand, without = (copy.deepcopy(model) for _ in range(3))
    norms = train(decayed, WeightDecay(DECAY), batches, "constant", momentum=0.9)
    train(model, METHOD, batches, "constant", replayed=norms, momentum=0.9)
    fixed_norm_loop(by_hand, batches, norms, momentum_factor=True)
    fixed_norm_loop(without, batches, norms, momentum_factor=False)
    assert distance(model, by_hand) < 1e-12
    assert distance(without, decayed) > 1e-2  # the learning rate alone does not replay momentum


def test_a_groupnorm_block_is_replayed_with_its_bias(seed):
    layers = [nn.Conv2d(2, 4, 1), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(36, 2)]
    model = nn.Sequential(*layers).double()
    model[1].eps = 1e-30
    inputs = torch.randn(50, 8, 2, 3, 3, dtype=torch.float64)
    batches = list(zip(inputs, (inputs.sum(dim=(2, 3, 4)) > 0).long(), strict=True))
    decayed = copy.deepcopy(model)
    norms = {}
    for network, method in ((decayed, WeightDecay(DECAY)), (model, METHOD)):
        found = find_invariant(network, inputs[0])
        assert found["0.weight"].bias == "0.bias"
        optimizer = torch.optim.SGD(
            method.param_groups(network, found, rest_weight_decay=0.0), lr=PEAK, momentum=0.9
        )
        replayed = {"0.weight": torch.stack(norms["0.weight"])} if method is METHOD else None
        method.attach(optimizer, found, replayed=replayed)
        norms = {"0.weight": []}
        for batch, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(network(batch), labels).backward()
            norms["0.weight"].append(
                block_norms(network[0].weight.detach(), found[0].blocks, network[0].bias.detach())
            )
            optimizer.step()
    for rows in (slice(0, 2), slice(2, 4)):
        ours, theirs = (
            torch.cat([net[0].weight[rows].flatten(), net[0].bias[rows]]).detach() for net in (model, decayed)
        )
        torch.testing.assert_close(ours / ours.norm(), theirs / theirs.norm(), rtol=0, atol=1e-12)
        assert float(ours.norm()) == pytest.approx(2**0.5)  # radius 1 for each of two rows


def test_maximizing_minus_the_loss_is_minimizing_it(model, batches):
    decayed = copy.deepcopy(model)
    norms = train(decayed, WeightDecay(DECAY), batches[:50], "constant", momentum=0.9)
    found = find_invariant(model, batches[0][0])
    optimizer = torch.optim.SGD(model.parameters(), lr=PEAK, momentum=0.9, maximize=True)
    METHOD.attach(optimizer, found, replayed=norms)
    for inputs, labels in batches[:50]:
        optimizer.zero_grad()
        (-F.cross_entropy(model(inputs), labels)).backward()
        optimizer.step()
    assert distance(model, decayed) < 1e-12


@pytest.fixture
def small(seed):
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2), nn.Linear(2, 2))
    return model, find_invariant(model, torch.randn(8, 2))


def sgd(model, **settings):
    return torch.optim.SGD(model.parameters(), lr=0.5, **settings)


def test_blocks_of_norm_one_and_two_get_the_rate_and_a_quarter_of_it(small):
    model, found = small
    at_work = METHOD.attach(sgd(model), found, replayed={"0.weight": torch.tensor([[1.0, 2.0]])})
    assert torch.equal(at_work.learning_rates(found["0.weight"], 0.5), torch.tensor([0.5, 0.125]))


def test_gradients_are_as_they_were_after_the_step(small):
    model, found = small
    optimizer = sgd(model)
    METHOD.attach(optimizer, found, replayed={"0.weight": torch.full((2, 2), 3.0)})
    model(torch.randn(8, 2)).square().sum().backward()
    gradient = model[0].weight.grad
    before = gradient.clone()
    optimizer.step()
    assert model[0].weight.grad is gradient
    assert torch.equal(gradient, before)


def test_a_weight_without_gradient_is_left_alone(small):
    model, found = small
    optimizer = sgd(model)
    METHOD.attach(optimizer, found, replayed={"0.weight": torch.full((1, 2), 3.0)})
    before = model[0].weight.detach().clone()
    model[2].weight.grad = torch.ones(2, 2)
    optimizer.step()
    assert torch.equal(model[0].weight, before)
    assert model[0].weight.grad is None


def test_it_goes_on_where_its_state_was_taken(model, batches):
    decayed, whole = copy.deepcopy(model), copy.deepcopy(model)
    norms = train(decayed, WeightDecay(DECAY), batches[:20], "constant", momentum=0.9)
    train(whole, METHOD, batches[:20], "constant", replayed=norms, momentum=0.9)
    state = None
    for part in (batches[:7], batches[7:20]):
        found = find_invariant(model, batches[0][0])
        optimizer = sgd(model, momentum=0.9)
        at_work = METHOD.attach(optimizer, found, replayed=norms)
        if state is not None:
            optimizer.load_state_dict(state[0])
            at_work.load_state_dict(state[1])
        optimizer.param_groups[0]["lr"] = PEAK
        for inputs, labels in part:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        state = copy.deepcopy((optimizer.state_dict(), at_work.state_dict()))
    assert state[1]["n_steps"] == 20
    assert torch.equal(model[0].weight, whole[0].weight)


def test_norms_are_needed(small):
    model, found = small
    with pytest.raises(InvalidInputError, match="needs the block norms of a weight-decay run: pass them"):
        METHOD.attach(sgd(model), found)


def test_norms_of_other_blocks_are_refused(small):
    model, found = small
    message = "do not fit 1 of 1 weights:\n  0.weight: expected shape (n_steps, 2), got (4, 3)"
    with pytest.raises(MismatchError, match=re.escape(message)):
        METHOD.attach(sgd(model), found, replayed={"0.weight": torch.ones(4, 3)})


def test_another_optimizer_is_refused(small):
    model, found = small
    with pytest.raises(
        InvalidInputError, match=r"is for torch\.optim\.SGD, whose steps are linear .* got AdamW"
    ):
        METHOD.attach(torch.optim.AdamW(model.parameters()), found, replayed={"0.weight": torch.ones(4, 2)})


def test_decay_left_on_is_refused(small):
    model, found = small
    with pytest.raises(WeightDecayError, match=r"weights whose norm is held .*weight_decay=0\.1 on"):
        METHOD.attach(sgd(model, weight_decay=0.1), found, replayed={"0.weight": torch.ones(4, 2)})


def test_a_replayed_run_that_is_too_short_is_an_error_and_the_step_is_not_taken(small):
    model, found = small
    optimizer = sgd(model)
    METHOD.attach(optimizer, found, replayed={"0.weight": torch.ones(1, 2)})
    model(torch.randn(8, 2)).square().sum().backward()
    optimizer.step()
    before = model[0].weight.detach().clone()
    with pytest.raises(MismatchError, match="the replayed run has 1 steps, and this would be step 2"):
        optimizer.step()
    assert torch.equal(model[0].weight, before)


def test_gradients_that_are_still_scaled_are_refused(small):
    model, found = small
    optimizer = sgd(model)
    METHOD.attach(optimizer, found, replayed={"0.weight": torch.ones(1, 2)})
    optimizer.grad_scale = torch.tensor(1024.0)  # as a GradScaler sets it on a fused optimizer
    with pytest.raises(InvalidInputError, match=r"call scaler\.unscale_\(optimizer\) before"):
        optimizer.step()
