"""Crops, mirror images and cut-out squares: by hand, evenly distributed, and the same on every call."""

import pytest
import torch
import torch.nn.functional as F

from decayfree.study.data import augmented, cropped, cut_out, flipped
from decayfree.study.run_settings import DataSpec

CHI_SQUARE_8, CHI_SQUARE_15 = 20.1, 30.6
"""What a chi-square of 8 and of 15 degrees of freedom exceeds once in a hundred times."""
FORMATS = [torch.contiguous_format, torch.channels_last]


def numbered(n_images, *, n_channels=3, height=4, width=5):
    """Images that are all alike; every pixel of every channel has a number of its own, from 1."""
    image = torch.arange(1.0, 1 + n_channels * height * width).view(1, n_channels, height, width)
    return image.repeat(n_images, 1, 1, 1)


def chi_square(counts):
    expected = counts.sum() / counts.numel()
    return ((counts - expected).square() / expected).sum().item()


def test_a_crop_of_two_by_two_pixels_is_one_of_nine():
    results = cropped(torch.tensor([[1.0, 2], [3, 4]]).repeat(200, 1, 1, 1), padding=1, seed=0, step=0)
    expected = {
        ((0, 0), (0, 1)),
        ((0, 0), (1, 2)),
        ((0, 0), (2, 0)),
        ((0, 1), (0, 3)),
        ((1, 2), (3, 4)),
        ((2, 0), (4, 0)),
        ((0, 3), (0, 0)),
        ((3, 4), (0, 0)),
        ((4, 0), (0, 0)),
    }
    assert {tuple(map(tuple, image[0].tolist())) for image in results} == expected


@pytest.mark.parametrize("memory_format", FORMATS)
def test_every_crop_is_the_padded_image_from_some_place_on(memory_format):
    inputs = numbered(60).contiguous(memory_format=memory_format)
    padded = F.pad(inputs, (2, 2, 2, 2))
    places = [padded[0, :, y : y + 4, x : x + 5] for y in range(5) for x in range(5)]
    for image in cropped(inputs, padding=2, seed=3, step=1):
        assert sum(torch.equal(image, place) for place in places) == 1


def test_every_image_is_cropped_from_itself():
    inputs = torch.arange(1.0, 51).view(50, 1, 1, 1).expand(-1, 2, 3, 3)
    results = cropped(inputs, padding=1, seed=0, step=0)
    assert torch.equal(results[:, :, 1, 1], inputs[:, :, 1, 1])


def test_all_places_of_a_crop_are_equally_likely():
    results = cropped(numbered(4500, n_channels=1), padding=1, seed=0, step=0)
    row, column = (
        results[:, 0, 1, 1].long().sub(1).div(5, rounding_mode="floor"),
        (results[:, 0, 1, 1].long() - 1) % 5,
    )
    counts = torch.bincount(row * 3 + column, minlength=9).double()
    assert chi_square(counts) < CHI_SQUARE_8


def test_about_half_of_the_images_are_mirrored_and_whole():
    inputs = torch.arange(4000.0).view(2000, 1, 1, 2)
    result = flipped(inputs, seed=0, step=0)
    mirrored = (result == inputs.flip(-1)).all(dim=(1, 2, 3))
    kept = (result == inputs).all(dim=(1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 930 < mirrored.sum() < 1070  # three standard deviations
    assert not torch.equal(result, flipped(inputs, seed=0, step=1))


def test_mirror_images_are_those_of_the_first_studies():
    """Results that are kept were trained on these: the third, the sixth and the seventh of eight."""
    inputs = numbered(8)
    mirrored = (flipped(inputs, seed=0, step=0) == inputs.flip(-1)).all(dim=(1, 2, 3))
    assert mirrored.nonzero().flatten().tolist() == [2, 5, 6]


@pytest.mark.parametrize(("side", "reach"), [(1, (0, 0)), (2, (1, 0)), (3, (1, 1)), (4, (2, 1))])
def test_a_square_is_cut_out_around_its_center_as_far_as_it_is_inside(side, reach):
    before, after = reach
    inputs = torch.ones(300, 2, 4, 4)
    results = cut_out(inputs, side=side, seed=0, step=0)
    expected = set()
    for y in range(4):
        for x in range(4):
            image = torch.ones(4, 4)
            image[max(y - before, 0) : y + after + 1, max(x - before, 0) : x + after + 1] = 0
            expected.add(tuple(image.flatten().tolist()))
    assert {tuple(image[0].flatten().tolist()) for image in results} == expected
    assert torch.equal(results[:, 0], results[:, 1])
    assert inputs.min() == 1


def test_all_centers_of_a_square_are_equally_likely():
    results = cut_out(torch.ones(4800, 1, 4, 4), side=1, seed=0, step=0)
    assert chi_square((results == 0).sum(dim=0).double()) < CHI_SQUARE_15


def test_what_is_not_cut_out_is_left():
    inputs = numbered(50)
    results = cut_out(inputs, side=2, seed=0, step=0)
    assert torch.equal(results[results != 0], inputs[results != 0])


def test_all_three_follow_each_other():
    inputs = numbered(30)
    spec = DataSpec(crop_padding=2, flip=True, cutout=3)
    expected = flipped(inputs, seed=1, step=7)
    expected = cropped(expected, padding=2, seed=1, step=7)
    expected = cut_out(expected, side=3, seed=1, step=7)
    assert torch.equal(augmented(inputs, spec, seed=1, step=7), expected)


def test_nothing_is_done_where_nothing_is_asked_for():
    inputs = numbered(3)
    assert augmented(inputs, DataSpec(), seed=0, step=0) is inputs


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("settings", [{"crop_padding": 2}, {"flip": True}, {"cutout": 2}])
def test_a_seed_and_a_step_decide_and_the_memory_format_is_kept(settings, memory_format):
    inputs, spec = numbered(30), DataSpec(**settings)
    given = inputs.contiguous(memory_format=memory_format)
    global_state = torch.get_rng_state()
    results = {
        (seed, step): augmented(given, spec, seed=seed, step=step) for seed in (0, 1) for step in (0, 1)
    }
    assert torch.equal(torch.get_rng_state(), global_state)
    assert torch.equal(given, inputs)
    for (seed, step), result in results.items():
        assert result.is_contiguous(memory_format=memory_format)
        assert torch.equal(result, augmented(inputs, spec, seed=seed, step=step))
    distinct = {tuple(result.flatten().tolist()) for result in results.values()}
    assert len(distinct) == 4


def test_crops_mirror_images_and_squares_are_drawn_independently():
    inputs = numbered(200)
    mirrored = (flipped(inputs, seed=0, step=0) != inputs).flatten(1).any(dim=1)
    left = cropped(inputs, padding=2, seed=0, step=0)[:, 0, 2, 2] % 5  # where in a row the crop begins
    assert {(bool(m), int(x)) for m, x in zip(mirrored, left, strict=True)} == {
        (m, x) for m in (False, True) for x in range(5)
    }


@pytest.mark.gpu
def test_a_gpu_sees_the_same_images():
    inputs, spec = numbered(64), DataSpec(crop_padding=2, flip=True, cutout=2)
    on_gpu = augmented(inputs.cuda(), spec, seed=0, step=0)
    assert torch.equal(on_gpu.cpu(), augmented(inputs, spec, seed=0, step=0))
