"""OpenCV's digits: tiles of one picture, by one whose tiles are known, and by the real one where it is."""

import pytest
import torch

from decayfree.errors import InvalidInputError
from decayfree.study import DataSpec
from decayfree.study.data import load, opencv_digits
from support.available import import_or_skip


def write_picture(folder, *, rows=50):
    """Each tile of 20×20 has its row as the first pixel, its column as the last, and nothing else."""
    image = import_or_skip("PIL.Image")
    pixels = torch.zeros(rows, 20, 100, 20, dtype=torch.uint8)
    pixels[:, 0, :, 0] = torch.arange(rows)[:, None]
    pixels[:, 19, :, 19] = torch.arange(100)
    folder.mkdir(parents=True, exist_ok=True)
    image.frombytes("L", (2000, 20 * rows), bytes(pixels.flatten().tolist())).save(folder / "digits.png")
    return folder


def test_each_class_has_five_rows_of_a_hundred_tiles(tmp_path):
    images = opencv_digits.read(opencv_digits.locate(str(write_picture(tmp_path))))
    assert images.pixels.shape == (5000, 20, 20)
    rows, columns = images.pixels[:, 0, 0].long(), images.pixels[:, 19, 19].long()
    assert torch.equal(rows // 5, images.labels)
    assert sorted((100 * rows + columns).tolist()) == list(range(5000))
    assert not torch.equal(images.labels, images.labels.sort().values)


def test_what_is_tested_with_is_in_no_pool(tmp_path):
    write_picture(tmp_path)
    spec = DataSpec("opencv-digits", n_train=1000, n_validation=500, n_test=2000, by_seed=True, n_pool=3000)
    parts = [load(spec, str(tmp_path), seed=seed) for seed in (0, 1)]
    places = [
        [
            set((100 * p.pixels[:, 0, 0].long() + p.pixels[:, 19, 19].long()).tolist())
            for p in (d.train, d.validation, d.test)
        ]
        for d in parts
    ]
    assert [list(map(len, one)) for one in places] == [[1000, 500, 2000]] * 2
    for train, validation, test in places:
        assert not train & validation
        assert not (train | validation) & test
    assert places[0][1:] == places[1][1:]
    assert places[0][0] != places[1][0]


def test_another_picture_or_none_is_told(tmp_path):
    write_picture(tmp_path, rows=49)
    with pytest.raises(
        InvalidInputError, match=r"digits.png: expected a picture of 2,000×1,000 .*2,000×980$"
    ):
        load(DataSpec("opencv-digits"), str(tmp_path))
    (tmp_path / "digits.png").write_bytes(b"no picture")
    with pytest.raises(InvalidInputError, match=r"digits.png cannot be read: UnidentifiedImageError"):
        load(DataSpec("opencv-digits"), str(tmp_path))


def test_the_real_picture_has_digits():
    if not (opencv_digits.DEBIAN_DIR / opencv_digits.FILE).is_file():
        pytest.skip("Debian's opencv-doc is not installed")
    images = opencv_digits.read(opencv_digits.locate())
    ink = torch.stack([images.pixels[images.labels == digit].double().mean() for digit in range(10)])
    assert ink.argmin() == 1  # a one takes the least ink
    assert ink.argmax() == 0


def test_not_found_says_where_it_looked_and_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(opencv_digits, "DEBIAN_DIR", tmp_path / "debian")
    with pytest.raises(
        InvalidInputError, match=r"(?s)OpenCV was not found.*decayfree/opencv-digits.*opencv-doc"
    ):
        load(DataSpec("opencv-digits"))
