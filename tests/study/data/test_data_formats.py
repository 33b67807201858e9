"""CIFAR and SVHN files as their authors made them, read as torchvision does; anything else is refused."""

import pickle
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from decayfree.errors import InvalidInputError, MissingExtraError
from decayfree.study.data import cifar, load, loading, svhn
from decayfree.study.run_settings import DataSpec
from support.available import import_or_skip
from support.image_files import (
    color_images,
    python2_pickle,
    write_cifar10,
    write_cifar100,
    write_svhn,
)

WRITERS = {"cifar10": write_cifar10, "cifar100": write_cifar100, "svhn": write_svhn}
N_CLASSES = {"cifar10": 10, "cifar100": 100, "svhn": 10}
N_TRAIN, N_TEST = 6, 3


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    loading._load.cache_clear()
    return tmp_path / "cache" / "decayfree"


def batch_file(tmp_path, content):
    path = tmp_path / "batch"
    path.write_bytes(content)
    return path


def table(**changes):
    content = {"data": color_images(2).reshape(2, -1), "labels": [0, 9]} | changes
    return pickle.dumps({key.encode(): value for key, value in content.items()}, protocol=4)


def test_a_batch_of_the_authors_is_read(tmp_path):
    images = color_images(2)
    part = cifar.read_batch(batch_file(tmp_path, python2_pickle(images, [3, 9], "labels")), cifar.CIFAR10)
    assert torch.equal(part.pixels, torch.from_numpy(images))
    assert part.labels.tolist() == [3, 9]
    assert part.pixels.is_contiguous(memory_format=torch.channels_last)


def test_a_batch_pickled_by_a_newer_python_is_read_too(tmp_path):
    part = cifar.read_batch(batch_file(tmp_path, table()), cifar.CIFAR10)
    assert torch.equal(part.pixels, torch.from_numpy(color_images(2)))
    assert part.labels.tolist() == [0, 9]


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class EvalTrap(Trap):
    def __reduce__(self):
        return eval, (f"__import__('pathlib').Path({str(self.path)!r}).touch()",)


class NumpyTrap(Trap):
    """Not all of numpy is harmless."""

    def __reduce__(self):
        return np.memmap, (str(self.path), "u1", "w+", 0, 1)


@pytest.mark.parametrize(
    ("trap", "asks_for"),
    [(Trap, r"pathlib.*Path|getattr"), (EvalTrap, r"builtin.*\.eval"), (NumpyTrap, r"numpy\.memmap")],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_would_run_something_is_refused_and_nothing_is_run(tmp_path, trap, asks_for, protocol):
    path = batch_file(tmp_path, pickle.dumps({"data": trap(tmp_path / "harm")}, protocol=protocol))
    with pytest.raises(InvalidInputError, match=rf"is a pickle that asks for .*({asks_for})"):
        cifar.read_batch(path, cifar.CIFAR10)
    assert not (tmp_path / "harm").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "harm").exists(), "the trap is none"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps([1, 2]),
        pickle.dumps({}),
        table(labels="ab"),
        table(data=[1, 2]),
        table(data=np.array([{}, {}])),
        python2_pickle(color_images(2), [3, 9], "labels")[:-5000],
        python2_pickle(color_images(2), [3, 9], "fine_labels"),
    ],
    ids=[
        "empty",
        "text",
        "list",
        "nothing in it",
        "text for labels",
        "no array",
        "objects",
        "cut off",
        "other key",
    ],
)
def test_what_is_not_a_batch_is_an_error(tmp_path, content):
    path = batch_file(tmp_path, content)
    with pytest.raises(InvalidInputError, match=f"{path} is not a batch of CIFAR-10, or it is cut off: "):
        cifar.read_batch(path, cifar.CIFAR10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": np.zeros((2, 9), np.uint8)}, r"expected images of 3072 bytes, got \(2, 9\) of torch.uint8"),
        ({"data": np.zeros((2, 3072), np.int64)}, r"expected images of 3072 bytes, got .* of torch.int64"),
        ({"data": np.zeros(3072, np.uint8)}, r"expected images of 3072 bytes, got \(3072,\)"),
        ({"labels": [1, 2, 3]}, "expected a label for each of 2 images, got 3"),
        ({"labels": [1.0, 2.5]}, "expected a label for each of 2 images, got 2"),
        ({"labels": [0, 10]}, "expected labels from 0 to 9, got some from 0 to 10"),
        ({"labels": [-1, 0]}, "expected labels from 0 to 9, got some from -1 to 0"),
    ],
)
def test_images_and_labels_that_are_not_as_published_are_an_error(tmp_path, changes, message):
    with pytest.raises(InvalidInputError, match=message):
        cifar.read_batch(batch_file(tmp_path, table(**changes)), cifar.CIFAR10)


