"""The demo's study: five ways to treat norms, on small images, as a spec.

Does not run it and does not draw it. Why these numbers: the learning rate and the number of steps are such
that both weight-decay runs come close to their equilibrium, whose fourth power of the norm has the time
constant (1 − momentum)/(4·learning rate·weight decay) steps; a fifth of the training labels is random, so
that there is something to memorize and test accuracy is not saturated.
"""

import dataclasses
from pathlib import Path

from decayfree.arguments.kinds import checked
from decayfree.errors import InvalidInputError
from decayfree.methods.learning_rate_scaling import LearningRateScaling
from decayfree.methods.method import Method
from decayfree.methods.none import NoTreatment
from decayfree.methods.weight_decay import WeightDecay
from decayfree.methods.wrs import WRS
from decayfree.study.data import fashion_mnist
from decayfree.study.run_settings import DataSpec, ModelSpec, Recipe
from decayfree.study.spec.study_spec import StudySpec, first_seeds

BASE_WIDTH = 64
"""Channels of the published networks' first stage."""
_METHODS: tuple[Method, ...] = (
    NoTreatment(),
    WeightDecay(5e-4),
    WeightDecay(5e-3),
    LearningRateScaling(5e-4),
    WRS(),
)

_RECIPES = {
    "digits": Recipe(
        learning_rate=0.2,
        n_epochs=48,
        batch_size=36,
        data=DataSpec(name="digits", n_train=900, n_test=897, label_noise=0.2),
        model=ModelSpec("vgg4-bn", width_factor=8 / BASE_WIDTH),
    ),
    "fashion-mnist": Recipe(
        learning_rate=0.1,
        n_epochs=6,
        batch_size=128,
        data=DataSpec(name="fashion-mnist", n_train=60_000, n_test=10_000, label_noise=0.2, flip=True),
        model=ModelSpec("vgg6-bn", width_factor=8 / BASE_WIDTH),
    ),
}

_TITLES = {
    "digits": "Weight rescaling in place of weight decay, on scanned digits",
    "fashion-mnist": "Weight rescaling in place of weight decay, on Fashion-MNIST",
}


@checked()
def demo_spec(
    *,
    data: str = "digits",
    data_dir: str | Path | None = None,
    download: bool = False,
    seeds: int = 5,
    epochs: int | None = None,
    width: int | None = None,
) -> StudySpec:
    """The demo's spec; for Fashion-MNIST the images are located, and with ``download`` fetched, here.

    Args:
        data: "digits" or "fashion-mnist".
        data_dir: Where Fashion-MNIST's files are; by default it is looked for.
        download: Whether it may be downloaded if it is nowhere.
        seeds: How many seeds each method gets, counted from 0.
        epochs: Passes over the training images; by default enough for the decay to come to its equilibrium.
        width: Channels of the network's first stage.

    Raises:
        InvalidInputError: If there is no such data, or it is not found.
        SpecError: If a number is out of range.
    """
    if data not in _RECIPES:
        raise InvalidInputError(f"data must be one of {', '.join(_RECIPES)}; got {data!r}")
    recipe = _RECIPES[data]
    if epochs is not None:
        recipe = dataclasses.replace(recipe, n_epochs=epochs)
    if width is not None:
        recipe = dataclasses.replace(
            recipe, model=dataclasses.replace(recipe.model, width_factor=width / BASE_WIDTH)
        )
    spec = StudySpec(methods=_METHODS, seeds=first_seeds(seeds), recipe=recipe, title=_TITLES[data])
    if data != "fashion-mnist":
        return spec
    folder = fashion_mnist.locate(None if data_dir is None else str(data_dir), download=download)
    return dataclasses.replace(spec, data_dir=str(folder.resolve()))
