"""Weight standardization and normalization: definitions, trajectories by hand, probes, refusals."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from decayfree import find_invariant
from decayfree.blocks import block_norms
from decayfree.errors import UnsupportedWeightError
from decayfree.methods import NoTreatment, WeightNormalization, WeightStandardization, plain_name
from decayfree.study.run_settings import OptimizerSpec
from support import reference
from support.method_loops import assert_same, by_hand, normed, row_norms, small_batches, small_model, train

RULES = {
    "momentum": (OptimizerSpec("sgd"), reference.Rule("sgd", 0.05, momentum=0.9)),
    "adam": (OptimizerSpec("adam"), reference.Rule("adam", 0.01)),
}
each_rule = pytest.mark.parametrize("name", RULES)
each_method = pytest.mark.parametrize(
    "method", [WeightStandardization(), WeightNormalization()], ids=lambda method: method.name
)


def with_first(weight_of):
    """The model's forward with the first weight computed from its parameter."""
    return lambda model, inputs: model[1:](F.linear(inputs, weight_of(model[0].weight)))


def standardized(v):
    """Eq. 7 and 8, each row's mean and standard deviation over its own numbers."""
    mean = v.mean(dim=1, keepdim=True)
    return (v - mean) / ((v**2).mean(dim=1, keepdim=True) - mean**2).sqrt()


@each_rule
def test_weight_standardization_follows_its_equation(name):
    spec, rule = RULES[name]
    model = small_model(1)
    other = copy.deepcopy(model)
    run = train(model, WeightStandardization(), small_batches(2), spec, lr=rule.lr)
    weights = by_hand(
        other, small_batches(2), rule, lambda w, g, added, step: w + added, forward=with_first(standardized)
    )
    assert_same(run.weights, weights, rtol=1e-7)  # ε of 1e-12
    torch.testing.assert_close(model[0].weight, standardized(run.weights[-1]))


@each_rule
def test_weight_normalization_follows_its_gradient(name):
    """Eq. 3: ∇_v L = g/‖v‖·∇_w L − g·⟨∇_w L, v⟩/‖v‖³·v, with g = ‖w_0‖ all along."""
    spec, rule = RULES[name]
    model = small_model(1)
    other = copy.deepcopy(model)
    length = row_norms(other[0].weight.detach())
    memory = reference.Moments(torch.zeros(5, 6).double(), torch.zeros(5, 6).double())
    run = train(model, WeightNormalization(), small_batches(2), spec, lr=rule.lr)
    own = copy.copy(rule)

    def forward(net, inputs):
        with torch.no_grad():
            w = length * normed(net[0].weight)
        net.w = w.requires_grad_()
        return net[1:](F.linear(inputs, net.w))

    v = other[0].weight.detach().clone()
    weights = [v]
    rest = {n: p for n, p in other.named_parameters() if n != "0.weight"}
    moments = {n: reference.Moments(torch.zeros_like(p), torch.zeros_like(p)) for n, p in rest.items()}
    for inputs, labels in small_batches(2):
        loss = F.cross_entropy(forward(other, inputs), labels)
        gradient, *gradients = torch.autograd.grad(loss, [other.w, *rest.values()])
        size = row_norms(v)
        along = (gradient * v).sum(dim=1, keepdim=True)
        v = v + reference.optimizer_step(
            own, torch.zeros_like(v), length / size * gradient - length * along / size**3 * v, memory
        )
        with torch.no_grad():
            other[0].weight.copy_(v)
            for (n, p), g in zip(rest.items(), gradients, strict=True):
                p.add_(reference.optimizer_step(own, torch.zeros_like(p), g, moments[n]))
        weights.append(v)
    assert_same(run.weights, weights)
    torch.testing.assert_close(row_norms(model[0].weight), length)


@each_rule
def test_behind_a_batch_normalization_weight_normalization_takes_the_directions_of_no_treatment(name):
    """Only Adam's ε tells the two apart: their gradients are g/‖v‖ and 1/‖w‖ of one another."""
    spec, rule = RULES[name]
    ours = train(small_model(1), WeightNormalization(), small_batches(2), spec, lr=rule.lr)
    theirs = train(small_model(1), NoTreatment(), small_batches(2), spec, lr=rule.lr)
    tolerance = 1e-9 if name == "momentum" else 1e-4
    for mine, other in zip(ours.weights, theirs.weights, strict=True):
        torch.testing.assert_close(normed(mine), normed(other), rtol=tolerance, atol=tolerance)
    assert (row_norms(ours.weights[-1]) > 1.01 * row_norms(ours.weights[0])).all()