@pytest.mark.parametrize("name", WRITERS)
def test_a_data_set_is_loaded_from_the_folder_given_and_from_the_users_cache(name, tmp_path, no_cache):
    WRITERS[name](tmp_path / "files")
    WRITERS[name](no_cache / name)
    spec = DataSpec(name=name, n_train=N_TRAIN, n_test=N_TEST)
    given, cached = load(spec, str(tmp_path / "files")), load(spec)
    assert given is not cached
    for data in (given, cached):
        assert data.n_classes == N_CLASSES[name]
        assert data.train.pixels.shape == (N_TRAIN, 3, 32, 32)
        assert data.to_input(data.test.pixels).shape == (N_TEST, 3, 32, 32)
        assert data.to_input(data.train.pixels).mean(dim=(0, 2, 3)).tolist() == pytest.approx(
            [0] * 3, abs=1e-6
        )
        assert data.train.labels.max() < data.n_classes
    assert torch.equal(given.train.pixels, cached.train.pixels)


def test_the_folder_that_the_archive_unpacks_to_may_be_named_itself(tmp_path):
    write_cifar100(tmp_path)
    folder = tmp_path / "cifar-100-python"
    assert cifar.locate(cifar.CIFAR100, str(folder)) == cifar.locate(cifar.CIFAR100, str(tmp_path)) == folder


def test_cifar_is_taken_in_the_order_of_its_files(tmp_path):
    write_cifar10(tmp_path)
    data = load(DataSpec(name="cifar10", n_train=6, n_validation=3, n_test=2), str(tmp_path))
    train, test = cifar.read(cifar.CIFAR10, str(tmp_path))
    assert torch.equal(data.train.pixels, train.pixels[:6])
    assert data.train.labels.tolist() == [0, 1, 2, 3, 1, 2]
    assert torch.equal(data.validation.pixels, train.pixels[6:9])
    assert torch.equal(data.test.labels, test.labels[:2])


def test_svhn_is_mixed_and_ten_is_the_digit_zero(tmp_path):
    write_svhn(tmp_path, n_train=20)
    train, _ = svhn.read(str(tmp_path))
    assert train.labels.tolist() == [*range(1, 10), 0] * 2
    assert torch.equal(train.pixels, torch.from_numpy(color_images(20)))
    whole = load(DataSpec(name="svhn", n_train=20, n_test=5), str(tmp_path)).train
    assert whole.labels.tolist() != train.labels.tolist()
    order = [int((train.pixels == image).flatten(1).all(dim=1).nonzero()) for image in whole.pixels]
    assert sorted(order) == list(range(20))
    assert torch.equal(train.labels[order], whole.labels)


def test_images_to_validate_with_that_are_not_there_are_an_error(tmp_path):
    write_svhn(tmp_path)
    with pytest.raises(InvalidInputError, match=r"svhn has 12 .*n_train=10, n_validation=3 and n_test=2 are"):
        load(DataSpec(name="svhn", n_train=10, n_validation=3, n_test=2), str(tmp_path))


def test_a_subset_of_svhn_is_a_part_of_a_larger_one(tmp_path):
    write_svhn(tmp_path)
    few = load(DataSpec(name="svhn", n_train=4, n_validation=3, n_test=2), str(tmp_path))
    many = load(DataSpec(name="svhn", n_train=12, n_test=5), str(tmp_path))
    assert torch.equal(torch.cat([few.train.pixels, few.validation.pixels]), many.train.pixels[:7])
    assert torch.equal(few.test.labels, many.test.labels[:2])


@pytest.mark.parametrize("name", WRITERS)
def test_the_three_parts_share_no_image_and_the_test_part_is_the_authors(name, tmp_path):
    WRITERS[name](tmp_path, **({"n_train": 9, "n_test": 3} if name != "cifar10" else {}))
    n_test = 4 if name == "cifar10" else 3
    data = load(DataSpec(name=name, n_train=5, n_validation=4, n_test=n_test), str(tmp_path))
    parts = [
        {image.numpy().tobytes() for image in part.pixels}
        for part in (data.train, data.validation, data.test)
    ]
    # The writers' images of one part differ from each other; parts are made with seeds of their own.
    assert [len(part) for part in parts] == [5, 4, n_test]
    assert not parts[0] & parts[1]
    seed = 5 if name == "cifar10" else 1
    assert parts[2] == {image.tobytes() for image in color_images(n_test, seed=seed)}
    assert not (parts[0] | parts[1]) & parts[2]


