"""The demo's spec: what it compares, and that its decay comes to equilibrium."""

import re

import pytest

from decayfree.errors import InvalidInputError
from decayfree.methods import WRS, LearningRateScaling, NoTreatment, WeightDecay
from decayfree.study import SpecError, StudySpec, demo_spec
from decayfree.study.data import fashion_mnist


def test_the_demo_compares_five_methods_over_five_seeds():
    spec = demo_spec()
    assert spec.methods == (
        NoTreatment(),
        WeightDecay(5e-4),
        WeightDecay(5e-3),
        LearningRateScaling(5e-4),
        WRS(radius=1.0),
    )
    assert spec.seeds == (0, 1, 2, 3, 4)
    assert len(spec.runs()) == 25
    assert spec.recipe.data.label_noise == 0.2
    assert spec.recipe.data.n_train + spec.recipe.data.n_test == 1797
    assert StudySpec.from_toml(spec.to_toml()) == spec


@pytest.mark.parametrize("decay", [5e-4, 5e-3])
def test_both_decays_have_more_than_two_time_constants(decay):
    """r⁴ relaxes at 4ηλ/(1 - μ) a step, and the mean of a cosine's η is half of its first."""
    recipe = demo_spec().recipe
    rate_per_step = 4 * (recipe.learning_rate / 2) * decay / (1 - recipe.optimizer.momentum)
    assert rate_per_step * recipe.n_steps > 2


def test_seeds_epochs_and_width_can_be_chosen():
    spec = demo_spec(seeds=2, epochs=3, width=5)
    assert (spec.seeds, spec.recipe.n_epochs, spec.recipe.model.width_factor) == ((0, 1), 3, 5 / 64)
    assert spec.recipe.n_steps == 3 * 25


def test_fashion_mnist_is_located_and_named_in_the_spec(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "_find", lambda folder, name: folder / name)
    spec = demo_spec(data="fashion-mnist", data_dir=tmp_path)
    assert spec.data_dir == str(tmp_path)
    assert (spec.recipe.data.n_train, spec.recipe.data.n_test) == (60_000, 10_000)
    assert spec.methods == demo_spec().methods


def test_fashion_mnist_that_is_nowhere_is_an_error(tmp_path):
    with pytest.raises(InvalidInputError, match=re.escape(f"{tmp_path}: without train-images-idx3-ubyte")):
        demo_spec(data="fashion-mnist", data_dir=tmp_path)


def test_other_data_is_an_error():
    with pytest.raises(InvalidInputError, match="data must be one of digits, fashion-mnist; got 'cifar-10'"):
        demo_spec(data="cifar-10")


def test_numbers_out_of_range_are_an_error():
    with pytest.raises(SpecError, match="seeds: expected at least one"):
        demo_spec(seeds=0)
    with pytest.raises(
        SpecError, match=r"recipe\.model\.width_factor: expected a finite number above 0, got 0"
    ):
        demo_spec(width=0)
