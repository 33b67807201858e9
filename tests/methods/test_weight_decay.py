"""Weight decay: its forms against the equations, where they are one, and its hooks."""

import copy
import weakref

import pytest
import torch
from torch import nn

from decayfree import find_invariant
from decayfree.errors import InvalidInputError
from decayfree.methods import NoTreatment, WeightDecay
from decayfree.methods.weight_decay import own_form
from decayfree.study.optimizers import build_optimizer
from decayfree.study.run_settings import OptimizerSpec
from support import reference
from support.method_loops import (
    assert_same,
    assert_same_rest,
    by_hand,
    lion_step,
    small_batches,
    small_model,
    train,
)

SGD, NESTEROV = OptimizerSpec("sgd"), OptimizerSpec("sgd", nesterov=True)
ADAM, ADAMW, LION = OptimizerSpec("adam"), OptimizerSpec("adamw"), OptimizerSpec("lion", beta2=0.99)
RULES = {
    "momentum": (SGD, reference.Rule("sgd", 0.05, momentum=0.9), reference.optimizer_step),
    "nesterov": (
        NESTEROV,
        reference.Rule("sgd", 0.05, momentum=0.9, nesterov=True),
        reference.optimizer_step,
    ),
    "adam": (ADAM, reference.Rule("adam", 0.01), reference.optimizer_step),
    "adamw": (ADAMW, reference.Rule("adam", 0.01), reference.optimizer_step),
    "lion": (LION, reference.Rule("lion", 0.01, betas=(0.9, 0.99)), lion_step),
}
each_rule = pytest.mark.parametrize("name", RULES)
LAMBDA = 0.2


def decaying(name, form):
    """Trajectories of the library and of w ← w − η·u(g + λw), or w ← (1 − ηλ)w − η·u(g)."""
    spec, rule, update = RULES[name]
    model = small_model(1)
    other, batches = copy.deepcopy(model), small_batches(2)
    run = train(model, WeightDecay(LAMBDA, form=form), batches, spec, lr=rule.lr)
    memory = reference.Moments(torch.zeros(5, 6).double(), torch.zeros(5, 6).double())

    def treat(w, g, added, step):
        if form == "decoupled":
            return (1 - rule.lr * LAMBDA) * w + added
        return update(rule, w, g + LAMBDA * w, memory)

    weights = by_hand(other, batches, copy.copy(rule), treat, update=update)
    assert_same_rest(model, other)
    return run.weights, weights


@each_rule
@pytest.mark.parametrize("form", ["coupled", "decoupled"])
def test_each_form_follows_its_equation_with_each_optimizer(name, form):
    assert_same(*decaying(name, form))


