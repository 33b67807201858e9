"""Images, splits, label noise and batches: by hand, and the same for every method and machine."""

import sys

import pytest
import torch

from decayfree.errors import InvalidInputError, MissingExtraError
from decayfree.study import DataSpec
from decayfree.study.data import (
    Dataset,
    Images,
    batch_indices,
    flipped,
    generator_for,
    load,
    with_label_noise,
)


def test_the_digits_are_split_into_disjoint_parts_that_together_are_all():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    data = load(DataSpec(name="digits", n_train=900, n_test=897))
    digits = sklearn_datasets.load_digits()
    ours = torch.cat([data.train.pixels, data.test.pixels]).flatten(1)
    theirs = torch.from_numpy(digits.data).to(torch.uint8)

    def sorted_rows(images, labels):
        return sorted(zip(map(tuple, images.tolist()), labels.tolist(), strict=True))

    labels = torch.cat([data.train.labels, data.test.labels])
    assert sorted_rows(ours, labels) == sorted_rows(theirs, torch.from_numpy(digits.target))
    assert data.n_classes == 10


def test_fewer_training_images_are_the_first_of_more():
    few, many = load(DataSpec(n_train=10, n_test=5)), load(DataSpec(n_train=30, n_test=5))
    assert torch.equal(few.train.pixels, many.train.pixels[:10])
    assert torch.equal(few.test.labels, many.train.labels[10:15])


def test_more_images_than_there_are_is_an_error():
    with pytest.raises(
        InvalidInputError, match=r"digits has 1797 training and 0 test images here, .*n_test=897"
    ):
        load(DataSpec(n_train=1797, n_test=897))


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    load.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'decayfree\[study\]'"):
        load(DataSpec(n_train=11, n_test=5))


def test_inputs_are_three_equal_standardized_channels():
    data = load(DataSpec(n_train=900, n_test=897))
    inputs = data.to_input(data.train.pixels)
    assert inputs.shape == (900, 3, 8, 8)
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(inputs[:, 0], inputs[:, 1])
    assert torch.equal(inputs[:, 0], inputs[:, 2])
    assert inputs.mean().item() == pytest.approx(0, abs=1e-6)
    assert inputs.std(correction=0).item() == pytest.approx(1, abs=1e-6)


def test_pixels_of_0_and_2_with_mean_1_and_deviation_half_become_2_below_and_above():
    images = Images(torch.tensor([[[0, 2]]], dtype=torch.uint8), torch.tensor([0]))
    inputs = Dataset(images, images, n_classes=2, mean=1.0, std=0.5).to_input(images.pixels)
    assert torch.equal(inputs, torch.tensor([[[[-2.0, 2.0]]]]).expand(1, 3, 1, 2))
    assert torch.equal(images.pixels, torch.tensor([[[0, 2]]], dtype=torch.uint8))


def test_label_noise_draws_the_stated_share_anew_and_leaves_the_rest():
    labels = torch.zeros(1000, dtype=torch.int64)
    noisy = with_label_noise(labels, share=0.2, n_classes=1000, seed=0)
    assert 195 <= (noisy != 0).sum() <= 200  # of 200 draws from 1000 classes few are right by chance
    assert (labels == 0).all()
    assert noisy.max() > 800


def test_label_noise_is_that_of_the_seed():
    labels = torch.arange(100) % 10
    first, again, other = (with_label_noise(labels, share=0.5, n_classes=10, seed=s) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_noise_leaves_the_labels():
    labels = torch.arange(10)
    assert torch.equal(with_label_noise(labels, share=0.0, n_classes=10, seed=0), labels)


def test_an_epoch_sees_every_image_once_but_for_the_rest_that_fills_no_batch():
    epochs = [
        torch.cat([batch_indices(n_images=11, batch_size=3, seed=0, step=3 * e + s) for s in range(3)])
        for e in range(3)
    ]
    for seen in epochs:
        assert len(seen) == 9
        assert len(set(seen.tolist())) == 9
        assert set(seen.tolist()) <= set(range(11))
    assert len({tuple(seen.tolist()) for seen in epochs}) == 3


def test_the_order_is_that_of_the_seed():
    first, again, other = (batch_indices(n_images=50, batch_size=50, seed=s, step=0) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_about_half_of_the_images_are_mirrored_and_whole():
    inputs = torch.arange(400.0).view(200, 1, 1, 2)
    result = flipped(inputs, seed=0, step=0)
    mirrored = (result == inputs.flip(-1)).all(dim=(1, 2, 3))
    kept = (result == inputs).all(dim=(1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 70 < mirrored.sum() < 130
    assert not torch.equal(result, flipped(inputs, seed=0, step=1))


def test_generators_leave_the_global_random_state_alone_and_differ_by_purpose():
    before = torch.get_rng_state()
    draws = {torch.rand(1, generator=generator_for(p, n)).item() for p in ("a", "b") for n in (0, 1)}
    assert len(draws) == 4
    assert torch.equal(torch.get_rng_state(), before)
