"""A class for each pixel, by cross-entropy, and scored by mean intersection over union."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decayfree.study.data.truth import IGNORED, Truth
from decayfree.study.models.networks import SEGMENTERS, build_with_backbone, check_logits, library_model
from decayfree.study.models.sizes import Sizes
from decayfree.study.run_settings import ModelSpec, Recipe
from decayfree.study.tasks.jackknife import pseudo_values
from decayfree.study.tasks.metric import METRICS
from decayfree.study.tasks.task import Score

AUXILIARY_WEIGHT = 0.5
"""Of the loss of torchvision's auxiliary head, as in torchvision's reference training."""


class Segmentation:
    """Truth: (n, height, width), uint8; pixels of `IGNORED` are neither trained on nor scored."""

    metric = METRICS["segmentation"]

    def build(self, spec: ModelSpec, sizes: Sizes, seed: int) -> nn.Module:
        shape = (2, sizes.n_classes, *sizes.image_size)

        def try_out(model: nn.Module, images: Tensor) -> None:
            check_logits(spec.name, "network for segmentation", shape, _logits(model(images)))

        def of_library() -> nn.Module:
            return library_model(
                spec,
                sizes,
                seed,
                n_classes=sizes.n_classes,
                trial=try_out,
                options={"aux_loss": True},
            )

        return build_with_backbone(spec, sizes, seed, ours=SEGMENTERS, of_library=of_library)

    def outputs(self, model: nn.Module, inputs: Tensor) -> Any:
        return model(inputs)

    def loss(self, forward: Callable[..., Any], inputs: Tensor, truth: Truth, recipe: Recipe) -> Tensor:
        assert isinstance(truth, Tensor)
        n_pixels = (truth != IGNORED).sum().clamp(min=1)
        return _summed_loss(forward(inputs), truth) / n_pixels

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, batches: Iterable[tuple[Tensor, Truth]], *, each: bool = False
    ) -> Score:
        was_training = model.training
        model.eval()
        loss, counts, masks = 0.0, [], []
        for inputs, truth in batches:
            assert isinstance(truth, Tensor)
            outputs = model(inputs)
            loss += float(_summed_loss(outputs, truth))
            logits = _logits(outputs)
            mask = logits.argmax(dim=1).to(torch.uint8)
            counts.append(_pixel_counts(mask, truth, n_classes=logits.shape[1]).cpu())
            masks.append(mask.cpu() if each else mask[:0].cpu())
        model.train(was_training)
        of_images = torch.cat(counts, dim=1)  # (3, n_images, n_classes)
        whole = of_images.sum(dim=1, keepdim=True)
        both, true, _ = whole[:, 0]
        n_pixels = int(true.sum())
        by_class = _intersection_over_union(whole)[0].tolist()
        score = float(_mean_over_classes(whole))
        return Score(
            loss / max(n_pixels, 1),
            score,
            pseudo_values(score, _mean_over_classes(whole - of_images)) if each else torch.zeros(0),
            metrics={
                **{f"IoU, class {number}": iou for number, iou in enumerate(by_class)},
                "pixel accuracy": float(both.sum() / true.sum()),
            },
            predictions=torch.cat(masks) if each else None,
        )


def _logits(outputs: Any) -> Any:
    """Of torchvision's networks, whose outputs have names, or of others."""
    return outputs["out"] if isinstance(outputs, Mapping) else outputs


def _summed_loss(outputs: Any, truth: Tensor) -> Tensor:
    labels = truth.long()
    loss = F.cross_entropy(_logits(outputs), labels, ignore_index=IGNORED, reduction="sum")
    if isinstance(outputs, Mapping) and "aux" in outputs:
        auxiliary = F.cross_entropy(outputs["aux"], labels, ignore_index=IGNORED, reduction="sum")
        return loss + AUXILIARY_WEIGHT * auxiliary
    return loss


def _pixel_counts(mask: Tensor, truth: Tensor, *, n_classes: int) -> Tensor:
    """Pixels of each class that are both, truly and as predicted of it: (3, n_images, n_classes), int64."""
    n = len(mask)
    image = torch.arange(n, device=mask.device)[:, None, None].expand_as(mask)
    is_known = truth != IGNORED
    image, mask, truth = image[is_known], mask[is_known].long(), truth[is_known].long()

    def count(which: Tensor, classes: Tensor) -> Tensor:
        cell = (image[which] * n_classes + classes[which]).long()
        return torch.bincount(cell, minlength=n * n_classes).view(n, n_classes)

    everywhere = torch.ones_like(mask, dtype=torch.bool)
    return torch.stack([count(mask == truth, truth), count(everywhere, truth), count(everywhere, mask)])


def _intersection_over_union(counts: Tensor) -> Tensor:
    """(3, n, n_classes) to (n, n_classes), float64; NaN for a class that is neither true nor predicted."""
    both, true, predicted = counts.double()
    shares: Tensor = both / (true + predicted - both)
    return shares


def _mean_over_classes(counts: Tensor) -> Tensor:
    return _intersection_over_union(counts).nanmean(dim=1)
