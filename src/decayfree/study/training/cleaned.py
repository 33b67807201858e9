"""What a network computes of directions that no training image has: taken out of its weights after training.

The cleaning itself is `decayfree.span`'s; this says which images count.
"""

import torch
from torch import nn

from decayfree.span.cleaning import remove_off_span_
from decayfree.span.input_span import InputSpan
from decayfree.study.data.images import Dataset
from decayfree.study.tasks.task import Task
from decayfree.study.training.first_layer import IMAGES_AT_ONCE


@torch.no_grad()
def clean_(model: nn.Module, dataset: Dataset, task: Task) -> None:
    """Remove from every weight what no training image reaches, as they are without augmentation."""
    was_training = model.training
    model.eval()
    with InputSpan(model, centered=False) as span:
        for pixels in torch.split(dataset.train.pixels, IMAGES_AT_ONCE):
            task.outputs(model, dataset.to_input(pixels))
    remove_off_span_(model, span)
    model.train(was_training)
