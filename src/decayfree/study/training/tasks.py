"""What a network is asked to do, by name: its loss, and how well it does.

Does not load data or take steps. A further task is one class here and one name in `Recipe`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Score:
    """Mean loss (nats for classification) and accuracy (a share) over the examples.

    Args:
        loss: Mean.
        accuracy: Share of those that are right.
        right: (n_examples,), bool: which are.
    """

    loss: float
    accuracy: float
    right: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))


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
        loss = 0.0
        right = []
        for inputs, labels in batches:
            logits = model(inputs)
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            right.append(logits.argmax(dim=1) == labels)
        model.train(was_training)
        each = torch.cat(right).cpu()
        return Score(loss=loss / len(each), accuracy=int(each.sum()) / len(each), right=each)


TASKS: dict[str, Task] = {"classification": Classification()}
