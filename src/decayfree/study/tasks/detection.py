"""Boxes with a class, by the losses of each detector, and scored by COCO's average precision."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from decayfree.arguments.address import Address
from decayfree.errors import InvalidInputError
from decayfree.forward import Surroundings
from decayfree.study.data.truth import Ragged, Truth
from decayfree.study.models.libraries import import_extra
from decayfree.study.models.networks import DETECTORS, build_with_backbone, library_model
from decayfree.study.models.sizes import Sizes
from decayfree.study.run_settings import ModelSpec, Recipe
from decayfree.study.tasks.average_precision import MOST_BOXES, average_precision
from decayfree.study.tasks.jackknife import pseudo_values
from decayfree.study.tasks.metric import METRICS
from decayfree.study.tasks.task import Score

Target = dict[str, Tensor]
_SHARES = ((0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.5, 0.5), (0.5, 0.0, 1.0, 0.5), (0.25, 0.25, 0.75, 0.75))
"""Made-up boxes, as shares of the image's sides."""


class Detection:
    """Truth: rows x₁, y₁, x₂, y₂, class from 0, ignored.

    Every detector is called as torchvision's are: with targets in train mode, for losses; without in eval
    mode, for boxes. Labels are from 1, since 0 is the ground.
    """

    metric = METRICS["detection"]

    def build(self, spec: ModelSpec, sizes: Sizes, seed: int) -> nn.Module:
        def try_out(model: nn.Module, images: Tensor) -> None:
            boxes = _made_up_boxes(images[0])
            target = {"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.long)}
            _summed(model(list(images), [target] * len(images)))
            self.outputs(model, images)

        def of_library() -> nn.Module:
            model = library_model(spec, sizes, seed, n_classes=sizes.n_classes + 1, trial=try_out)
            return (
                model if isinstance(spec.name, Address) else _with_images_as_they_are(model, sizes.image_size)
            )

        return build_with_backbone(spec, sizes, seed, ours=DETECTORS, of_library=of_library)

    def outputs(self, model: nn.Module, inputs: Tensor) -> Any:
        """What all heads say of each location, and of fixed boxes where boxes are looked at twice.

        Losses look at nothing else. In training a second stage is shown boxes that are drawn at random among
        those of the first, and no gradient goes back through them: any boxes ask it the same.
        """
        network: Any = model
        has_head = hasattr(network, "head") or (hasattr(network, "rpn") and hasattr(network, "roi_heads"))
        if not (hasattr(network, "backbone") and has_head):
            raise InvalidInputError(
                f"{type(model).__name__} is asked by what its heads say whether weights have a scale: "
                "expected a backbone, and a head or rpn and roi_heads, as torchvision's detectors have"
            )
        features = network.backbone(inputs)
        levels = list(features.values()) if isinstance(features, dict) else features
        if not hasattr(network, "roi_heads"):
            return network.head(levels)
        boxes = [_made_up_boxes(image) for image in inputs]
        sizes = [(image.shape[-2], image.shape[-1]) for image in inputs]
        second = network.roi_heads
        of_boxes = second.box_head(second.box_roi_pool(features, boxes, sizes))
        return network.rpn.head(levels), second.box_predictor(of_boxes)

    def loss(self, forward: Callable[..., Any], inputs: Tensor, truth: Truth, recipe: Recipe) -> Tensor:
        return _summed(forward(list(inputs), _targets(truth)))

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, batches: Iterable[tuple[Tensor, Truth]], *, each: bool = False
    ) -> Score:
        loss = 0.0
        truths: list[Tensor] = []
        predictions: list[Tensor] = []
        for inputs, truth in batches:
            assert isinstance(truth, Ragged)
            with _losses_of_eval_mode(model), Surroundings(0):
                loss += float(_summed(model(list(inputs), _targets(truth)))) * len(inputs)
            with _eval_mode(model):
                predictions += [_rows(one) for one in model(list(inputs))]
            truths += truth.to("cpu").split()
        predicted = Ragged.of_lists(predictions)
        precision = average_precision(Ragged.of_lists(truths), predicted, each=each)
        return Score(
            loss / len(truths),
            precision.of_all,
            pseudo_values(precision.of_all, precision.left_out) if each else torch.zeros(0),
            metrics={"mAP": precision.of_all, "mAP50": precision.at_half},
            predictions=predicted if each else None,
        )


def _with_images_as_they_are(model: Any, image_size: tuple[int, int]) -> nn.Module:
    """Inputs are standardized and of one size already: neither is done again."""
    transform = import_extra("torchvision.models.detection.transform").GeneralizedRCNNTransform
    model.transform = transform(
        min(image_size), max(image_size), [0.0] * 3, [1.0] * 3, size_divisible=model.transform.size_divisible
    )
    network: nn.Module = model
    return network


def _made_up_boxes(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    return image.new_tensor(_SHARES) * image.new_tensor([width, height, width, height])


def _targets(truth: Truth) -> list[Target]:
    """Of each image its boxes and labels; what is ignored is no box."""
    assert isinstance(truth, Ragged)
    targets = []
    for rows in truth.split():
        is_ignored = rows[:, 5] > 0
        boxes = rows[~is_ignored]
        targets.append(
            {"boxes": boxes[:, :4], "labels": boxes[:, 4].long() + 1, "ignored": rows[is_ignored, :4]}
        )
    return targets


def _summed(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def _rows(detections: Target) -> Tensor:
    """The best boxes as rows; the ground is none."""
    is_thing = detections["labels"] > 0
    best = detections["scores"].where(is_thing, -1.0).sort(descending=True, stable=True).indices
    best = best[: min(MOST_BOXES, int(is_thing.sum()))]
    columns = (detections["boxes"], detections["labels"][:, None] - 1, detections["scores"][:, None])
    return torch.cat([column[best].float() for column in columns], dim=1).cpu()


@contextlib.contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    with _modes_kept(model):
        model.eval()
        yield


@contextlib.contextmanager
def _losses_of_eval_mode(model: nn.Module) -> Iterator[None]:
    """Detectors give losses in train mode alone: they are in it, but what has no parts, as norms, is not."""
    with _modes_kept(model):
        for module in model.modules():
            module.training = module is model or any(True for _ in module.children())
        yield


@contextlib.contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, is_training in modes:
            module.training = is_training
