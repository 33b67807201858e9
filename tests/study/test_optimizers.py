"""Every optimizer of a study: settings, weight decay by hand, Muon's division, WeightRescaling with each."""

import sys

import pytest
import torch
from torch import nn

from decayfree import WeightRescaling, find_invariant, split_params
from decayfree.dynamics.families import update_family
from decayfree.errors import MissingExtraError
from decayfree.methods import WRS, NoTreatment, WeightDecay
from decayfree.study.optimizers import build_optimizer
from decayfree.study.run_settings import OptimizerSpec
from support import reference
from support.available import import_or_skip
from support.method_loops import assert_same, by_hand, lion_step, small_batches, small_model, train

CLASSES = {
    "sgd": ("SGD", "sgd", "coupled"),
    "adam": ("Adam", "adam", "coupled"),
    "adamw": ("AdamW", "adam", "decoupled"),
    "nadam": ("NAdam", "adam", "coupled"),
    "radam": ("RAdam", "adam", "coupled"),
    "rmsprop": ("RMSprop", "adam", "coupled"),
    "adamax": ("Adamax", "adam", "coupled"),
    "adagrad": ("Adagrad", "adam", "coupled"),
    "lion": ("Lion", "sign", "decoupled"),
    "muon": ("Muon", "sign", "decoupled"),
}
each_name = pytest.mark.parametrize("name", CLASSES)
ONE = OptimizerSpec(momentum=0.8, beta1=0.7, beta2=0.95, eps=1e-6)


@pytest.fixture(autouse=True)
def _packages(request):
    name = request.node.callspec.params.get("name") if hasattr(request.node, "callspec") else None
    if name in ("lion", "muon"):
        import_or_skip("pytorch_optimizer")


def spec_of(name, **settings):
    return OptimizerSpec(name, **settings)


def groups_of(*shapes, weight_decay=0.0):
    return [{"params": [nn.Parameter(torch.randn(shape)) for shape in shapes], "weight_decay": weight_decay}]


@each_name
def test_it_is_the_class_that_the_table_names(name, seed):
    kind, family, _ = CLASSES[name]
    optimizer = build_optimizer(
        spec_of(name), groups_of((4, 3), (4,), (2, 4)), learning_rate=0.5, method=NoTreatment()
    )
    assert (type(optimizer).__name__, update_family(optimizer)) == (kind, family)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sgd", {"momentum": 0.8, "nesterov": False}),
        ("adam", {"betas": (0.7, 0.95), "eps": 1e-6, "fused": True}),
        ("adamw", {"betas": (0.7, 0.95), "eps": 1e-6, "fused": True}),
        ("nadam", {"betas": (0.7, 0.95), "eps": 1e-6}),
        ("radam", {"betas": (0.7, 0.95), "eps": 1e-6, "foreach": True}),
        ("rmsprop", {"alpha": 0.95, "momentum": 0.8, "eps": 1e-6, "foreach": True}),
        ("adamax", {"betas": (0.7, 0.95), "eps": 1e-6}),
        ("adagrad", {"eps": 1e-6, "fused": True}),
        ("lion", {"betas": (0.7, 0.95)}),
        ("muon", {"momentum": 0.8, "nesterov": False, "use_muon": True, "use_adjusted_lr": True}),
    ],
)
def test_settings_arrive(name, expected, seed):
    spec = OptimizerSpec(name, ONE.momentum, ONE.nesterov, ONE.beta1, ONE.beta2, ONE.eps)
    groups = groups_of((4, 3), (2, 4), weight_decay=0.25)
    group = build_optimizer(spec, groups, learning_rate=0.5, method=NoTreatment()).param_groups[0]
    assert {key: group[key] for key in expected} == expected
    assert group["weight_decay"] == 0.25


@pytest.mark.parametrize("name", ["sgd", "muon"])
def test_nesterov_arrives(name, seed):
    optimizer = build_optimizer(
        spec_of(name, nesterov=True), groups_of((4, 3), (2, 4)), learning_rate=0.5, method=NoTreatment()
    )
    assert optimizer.param_groups[0]["nesterov"] is True


@each_name
def test_its_own_weight_decay_is_what_the_table_says(name, seed):
    """Without a gradient, decoupled decay takes its share, and coupled decay moves as a gradient would."""
    groups = groups_of((4, 3), (2, 4), weight_decay=0.5)
    weight = groups[0]["params"][0]
    before = weight.detach().clone()
    optimizer = build_optimizer(spec_of(name), groups, learning_rate=0.1, method=NoTreatment())
    for _ in range(10):
        for parameter in groups[0]["params"]:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    is_decoupled = torch.allclose(weight, 0.95**10 * before)
    assert is_decoupled == (CLASSES[name][2] == "decoupled")
    assert not torch.allclose(weight, before)


