"""Splits, standardized inputs, label noise and batches: by hand, equal for every method and machine."""

import sys

import pytest
import torch

from decayfree.errors import InvalidInputError, MissingExtraError
from decayfree.study.data import (
    Dataset,
    Images,
    augmented,
    batch_indices,
    generator_for,
    load,
    loading,
    with_label_noise,
)
from decayfree.study.run_settings import DataSpec

GREY_2_BY_1 = torch.tensor([[[0, 2]]], dtype=torch.uint8)


def dataset_of(pixels, *, mean, std, labels=None):
    images = Images(pixels, torch.zeros(len(pixels), dtype=torch.int64) if labels is None else labels)
    return Dataset(train=images, validation=images, test=images, n_classes=2, mean=mean, std=std)


def random_color(n_images, side, generator):
    shape = (n_images, side, side, 3)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8).permute(0, 3, 1, 2)


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


def test_the_order_of_the_digits_is_that_of_the_first_studies():
    labels = load(DataSpec(n_train=12, n_test=5)).train.labels
    assert labels.tolist() == [3, 1, 7, 5, 8, 3, 9, 9, 4, 7, 7, 8]


def test_fewer_training_images_are_the_first_of_more():
    few, many = load(DataSpec(n_train=10, n_test=5)), load(DataSpec(n_train=30, n_test=5))
    assert torch.equal(few.train.pixels, many.train.pixels[:10])
    assert torch.equal(few.test.labels, many.train.labels[10:15])


def test_validation_images_come_behind_those_to_train_on_and_before_those_to_test_with():
    data = load(DataSpec(n_train=30, n_validation=20, n_test=40))
    whole = load(DataSpec(n_train=50, n_test=40))
    for name in ("pixels", "labels"):
        parts = [getattr(part, name) for part in (data.train, data.validation)]
        assert [len(part) for part in parts] == [30, 20]
        assert torch.equal(torch.cat(parts), getattr(whole.train, name))
        assert torch.equal(getattr(data.test, name), getattr(whole.test, name))


def test_validation_images_do_not_change_how_inputs_are_standardized():
    without, beside = (
        load(DataSpec(n_train=30, n_test=5)),
        load(DataSpec(n_train=30, n_validation=20, n_test=5)),
    )
    assert (without.mean, without.std) == (beside.mean, beside.std)
    assert len(without.validation) == 0
    assert without.to_input(without.validation.pixels).shape == (0, 3, 8, 8)


def test_specs_that_differ_in_augmentation_share_their_images():
    one = load(DataSpec(n_train=30, n_test=5))
    assert load(DataSpec(n_train=30, n_test=5, flip=True, crop_padding=1, cutout=2, label_noise=0.5)) is one


@pytest.mark.parametrize("name", ["crop_padding", "cutout"])
def test_augmentation_that_exceeds_the_images_is_an_error(name):
    load(DataSpec(n_train=30, n_test=5, **{name: 7}))
    with pytest.raises(
        InvalidInputError, match=f"digits: {name}: expected less than the 8 pixels of an image, got 8"
    ):
        load(DataSpec(n_train=30, n_test=5, **{name: 8}))


def test_more_images_than_there_are_is_an_error():
    with pytest.raises(
        InvalidInputError, match=r"digits has 1797 training and 0 test images here, .*n_test=897"
    ):
        load(DataSpec(n_train=1797, n_test=897))
    with pytest.raises(InvalidInputError, match=r"n_train=1000, n_validation=800 and n_test=1 are asked for"):
        load(DataSpec(n_train=1000, n_validation=800, n_test=1))


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    loading._load.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn", None)
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
    pixels = GREY_2_BY_1.clone()
    inputs = dataset_of(pixels, mean=1.0, std=0.5).to_input(pixels)
    assert torch.equal(inputs, torch.tensor([[[[-2.0, 2.0]]]]).expand(1, 3, 1, 2))
    assert torch.equal(pixels, GREY_2_BY_1)


def test_each_color_has_a_mean_and_a_deviation_of_its_own():
    pixels = torch.tensor([[10, 20], [30, 40], [50, 60]], dtype=torch.uint8).view(1, 3, 1, 2)
    inputs = dataset_of(pixels, mean=(10.0, 20.0, 60.0), std=(10.0, 20.0, 5.0)).to_input(pixels)
    assert torch.equal(inputs, torch.tensor([[0.0, 1.0], [0.5, 1.0], [-2.0, 0.0]]).view(1, 3, 1, 2))