@each_rule
def test_forms_differ(name):
    coupled, decoupled = decaying(name, "coupled")[0], decaying(name, "decoupled")[0]
    assert (coupled[-1] - decoupled[-1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("spec", "form", "like"),
    [
        (SGD, "coupled", SGD),
        (NESTEROV, "coupled", NESTEROV),
        (ADAM, "coupled", ADAM),
        (ADAMW, "decoupled", ADAMW),
        (LION, "decoupled", LION),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_form_that_is_the_optimizers_own_is_bitwise_its_own(spec, form, like):
    weights = [
        train(small_model(1), method, small_batches(2), its_spec, lr=0.01).weights[-1]
        for method, its_spec in ((WeightDecay(LAMBDA, form), spec), (WeightDecay(LAMBDA), like))
    ]
    assert torch.equal(*weights)


def test_decoupled_decay_with_adam_is_adamw():
    ours = train(small_model(1), WeightDecay(LAMBDA, "decoupled"), small_batches(2), ADAM, lr=0.01)
    theirs = train(small_model(1), WeightDecay(LAMBDA), small_batches(2), ADAMW, lr=0.01)
    assert_same(ours.weights, theirs.weights, rtol=1e-12)


def test_coupled_decay_with_adamw_is_adam():
    ours = train(small_model(1), WeightDecay(LAMBDA, "coupled"), small_batches(2), ADAMW, lr=0.01)
    theirs = train(small_model(1), WeightDecay(LAMBDA), small_batches(2), ADAM, lr=0.01)
    assert_same(ours.weights, theirs.weights, rtol=1e-12)


def test_without_momentum_both_forms_of_sgd_are_one():
    plain = OptimizerSpec("sgd", momentum=0.0)
    coupled, decoupled = (
        train(small_model(1), WeightDecay(LAMBDA, form), small_batches(2), plain, lr=0.05).weights
        for form in ("coupled", "decoupled")
    )
    assert_same(coupled, decoupled, rtol=1e-12)


@pytest.mark.parametrize("form", ["own", "coupled", "decoupled"])
def test_a_decay_of_zero_is_bitwise_no_treatment(form):
    ours, theirs = (
        train(small_model(1), method, small_batches(2), LION, lr=0.01).weights[-1]
        for method in (WeightDecay(0.0, form), NoTreatment())
    )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("form", ["own", "coupled", "decoupled"])
def test_a_decay_of_zero_leaves_no_hook(form):
    run = train(small_model(1), WeightDecay(0.0, form), small_batches(2, 1), LION, lr=0.01)
    assert not run.optimizer._optimizer_step_pre_hooks


def test_gradients_of_earlier_steps_are_let_go():
    model = small_model(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0)
    WeightDecay(0.5, "coupled").attach(optimizer, find_invariant(model, small_batches(2)[0][0]))
    model[0].weight.grad = torch.ones(5, 6).double()
    optimizer.step()
    first = weakref.ref(model[0].weight.grad)
    model[0].weight.grad = None
    assert first() is None


def test_coupled_decay_puts_gradients_back():
    model = small_model(1)
    run = train(model, WeightDecay(LAMBDA, "coupled"), small_batches(2, 1), LION, lr=0.01)
    twin = small_model(1)
    inputs, labels = small_batches(2, 1)[0]
    torch.nn.functional.cross_entropy(twin(inputs), labels).backward()
    assert torch.equal(run.last_gradient, twin[0].weight.grad)


def test_a_maximizing_optimizer_decays_as_well():
    weights = []
    for sign in (1.0, -1.0):
        model = small_model(1)
        found = find_invariant(model, torch.randn(8, 6).double())
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0, maximize=sign < 0)
        WeightDecay(LAMBDA, "coupled").attach(optimizer, found)
        (sign * model(small_batches(3, 1)[0][0]).square().sum()).backward()
        optimizer.step()
        weights.append(model[0].weight.detach())
    assert torch.equal(*weights)


def test_only_scale_invariant_weights_are_decayed_and_biases_that_go_with_one(seed):
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(36, 2))
    found = find_invariant(model, torch.randn(4, 2, 3, 3))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.5)
    WeightDecay(0.5, "decoupled").attach(optimizer, found)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 0.75 if name in ("0.weight", "0.bias") else 1.0
        assert torch.equal(parameter, factor * before[name])


@pytest.mark.parametrize("form", ["coupled", "decoupled"])
def test_a_weight_without_a_gradient_is_left_alone(seed, form):
    model = small_model(1)
    found = find_invariant(model, torch.randn(8, 6).double())
    optimizer = build_optimizer(
        LION,
        [{"params": list(model.parameters()), "weight_decay": 0.0}],
        learning_rate=0.1,
        method=NoTreatment(),
    )
    WeightDecay(0.5, {"coupled": "coupled", "decoupled": "decoupled"}[form]).attach(optimizer, found)
    before = model[0].weight.detach().clone()
    optimizer.step()
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("sgd", "coupled"),
        ("nadam", "coupled"),
        ("adamw", "decoupled"),
        ("lion", "decoupled"),
        ("muon", "decoupled"),
    ],
)
def test_the_form_of_an_optimizers_own_decay_is_known(name, form):
    groups = [{"params": list(small_model(1).parameters()), "weight_decay": 0.0}]
    optimizer = build_optimizer(OptimizerSpec(name), groups, learning_rate=0.1, method=NoTreatment())
    assert own_form(optimizer) == form


def test_the_form_is_read_from_an_optimizer_that_has_both():
    assert own_form(torch.optim.NAdam([torch.zeros(2)], decoupled_weight_decay=True)) == "decoupled"
    assert own_form(torch.optim.Muon([torch.zeros(2, 2)])) == "decoupled"


def test_an_optimizer_of_a_stranger_has_no_known_form():
    class Strange(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {"lr": 0.1})

    assert own_form(Strange([torch.zeros(2)])) is None


def test_a_closure_is_refused():
    model = small_model(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0)
    WeightDecay(0.5, "coupled").attach(optimizer, find_invariant(model, torch.randn(8, 6).double()))
    with pytest.raises(
        InvalidInputError, match="coupled weight decay needs the gradients before the step: call"
    ):
        optimizer.step(lambda: 0.0)
    with pytest.raises(InvalidInputError, match="call the closure yourself, then step\\(\\) without"):
        optimizer.step(closure=lambda: 0.0)


def test_gradients_that_are_still_scaled_are_refused():
    model = small_model(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0)
    WeightDecay(0.5, "coupled").attach(optimizer, find_invariant(model, torch.randn(8, 6).double()))
    optimizer.grad_scale = torch.tensor(2.0)
    with pytest.raises(
        InvalidInputError, match="coupled weight decay adds decay to gradients, and these are scaled"
    ):
        optimizer.step()
