"""Narrow strided 1x1 convolutions: which are changed, that they compute the same, with right gradients."""

import copy
import pickle

import pytest
import torch
from torch import nn

from decayfree.methods import WRS
from decayfree.study import DataSpec, ModelSpec
from decayfree.study.training.building import build
from decayfree.study.training.strides_first import take_strides_first
from support.small_study import settings

LAYERS = {
    "narrow": (nn.Conv2d(4, 8, 1, stride=2), True),
    "one channel": (nn.Conv2d(1, 8, 1, stride=2), True),
    "two strides": (nn.Conv2d(4, 8, 1, stride=(3, 1)), True),
    "in groups": (nn.Conv2d(32, 64, 1, stride=2, groups=8), True),
    "valid": (nn.Conv2d(4, 8, 1, stride=2, padding="valid"), True),
    "no stride": (nn.Conv2d(4, 8, 1), False),
    "padded": (nn.Conv2d(4, 8, 1, stride=2, padding=1), False),
    "wide": (nn.Conv2d(16, 8, 1, stride=2), False),
    "3x3": (nn.Conv2d(4, 8, 3, stride=2), False),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_the_same_with_its_strides_taken_first(name):
    layer, is_changed = LAYERS[name]
    plain, changed = copy.deepcopy(layer).double(), copy.deepcopy(layer).double()
    take_strides_first(changed)
    assert (changed.stride != plain.stride) == is_changed
    inputs = torch.randn(3, plain.in_channels, 9, 7, dtype=torch.float64)
    for each in (plain, changed, pickle.loads(pickle.dumps(changed))):
        each.zero_grad()
        ours = inputs.clone().requires_grad_()
        outputs = each(ours)
        outputs.square().sum().backward()
        if each is plain:
            expected = outputs, ours.grad, plain.weight.grad, plain.bias.grad
        found = outputs, ours.grad, each.weight.grad, each.bias.grad
        for value, right in zip(found, expected, strict=True):
            torch.testing.assert_close(value, right, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("n_threads", [1, 2])
# With AVX2 the first two are wrong without the change.
@pytest.mark.parametrize(("n_in", "size"), [(2, 8), (4, 14), (8, 28), (12, 28)])
def test_gradients_in_channels_last_are_those_of_contiguous_images(n_in, size, n_threads):
    layer = nn.Conv2d(n_in, 2 * n_in, 1, stride=2, bias=False)
    changed = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    take_strides_first(changed)
    images = torch.randn(64, n_in, size, size)
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        layer(images).square().sum().backward()
        changed(images.to(memory_format=torch.channels_last)).square().sum().backward()
    finally:
        torch.set_num_threads(before)
    distance = (layer.weight.grad - changed.weight.grad).norm() / layer.weight.grad.norm()
    assert distance < 1e-5


class Padding(nn.Conv2d):
    """Has a forward of its own."""

    def forward(self, x):
        return super().forward(nn.functional.pad(x, (1, 1, 1, 1)))


def test_a_forward_of_its_own_is_left_as_it_is():
    layer, inputs = Padding(4, 8, 1, stride=2), torch.randn(2, 4, 8, 8)
    before = layer(inputs)
    take_strides_first(layer)
    assert torch.equal(layer(inputs), before)


def test_inputs_may_come_by_name_and_a_second_call_changes_nothing():
    layer, inputs = nn.Conv2d(4, 8, 1, stride=2).double(), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    before = layer(inputs)
    for _ in range(2):
        take_strides_first(layer)
    torch.testing.assert_close(layer(input=inputs), before)


@pytest.mark.parametrize(
    ("changes", "is_changed"),
    [
        ({"channels_last": True}, True),
        ({"channels_last": False}, False),
        ({"channels_last": False, "compile": True}, True),
    ],
    ids=str,
)
def test_a_run_takes_them_first_where_convolutions_are_in_channels_last(tmp_path, changes, is_changed):
    run = settings(
        WRS(),
        **changes,
        model=ModelSpec("preact-resnet20", width_factor=1 / 4),
        data=DataSpec(n_train=64, n_test=40),
    )
    model = build(run, tmp_path, data_dir=None).model
    projections = [one for name, one in model.named_modules() if name.endswith("projection") and one]
    assert [one.stride for one in projections if isinstance(one, nn.Conv2d)] == [
        (1, 1) if is_changed else (2, 2)
    ] * 2
