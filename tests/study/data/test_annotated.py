"""Annotated images in the formats of the field, each written as it is published and read through load."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from decayfree.study.data import load, loading
from decayfree.study.data.annotated import cityscapes, coins, nuclei
from decayfree.study.data.annotated.coco import write_coco
from decayfree.study.data.truth import IGNORED
from decayfree.study.run_settings import DATA_OF_TASK, DataSpec
from support import annotated_files as files

SIZE = 8
PLACE_OF = {id: place for place, id in enumerate(cityscapes._IDS.values())}
USED = [number - 1 for number in range(1, 183) if number not in files.COCO_UNUSED]
# Name -> who writes it, its test part, and the class of each value of a mask.
MASKS = {
    "voc": (files.write_voc, "val", {**{n: n for n in range(21)}, 255: IGNORED}, 21),
    "cityscapes": (files.write_cityscapes, "val", {n: PLACE_OF.get(n, IGNORED) for n in range(34)}, 19),
    "camvid": (files.write_camvid, "test", {**{n: n for n in range(11)}, 11: IGNORED}, 11),
    "camvid, colored": (files.write_colored_camvid, "test", {0: 0, 1: 1, 2: IGNORED, 3: 2}, 3),
    "coco-stuff": (
        files.write_coco_stuff,
        "val2017",
        {**{v: p for p, v in enumerate(USED)}, 255: IGNORED},
        171,
    ),
}
BOXES = {"coco": files.write_coco_set, "voc": files.write_voc, "yolo": files.write_yolo}
POINTS = {
    "shanghaitech": files.write_shanghaitech,
    "ucf-qnrf": files.write_ucf_qnrf,
    "points": files.write_points,
}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    loading._load.cache_clear()


def nearest(mask):
    """As Pillow takes the pixel in the middle of each new one."""
    return np.asarray(Image.fromarray(mask).resize((SIZE, SIZE), Image.Resampling.NEAREST))


def as_set(masks):
    return {np.asarray(mask).tobytes() for mask in masks}


@pytest.mark.parametrize("which", MASKS)
def test_masks_are_read_as_they_are_published(which, tmp_path):
    write, test_part, classes, n_classes = MASKS[which]
    written = write(tmp_path)
    train_part = next(iter(written))
    spec = DataSpec(which.partition(",")[0], n_train=3, n_validation=1, n_test=2, image_size=SIZE)
    data = load(spec, tmp_path, task="segmentation")
    assert data.n_classes == n_classes
    assert len(data.class_names) in (0, n_classes)
    table = np.zeros(256, dtype=np.uint8)
    table[list(classes)] = list(classes.values())
    expected = {part: as_set(table[nearest(mask)] for mask in masks) for part, masks in written.items()}
    assert as_set(data.train.labels) | as_set(data.validation.labels) == expected[train_part]
    assert as_set(data.test.labels) == expected[test_part]
    assert data.train.labels.dtype == torch.uint8
    assert data.train.pixels.shape == (3, 3, SIZE, SIZE)


def test_a_mask_stays_with_its_picture(tmp_path):
    """The picture is the mask in grey."""
    files.write_camvid(tmp_path)
    for path in [*(tmp_path / "train").glob("*.png"), *(tmp_path / "test").glob("*.png")]:
        Image.fromarray(np.full(files.SIZE, 20 * int(path.stem[-2:]) % 251, dtype=np.uint8)).save(path)
        mask = np.full(files.SIZE, int(path.stem[-2:]) // 10, dtype=np.uint8)
        files.write_mask(tmp_path / f"{path.parent.name}annot" / path.name, mask)
    data = load(DataSpec("camvid", 4, 0, 2, image_size=SIZE), tmp_path, task="segmentation")
    grey, label = data.train.pixels[:, 0, 0, 0].long(), data.train.labels[:, 0, 0].long()
    assert torch.equal(grey, 20 * 10 * label % 251)
    assert len(set(label.tolist())) > 1


def test_names_of_coco_stuff_are_read_where_they_are(tmp_path):
    files.write_coco_stuff(tmp_path, masks="stuffthingmaps")
    names = ["0: unlabeled", *(f"{number}: thing {number}" for number in range(1, 183))]
    files.write_text(tmp_path / "labels.txt", "\n".join(names))
    data = load(DataSpec("coco-stuff", 4, 0, 2, image_size=SIZE), tmp_path, task="segmentation")
    assert data.class_names[10:12] == ("thing 11", "thing 13")


# Of a picture of 16 by 12 pixels in one of 8 by 8: x is halved, y has two thirds.
EXPECTED_BOXES = {
    "coco": (("person", "dog"), [[0.5, 4 / 3, 3.5, 13 / 3, 1, 0], [0, 0, 8, 8, 0, 1]]),
    "voc": (None, [[0, 0, 4, 4, 11, 0], [2, 4 / 3, 8, 8, 14, 1]]),
    "yolo": (("person", "dog"), [[3, 2, 5, 6, 1, 0], [0, 4, 4, 8, 0, 0]]),
}


@pytest.mark.parametrize("name", BOXES)
def test_boxes_are_read_as_they_are_published(name, tmp_path):
    BOXES[name](tmp_path)
    data = load(
        DataSpec(name, n_train=2, n_validation=1, n_test=2, image_size=SIZE), tmp_path, task="detection"
    )
    names, expected = EXPECTED_BOXES[name]
    assert names is None or data.class_names == names
    assert data.n_classes == len(data.class_names)
    rows = [each for part in (data.train, data.validation) for each in part.labels.split() if len(each)]
    assert len(rows) == (3 if name == "voc" else 2)
    for each in rows:
        assert each == pytest.approx(np.array(expected), abs=1e-6)
    assert (
        sum("1 of" in note and "images of nothing" in note for note in data.notes)
        == ({"voc": 0, "yolo": 1, "coco": 2}[name])
    )


def test_yolo_takes_names_from_yaml_and_folders_the_other_way_round(tmp_path):
    if find_spec("yaml") is None:
        pytest.skip("PyYAML is not installed")
    files.write_yolo(tmp_path)
    for kind in ("images", "labels"):
        for old, new in (("train", "train"), ("val", "valid")):
            (tmp_path / new).mkdir(exist_ok=True)
            (tmp_path / kind / old).rename(tmp_path / new / kind)
    files.write_text(tmp_path / "data.yaml", "nc: 2\nnames: {0: ant, 1: bee}\n")
    spec = DataSpec("yolo", n_train=3, n_test=2, image_size=SIZE)
    assert load(spec, tmp_path, task="detection").class_names == ("ant", "bee")


@pytest.mark.parametrize("name", POINTS)
def test_points_are_read_as_they_are_published(name, tmp_path):
    POINTS[name](tmp_path)
    data = load(
        DataSpec(name, n_train=2, n_validation=1, n_test=2, image_size=SIZE), tmp_path, task="counting"
    )
    assert data.n_classes == 1
    for part in (data.train, data.validation, data.test):
        for rows in part.labels.split():
            assert rows == pytest.approx(np.array(files.HEADS) * [1 / 2, 2 / 3], abs=1e-6)
    assert data.notes == ()


@pytest.mark.parametrize("name", POINTS)
def test_nobody_in_a_picture_is_a_count_of_zero(name, tmp_path):
    POINTS[name](tmp_path, heads=[])
    data = load(
        DataSpec(name, n_train=2, n_validation=1, n_test=2, image_size=SIZE), tmp_path, task="counting"
    )
    assert data.train.labels.counts.tolist() == [0, 0]
    assert data.notes[0] == "train: 2 of 2 images have no points: images of nothing."


def test_scenes_come_back_from_cocos_files(tmp_path):
    scenes = load(DataSpec("scenes", n_train=5, n_test=3, image_size=32), task="detection")
    for name, part in (("train2017", scenes.train), ("val2017", scenes.test)):
        write_coco(part, tmp_path, name=name, class_names=scenes.class_names)
    read = load(DataSpec("coco", n_train=5, n_test=3, image_size=32), tmp_path, task="detection")
    assert read.class_names == scenes.class_names
    for before, after in ((scenes.train, read.train), (scenes.test, read.test)):
        place = {image.numpy().tobytes(): number for number, image in enumerate(before.pixels.contiguous())}
        order = torch.tensor([place[image.contiguous().numpy().tobytes()] for image in after.pixels])
        assert sorted(order.tolist()) == list(range(len(before)))
        assert torch.equal(before.labels[order].rows, after.labels.rows)


def test_pixels_are_squeezed_and_decoded_once(tmp_path, monkeypatch):
    files.write_points(tmp_path)
    spec = DataSpec("points", n_train=3, n_test=2, image_size=SIZE)
    data = load(spec, tmp_path, task="counting")
    expected = {
        np.asarray(Image.open(path).resize((SIZE, SIZE), Image.Resampling.BILINEAR)).tobytes()
        for path in (tmp_path / "train").glob("*.png")
    }
    assert {image.permute(1, 2, 0).numpy().tobytes() for image in data.train.pixels} == expected
    loading._load.cache_clear()
    monkeypatch.setattr("decayfree.study.data.decoding._image", None)
    assert torch.equal(load(spec, tmp_path, task="counting").train.pixels, data.train.pixels)


@pytest.mark.parametrize(("name", "task", "n_numbers"), [("coco", "detection", 6), ("points", "counting", 2)])
def test_nothing_to_validate_on_has_as_many_numbers(name, task, n_numbers, tmp_path):
    {**BOXES, **POINTS}[name](tmp_path)
    data = load(DataSpec(name, n_train=3, n_test=2, image_size=SIZE), tmp_path, task=task)
    assert data.validation.labels.rows.shape == (0, n_numbers)
    assert len(data.validation) == 0
    assert data.validation.pixels.shape == (0, 3, SIZE, SIZE)


PACKAGES = {"nuclei": ("stardist", nuclei, (12, 4), 125), "coins": ("skimage", coins, (9, 3), 24)}


@pytest.mark.parametrize("name", PACKAGES)
def test_pictures_of_packages_have_all_their_objects(name):
    package, source, n_tiles, n_objects = PACKAGES[name]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    counted = source.read(None, size=64, task="counting")
    assert tuple(map(len, counted)) == n_tiles
    assert sum(len(part.labels.rows) for part in counted) == n_objects
    found = source.read(None, size=64, task="detection")
    n_boxes = sum(int((part.labels.rows[:, 5] == 0).sum()) for part in found)
    assert n_objects <= n_boxes < 1.6 * n_objects
    for images, points in zip(found, counted, strict=True):
        assert images.pixels.shape[1:] == (64, 64)
        for boxes, centers in zip(images.labels.split(), points.labels.split(), strict=True):
            inside = (centers[:, None] >= boxes[:, :2]) & (centers[:, None] <= boxes[:, 2:4])
            assert inside.all(2).any(1).all()
    spec = DataSpec(name, n_train=6, n_validation=2, n_test=n_tiles[1], image_size=32)
    data = load(spec, task="detection")
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 2, n_tiles[1])


def test_every_name_of_every_task_is_tried():
    tried = {
        "segmentation": {name.partition(",")[0] for name in MASKS},
        "detection": set(BOXES),
        "counting": set(POINTS),
    }
    tried = {task: names | {"scenes"} for task, names in tried.items()}
    tried["detection"] |= {*PACKAGES, "faces"}
    tried["counting"] |= set(PACKAGES)
    assert tried == {task: set(names) for task, names in DATA_OF_TASK.items() if task != "classification"}


@pytest.mark.parametrize("task", ["segmentation", "detection", "counting"])
def test_sets_without_a_place_of_their_own_say_what_they_take(task):
    for name in set(DATA_OF_TASK[task]) - {"scenes", "faces", *PACKAGES}:
        with pytest.raises(ValueError, match=r"has no place of its own. It takes .* as +data_dir"):
            load(DataSpec(name, image_size=SIZE), task=task)


@pytest.mark.parametrize("task", ["segmentation", "detection", "counting"])
def test_folders_that_are_not_there_are_named(task, tmp_path):
    for name in set(DATA_OF_TASK[task]) - {"scenes", "faces", *PACKAGES}:
        with pytest.raises(ValueError, match=f"{Path(tmp_path, 'nowhere')}"):
            load(DataSpec(name, image_size=SIZE), tmp_path / "nowhere", task=task)