def network():
    torch.manual_seed(4)
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 6, 3), nn.GroupNorm(2, 6), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(24, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2)),
    )


IMAGES = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(5))


@each_method
def test_what_it_says_is_found_is_what_a_probe_finds(method):
    model = network()
    said = method.prepare(model, find_invariant(model, IMAGES))
    probed = find_invariant(model, IMAGES)
    assert [(one.name, one.bias, one.blocks) for one in said] == [
        (one.name, one.bias, one.blocks) for one in probed
    ]
    for one in said:  # running statistics do not follow what their normalization does not meet
        assert not any(layer.channels for layer in one.norm_layers)
    names = [name for name, _ in model.named_parameters()]
    assert list(said.verdicts) == names
    assert {verdict.name: verdict.shape for verdict in said.verdicts.values()} == {
        name: tuple(parameter.shape) for name, parameter in model.named_parameters()
    }
    said.check_fits(model)
    assert {name: verdict.verdict for name, verdict in said.verdicts.items()} == {
        name: verdict.verdict for name, verdict in probed.verdicts.items() if name != "0.bias"
    } | {"0.bias": "undecided"}


def test_lengths_are_fixed_where_each_is_alone_and_a_block_where_several_have_a_scale():
    model = network()
    said = WeightNormalization().prepare(model, find_invariant(model, IMAGES))
    lengths = [f"{index}.parametrizations.weight.original0" for index in (0, 3, 7)]
    assert said.verdicts[lengths[0]].verdict == "frozen"
    assert "a normalization cancels it" in said.verdicts[lengths[0]].reason
    assert [said[name].block_sizes for name in lengths[1:]] == [(3, 3), (8,)]
    assert said.verdicts["3.bias"].reason == f"goes with {lengths[1]}"


def test_a_bias_stands_alone_where_lengths_are_gone():
    model = network()
    said = WeightStandardization().prepare(model, find_invariant(model, IMAGES))
    verdict = said.verdicts["3.bias"]
    assert (verdict.verdict, verdict.reason) == ("not_invariant", "its weight has no scale to share")


def test_weight_normalization_starts_from_the_same_function():
    model = network()
    expected = model(IMAGES)
    WeightNormalization().prepare(model, find_invariant(model, IMAGES))
    torch.testing.assert_close(model(IMAGES), expected)


def test_standardized_kernels_have_mean_zero_and_deviation_one():
    model = network()
    WeightStandardization().prepare(model, find_invariant(model, IMAGES))
    for index in (0, 3, 7):
        rows = model[index].weight.detach().flatten(1)
        torch.testing.assert_close(rows.mean(dim=1), torch.zeros(len(rows)), atol=1e-6, rtol=0)
        torch.testing.assert_close(rows.std(dim=1, correction=0), torch.ones(len(rows)))
    assert not hasattr(model[10], "parametrizations")


def test_a_row_by_hand():
    row = torch.tensor([[1.0, 3.0, 1.0, 3.0]])
    model = nn.Sequential(nn.Linear(4, 1, bias=False), nn.BatchNorm1d(1), nn.Linear(1, 2))
    found = find_invariant(model, torch.randn(8, 4))
    model[0].weight.data.copy_(row)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = WeightStandardization().prepare(model, found)
    torch.testing.assert_close(model[0].weight, torch.tensor([[-1.0, 1.0, -1.0, 1.0]]))
    at_work = WeightStandardization().attach(optimizer, found)
    # ‖v‖² = 20, without the mean 4: the step counts as if v were shorter.
    torch.testing.assert_close(at_work.learning_rates(found[0], 0.5), torch.tensor([2.5]))


