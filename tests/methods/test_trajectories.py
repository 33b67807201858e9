"""Whole trajectories of every method in float64, against plain loops written from the equations."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from decayfree import find_invariant
from decayfree.methods import WRS, LearningRateScaling, NoTreatment, WeightDecay

N_STEPS = 200


@pytest.fixture
def model(seed):
    torch.manual_seed(seed)
    layers = [nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)]
    model = nn.Sequential(*layers).double()
    model[1].eps = 1e-30
    return model


@pytest.fixture
def batches(seed):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(16, 6, generator=generator, dtype=torch.float64),
            torch.randint(3, (16,), generator=generator),
        )
        for _ in range(N_STEPS)
    ]


def row_norms(weight):
    return torch.linalg.vector_norm(weight, dim=1)


def train(model, method, batches, *, learning_rate, momentum, replayed=None):
    """Train with torch.optim.SGD; the norms of the first weight's rows before each step, (n_steps, 5)."""
    found = find_invariant(model, batches[0][0])
    groups = method.param_groups(model, found, rest_weight_decay=0.0)
    optimizer = torch.optim.SGD(groups, lr=learning_rate, momentum=momentum)
    method.attach(optimizer, found, replayed=replayed)
    norms = []
    for inputs, labels in batches:
        norms.append(row_norms(model[0].weight.detach()))
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    return torch.stack(norms)


def plain_loop(model, batches, *, learning_rate, momentum, decay=0.0, radius=None, replayed=None):
    """The same by hand: v = μv + g + λw; w = w - η·f·v; w = radius·w/‖w‖, on the first weight's rows only."""
    if radius is not None:
        with torch.no_grad():
            model[0].weight *= (radius / row_norms(model[0].weight)).unsqueeze(1)
    buffers = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for step, (inputs, labels) in enumerate(batches):
        loss = F.cross_entropy(model(inputs), labels)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
                is_first = name == "0.weight"
                buffers[name] = momentum * buffers[name] + gradient + (decay * parameter if is_first else 0)
                factor = 1.0
                if is_first and replayed is not None:
                    factor = (row_norms(parameter) ** 2 / replayed[step] ** 2).unsqueeze(1)
                parameter -= learning_rate * factor * buffers[name]
                if is_first and radius is not None:
                    parameter *= (radius / row_norms(parameter)).unsqueeze(1)


def assert_same(model, reference):
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(
    ("method", "by_hand"),
    [(NoTreatment(), {}), (WeightDecay(0.02), {"decay": 0.02}), (WRS(radius=1.5), {"radius": 1.5})],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_method_follows_its_equation(model, batches, method, by_hand, momentum):
    reference = copy.deepcopy(model)
    train(model, method, batches, learning_rate=0.05, momentum=momentum)
    plain_loop(reference, batches, learning_rate=0.05, momentum=momentum, **by_hand)
    assert_same(model, reference)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_learning_rate_scaling_follows_its_equation(model, batches, momentum):
    decayed, reference = copy.deepcopy(model), copy.deepcopy(model)
    norms = train(decayed, WeightDecay(0.02), batches, learning_rate=0.05, momentum=momentum)
    train(
        model,
        LearningRateScaling(0.02),
        batches,
        learning_rate=0.05,
        momentum=momentum,
        replayed={"0.weight": norms},
    )
    plain_loop(reference, batches, learning_rate=0.05, momentum=momentum, replayed=norms)
    assert_same(model, reference)
    assert not torch.allclose(model[0].weight, decayed[0].weight, rtol=0.1)


def test_replaying_norms_times_the_root_of_the_decay_factor_takes_the_same_directions(model, batches):
    """Directions as without decay at η/((1 - ηλ)‖w‖²): exact, so that a garbage factor cannot pass."""
    decayed = copy.deepcopy(model)
    norms = train(decayed, WeightDecay(0.02), batches, learning_rate=0.1, momentum=0.0)
    replayed = {"0.weight": norms * (1 - 0.1 * 0.02) ** 0.5}
    train(model, LearningRateScaling(0.02), batches, learning_rate=0.1, momentum=0.0, replayed=replayed)
    ours, theirs = model[0].weight.detach(), decayed[0].weight.detach()
    torch.testing.assert_close(F.normalize(ours), F.normalize(theirs), rtol=0, atol=1e-9)
    torch.testing.assert_close(model[3].weight, decayed[3].weight, rtol=0, atol=1e-9)
    assert (row_norms(ours) > 1.1 * row_norms(theirs)).all()
