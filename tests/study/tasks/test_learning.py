"""Each task trains its own network: it learns four images by heart."""

import pytest
import torch

from decayfree.study.models.sizes import Sizes
from decayfree.study.run_settings import MODELS_OF_TASK, ModelSpec, Recipe
from decayfree.study.tasks.table import TASKS
from support.available import import_or_skip
from support.hand_made_scenes import N_CLASSES, scenes

# Network, and the score that it reaches.
REACHES = {"segmentation": 0.95, "detection": 0.8, "counting": 0.9}


@pytest.mark.parametrize("task", REACHES)
def test_a_network_learns_a_few_images_by_heart(task, seed):
    if task == "detection":
        import_or_skip("torchvision.ops")
    name = MODELS_OF_TASK[task][0][0]
    sizes = Sizes(n_classes=N_CLASSES[task], image_size=(32, 32), width_factor=0.125)
    model = TASKS[task].build(ModelSpec(name=name, width_factor=0.125), sizes, 0)
    inputs, truth = scenes(task)
    before = TASKS[task].evaluate(model, [(inputs, truth)])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(80):
        loss = TASKS[task].loss(model, inputs, truth, Recipe())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = TASKS[task].evaluate(model, [(inputs, truth)])
    assert before.score < REACHES[task] / 2
    assert after.score > REACHES[task]
    assert after.loss < before.loss
    assert all(parameter.grad is not None for parameter in model.parameters())
