"""COCO's average precision of boxes: of all images, and of all but each.

pycocotools matches boxes and says the precision of all images. Its accumulation is done again here without
each image, from the same matches.
"""

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from decayfree.errors import extra_needed
from decayfree.study.data.truth import Ragged

MOST_BOXES = 100
"""So many boxes of an image are looked at, those with the highest scores."""
_MOST_NUMBERS = 2**22
_TINY = 2.0**-52
"""numpy.spacing(1), as pycocotools adds it to the number of boxes."""


@dataclass(frozen=True)
class AveragePrecision:
    """How well boxes are found; NaN where no image has a box that counts.

    Attributes:
        of_all: Mean over classes with boxes and over IoU thresholds from 0.50 to 0.95: mAP.
        at_half: The same at an IoU of 0.50: mAP50.
        left_out: (n_images,), float64, mAP of all images but one; empty if not asked for.
    """

    of_all: float
    at_half: float
    left_out: Tensor


def average_precision(truth: Ragged, predicted: Ragged, *, each: bool = False) -> AveragePrecision:
    """COCO's average precision over boxes of any area, 100 an image and class at most.

    Args:
        truth: Rows x₁, y₁, x₂, y₂, class, ignored. An ignored box is neither missed nor found, and what lies
            in it is no mistake.
        predicted: Rows x₁, y₁, x₂, y₂, class, score, of the same images.
        each: Also without each image.

    Raises:
        MissingExtraError: If pycocotools is not installed.

    References:
        Lin et al., "Microsoft COCO: Common Objects in Context", 2014, arXiv 1405.0312, and pycocotools.
    """
    evaluation = _evaluated(truth, predicted)
    precision = torch.from_numpy(evaluation.eval["precision"][..., 0, 0])  # (thresholds, recalls, classes)
    precision = precision.where(precision > -1, torch.nan)
    left_out = _left_out(evaluation) if each else torch.zeros(0, dtype=torch.float64)
    return AveragePrecision(float(precision.nanmean()), float(precision[0].nanmean()), left_out)