def test_means_and_deviations_are_those_of_all_pixels_of_a_color(seed):
    pixels = random_color(7, 5, torch.Generator().manual_seed(seed))
    mean, std = loading._moments(loading._counts(pixels))
    numbers = pixels.double().transpose(0, 1).flatten(1)
    assert mean == pytest.approx(numbers.mean(dim=1).tolist(), rel=1e-12)
    assert std == pytest.approx(numbers.std(dim=1, correction=0).tolist(), rel=1e-12)


def test_images_of_one_value_are_not_divided_by_zero():
    assert loading._moments(loading._counts(torch.full((1, 2, 2), 7, dtype=torch.uint8))) == (7.0, 1e-6)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("is_color", [False, True])
def test_the_memory_format_is_the_one_asked_for(is_color, channels_last, seed):
    generator = torch.Generator().manual_seed(seed)
    if is_color:
        data = dataset_of(random_color(5, 6, generator), mean=(1.0, 2.0, 3.0), std=(1.5, 2.5, 3.5))
    else:
        grey = torch.randint(256, (5, 6, 6), generator=generator, dtype=torch.uint8)
        data = dataset_of(grey, mean=72.9, std=90.1)
    inputs = data.to_input(data.train.pixels, channels_last=channels_last)
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    assert inputs.is_contiguous(memory_format=wanted)
    assert torch.equal(inputs, data.to_input(data.train.pixels))
    batch = data.batch(torch.tensor([3, 0]), DataSpec(flip=True), seed=0, step=0, channels_last=channels_last)
    assert batch.is_contiguous(memory_format=wanted)


def test_grey_inputs_are_bit_by_bit_those_of_the_first_studies(seed):
    pixels = torch.randint(
        256, (50, 28, 28), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )
    grey = pixels.to(torch.float32).sub_(72.94).div_(90.02).unsqueeze(1)
    expected = grey.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
    inputs = dataset_of(pixels, mean=72.94, std=90.02).to_input(pixels)
    assert torch.equal(inputs.view(torch.int32), expected.view(torch.int32))
    assert inputs.stride() == expected.stride()


@pytest.mark.parametrize("settings", [{}, {"flip": True}, {"flip": True, "crop_padding": 2, "cutout": 3}])
@pytest.mark.parametrize("is_color", [False, True])
def test_a_batch_is_what_indexing_standardizing_and_augmenting_give(is_color, settings, seed):
    generator = torch.Generator().manual_seed(seed)
    if is_color:
        data = dataset_of(random_color(40, 9, generator), mean=(120.0, 121.5, 111.0), std=(60.0, 61.5, 65.0))
    else:
        grey = torch.randint(256, (40, 9, 9), generator=generator, dtype=torch.uint8)
        data = dataset_of(grey, mean=72.94, std=90.02)
    spec, chosen = DataSpec(**settings), torch.randperm(40, generator=generator)[:30]
    expected = augmented(data.to_input(data.train.pixels[chosen]), spec, seed=4, step=9)
    batch = data.batch(chosen, spec, seed=4, step=9)
    assert torch.equal(batch, expected)
    assert batch.stride() == expected.stride()


