"""What a network is asked to do, by name: its loss, and how well it does.

Does not load data or take steps. A further task is one class here and one name in `Recipe`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Score:
    """Mean loss (nats for classification) and accuracy (a share) over the examples."""

    loss: float
    accuracy: float


class Task(Protocol):
    """A loss to train with, and a score to report."""

    def loss(self, outputs: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Mean loss of a batch, ()."""

    def evaluate(self, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Score:
        """Score the model in eval mode; it is left in the mode it was in."""


class Classification:
    """One label for each input, by cross-entropy."""

    def loss(self, outputs: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Score:
        was_training = model.training
        model.eval()
        loss = n_right = n_seen = 0.0
        for inputs, labels in batches:
            logits = model(inputs)
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            n_right += float((logits.argmax(dim=1) == labels).sum())
            n_seen += len(labels)
        model.train(was_training)
        return Score(loss=loss / n_seen, accuracy=n_right / n_seen)


TASKS: dict[str, Task] = {"classification": Classification()}