def _evaluated(truth: Ragged, predicted: Ragged) -> Any:
    """Matches and precision, as pycocotools keeps them."""
    with extra_needed("tasks", "average precision needs {}, which is not installed"):
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    annotations, detections = _as_dicts(truth, "iscrowd"), _as_dicts(predicted, "score")
    with contextlib.redirect_stdout(io.StringIO()):  # it says what it does
        sides = []
        for rows in (annotations, detections):
            side = COCO()
            side.dataset = {
                "images": [{"id": image} for image in range(len(truth))],
                "categories": [{"id": one} for one in sorted({row["category_id"] for row in annotations})],
                "annotations": rows,
            }
            side.createIndex()
            sides.append(side)
        evaluation = COCOeval(*sides, "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [MOST_BOXES]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _as_dicts(boxes: Ragged, last_column: str) -> list[dict[str, Any]]:
    """Boxes as pycocotools wants them, with what stands in the last column by its name."""
    images = torch.arange(len(boxes)).repeat_interleave(boxes.counts).tolist()
    return [
        {
            "id": number,  # from 1: to pycocotools a match with 0 is none
            "image_id": image,
            "category_id": int(label),
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
            last_column: last,
        }
        for number, (image, (left, top, right, bottom, label, last)) in enumerate(
            zip(images, boxes.rows.tolist(), strict=True), start=1
        )
    ]


def _left_out(evaluation: Any) -> Tensor:
    """The mAP of all images but each, (n_images,), float64."""
    n_images, n_classes = len(evaluation.params.imgIds), len(evaluation.params.catIds)
    recalls = torch.from_numpy(evaluation.params.recThrs)
    precisions = []
    for number in range(n_classes):
        of_class = evaluation.evalImgs[number * n_images : (number + 1) * n_images]
        precisions.append(_left_out_of_class(of_class, recalls))
    if not precisions:
        return torch.full((n_images,), torch.nan, dtype=torch.float64)
    return torch.stack(precisions).nanmean(dim=0)


def _left_out_of_class(of_class: list[dict[str, Any] | None], recalls: Tensor) -> Tensor:
    """Mean over thresholds, (n_images,); NaN where no box of the class is left."""
    n_images = len(of_class)
    some = [(image, one) for image, one in enumerate(of_class) if one is not None]
    n_true = torch.zeros(n_images, dtype=torch.long)
    for image, one in some:
        n_true[image] = int((one["gtIgnore"] == 0).sum())
    scores = torch.cat([torch.tensor(one["dtScores"], dtype=torch.float64) for _, one in some])
    order = scores.sort(descending=True, stable=True).indices
    images = torch.cat([torch.full((len(one["dtScores"]),), image) for image, one in some])[order]
    is_counted = ~torch.cat([torch.from_numpy(one["dtIgnore"]) for _, one in some], dim=1)[:, order]
    is_hit = torch.cat([torch.from_numpy(one["dtMatches"] > 0) for _, one in some], dim=1)[:, order]
    # Images without anything of the class change nothing: -1 stands for them all.
    left_out = torch.tensor([-1, *(image for image, _ in some)])
    n_left = n_true.sum() - torch.cat([torch.zeros(1, dtype=torch.long), n_true[left_out[1:]]])
    each = torch.stack(
        [
            _average_precision_without(left_out, n_left, images, hit & counted, counted, recalls)
            for hit, counted in zip(is_hit, is_counted, strict=True)
        ]
    ).mean(dim=0)
    each = each.where(n_left > 0, torch.nan)
    of_images = each[0].repeat(n_images)
    of_images[left_out[1:]] = each[1:]
    return of_images


def _average_precision_without(
    left_out: Tensor, n_left: Tensor, images: Tensor, is_hit: Tensor, is_counted: Tensor, recalls: Tensor
) -> Tensor:
    """At one IoU threshold, without each of these images.

    Only at hits does the precision rise, so that its largest value from some recall on is at a hit. Counts
    at the hits are those of all images less those of the image that is left out.

    Args:
        left_out: (n,), numbers of images.
        n_left: (n,), true boxes without the image.
        images: (n_boxes,), of which image each predicted box is, by falling score; so are the next two.
        is_hit: Whether it is matched to a true box.
        is_counted: Whether it counts at all.
        recalls: (n_recalls,), where the precision is read.

    Returns:
        (n,), float64.
    """
    hits = is_hit.nonzero().squeeze(1)
    if not len(hits):
        return torch.zeros(len(left_out), dtype=torch.float64)
    counted = is_counted.nonzero().squeeze(1)
    next_hit = torch.searchsorted(hits, counted)  # the first hit at or after each counted box
    n_hits_by_then = torch.arange(1, len(hits) + 1)
    n_counted_by_then = is_counted.cumsum(0)[hits]
    averages = []
    for chunk, n_true in zip(
        *(one.split(max(1, _MOST_NUMBERS // len(hits))) for one in (left_out, n_left)), strict=True
    ):
        own_hit = images[hits] == chunk[:, None]  # (n, n_hits)
        own = images[counted] == chunk[:, None]
        row, column = own.nonzero(as_tuple=True)
        own_counted = torch.zeros(len(chunk), len(hits) + 1, dtype=torch.long)
        own_counted.index_put_((row, next_hit[column]), torch.ones_like(row), accumulate=True)
        n_hits = n_hits_by_then - own_hit.cumsum(1)
        n_counted = n_counted_by_then - own_counted.cumsum(1)[:, :-1]
        precision = (n_hits / (n_counted.double() + _TINY)).where(~own_hit, 0.0)
        best_from_here = precision.flip(1).cummax(1).values.flip(1)
        recall = n_hits.double() / n_true[:, None]
        at = torch.searchsorted(recall, recalls.expand(len(chunk), -1).contiguous())
        read = torch.cat([best_from_here, torch.zeros(len(chunk), 1, dtype=torch.float64)], dim=1)
        averages.append(read.gather(1, at).mean(dim=1))
    return torch.cat(averages)
