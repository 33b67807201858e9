"""What does the training loop ask of a task?

Knows none of them; table.py does.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from decayfree.study.data.truth import Ragged, Truth
from decayfree.study.models.sizes import Sizes
from decayfree.study.run_settings import ModelSpec, Recipe


@dataclass(frozen=True)
class Score:
    """How well a network does on some images.

    Attributes:
        loss: Mean of what it is trained with; nats for classification.
        score: The task's metric (metric.py): a share, larger is better.
        of_images: (n_images,). What each image adds to the score: bool where it is right or wrong, else
            float64 jackknife pseudo-values n·s − (n − 1)·s₋ᵢ, whose mean is the score up to O(1/n); empty
            where they were not asked for.
        metrics: The field's own numbers, by name with unit, as tables print them: {"MAE, items": 3.1}.
        predictions: What the network says of each image, in the form of the truth; None if not asked for.
    """

    loss: float
    score: float
    of_images: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    metrics: Mapping[str, float] = field(default_factory=dict)
    predictions: Tensor | Ragged | None = None


class Task(Protocol):
    """One way to train and score networks; has no state.

    One of the user's own may have a ``metric`` (metric.py), by which pages call its score.
    """

    def build(self, spec: ModelSpec, sizes: Sizes, seed: int) -> nn.Module:
        """The network in train mode with its initial weights, the same for the same seed.

        Raises:
            InvalidInputError: If there is no such network for the task, or not of such images.
            MissingExtraError: If the library that holds it is not installed.
        """

    def outputs(self, model: nn.Module, inputs: Tensor) -> Any:
        """All that a step's loss looks at, in any structure of tensors: what scale-invariance is asked of."""

    def loss(self, forward: Callable[..., Any], inputs: Tensor, truth: Truth, recipe: Recipe) -> Tensor:
        """Mean loss of a batch, (), of ``forward``: the network, maybe compiled."""

    def evaluate(
        self, model: nn.Module, batches: Iterable[tuple[Tensor, Truth]], *, each: bool = False
    ) -> Score:
        """Score the model in eval mode; it is left in the mode it was in.

        Args:
            model: The network.
            batches: Inputs and what is true of them.
            each: Also say what every image adds, and what was predicted.
        """