def test_pixels_go_to_a_gpu_where_half_of_its_free_memory_takes_them(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2000, 9000))
    gpu = torch.device("cuda:0")
    assert loading._fits(1000, gpu)
    assert not loading._fits(1001, gpu)
    assert loading._fits(1001, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.parametrize("n_free", [10**9, 0])
def test_a_gpu_is_fed_the_same_whether_the_pixels_fit_there_or_not(n_free, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (n_free, n_free))
    loading._load.cache_clear()
    spec = DataSpec(n_train=100, n_test=10, flip=True, crop_padding=1, cutout=2)
    data, on_cpu = load(spec, device="cuda"), load(spec)
    assert data.train.pixels.is_cuda == (n_free > 0)
    assert data.train.labels.is_cuda
    for device in ("cpu", "cuda"):
        chosen = batch_indices(n_images=100, batch_size=60, seed=0, step=3, device=device)
        batch = data.batch(chosen, spec, seed=0, step=3)
        assert batch.is_cuda
        assert torch.allclose(
            batch.cpu(), on_cpu.batch(chosen.cpu(), spec, seed=0, step=3), rtol=1e-6, atol=1e-6
        )
    noisy = with_label_noise(data.train.labels, share=0.5, n_classes=10, seed=0)
    assert torch.equal(noisy.cpu(), with_label_noise(on_cpu.train.labels, share=0.5, n_classes=10, seed=0))
    loading._load.cache_clear()


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


def test_generators_leave_the_global_random_state_alone_and_differ_by_purpose():
    before = torch.get_rng_state()
    draws = {torch.rand(1, generator=generator_for(p, n)).item() for p in ("a", "b") for n in (0, 1)}
    assert len(draws) == 4
    assert torch.equal(torch.get_rng_state(), before)


def test_images_that_are_drawn_by_seed_are_others_and_never_those_to_validate_on():
    spec = DataSpec(n_train=100, n_validation=50, n_test=40, by_seed=True, first=200, n_pool=1000)
    every = load(DataSpec(n_train=1200, n_test=40)).train
    pool = {row.numpy().tobytes() for row in every.pixels[200:1150]}
    drawn = []
    for seed in (0, 1, 0):
        data = load(spec, seed=seed)
        assert data.validation.pixels.equal(every.pixels[1150:1200])
        assert data.validation.labels.equal(every.labels[1150:1200])
        rows = [row.numpy().tobytes() for row in data.train.pixels]
        labels = {row.numpy().tobytes(): int(label) for row, label in zip(*vars_of(every), strict=True)}
        assert [labels[row] for row in rows] == data.train.labels.tolist()
        assert len(rows) == 100
        assert set(rows) <= pool
        drawn.append(rows)
    assert drawn[0] == drawn[2] != drawn[1]
    assert len(set(drawn[0]) & set(drawn[1])) < 30  # 11 in the mean
    # Digits to test with come behind the pool.
    assert load(spec).test.labels.equal(load(DataSpec(n_train=1200, n_test=40)).test.labels)


def test_images_at_the_beginning_can_be_left_out():
    every = load(DataSpec(n_train=60, n_test=5)).train
    data = load(DataSpec(n_train=20, n_validation=10, n_test=5, first=30))
    assert data.train.pixels.equal(every.pixels[30:50])
    assert data.validation.pixels.equal(every.pixels[50:60])


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"first": 1700}, "first=1700"), ({"n_pool": 1790, "by_seed": True}, "n_pool=1790")],
)
def test_a_pool_that_is_not_there_is_refused(settings, said):
    with pytest.raises(InvalidInputError, match=said):
        load(DataSpec(n_train=100, n_test=50, **settings))


def vars_of(images):
    return images.pixels, images.labels


def test_what_is_blank_is_black_where_it_is_not_tested_with():
    plain = load(DataSpec(n_train=50, n_validation=20, n_test=30))
    bordered = load(DataSpec(n_train=50, n_validation=20, n_test=30, blank_border=2))
    in_color = load(DataSpec(n_train=50, n_validation=20, n_test=30, blank_channels=1))
    for name in ("train", "validation"):
        whole, edged, colored = (getattr(one, name).pixels for one in (plain, bordered, in_color))
        assert torch.equal(edged[:, 2:-2, 2:-2], whole[:, 2:-2, 2:-2])
        assert int(edged.sum()) == int(edged[:, 2:-2, 2:-2].sum())
        assert torch.equal(colored[:, :2], whole[:, None].expand(-1, 2, -1, -1))
        assert not colored[:, 2].any()
    assert torch.equal(bordered.test.pixels, plain.test.pixels)
    assert torch.equal(in_color.test.pixels, plain.test.pixels[:, None].expand(-1, 3, -1, -1))
    for part in (in_color.train, in_color.validation, in_color.test):
        inputs = in_color.to_input(part.pixels)
        assert torch.equal(inputs[:, :2], inputs[:, :1].expand(-1, 2, -1, -1))
        assert inputs[:, 2].any() == (part is in_color.test)
    inputs = in_color.to_input(in_color.test.pixels)
    assert torch.equal(inputs[:, :1], plain.to_input(plain.test.pixels)[:, :1])
    assert (bordered.mean, bordered.std) == (plain.mean, plain.std)


def test_a_border_that_leaves_nothing_is_told():
    with pytest.raises(InvalidInputError, match=r"digits: blank_border: expected less than half"):
        load(DataSpec(n_train=50, n_test=30, blank_border=4))
