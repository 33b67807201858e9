"""COCO's average precision: by hand, against pycocotools' own summary, and without each image."""

import contextlib
import io
import sys

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from decayfree.errors import MissingExtraError
from decayfree.study.data.truth import Ragged
from decayfree.study.tasks.average_precision import average_precision

BOX = [10.0, 10.0, 30.0, 30.0]
FAR = [60.0, 60.0, 80.0, 80.0]


def rows(*boxes: list[float]) -> Tensor:
    return torch.tensor(boxes).reshape(-1, 6)


def random_boxes(n: int, *, n_classes: int, seed: int) -> tuple[Ragged, Ragged]:
    generator = torch.Generator().manual_seed(seed)
    truths, found = [], []
    for _ in range(n):
        n_boxes = int(torch.randint(0, 8, (), generator=generator))
        drawn = torch.rand(n_boxes, 6, generator=generator)
        truth = torch.cat([drawn[:, :2] * 60, drawn[:, :2] * 60 + 4 + drawn[:, 2:4] * 120], dim=1)
        classes = (drawn[:, 4:5] * n_classes).floor()
        moved = truth + torch.randn(n_boxes, 4, generator=generator) * 3
        scores = (torch.rand(n_boxes, 1, generator=generator) * 50).round() / 50
        wrong = torch.rand(n_boxes, 6, generator=generator)
        wrong = torch.cat(
            [wrong[:, :2] * 50, wrong[:, :2] * 50 + 5 + wrong[:, 2:4] * 40, classes.flip(0), wrong[:, 5:]], 1
        )
        truths.append(torch.cat([truth, classes, (drawn[:, 5:] < 0.1).float()], dim=1))
        found.append(torch.cat([torch.cat([moved, classes, scores], dim=1), wrong]))
    return Ragged.of_lists(truths), Ragged.of_lists(found)


def summary_of_pycocotools(truth: Ragged, found: Ragged) -> list[float]:
    """As its own documentation shows it, with all of its areas and numbers of boxes."""
    annotations, results, number = [], [], 0
    for image, (true, seen) in enumerate(zip(truth.split(), found.split(), strict=True)):
        for left, top, right, bottom, label, ignored in true.tolist():
            number += 1
            box = [left, top, right - left, bottom - top]
            common = {"id": number, "image_id": image, "category_id": int(label), "bbox": box}
            annotations.append({**common, "area": box[2] * box[3], "iscrowd": int(ignored)})
        for left, top, right, bottom, label, score in seen.tolist():
            box = [left, top, right - left, bottom - top]
            results.append({"image_id": image, "category_id": int(label), "bbox": box, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(len(truth))],
            "categories": [{"id": one} for one in sorted({one["category_id"] for one in annotations})],
            "annotations": annotations,
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(number) for number in evaluation.stats[:2]]


def test_it_is_what_pycocotools_says(seed: int) -> None:
    truth, found = random_boxes(20, n_classes=4, seed=seed)
    precision = average_precision(truth, found)
    assert [precision.of_all, precision.at_half] == summary_of_pycocotools(truth, found)
    assert 0.1 < precision.of_all < 0.9


def test_without_an_image_it_is_what_pycocotools_says_of_the_others(seed: int) -> None:
    truth, found = random_boxes(8, n_classes=3, seed=seed)
    left_out = average_precision(truth, found, each=True).left_out
    for image in range(8):
        others = torch.tensor([other for other in range(8) if other != image])
        expected = summary_of_pycocotools(truth[others], found[others])[0]
        assert float(left_out[image]) == pytest.approx(expected, abs=1e-14)


def test_many_images_are_left_out_a_few_at_a_time(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, found = random_boxes(12, n_classes=2, seed=seed)
    at_once = average_precision(truth, found, each=True).left_out
    monkeypatch.setattr("decayfree.study.tasks.average_precision._MOST_NUMBERS", 64)
    assert torch.equal(average_precision(truth, found, each=True).left_out, at_once)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (rows([*BOX, 0, 0.9]), 1.0),
        (rows([*BOX, 0, 0.9], [*FAR, 0, 0.5]), 1.0),  # the mistake comes after all is found
        (rows([*FAR, 0, 0.9], [*BOX, 0, 0.5]), 0.5),  # one of two is right when it is found
        (rows([*BOX, 0, 0.9], [*BOX, 0, 0.8]), 1.0),  # twice the same: the second is a mistake
        (rows([*BOX, 1, 0.9]), 0.0),  # another class
        (rows(), 0.0),
        (rows([10.0, 10.0, 30.0, 25.2, 0, 0.9]), 0.6),  # 0.76 of the box: right at 6 thresholds of 10
    ],
)
def test_one_box(found: Tensor, expected: float) -> None:
    truth = Ragged.of_lists([rows([*BOX, 0, 0])])
    assert average_precision(truth, Ragged.of_lists([found])).of_all == pytest.approx(expected, abs=1e-12)


def test_an_ignored_box_is_neither_missed_nor_a_mistake() -> None:
    truth = Ragged.of_lists([rows([*BOX, 0, 0], [*FAR, 0, 1])])
    inside = [62.0, 62.0, 70.0, 70.0, 0, 0.95]
    for found in (rows([*BOX, 0, 0.9]), rows(inside, [*BOX, 0, 0.9])):
        assert average_precision(truth, Ragged.of_lists([found])).of_all == pytest.approx(1, abs=1e-12)


def test_classes_that_no_image_has_do_not_count_and_without_boxes_there_is_none() -> None:
    truth = Ragged.of_lists([rows([*BOX, 0, 0])])
    found = Ragged.of_lists([rows([*BOX, 0, 0.9], [*FAR, 7, 0.9])])
    assert average_precision(truth, found).of_all == pytest.approx(1, abs=1e-12)
    nothing = average_precision(Ragged.of_lists([rows()]), Ragged.of_lists([rows([*BOX, 0, 0.9])]), each=True)
    assert torch.tensor([nothing.of_all, nothing.at_half, *nothing.left_out]).isnan().all()


def test_pycocotools_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    average_precision(*random_boxes(2, n_classes=2, seed=0))
    assert capsys.readouterr().out == ""


def test_where_it_is_not_installed_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(MissingExtraError, match=r"needs pycocotools.*pip install 'decayfree\[tasks\]'"):
        average_precision(*random_boxes(2, n_classes=2, seed=0))
