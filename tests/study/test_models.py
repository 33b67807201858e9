"""The studies' networks: their sizes by hand, their initial weights, and what is scale-invariant in them."""

import torch

from decayfree import find_invariant
from decayfree.study import ModelSpec
from decayfree.study.models import build_model


def test_the_vgg_has_two_convolutions_a_stage_each_twice_as_wide():
    model = build_model(ModelSpec(width=4, n_stages=3), n_classes=10, seed=0)
    shapes = [tuple(module.weight.shape) for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    assert shapes == [
        (4, 3, 3, 3),
        (4, 4, 3, 3),
        (8, 4, 3, 3),
        (8, 8, 3, 3),
        (16, 8, 3, 3),
        (16, 16, 3, 3),
    ]
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 10)
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in model.parameters() if w.ndim == 4)


def test_equal_seeds_give_equal_weights_and_leave_the_global_random_state_alone():
    before = torch.get_rng_state()
    first, again, other = (build_model(ModelSpec(), n_classes=10, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["features.0.weight"], other["features.0.weight"])


def test_every_kernel_is_a_block_and_the_last_layer_is_not(seed):
    model = build_model(ModelSpec(width=2, n_stages=2), n_classes=10, seed=0)
    found = find_invariant(model, torch.randn(8, 3, 8, 8))
    assert {weight.name: weight.block_sizes for weight in found} == {
        "features.0.weight": (1,) * 2,
        "features.3.weight": (1,) * 2,
        "features.7.weight": (1,) * 4,
        "features.10.weight": (1,) * 4,
    }
