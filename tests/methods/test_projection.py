"""SGDP and AdamP: the paper's algorithms by hand, memory formats, settings, and a missing package."""

import copy
import math
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from decayfree import find_invariant
from decayfree.dynamics.families import update_family
from decayfree.errors import MissingExtraError
from decayfree.methods import Projection, projection
from decayfree.study.optimizers import build_optimizer
from decayfree.study.run_settings import OptimizerSpec
from support import reference
from support.available import import_or_skip
from support.method_loops import N_STEPS, row_norms, small_batches, small_model, train


@pytest.fixture(autouse=True)
def _package():
    import_or_skip("adamp")


RULES = {
    "sgd": (OptimizerSpec("sgd", momentum=0.0), reference.Rule("sgd", 0.05)),
    "momentum": (OptimizerSpec("sgd"), reference.Rule("sgd", 0.05, momentum=0.9)),
    "nesterov": (
        OptimizerSpec("sgd", nesterov=True),
        reference.Rule("sgd", 0.05, momentum=0.9, nesterov=True),
    ),
    "adam": (OptimizerSpec("adam"), reference.Rule("adam", 0.01)),
    "adamw": (OptimizerSpec("adamw"), reference.Rule("adam", 0.01)),
}


def projected(w, g, added, delta):
    """The update across the weight where the gradient is orthogonal, by kernel or as a whole; and whether."""
    for rows in (w.shape[0], 1):
        weights, gradients, updates = (one.reshape(rows, -1) for one in (w, g, added))
        cosines = F.cosine_similarity(weights, gradients, dim=1).abs()
        if cosines.max() < delta / math.sqrt(weights.shape[1]):
            units = weights / row_norms(weights)
            along = (units * updates).sum(dim=1, keepdim=True)
            return (updates - along * units).reshape(w.shape), True
    return added, False


def trained_by_hand(model, batches, rule, *, delta=0.1, wd_ratio=0.1, decays=(0.0, 0.0)):
    """Algorithms 1 and 2 on every parameter; ``decays`` of the first weight and of the rest."""
    parameters = dict(model.named_parameters())
    moments = {
        name: reference.Moments(torch.zeros_like(p), torch.zeros_like(p)) for name, p in parameters.items()
    }
    weights, n_passed = [model[0].weight.detach().clone()], 0
    for inputs, labels in batches:
        gradients = torch.autograd.grad(F.cross_entropy(model(inputs), labels), list(parameters.values()))
        with torch.no_grad():
            for (name, w), g in zip(parameters.items(), gradients, strict=True):
                added = reference.optimizer_step(rule, torch.zeros_like(w), g, moments[name])
                passed = False
                if w.ndim > 1:
                    added, passed = projected(w, g, added, delta)
                decay = decays[name != "0.weight"] * (wd_ratio if passed else 1.0)
                if rule.name == "sgd":
                    decay /= 1 - rule.momentum
                w.copy_((1 - rule.lr * decay) * w + added)
                n_passed += passed
        weights.append(model[0].weight.detach().clone())
    return weights, n_passed


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("decays", [(0.0, 0.0), (0.2, 0.02)])
def test_it_follows_the_papers_algorithm(name, decays):
    spec, rule = RULES[name]
    model = small_model(1)
    other = copy.deepcopy(model)
    method = Projection(delta=0.2, wd_ratio=0.5, weight_decay=decays[0])
    run = train(model, method, small_batches(2), spec, lr=rule.lr, rest_weight_decay=decays[1])
    weights, n_passed = trained_by_hand(other, small_batches(2), rule, delta=0.2, wd_ratio=0.5, decays=decays)
    # The package adds 1e-8 to norms; a variant that is not the paper's is off by a tenth.
    torch.testing.assert_close(torch.stack(run.weights), torch.stack(weights), rtol=0, atol=1e-6)
    torch.testing.assert_close(model[3].weight, other[3].weight, rtol=0, atol=1e-6)
    assert n_passed >= N_STEPS  # the first layer at every step


def test_momentum_no_longer_lengthens_a_weight():
    """‖w'‖² = ‖w‖² + η²‖projected update‖²: a step that is tangent, and nothing more."""
    run = train(small_model(1), Projection(), small_batches(2), OptimizerSpec("sgd"), lr=0.05)
    for before, after in zip(run.weights, run.weights[1:], strict=False):
        step = after - before
        torch.testing.assert_close(row_norms(after) ** 2, row_norms(before) ** 2 + row_norms(step) ** 2)


@pytest.mark.parametrize(
    ("name", "kind", "family"),
    [("sgd", "SGDP", "sgd"), ("adam", "AdamP", "adam"), ("adamw", "AdamP", "adam")],
)
def test_the_optimizer_becomes_its_projected_one(name, kind, family, seed):
    groups = [{"params": [nn.Parameter(torch.zeros(2, 2))], "weight_decay": 0.0}]
    optimizer = build_optimizer(OptimizerSpec(name), groups, learning_rate=0.5, method=Projection(0.3, 0.25))
    assert type(optimizer).__name__ == kind
    assert update_family(optimizer) == family
    (group,) = optimizer.param_groups
    assert (group["lr"], group["delta"], group["wd_ratio"]) == (0.5, 0.3, 0.25)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_weights_in_channels_last_take_the_same_steps(name):
    """The package's own raise there."""
    weights = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 5)).double()
        model.to(memory_format=memory_format)
        images = torch.randn(8, 3, 6, 6).double()
        found = find_invariant(model, images)
        groups = Projection().param_groups(model, found, rest_weight_decay=0.0)
        optimizer = build_optimizer(OptimizerSpec(name), groups, learning_rate=0.1, method=Projection())
        for _ in range(5):
            optimizer.zero_grad()
            model(images).square().mean().backward()
            optimizer.step()
        weights.append(model[0].weight.detach())
    torch.testing.assert_close(*weights)


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "adamp", None)
    projection._classes.cache_clear()
    groups = [{"params": [nn.Parameter(torch.zeros(2, 2))], "weight_decay": 0.0}]
    with pytest.raises(MissingExtraError, match=r"adamp, which is not there: pip install decayfree\[study\]"):
        build_optimizer(OptimizerSpec(), groups, learning_rate=0.1, method=Projection())
