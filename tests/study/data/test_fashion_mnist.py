"""Fashion-MNIST's files: read by hand, found where they lie, and fetched only when asked."""

import gzip
import hashlib
import re

import pytest
import torch

from decayfree.errors import InvalidInputError
from decayfree.study.data import fashion_mnist, load
from decayfree.study.data.folders import cache_dir
from decayfree.study.run_settings import DataSpec

N_TRAIN, N_TEST = 6, 4


def idx(*sizes, values):
    return b"\0\0\x08" + bytes([len(sizes)]) + b"".join(n.to_bytes(4, "big") for n in sizes) + bytes(values)


FILES = {
    "train-images-idx3-ubyte": idx(N_TRAIN, 28, 28, values=[i % 251 for i in range(N_TRAIN * 784)]),
    "train-labels-idx1-ubyte": idx(N_TRAIN, values=range(N_TRAIN)),
    "t10k-images-idx3-ubyte": idx(N_TEST, 28, 28, values=[i % 241 for i in range(N_TEST * 784)]),
    "t10k-labels-idx1-ubyte": idx(N_TEST, values=[9] * N_TEST),
}


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    return folder


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """Neither the user's cache nor Debian's folder has the files."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIR", tmp_path / "debian")
    return tmp_path


@pytest.fixture
def published(files, monkeypatch):
    """The small files are what was published."""
    parts = {
        part: (name, hashlib.md5((files / f"{name}.gz").read_bytes()).hexdigest())
        for part, (name, _) in fashion_mnist._FILES.items()
    }
    monkeypatch.setattr(fashion_mnist, "_FILES", parts)
    return files


def test_a_file_of_two_by_three_bytes_is_read(tmp_path):
    path = tmp_path / "small"
    path.write_bytes(b"\0\0\x08\x02" + bytes([0, 0, 0, 2, 0, 0, 0, 3]) + bytes([1, 2, 3, 4, 5, 255]))
    expected = torch.tensor([[1, 2, 3], [4, 5, 255]], dtype=torch.uint8)
    assert torch.equal(fashion_mnist.read_idx(path), expected)


def test_plain_and_gzipped_files_read_the_same(files, tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    for name, content in FILES.items():
        (plain / name).write_bytes(content)
    ours, theirs = fashion_mnist.read(files), fashion_mnist.read(plain)
    assert all(torch.equal(ours[part], theirs[part]) for part in ours)
    assert ours["train_images"].shape == (N_TRAIN, 28, 28)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08",
        b"\0\0\x08\0",
        b"\0\0\x0d\x01\0\0\0\x01\x01",
        idx(3, values=[1, 2]),
        idx(1, values=[1, 2]),
    ],
)
def test_what_is_not_an_idx_file_of_bytes_is_an_error(tmp_path, content):
    path = tmp_path / "odd"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=f"{path} is not an idx file of bytes, or it is cut off"):
        fashion_mnist.read_idx(path)


def test_a_gzip_file_that_is_cut_off_is_an_error(files):
    path = files / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InvalidInputError, match=re.escape(f"{path} cannot be read")):
        fashion_mnist.read(files)


def test_as_many_labels_as_images_are_needed(files):
    (files / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(3, values=[1, 2, 3])))
    with pytest.raises(InvalidInputError, match="4 test images, 3 labels"):
        fashion_mnist.read(files)


def test_a_missing_file_is_named(files):
    (files / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(
        InvalidInputError, match=r"there is no t10k-labels-idx1-ubyte or t10k-labels.*\.gz in"
    ):
        fashion_mnist.read(files)


def test_the_folder_given_is_used(nowhere, files):
    assert fashion_mnist.locate(str(files)) == files


def test_debians_folder_is_found_by_itself(nowhere, files):
    files.rename(nowhere / "debian")
    assert fashion_mnist.locate() == nowhere / "debian"


def test_torchvisions_folder_is_understood(nowhere, files):
    (nowhere / "root" / "FashionMNIST").mkdir(parents=True)
    files.rename(nowhere / "root" / "FashionMNIST" / "raw")
    folder = fashion_mnist.locate(str(nowhere / "root"))
    assert len(fashion_mnist.read(folder)["test_labels"]) == N_TEST


def test_not_found_says_where_it_looked_and_how_to_get_it(nowhere, monkeypatch):
    def no_request(*args, **kwargs):
        raise AssertionError("a request was made without being asked for")

    monkeypatch.setattr(fashion_mnist.urllib.request, "urlopen", no_request)
    with pytest.raises(InvalidInputError) as caught:
        fashion_mnist.locate()
    for part in (
        f"{nowhere / 'cache' / 'decayfree' / 'fashion-mnist'}: no such folder",
        f"{nowhere / 'debian'}: no such folder",
        "package dataset-fashion-mnist",
        "--data-dir",
        "--download",
    ):
        assert part in str(caught.value)


def test_not_found_in_the_folder_given_names_the_missing_files(nowhere, files):
    (files / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InvalidInputError, match=f"{files}: without train-labels-idx1-ubyte\n"):
        fashion_mnist.locate(str(files))


def test_a_download_brings_the_published_files(nowhere, published):
    folder = fashion_mnist.fetch(nowhere / "new", address=published.as_uri() + "/")
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{name}.gz" for name in FILES)
    assert len(fashion_mnist.read(folder)["train_labels"]) == N_TRAIN


def test_a_download_is_made_only_when_asked_and_only_once(nowhere, published, monkeypatch):
    monkeypatch.setattr(fashion_mnist.fetch, "__kwdefaults__", {"address": published.as_uri() + "/"})
    folder = fashion_mnist.locate(download=True)
    assert folder == cache_dir("fashion-mnist")
    for path in published.iterdir():
        path.unlink()
    assert fashion_mnist.locate(download=True) == folder == fashion_mnist.locate()


def test_a_download_that_is_not_the_published_file_is_not_kept(nowhere, files):
    with pytest.raises(
        InvalidInputError, match=r"has MD5 [0-9a-f]{32}, expected 8d4fb7e6c68d591d4c3dfef9ec88bf0d"
    ):
        fashion_mnist.fetch(nowhere / "new", address=files.as_uri() + "/")
    assert list((nowhere / "new").iterdir()) == []


def test_a_download_that_fails_says_which(nowhere):
    with pytest.raises(InvalidInputError, match=r"train-images-idx3-ubyte\.gz could not be downloaded"):
        fashion_mnist.fetch(nowhere / "new", address=(nowhere / "nothing").as_uri() + "/")


def test_the_address_is_that_of_torchvisions_class():
    pytest.importorskip("torchvision", reason="torchvision does not import", exc_type=Exception)
    from torchvision.datasets import FashionMNIST

    assert fashion_mnist.ADDRESS in FashionMNIST.mirrors
    assert {(f"{name}.gz", md5) for name, md5 in fashion_mnist._FILES.values()} == set(FashionMNIST.resources)


def test_a_study_trains_and_tests_on_the_two_parts(files):
    spec = DataSpec(name="fashion-mnist", n_train=5, n_test=4)
    data = load(spec, str(files))
    assert data.train.labels.tolist() == [0, 1, 2, 3, 4]
    assert data.test.labels.tolist() == [9, 9, 9, 9]
    assert data.to_input(data.test.pixels).shape == (4, 3, 28, 28)
