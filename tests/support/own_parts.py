"""A file with something of each kind that a study takes from its user, and a spec that names all of it.

Holds no test.
"""

from pathlib import Path

from decayfree.study import StudySpec

SOURCE = """
from dataclasses import dataclass

import torch
from torch import nn

from decayfree.methods import Method
from decayfree.study.tasks.classification import Classification


class Net(nn.Sequential):
    def __init__(self, n_classes, width=4):
        super().__init__(
            *(nn.Conv2d(3, width, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, n_classes)),
        )


class Steps(torch.optim.SGD):
    pass


def images(n=100):
    pixels = torch.arange(n * 64, dtype=torch.int64).view(n, 8, 8).remainder(251).to(torch.uint8)
    return (pixels, torch.arange(n) % 3), (pixels[:40], torch.arange(40) % 3)


def noise(images, generator, size=0.1):
    return images + size * torch.randn(len(images), 1, 1, 1, generator=generator)


def power(share_done, exponent=1.0):
    return (1 - share_done) ** exponent


class Doubled(Classification):
    def loss(self, forward, inputs, truth, recipe):
        return 2 * super().loss(forward, inputs, truth, recipe)


@dataclass(frozen=True)
class Shrink(Method):
    rate: float = 0.01
    label = "shrink"

    def attach(self, optimizer, found, *, replayed=None, length=None):
        @torch.no_grad()
        def shrink(*_):
            for part in found.parts().values():
                part.weight.mul_(1 - self.rate)

        optimizer.register_step_post_hook(shrink)
        return super().attach(optimizer, found)
"""
TEXT = """
seeds = [0]
[recipe]
task = "./mine.py:Doubled"
schedule = "./mine.py:power"
schedule_args = {exponent = 2.0}
n_epochs = 2
batch_size = 16
n_samples = 3
[recipe.data]
name = "./mine.py:images"
args = {n = 120}
n_train = 64
n_validation = 20
n_test = 40
augmentation = "./mine.py:noise"
augmentation_args = {size = 0.2}
[recipe.model]
name = "./mine.py:Net"
args = {width = 3}
[recipe.optimizer]
name = "./mine.py:Steps"
args = {momentum = 0.5}
[[methods]]
name = "./mine.py:Shrink"
args = {rate = 0.02}
"""


def written(folder: Path, *, source: str = SOURCE, text: str = TEXT) -> StudySpec:
    """The spec in a file of this folder, with the source beside it."""
    (folder / "mine.py").write_text(source, encoding="utf-8")
    (folder / "mine.toml").write_text(text, encoding="utf-8")
    return StudySpec.load(folder / "mine.toml")
