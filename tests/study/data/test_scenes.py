"""Scenes: a function of purpose and number, painted as a slow painter does, and all told that is in them."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from decayfree.errors import InvalidInputError
from decayfree.study.data import digits, fashion_mnist, load, loading
from decayfree.study.data.scenes import faces, painting
from decayfree.study.data.scenes.drawing import draw
from decayfree.study.data.scenes.layout import BLOCK, layout, within
from decayfree.study.data.scenes.pool import NO_CLASS, garments, photographs
from decayfree.study.data.truth import mirrored
from decayfree.study.run_settings import DataSpec

pytest.importorskip("PIL", reason="Pillow is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")
SPEC = DataSpec("scenes", n_train=6, n_validation=4, n_test=3, image_size=32)


@pytest.fixture(autouse=True)
def _forget():
    loading._load.cache_clear()
    garments.cache_clear()


@pytest.fixture(scope="module")
def pool():
    return garments(None)[0]["train"]


def some(kind, task, numbers, pool, *, size=32, purpose="train"):
    return draw(kind, purpose, torch.tensor(numbers), pool, size=size, task=task)


def slow(scenes, pool, size):
    """Scene by scene and item by item: pixels, owners, and how much of each item is seen."""
    pixels = painting._ground(scenes, pool.ground, size).numpy().astype(int)
    owners = np.full(pixels.shape[:3], -1)
    whole = []
    for item, scene in enumerate(scenes.scene.tolist()):
        side, top, left = (int(getattr(scenes, name)[item]) for name in ("side", "top", "left"))
        picture = pool.items[int(within(scenes.item[item], 0, len(pool.items)))].numpy().astype(int)
        weights = painting._weights(picture.shape[0], side, side).numpy().astype(int)
        values = weights @ picture @ weights.T // 64**2
        if scenes.is_mirrored[item] and pool.has_mirror_images:
            values = (weights @ picture[:, ::-1] @ weights.T) // 64**2
        mask = values > pool.threshold
        whole.append(mask.sum())
        inside = (scene, slice(top, top + side), slice(left, left + side))
        colors = values[..., None] * scenes.tint[item].numpy()[: pixels.shape[3]] >> 7
        pixels[inside] = np.where(mask[..., None], colors, pixels[inside])
        owners[inside] = np.where(mask, item, owners[inside])
    return pixels, owners, whole


@pytest.mark.parametrize(("kind", "size"), [("objects", 32), ("objects", 120), ("crowd", 40)])
def test_scenes_are_painted_as_a_slow_painter_does(kind, size, pool):
    scenes = layout(kind, "train", 0, torch.arange(5), size=size)
    drawn = painting.painted(scenes, pool, size=size)
    pixels, owners, whole = slow(scenes, pool, size)
    assert np.array_equal(drawn.pixels.numpy(), pixels)
    assert drawn.n_pixels.tolist() == whole
    assert drawn.n_visible.tolist() == [(owners == item).sum() for item in range(len(whole))]


def test_masks_and_boxes_tell_what_is_visible(pool):
    numbers = list(range(8))
    scenes = layout("objects", "train", 0, torch.tensor(numbers), size=64)
    _, owners, whole = slow(scenes, pool, 64)
    masks = some("objects", "segmentation", numbers, pool, size=64).labels
    boxes = some("objects", "detection", numbers, pool, size=64).labels
    labels = pool.labels[within(scenes.item, 0, len(pool.items))].numpy()
    assert np.array_equal(masks.numpy(), np.where(owners >= 0, labels[owners] + 1, 0))
    expected = []
    for item, scene in enumerate(scenes.scene.tolist()):
        y, x = np.nonzero(owners[scene] == item)
        if len(y):
            is_hidden = len(y) < 0.3 * whole[item]
            expected.append([x.min(), y.min(), x.max() + 1, y.max() + 1, labels[item], is_hidden])
    assert boxes.rows.tolist() == expected
    assert any(row[5] for row in expected)
    assert len(boxes) == 8


def test_crowds_have_a_point_for_each_item_that_is_seen(pool):
    crowd = some("crowd", "counting", list(range(60)), pool, size=64).labels
    assert 1 <= int(crowd.counts.min()) < 10
    assert 100 < int(crowd.counts.max()) <= 200
    assert ((crowd.rows > 0) & (crowd.rows < 64)).all()
    scenes = layout("crowd", "train", 0, torch.arange(60), size=64)
    upper = scenes.top + scenes.side < 32
    assert scenes.side[upper].max() < scenes.side[~upper].max()
    assert upper.sum() > 1.3 * (~upper).sum()  # dense in the distance
    foot = scenes.top + scenes.side  # what stands in front is painted over what is behind
    assert (foot[1:] >= foot[:-1])[scenes.scene[1:] == scenes.scene[:-1]].all()


def test_a_scene_is_the_same_whatever_else_is_asked_for(pool):
    numbers = [BLOCK + 3, 7, 0, 7]
    mixed = some("objects", "detection", numbers, pool)
    for place, number in enumerate(numbers):
        alone = some("objects", "detection", [number], pool)
        assert torch.equal(alone.pixels[0], mixed.pixels[place])
        assert torch.equal(alone.labels.rows, mixed.labels.split()[place])
    other = some("objects", "detection", [7], pool, purpose="test")
    assert not torch.equal(other.pixels[0], mixed.pixels[1])


@pytest.mark.parametrize(
    ("kind", "purpose", "block", "sums"),
    [
        ("objects", "train", 0, [1173, 26319, 24649, 23665]),
        ("crowd", "test", 1, [18416, 120786, 526627, 335059]),
    ],
)
def test_a_layout_is_the_same_on_every_machine(kind, purpose, block, sums):
    scenes = layout(kind, purpose, block, torch.arange(BLOCK), size=64)
    assert [
        len(scenes.scene),
        *(int(getattr(scenes, name).sum()) for name in ("side", "left", "top")),
    ] == sums


@pytest.mark.parametrize("task", ["segmentation", "detection", "counting"])
def test_scenes_are_loaded_by_every_task(task):
    data = load(SPEC, task=task)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [6, 4, 3]
    assert data.train.pixels.shape == (6, 3, 32, 32)
    assert data.train.pixels.is_contiguous(memory_format=torch.channels_last)
    assert (
        data.n_classes == len(data.class_names) == {"segmentation": 11, "detection": 10, "counting": 1}[task]
    )
    more = load(DataSpec("scenes", n_train=9, n_test=3, image_size=32), task=task, seed=1)
    assert torch.equal(more.train.pixels[:6], data.train.pixels)
    assert len(more.validation) == 0
    if task != "segmentation":
        assert more.validation.labels.rows.shape == (0, more.train.labels.rows.shape[1])
    batch = data.batch(torch.tensor([1, 0]), SPEC, seed=0, step=0)
    assert batch.shape == (2, 3, 32, 32)
    values = data.to_input(data.train.pixels)
    assert values.mean().abs() < 1e-5


def test_validation_scenes_are_others_than_those_to_train_on():
    data = load(SPEC, task="detection")
    more = load(DataSpec("scenes", n_train=10, n_test=3, image_size=32), task="detection")
    seen = {image.numpy().tobytes() for image in more.train.pixels}
    for part in (data.validation, data.test):
        assert not seen & {image.numpy().tobytes() for image in part.pixels}


def test_scenes_drawn_by_seed_come_out_of_the_pool():
    spec = DataSpec(
        "scenes", n_train=4, n_validation=2, n_test=1, image_size=32, by_seed=True, n_pool=8, first=3
    )
    data = {seed: load(spec, task="counting", seed=seed) for seed in (0, 1)}
    whole = load(DataSpec("scenes", n_train=11, n_test=1, image_size=32), task="counting")
    pool = [image.numpy().tobytes() for image in whole.train.pixels]
    drawn = [{image.numpy().tobytes() for image in each.train.pixels} for each in data.values()]
    assert drawn[0] != drawn[1]
    assert all(each < set(pool[3:9]) for each in drawn)
    assert torch.equal(data[0].validation.pixels, data[1].validation.pixels)


def test_mirrored_scenes_have_mirrored_masks_and_boxes():
    masks, boxes = (load(SPEC, task=task) for task in ("segmentation", "detection"))
    which = torch.tensor([True, False, True, False, True, True])
    flipped = mirrored(masks.train.labels, which, width=32)
    moved = mirrored(boxes.train.labels, which, width=32)
    for mask, rows in zip(flipped, moved.split(), strict=True):
        for x1, y1, x2, y2, label, _ in rows.long().tolist():
            inside = mask[y1:y2, x1:x2] == label + 1
            assert all(inside[edge].any() for edge in (0, -1))
            assert all(inside[:, edge].any() for edge in (0, -1))


def test_parts_have_items_and_ground_of_their_own():
    every = photographs()
    assert [every[part].shape[2] for part in ("train", "validation", "test")] == [384, 128, 128]
    assert torch.cat(list(every.values()), dim=2).shape == (2, 427, 640, 3)
    pools, names, notes = garments(None)
    if notes:
        assert sum(len(pool.items) for pool in pools.values()) == 1797
        return
    files = fashion_mnist.read(fashion_mnist.locate())
    assert torch.equal(pools["train"].items, files["train_images"][:50_000])
    assert torch.equal(pools["validation"].labels, files["train_labels"][50_000:].long())
    assert torch.equal(pools["test"].items, files["test_images"])
    assert names[9] == "ankle boot"


def test_digits_stand_in_for_what_is_not_there_and_say_so(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIR", tmp_path)
    data = load(SPEC, task="detection")
    assert data.class_names[:2] == ("digit 0", "digit 1")
    assert data.notes == ("The items are scikit-learn's digits, since Fashion-MNIST was not found.",)
    pools = garments(None)[0]
    upright = layout("objects", "train", 0, torch.arange(4), size=40)
    drawn = painting.painted(upright, pools["train"], size=40)
    assert np.array_equal(drawn.pixels.numpy(), slow(upright, pools["train"], 40)[0])
    assert upright.is_mirrored.any()
    assert not pools["train"].has_mirror_images
    assert torch.equal(torch.cat([pool.labels for pool in pools.values()]), digits.read().classes)
    with pytest.raises(InvalidInputError, match="Fashion-MNIST was not found"):
        load(SPEC, tmp_path, task="detection")


@pytest.mark.parametrize("size", [31, 513])
def test_scenes_of_other_sizes_are_refused(size):
    with pytest.raises(InvalidInputError, match=f"32 to 512 pixels a side, got {size}"):
        load(DataSpec("scenes", n_train=1, n_test=1, image_size=size), task="counting")


@pytest.mark.parametrize("size", [32, 512])
def test_scenes_have_any_size_in_between(size, pool):
    assert some("objects", "segmentation", [0], pool, size=size).labels.shape == (1, size, size)


def test_more_scenes_than_there_are_are_refused():
    with pytest.raises(InvalidInputError, match="scenes has 60000 training and 10000 test images here"):
        load(DataSpec("scenes", n_train=60_001, n_test=1, image_size=32), task="counting")


@pytest.mark.parametrize(
    ("name", "task"), [("voc", "counting"), ("scenes", "classification"), ("coins", "x")]
)
def test_a_task_without_such_data_is_refused(name, task):
    with pytest.raises(InvalidInputError, match=f"there is no {task} of {name}, expected classification of"):
        load(DataSpec(name, image_size=32), task=task)


@pytest.mark.parametrize(("n_from", "n_to"), [(28, 3), (28, 28), (28, 61), (8, 30)])
def test_a_pixel_is_an_average_of_the_old_ones(n_from, n_to):
    weights = painting._weights(n_from, n_to, n_to + 2)
    assert weights.sum(1).tolist() == [64.0] * n_to + [0.0] * 2
    assert (weights >= 0).all()
    if n_from == n_to:
        assert torch.equal(weights[:n_to], 64 * torch.eye(n_to))


@pytest.mark.skipif(find_spec("skimage") is None, reason="scikit-image is not installed")
def test_faces_are_found_among_what_is_no_face():
    pools = faces.pools(None)
    assert [int((pool.labels == 0).sum()) for pool in pools.values()] == [60, 20, 20]
    assert [int((pool.labels == NO_CLASS).sum()) for pool in pools.values()] == [60, 20, 20]
    seen = [{patch.numpy().tobytes() for patch in pool.items} for pool in pools.values()]
    assert len(set.union(*seen)) == sum(map(len, seen))
    data = load(DataSpec("faces", n_train=30, n_validation=2, n_test=2, image_size=64), task="detection")
    assert data.train.pixels.shape == (30, 64, 64)
    assert data.class_names == ("face",)
    assert set(data.train.labels.rows[:, 4].tolist()) == {0.0}
    n_items = len(layout("faces", "train", 0, torch.arange(30), size=64).scene)
    assert 0.3 * n_items < len(data.train.labels.rows) < 0.7 * n_items


def test_faces_of_another_file_are_refused(tmp_path):
    np.save(tmp_path / "lfw_subset.npy", np.zeros((3, 25, 25)))
    with pytest.raises(InvalidInputError, match=r"lfw_subset.npy: expected \(200, 25, 25\) numbers"):
        faces.pools(str(tmp_path))
    (tmp_path / "lfw_subset.npy").write_bytes(b"text")
    faces.pools.cache_clear()
    with pytest.raises(InvalidInputError, match=r"lfw_subset.npy cannot be read"):
        faces.pools(str(tmp_path))
