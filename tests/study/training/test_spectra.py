"""Spectra by hand: inputs that vary along the axes, kernels along some of them."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from decayfree import find_invariant
from decayfree.span.layer_span import LayerSpan
from decayfree.span.patches import RowLayout
from decayfree.study.training.spectra import bin_edges, spectra_of, spectrum_of


@pytest.fixture
def model(seed):
    return nn.Sequential(
        *(nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2), nn.Dropout(0.5)),
        *(nn.Conv2d(2, 2, 3, bias=False), nn.BatchNorm2d(2)),
    )


@pytest.fixture
def inputs():
    """Independent channels of variance 4, 1 and 0; the last one is constant."""
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    channels = torch.cat([signs * torch.tensor([1.0, 2.0]), torch.full((4, 1), 7.0)], dim=1)
    return channels[:, :, None, None].expand(4, 3, 3, 3).clone()


def test_energy_is_ranked_by_the_variance_of_the_inputs(model, inputs):
    found = find_invariant(model, torch.randn(8, 3, 3, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 4.0, 0.0], [0.0, 6.0, 8.0]]).view(2, 3, 1, 1))
    spectrum = spectra_of(model, found, inputs)["0.weight"]
    assert spectrum.edges == (0, 1, 2, 3)
    assert spectrum.variance == pytest.approx((0.8, 0.2, 0.0))
    assert spectrum.energy == pytest.approx(((0.64 + 0.36) / 2, 0.36 / 2, 0.64 / 2))
    assert (spectrum.n_main, spectrum.n_directions) == (2, 3)
    assert spectrum.main_energy == pytest.approx((1.0 + 0.36) / 2)


def test_every_found_weight_has_a_spectrum_whose_shares_sum_up_to_one(model):
    found = find_invariant(model, torch.randn(8, 3, 3, 3))
    spectra = spectra_of(model, found, torch.randn(16, 3, 5, 5))
    assert list(spectra) == ["0.weight", "3.weight"]
    for spectrum in spectra.values():
        assert sum(spectrum.energy) == pytest.approx(1)
        assert sum(spectrum.variance) == pytest.approx(1)


def test_nothing_in_the_model_changes(model):
    found = find_invariant(model, torch.randn(8, 3, 3, 3))
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    spectra_of(model, found, torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_inputs_are_those_of_train_mode(model, inputs):
    """In eval mode running statistics, here far off, would set the scale of what the second layer sees."""
    found = find_invariant(model, torch.randn(8, 3, 3, 3))
    model[2].p = 0.0
    images = torch.randn(16, 3, 5, 5)
    first = spectra_of(model, found, images)["3.weight"]
    model[1].running_var.copy_(torch.tensor([1.0, 1e6]))
    assert spectra_of(model.eval(), found, images)["3.weight"] == first


def test_a_weight_whose_inputs_are_not_finite_is_left_out(model, inputs):
    found = find_invariant(model, torch.randn(8, 3, 3, 3))
    model[0].weight.data[0] = torch.inf
    assert list(spectra_of(model, found, inputs)) == ["0.weight"]


def test_rows_of_zeros_do_not_count():
    layer = LayerSpan(
        "w", RowLayout((2, 2)), torch.diag(torch.tensor([3.0, 1.0])).double()[None], torch.zeros(1, 2)
    )
    spectrum = spectrum_of(layer, torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert spectrum.energy == pytest.approx((0.5, 0.5))


def test_inputs_that_do_not_vary_have_no_shares():
    layer = LayerSpan("w", RowLayout((1, 2)), torch.zeros(1, 2, 2).double(), torch.zeros(1, 2))
    spectrum = spectrum_of(layer, torch.tensor([[1.0, 1.0]]))
    assert all(map(math.isnan, spectrum.variance))
    assert spectrum.energy == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize(
    ("n_directions", "n_bins", "sizes"),
    [(1, 1, {1}), (9, 9, {1}), (27, 24, {1, 2}), (72, 24, {3}), (144, 24, {6})],
)
def test_bins_cover_all_directions_evenly(n_directions, n_bins, sizes):
    edges = bin_edges(n_directions)
    assert (edges[0], edges[-1], len(edges)) == (0, n_directions, n_bins + 1)
    assert {end - begin for begin, end in pairwise(edges)} == sizes
