"""The first layer that a run follows: which layer, what it sees, and whether its law is known."""

import math

import pytest
import torch
from torch import nn

from decayfree import find_invariant
from decayfree.methods import WRS, Hyperball, NoTreatment, WeightDecay
from decayfree.study import DataSpec, Recipe
from decayfree.study.data import load
from decayfree.study.training import first_layer
from decayfree.study.training.first_layer import first_convolution, span_seen
from support.small_study import recipe


def test_the_first_convolution_is_found_by_name():
    name, convolution = first_convolution(nn.Sequential(nn.ReLU(), nn.Sequential(nn.Conv2d(3, 2, 1))))
    assert name == "1.0.weight"
    assert convolution.weight.shape == (2, 3, 1, 1)


def test_the_digits_leave_18_directions_of_the_first_layer_off_the_span():
    spec = recipe().data
    span = span_seen(recipe(), None, nn.Conv2d(3, 2, 3, padding=1))
    assert span.rank().tolist() == [27 - 18]
    inputs = load(spec).to_input(load(spec).train.pixels)
    patches = nn.functional.unfold(inputs.double(), 3, padding=1).transpose(1, 2).reshape(-1, 3, 3, 3)
    centered = patches - patches.mean(dim=0)
    off = torch.stack([span.off_span(pair) for pair in centered.split(2)[:200]])
    assert off.abs().max() < 1e-5


def test_images_that_differ_from_batch_to_batch_only_are_in_the_span(monkeypatch):
    """Gradients of other batches, which mix them, reach these directions too."""
    monkeypatch.setattr(first_layer, "IMAGES_AT_ONCE", 1)
    spec = DataSpec(n_train=5, n_test=40)
    one_by_one = span_seen(Recipe(data=spec, batch_size=5), None, nn.Conv2d(3, 2, 8, stride=8))
    assert one_by_one.rank().tolist() == [4]  # five images, one patch of each


def test_the_span_is_found_without_a_draw_from_the_random_state(seed):
    before = torch.get_rng_state()
    data = DataSpec(n_train=7, n_test=40)
    span_seen(Recipe(data=data), None, nn.utils.skip_init(nn.Conv2d, 3, 2, 3))
    assert torch.equal(torch.get_rng_state(), before)


NO_TREATMENT = NoTreatment()


def network(*before: nn.Module) -> nn.Module:
    return nn.Sequential(
        *before, nn.Conv2d(3, 2, 3, bias=False), nn.BatchNorm2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def followed(model, optimizer, method=NO_TREATMENT):
    found = find_invariant(model, torch.randn(4, 3, 8, 8))
    return first_layer.first_layer(
        model, optimizer, found, method, recipe=recipe(), data_dir=None, replayed=None
    )


@pytest.mark.parametrize("method", [NoTreatment(), WRS(), WeightDecay(0.1)], ids=lambda method: method.name)
def test_the_law_of_sgd_is_known(seed, method):
    model = network()
    first = followed(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    assert first.name == "0.weight"
    assert first.predicted_share() == pytest.approx(first.share())


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (torch.optim.Adam, NoTreatment()),
        (torch.optim.SGD, WeightDecay(0.1, form="decoupled")),
        (torch.optim.SGD, Hyperball()),
    ],
)
def test_a_law_that_is_not_known_is_no_number_and_the_share_is_measured_all_the_same(seed, kind, method):
    model = network()
    first = followed(model, kind(model.parameters(), lr=0.1), method)
    assert 0 < first.share() < 1
    first.step()
    first.load_state_dict(first.state_dict())
    assert math.isnan(first.predicted_share())


def test_a_first_layer_without_a_normalization_has_no_law(seed):
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert math.isnan(followed(model, torch.optim.SGD(model.parameters(), lr=0.1)).predicted_share())


def test_a_model_whose_first_layer_is_no_convolution_has_nothing_to_follow(seed):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 4, bias=False), nn.BatchNorm1d(4))
    assert followed(flat, torch.optim.SGD(flat.parameters(), lr=0.1)) is None
    assert first_convolution(network(nn.BatchNorm2d(3))) is None
    assert first_convolution(nn.ReLU()) is None


def test_a_first_layer_whose_weight_is_computed_has_nothing_to_follow(seed):
    model = network()
    nn.utils.parametrizations.weight_norm(model[0])
    assert first_convolution(model) is None
