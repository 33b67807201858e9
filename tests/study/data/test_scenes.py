"""Scenes: the same for the same number, other items and ground in each part, and truth as they are drawn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from decayfree.errors import InvalidInputError
from decayfree.study.data import fashion_mnist, loading, scenes
from decayfree.study.data.images import Images
from decayfree.study.data.loading import load
from decayfree.study.data.truth import Ragged
from decayfree.study.run_settings import DataSpec

ROLES: tuple[scenes.Role, ...] = ("train", "validation", "test")
TASKS = ("segmentation", "detection", "counting")


@pytest.fixture(autouse=True, params=["clothes", "digits"])
def items(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Fashion-MNIST where it is, and the digits where it is not."""
    scenes.source.cache_clear()
    loading._load.cache_clear()
    if request.param == "digits":

        def nowhere(data_dir: str | None = None) -> None:
            raise InvalidInputError("nowhere")

        monkeypatch.setattr(fashion_mnist, "locate", nowhere)
    else:
        try:
            fashion_mnist.locate()
        except InvalidInputError as error:
            pytest.skip(str(error))
    return str(request.param)


def drawn(task: str, indices: Tensor | range, *, size: int = 64, role: scenes.Role = "train") -> Images:
    return scenes.draw(
        torch.as_tensor(list(indices)), task=task, size=size, role=role, of=scenes.source(role)
    )


@pytest.mark.parametrize("task", TASKS)
def test_a_scene_is_a_function_of_its_number(task: str) -> None:
    many, few = drawn(task, range(300)), drawn(task, [299, 3, 3])
    for place, index in enumerate([299, 3, 3]):
        assert torch.equal(many.pixels[index], few.pixels[place])
        one = (many.labels[torch.tensor([index])], few.labels[torch.tensor([place])])
        rows = [truth.rows if isinstance(truth, Ragged) else truth for truth in one]
        assert torch.equal(*rows)
    assert not torch.equal(few.pixels[0], few.pixels[1])


def test_parts_have_nothing_in_common() -> None:
    sources = [scenes.source(role) for role in ROLES]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        one, other = ({item.numpy().tobytes() for item in sources[at].items[:2000]} for at in (first, second))
        assert not one & other
        widths = [[photograph.shape[2] for photograph in of.photographs] for of in sources]
    assert [sum(of) for of in zip(*widths, strict=True)] == [640, 640]
    assert {photograph.shape[1] for of in sources for photograph in of.photographs} == {427}


def test_names_say_what_the_items_are(items: str) -> None:
    names = scenes.class_names("segmentation", scenes.source("train"))
    assert names[:3] == (("ground", "T-shirt", "trouser") if items == "clothes" else ("ground", "0", "1"))
    assert scenes.class_names("counting", scenes.source("train")) == ("item",)


@pytest.mark.parametrize("size", [32, 64, 129])
def test_boxes_are_tight_about_what_is_seen_of_masks(size: int) -> None:
    masks, boxes = drawn("segmentation", range(200), size=size), drawn("detection", range(200), size=size)
    assert torch.equal(masks.pixels, boxes.pixels)
    assert isinstance(masks.labels, Tensor)
    assert isinstance(boxes.labels, Ragged)
    assert boxes.labels.counts.max() <= scenes.MOST_ITEMS
    n_alone = 0
    for mask, rows in zip(masks.labels, boxes.labels.split(), strict=True):
        assert (rows[:, :2] >= 0).all()
        assert (rows[:, :2] < rows[:, 2:4]).all()
        assert (rows[:, 2:4] <= size).all()
        assert {int(one) for one in mask.unique() if one} == {int(row[4]) + 1 for row in rows}
        for row in rows:
            if (rows[:, 4] == row[4]).sum() > 1:
                continue
            y, x = (mask == row[4] + 1).nonzero().unbind(1)
            assert row[:4].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
            n_alone += 1
    assert n_alone > 300
    is_ignored = boxes.labels.rows[:, 5]
    assert 0 < is_ignored.mean() < 0.25


def test_crowds_are_small_above_and_large_below() -> None:
    counting = drawn("counting", range(200))
    assert isinstance(counting.labels, Ragged)
    counts = counting.labels.counts
    assert counts.min() >= 1
    assert counts.max() > 100
    assert counts.max() <= scenes.MOST_IN_A_CROWD
    assert counts.float().log().std() > 0.7
    rows = counting.labels.rows
    assert (rows >= 0).all()
    assert (rows < 64).all()
    assert rows[:, 1].median() < 28


def test_an_item_that_is_hidden_is_not_there() -> None:
    of = scenes.source("train")
    brightest = int((of.items > 40).sum(dim=(1, 2)).argmax())
    same = torch.tensor([0, 0])
    items = scenes._Items(
        same,
        torch.full((2,), brightest),
        torch.tensor([[20.0, 20], [20, 20]]),
        torch.tensor([20, 20]),
        torch.ones(2, 3),
    )
    numbers = torch.full((1, 3, 7), 0.5)
    counted = scenes._scenes(items, numbers, "counting", 64, of).labels
    assert isinstance(counted, Ragged)
    assert counted.counts.tolist() == [1]
    [boxes] = scenes._scenes(items, numbers, "detection", 64, of).labels.split()
    assert boxes[:, 5].tolist() == [0.0]  # of the other one nothing is seen


@pytest.mark.parametrize("task", TASKS)
def test_a_study_loads_them(task: str) -> None:
    spec = DataSpec(
        name="scenes", image_size=32, n_train=20, n_validation=0, n_test=5, by_seed=True, n_pool=100
    )
    one, again, other = (load(spec, seed=seed, task=task) for seed in (0, 0, 1))
    assert torch.equal(one.train.pixels, again.train.pixels)
    assert not torch.equal(one.train.pixels, other.train.pixels)
    assert torch.equal(one.test.pixels, other.test.pixels)
    assert (len(one.train), len(one.validation), len(one.test)) == (20, 0, 5)
    assert one.n_classes == len(one.class_names) == {"segmentation": 11, "detection": 10, "counting": 1}[task]
    inputs = one.batch(torch.tensor([3, 7]), spec, seed=0, step=0)
    assert inputs.shape == (2, 3, 32, 32)
    assert inputs.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("task", TASKS)
def test_truth_is_mirrored_with_its_image(task: str) -> None:
    spec = DataSpec(name="scenes", image_size=32, n_train=20, n_validation=4, n_test=5, flip=True)
    dataset = load(spec, task=task)
    chosen = torch.arange(20)
    plain = dataset.to_input(dataset.train.pixels[chosen])
    seen = dataset.batch(chosen, spec, seed=0, step=3)
    truth = dataset.truth(chosen, spec, seed=0, step=3)
    is_mirrored = [not torch.equal(*pair) for pair in zip(plain, seen, strict=True)]
    assert 3 < sum(is_mirrored) < 17
    for index, was_mirrored in enumerate(is_mirrored):
        only = torch.tensor([index])
        before, after = dataset.train.labels[only], truth[only]
        if isinstance(before, Tensor):
            assert torch.equal(after, before.flip(2) if was_mirrored else before)
            continue
        expected = before.rows.clone()
        if was_mirrored and task == "detection":
            expected[:, 0], expected[:, 2] = 32 - before.rows[:, 2], 32 - before.rows[:, 0]
        elif was_mirrored:
            expected[:, 0] = 32 - before.rows[:, 0]
        assert torch.equal(after.rows, expected)