@pytest.mark.parametrize(
    ("kind", "power"), [(torch.optim.SGD, 2), (torch.optim.Adam, 1), (torch.optim.LBFGS, 1)]
)
def test_the_effective_learning_rate_of_a_standardized_kernel_is_of_what_moves(kind, power, seed):
    model = network()
    with torch.no_grad():
        model[0].weight.add_(0.3)
    found = WeightStandardization().prepare(model, find_invariant(model, IMAGES))
    optimizer = kind(model.parameters(), lr=0.1)
    at_work = WeightStandardization().attach(optimizer, found)
    v = model[0].parametrizations.weight.original.detach().flatten(1)
    moving = (v - v.mean(dim=1, keepdim=True)).norm(dim=1)
    effective = at_work.learning_rates(found[0], 0.1) / block_norms(v, found[0].blocks) ** power
    torch.testing.assert_close(effective, 0.1 / moving**power)
    assert at_work.state_dict() == {}
    at_work.load_state_dict({})


@each_method
def test_weights_that_cannot_be_parametrized_are_listed_and_the_model_is_left_alone(method, seed):
    class Awkward(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = parametrizations.weight_norm(nn.Conv2d(3, 4, 1, bias=False))
            self.up = nn.ConvTranspose2d(4, 4, 2, bias=False, groups=2)
            self.one, self.two = nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 1, bias=False)
            self.two.weight = self.one.weight
            self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(4))
            self.thin = nn.Linear(1, 4)
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            for layer, norm in zip((self.first, self.up, self.one, self.two), self.norms, strict=True):
                x = norm(layer(x)).tanh()
            thin = F.layer_norm(self.thin(x.mean(dim=(1, 2, 3))[:, None]), (4,))
            return self.head(x.mean(dim=(2, 3)) + thin.tanh())

    model = Awkward()
    names = [name for name, _ in model.named_parameters()]
    found = find_invariant(model, IMAGES, include=["*.weight", "*.original1"])
    with pytest.raises(UnsupportedWeightError) as caught:
        method.prepare(model, found)
    for part in (
        f"{method.label} does not know how to treat",
        "first.parametrizations.weight.original1 (4, 3, 1, 1), which is part of a parametrization",
        "up.weight (4, 2, 2, 2), whose rows lie in 2 groups along dimension 1",
        "one.weight (4, 4, 1, 1), which layers share (one.weight, two.weight)",
        "thin.weight (4, 1), whose rows are single numbers",
    ):
        assert re.search(re.escape(part), str(caught.value))
    assert [name for name, _ in model.named_parameters()] == names


@each_method
def test_rows_of_a_transposed_kernel_run_along_its_second_dimension(method, seed):
    model = nn.Sequential(
        *(nn.ConvTranspose2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU()),
        *(nn.ConvTranspose2d(5, 4, 2), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(324, 2)),
    )
    plain = [model[index].weight.detach().clone() for index in (0, 3)]
    said = method.prepare(model, find_invariant(model, IMAGES))
    assert [(one.name, one.bias, one.blocks) for one in said] == [
        (one.name, one.bias, one.blocks) for one in find_invariant(model, IMAGES)
    ]
    for layer, before in zip((model[0], model[3]), plain, strict=True):
        rows, was = (weight.detach().movedim(1, 0).flatten(1) for weight in (layer.weight, before))
        is_centered = isinstance(method, WeightStandardization)
        torch.testing.assert_close(rows, standardized(was) if is_centered else was)


def test_a_length_that_has_its_scale_in_common_with_a_bias_is_trained(seed):
    class ByRootMeanSquare(nn.Module):
        def forward(self, x):
            return x / x.square().mean(dim=(2, 3), keepdim=True).sqrt()

    model = nn.Sequential(nn.Conv2d(3, 4, 3), ByRootMeanSquare(), nn.Flatten(), nn.Linear(64, 2))
    found = find_invariant(model, IMAGES)
    assert (found[0].block_sizes, found[0].bias) == ((1,) * 4, "0.bias")
    said = WeightNormalization().prepare(model, found)
    assert said["0.parametrizations.weight.original0"].bias == "0.bias"
    assert model[0].parametrizations.weight.original0.requires_grad


@each_method
def test_directions_are_called_like_their_weights(method):
    model = network()
    plain = find_invariant(model, IMAGES)
    names = [one.name for one in method.prepare(model, plain)]
    assert {plain_name(name) for name in names if not name.endswith("0")} == {one.name for one in plain}
    assert all(plain_name(name) == name for name in names if name.endswith("original0"))