@pytest.mark.parametrize(
    ("spec", "rule", "update"),
    [
        (OptimizerSpec("sgd"), reference.Rule("sgd", 0.05, momentum=0.9), reference.optimizer_step),
        (OptimizerSpec("adam"), reference.Rule("adam", 0.01), reference.optimizer_step),
        (OptimizerSpec("adamw"), reference.Rule("adam", 0.01), reference.optimizer_step),
        (OptimizerSpec("lion", beta2=0.99), reference.Rule("lion", 0.01, betas=(0.9, 0.99)), lion_step),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_whole_trajectories_are_those_of_the_textbook(spec, rule, update):
    if spec.name == "lion":
        import_or_skip("pytorch_optimizer")
    run = train(small_model(1), NoTreatment(), small_batches(2), spec, lr=rule.lr)
    weights = by_hand(
        small_model(1), small_batches(2), rule, lambda w, g, added, step: w + added, update=update
    )
    assert_same(run.weights, weights)


def test_muon_has_the_matrices_and_adamw_the_rest(seed):
    import_or_skip("pytorch_optimizer")
    kernel, gain, hidden, bias, last = (
        nn.Parameter(torch.randn(shape)) for shape in ((6, 3, 2, 2), (6,), (5, 6), (5,), (4, 5))
    )
    lengths, row = nn.Parameter(torch.randn(6, 1, 1, 1)), nn.Parameter(torch.randn(1, 7))
    groups = [
        {"params": [kernel, lengths], "weight_decay": 0.0},
        {"params": [row, gain, hidden, bias, last], "weight_decay": 0.25},
    ]
    optimizer = build_optimizer(
        OptimizerSpec("muon", beta2=0.95), groups, learning_rate=0.5, method=NoTreatment()
    )
    is_muon = {id(p): group["use_muon"] for group in optimizer.param_groups for p in group["params"]}
    assert [is_muon[id(p)] for p in (kernel, hidden)] == [True, True]
    assert [is_muon[id(p)] for p in (gain, bias, last, lengths, row)] == [False] * 5
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert [decay[id(p)] for p in (kernel, lengths, hidden, last)] == [0.0, 0.0, 0.25, 0.25]
    betas = {group["betas"] for group in optimizer.param_groups if not group["use_muon"]}
    assert betas == {(0.9, 0.95)}


def test_muons_kernels_take_the_steps_of_torchs_muon_on_flat_matrices(seed):
    import_or_skip("pytorch_optimizer")
    kernel, last = nn.Parameter(torch.randn(6, 3, 2, 2)), nn.Parameter(torch.randn(2, 4))
    flat = nn.Parameter(kernel.detach().flatten(1).clone())
    ours = build_optimizer(
        OptimizerSpec("muon"),
        [{"params": [kernel, last], "weight_decay": 0.1}],
        learning_rate=0.05,
        method=NoTreatment(),
    )
    theirs = torch.optim.Muon(
        [flat], lr=0.05, momentum=0.9, nesterov=False, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(20):
        kernel.grad = torch.randn_like(kernel)
        flat.grad = kernel.grad.flatten(1).clone()
        ours.step()
        theirs.step()
        # As large as AdamW's: root mean square 0.2 a number.
    torch.testing.assert_close(kernel.detach().flatten(1), flat.detach())


def test_muons_updates_are_as_large_as_adamws(seed):
    import_or_skip("pytorch_optimizer")
    for shape in ((8, 3, 3, 3), (64, 8, 3, 3), (16, 256)):
        kernel, last = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.randn(2, 4))
        optimizer = build_optimizer(
            OptimizerSpec("muon"),
            [{"params": [kernel, last], "weight_decay": 0.0}],
            learning_rate=0.05,
            method=NoTreatment(),
        )
        kernel.grad = torch.randn(shape)
        optimizer.step()
        size = kernel.detach().square().mean().sqrt().item()
        assert size == pytest.approx(0.2 * 0.05, rel=0.25)  # five Newton-Schulz steps are not exact


@each_name
def test_weight_rescaling_works_with_each(name, seed):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 5))
    images = torch.randn(8, 3, 6, 6)
    found = find_invariant(model, images)
    groups = split_params(model, found, weight_decay=0.1)
    optimizer = build_optimizer(spec_of(name), groups, learning_rate=0.01, method=WRS())
    wrs = WeightRescaling(optimizer, found, momentum="scale")
    for _ in range(3):
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
        assert (wrs.factors["0.weight"] != 1).all()
    torch.testing.assert_close(model[0].weight.flatten(1).norm(dim=1), torch.ones(4))
    deviation = wrs.check()
    assert wrs.n_steps == 3
    assert deviation.largest < 1e-6


@pytest.mark.parametrize(("name", "kind"), [("lion", "Lion"), ("muon", "Muon")])
def test_without_the_package_the_error_names_the_extra(name, kind, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(
        MissingExtraError, match=rf"{kind} is in the package .*: pip install decayfree\[study\]"
    ):
        build_optimizer(spec_of(name), groups_of((4, 3)), learning_rate=0.1, method=WeightDecay(0.1))
