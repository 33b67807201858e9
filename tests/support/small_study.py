"""Studies that take a second: the smallest recipe that still trains, and the five methods of the demo.

Holds settings only; tests say what they expect.
"""

import dataclasses
from typing import Any

from decayfree.methods import WRS, LearningRateScaling, Method, NoTreatment, WeightDecay
from decayfree.study import DataSpec, ModelSpec, Recipe, RunSettings

METHODS: tuple[Method, ...] = (
    NoTreatment(),
    WeightDecay(weight_decay=0.01),
    LearningRateScaling(replayed_weight_decay=0.01),
    WRS(radius=1.5),
)

RECIPE = Recipe(
    learning_rate=0.1,
    n_epochs=4,
    batch_size=16,
    n_samples=5,
    data=DataSpec(n_train=64, n_test=40, label_noise=0.25, flip=True),
    model=ModelSpec("vgg4-bn", width_factor=2 / 64),
)
"""16 steps: 4 epochs of 4; samples after 0, 4, 8, 12 and 16."""


def recipe(**changes: Any) -> Recipe:
    return dataclasses.replace(RECIPE, **changes)


def settings(method: Method, *, seed: int = 0, **changes: Any) -> RunSettings:
    return RunSettings(method=method, seed=seed, recipe=recipe(**changes))
