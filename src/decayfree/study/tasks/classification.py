"""One label for each image, by cross-entropy."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decayfree.errors import InvalidInputError
from decayfree.study.data.truth import Truth
from decayfree.study.models.networks import build_model
from decayfree.study.models.sizes import Sizes
from decayfree.study.run_settings import ModelSpec, Recipe
from decayfree.study.tasks.metric import METRICS
from decayfree.study.tasks.task import Score


class Classification:
    """Truth: (n,), int64."""

    metric = METRICS["classification"]

    def build(self, spec: ModelSpec, sizes: Sizes, seed: int) -> nn.Module:
        if spec.batch_norm != "live" or spec.backbone:
            raise InvalidInputError("model: classifiers have no backbone to load or to freeze")
        return build_model(spec, n_classes=sizes.n_classes, image_size=sizes.image_size, seed=seed)

    def outputs(self, model: nn.Module, inputs: Tensor) -> Any:
        return model(inputs)

    def loss(self, forward: Callable[..., Any], inputs: Tensor, truth: Truth, recipe: Recipe) -> Tensor:
        assert isinstance(truth, Tensor)
        return F.cross_entropy(forward(inputs), truth, label_smoothing=recipe.label_smoothing)

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, batches: Iterable[tuple[Tensor, Truth]], *, each: bool = False
    ) -> Score:
        was_training = model.training
        model.eval()
        loss = 0.0
        right = []
        for inputs, labels in batches:
            assert isinstance(labels, Tensor)
            logits = model(inputs)
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            right.append(logits.argmax(dim=1) == labels)
        model.train(was_training)
        of_images = torch.cat(right).cpu()
        return Score(loss / len(of_images), int(of_images.sum()) / len(of_images), of_images)