def svhn_file(tmp_path, **changes):
    from scipy.io import savemat

    content = {"X": color_images(2).transpose(2, 3, 1, 0), "y": np.array([[1], [10]], np.uint8)} | changes
    savemat(tmp_path / "some.mat", content)
    return tmp_path / "some.mat"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"X": np.zeros((32, 32, 1, 2), np.uint8)},
            r"expected bytes of shape \(32, 32, 3, n\), got \(32, 32, 1, 2\)",
        ),
        ({"X": np.zeros((32, 32, 3, 2))}, r"expected bytes of shape .* of torch.float64"),
        ({"X": np.zeros((32, 32), np.uint8)}, r"expected bytes of shape .*, got \(32, 32\)"),
        (
            {"y": np.array([[1], [2], [3]], np.uint8)},
            "for each of 2 images, got 3 labels of values .1, 2, 3.",
        ),
        (
            {"y": np.array([[0], [2]], np.uint8)},
            "from 1 to 10 for each of 2 images, got 2 labels of values .0, 2.",
        ),
        ({"y": np.array([[1], [11]], np.uint8)}, "got 2 labels of values .1, 11."),
    ],
)
def test_a_matlab_file_of_something_else_is_an_error(tmp_path, changes, message):
    with pytest.raises(InvalidInputError, match=message):
        svhn.read_part(svhn_file(tmp_path, **changes))


def test_a_matlab_file_that_is_cut_off_or_none_is_an_error(tmp_path):
    path = svhn_file(tmp_path)
    for content in (path.read_bytes()[:-200], path.read_bytes()[:5], b"", b"x" * 500):
        path.write_bytes(content)
        with pytest.raises(InvalidInputError, match=f"{path} is not a file of SVHN, or it is cut off: "):
            svhn.read_part(path)


def test_without_scipy_the_error_names_the_extra(tmp_path, monkeypatch):
    write_svhn(tmp_path)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(MissingExtraError, match=r"scipy reads.*pip install 'decayfree\[study\]'"):
        svhn.read(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "cifar10",
            ["CIFAR-10 was not found", "cifar-10-batches-py: no such folder", "cifar-10-python.tar.gz"],
        ),
        (
            "cifar100",
            ["CIFAR-100 was not found", "torchvision.datasets.CIFAR100(", "cifar-100-python.tar.gz"],
        ),
        ("svhn", ["SVHN was not found", "no such folder", "housenumbers/train_32x32.mat", "datasets.SVHN("]),
    ],
)
def test_not_found_says_where_it_looked_and_how_to_get_it(name, said, no_cache):
    with pytest.raises(InvalidInputError) as caught:
        load(DataSpec(name=name))
    for part in (*said, str(no_cache / name), "data_dir"):
        assert part in str(caught.value)


def test_not_found_names_the_files_that_are_missing(tmp_path):
    write_cifar10(tmp_path)
    write_svhn(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    (tmp_path / "cifar-10-batches-py" / "test_batch").unlink()
    (tmp_path / "test_32x32.mat").unlink()
    with pytest.raises(InvalidInputError, match=r"cifar-10-batches-py: without data_batch_3, test_batch\n"):
        cifar.locate(cifar.CIFAR10, str(tmp_path))
    with pytest.raises(InvalidInputError, match=re.escape(f"{tmp_path}: without test_32x32.mat\n")):
        svhn.locate(str(tmp_path))


@pytest.mark.parametrize("name", WRITERS)
def test_torchvision_reads_the_same(name, tmp_path, monkeypatch):
    import_or_skip("torchvision")
    datasets = import_or_skip("torchvision.datasets")
    WRITERS[name](tmp_path)
    theirs = getattr(datasets, name.upper())
    monkeypatch.setattr(theirs, "_check_integrity", lambda self: True)  # small files have other check sums
    monkeypatch.setattr(theirs, "_load_meta", lambda self: None, raising=False)
    ours = (
        svhn.read(str(tmp_path))
        if name == "svhn"
        else cifar.read(getattr(cifar, name.upper()), str(tmp_path))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision lets pickle look for numpy under its old name
        splits = (
            ({"split": "train"}, {"split": "test"}) if name == "svhn" else ({"train": True}, {"train": False})
        )
        read = [theirs(str(tmp_path), **split) for split in splits]
    for our, their in zip(ours, read, strict=True):
        pixels = np.stack([np.asarray(image) for image, _ in their])
        assert np.array_equal(our.pixels.permute(0, 2, 3, 1).numpy(), pixels)
        assert our.labels.tolist() == [label for _, label in their]
