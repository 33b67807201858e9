"""The span of a convolution's patches, against patches cut by hand, and against gradients that must lie in it."""

import pytest
import torch
from torch import nn

from decayfree.errors import InvalidInputError
from decayfree.span import off_span_projector, off_span_share, patch_second_moment


def moment_by_hand(images, kernel_size, stride, padding, dilation):
    """Every patch of every padded image, one after the other, in float64."""
    n_channels = images.shape[1]
    top, left = padding
    padded = torch.zeros(
        len(images), n_channels, images.shape[2] + 2 * top, images.shape[3] + 2 * left, dtype=torch.float64
    )
    padded[:, :, top : top + images.shape[2], left : left + images.shape[3]] = images
    height = dilation[0] * (kernel_size[0] - 1) + 1
    width = dilation[1] * (kernel_size[1] - 1) + 1
    patches = [
        image[:, y : y + height : dilation[0], x : x + width : dilation[1]].reshape(-1)
        for image in padded
        for y in range(0, padded.shape[2] - height + 1, stride[0])
        for x in range(0, padded.shape[3] - width + 1, stride[1])
    ]
    centered = torch.stack(patches) - torch.stack(patches).mean(dim=0)
    return sum(torch.outer(patch, patch) for patch in centered) / len(patches)


@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "dilation"),
    [((3, 3), (1, 1), (1, 1), (1, 1)), ((2, 3), (2, 1), (0, 2), (1, 1)), ((3, 2), (1, 2), (2, 1), (2, 1))],
)
def test_the_moment_is_that_of_the_patches_cut_by_hand(seed, kernel_size, stride, padding, dilation):
    images = torch.randn(150, 2, 6, 7) + 3  # more images than are unfolded at once
    moment = patch_second_moment(
        images, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation
    )
    expected = moment_by_hand(images, kernel_size, stride, padding, dilation)
    torch.testing.assert_close(moment, expected, rtol=1e-12, atol=1e-12)


def test_a_3_4_5_row_has_shares_of_three_and_four_fifths():
    projector = off_span_projector(torch.diag(torch.tensor([2.0, 0.0])))
    weight = torch.tensor([[3.0, 4.0], [4.0, 3.0], [5.0, 0.0], [0.0, 5.0]])
    expected = torch.tensor([0.8, 0.6, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(off_span_share(weight, projector), expected, rtol=1e-15, atol=0)


def test_three_equal_channels_leave_18_of_27_directions_off_the_span(seed):
    grey = torch.randn(20, 1, 8, 8)
    projector = off_span_projector(
        patch_second_moment(grey.expand(-1, 3, -1, -1), kernel_size=(3, 3), padding=(1, 1))
    )
    assert projector.trace().item() == pytest.approx(18, abs=1e-9)
    assert (projector @ projector - projector).abs().max() < 1e-12
    difference_of_channels = torch.zeros(1, 3, 3, 3)
    difference_of_channels[0, 0, 1, 1], difference_of_channels[0, 2, 1, 1] = 1.0, -1.0
    assert off_span_share(difference_of_channels, projector).item() == pytest.approx(1, abs=1e-12)
    same_in_all_channels = torch.randn(1, 1, 3, 3).expand(1, 3, 3, 3)
    assert off_span_share(same_in_all_channels, projector).item() < 1e-12


def test_the_tolerance_is_a_share_of_the_largest_variance():
    moment = torch.diag(torch.tensor([4.0, 4e-3, 0.0]))
    assert off_span_projector(moment, tolerance=1e-4).trace() == 1
    assert off_span_projector(moment, tolerance=1e-2).trace() == 2


def test_constant_inputs_span_nothing_and_centering_is_why():
    moment = patch_second_moment(torch.full((4, 1, 3, 3), 5.0), kernel_size=(2, 2))
    assert torch.equal(off_span_projector(moment), torch.eye(4, dtype=torch.float64))


def test_gradients_before_a_batchnorm_lie_in_the_span(seed):
    images = torch.randn(8, 3, 6, 6, dtype=torch.float64)
    images[:, 1] = 2 * images[:, 0]  # two channels that are multiples of each other
    images[:, 2] = 1.0  # and a constant one, which only centering takes out
    model = nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten()).double()
    projector = off_span_projector(patch_second_moment(images, kernel_size=(3, 3)))
    assert projector.trace().item() == pytest.approx(18, abs=1e-9)
    (model(images) * torch.randn(8, 80, dtype=torch.float64)).sum().backward()
    assert off_span_share(model[0].weight.grad, projector).max() < 1e-10
    assert off_span_share(torch.randn(5, 3, 3, 3), projector).min() > 0.1


def test_a_zero_row_has_no_share():
    share = off_span_share(torch.zeros(1, 2), torch.eye(2))
    assert share.isnan().all()


def test_images_of_another_shape_are_refused():
    with pytest.raises(InvalidInputError, match=r"must have shape \(n_images, .*got \(3, 8, 8\)"):
        patch_second_moment(torch.zeros(3, 8, 8), kernel_size=(3, 3))
    with pytest.raises(InvalidInputError, match=r"got \(0, 3, 8, 8\)"):
        patch_second_moment(torch.zeros(0, 3, 8, 8), kernel_size=(3, 3))


def test_a_projector_of_another_size_is_refused():
    with pytest.raises(InvalidInputError, match=r"\(4, 3, 3, 3\) has 27 numbers .* shape \(9, 9\)"):
        off_span_share(torch.zeros(4, 3, 3, 3), torch.eye(9))
