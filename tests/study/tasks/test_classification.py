"""Tasks: loss and score by hand."""

import math

import pytest
import torch
from torch import nn

from decayfree.study.run_settings import Recipe
from decayfree.study.tasks.table import TASKS

TASK = TASKS["classification"]


class Fixed(nn.Module):
    """Gives out what it is given; remembers in which mode."""

    def forward(self, inputs):
        self.was_training = self.training
        return inputs


def test_the_loss_of_two_equal_logits_is_the_logarithm_of_two():
    loss = TASK.loss(Fixed(), torch.zeros(3, 2), torch.tensor([0, 1, 0]), Recipe())
    assert loss.item() == pytest.approx(math.log(2))


def test_batches_of_different_size_count_by_their_examples():
    model = Fixed().train()
    right = torch.tensor([[9.0, 0.0]])
    batches = [(right, torch.tensor([0])), (torch.zeros(3, 2), torch.tensor([1, 1, 0]))]
    score = TASK.evaluate(model, batches)
    assert score.score == 0.5  # argmax of equal logits is the first class: right for two of four
    assert score.loss == pytest.approx((3 * math.log(2) + math.log1p(math.exp(-9))) / 4)


@pytest.mark.parametrize("is_training", [True, False])
def test_a_model_is_scored_in_eval_mode_and_left_in_its_own(is_training):
    model = Fixed().train(is_training)
    TASK.evaluate(model, [(torch.zeros(1, 2), torch.tensor([0]))])
    assert not model.was_training
    assert model.training is is_training
