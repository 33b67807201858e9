"""Axes multiply, overrides change some of the combinations, and what is wrong with either is told at once."""

import dataclasses
import re

import pytest

from decayfree.methods import WRS, LearningRateScaling, NoTreatment, WeightDecay
from decayfree.study import Axis, ModelSpec, OptimizerSpec, Override, SpecError, StudySpec
from support.small_study import RECIPE

RATES = Axis("learning_rate", (0.1, 0.3))
OPTIMIZERS = Axis("optimizer", ((("name", "sgd"), ("momentum", 0.5)), (("name", "adam"),)))
STUDY = StudySpec(methods=(NoTreatment(), WRS()), seeds=(0, 1), recipe=RECIPE, axes=(RATES, OPTIMIZERS))

TEXT = """
seeds = [0, 1]
[[methods]]
name = "none"
[[methods]]
name = "weight_decay"
weight_decay = [1e-4, 0.01]
[[axes]]
path = "learning_rate"
values = [1, 0.3]
[[axes]]
path = "optimizer"
values = [{name = "sgd", momentum = 0}, {name = "adam"}]
[[overrides]]
when = {"optimizer.name" = ["adam", "adamw"], "learning_rate" = 1.0}
skip = true
[[overrides]]
when = {"optimizer.name" = "adam"}
set = {learning_rate = 1e-3, "data.n_train" = 128}
"""


def study(**changes):
    return dataclasses.replace(STUDY, **changes)


def faults(text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        StudySpec.from_toml(text)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_axes_multiply_with_methods_and_seeds():
    cells = [
        (run.seed, run.recipe.learning_rate, run.recipe.optimizer.name, run.method.name)
        for run in STUDY.runs()
    ]
    assert cells == [
        (seed, rate, optimizer, method)
        for seed in (0, 1)
        for rate in (0.1, 0.3)
        for optimizer in ("sgd", "adam")
        for method in ("none", "wrs")
    ]


def test_a_table_is_set_on_top_of_the_recipe():
    optimizers = {run.recipe.optimizer for run in STUDY.runs()}
    assert optimizers == {OptimizerSpec("sgd", momentum=0.5), OptimizerSpec("adam", momentum=0.9)}


def test_an_override_changes_the_runs_that_fit():
    changed = study(
        overrides=(
            Override(
                (("optimizer.name", "adam"), ("method.name", ("wrs", "other"))), (("learning_rate", 1),)
            ),
        )
    )
    rates = {(run.recipe.optimizer.name, run.method.name): run.recipe.learning_rate for run in changed.runs()}
    assert rates == {("sgd", "none"): 0.3, ("sgd", "wrs"): 0.3, ("adam", "none"): 0.3, ("adam", "wrs"): 1.0}
    assert all(type(run.recipe.learning_rate) is float for run in changed.runs())


def test_runs_that_an_override_makes_equal_are_one_run():
    one_rate = study(overrides=(Override((("optimizer.name", "adam"),), (("learning_rate", 1e-3),)),))
    assert len(STUDY.runs()) == 16
    assert len(one_rate.runs()) == 12


def test_an_override_leaves_runs_out():
    kept = study(overrides=(Override((("learning_rate", 0.3), ("optimizer.name", "adam")), skip=True),))
    assert {(r.recipe.learning_rate, r.recipe.optimizer.name) for r in kept.runs()} == {
        (0.1, "sgd"),
        (0.3, "sgd"),
        (0.1, "adam"),
    }


def test_a_later_override_sees_what_an_earlier_one_has_set():
    both = study(
        overrides=(
            Override((("optimizer.name", "adam"),), (("learning_rate", 0.5),)),
            Override((("learning_rate", 0.5),), (("batch_size", 8),)),
        )
    )
    assert {(r.recipe.optimizer.name, r.recipe.batch_size) for r in both.runs()} == {("sgd", 16), ("adam", 8)}


def test_an_override_sets_what_the_method_has():
    larger = study(
        overrides=(Override((("method.name", "wrs"), ("optimizer.name", "adam")), (("method.radius", 2),)),)
    )
    radii = {(r.recipe.optimizer.name, r.method.radius) for r in larger.runs() if isinstance(r.method, WRS)}
    assert radii == {("sgd", 1.0), ("adam", 2.0)}


def test_what_varies_is_told_by_dotted_name():
    assert STUDY.varying() == ("method.name", "learning_rate", "optimizer.name", "optimizer.momentum")
    swept = StudySpec(methods=(WRS(), WeightDecay(0.1), WeightDecay(0.2)), recipe=RECIPE)
    assert set(swept.varying()) == {"method.name", "method.weight_decay"}
    assert StudySpec(methods=(WRS(),), recipe=RECIPE).varying() == ()


def test_toml_says_the_same_study():
    spec = StudySpec.from_toml(TEXT)
    assert StudySpec.from_toml(spec.to_toml()) == spec
    assert StudySpec.from_toml(spec.to_toml()).runs() == spec.runs()


def test_toml_multiplies_as_it_says():
    runs = StudySpec.from_toml(TEXT).runs()
    cells = {
        (r.method.label, r.recipe.optimizer.name, r.recipe.learning_rate, r.recipe.data.n_train) for r in runs
    }
    methods = ("no decay", "weight decay 0.0001", "weight decay 0.01")
    assert cells == {
        (method, *rest)
        for method in methods
        for rest in (("sgd", 1.0, 400), ("sgd", 0.3, 400), ("adam", 1e-3, 128))
    }
    assert len(runs) == 2 * 9


def test_all_faults_of_axes_and_overrides_are_told_at_once():
    told = faults(
        """
        [[methods]]
        name = "none"
        [[axes]]
        path = "learning_rte"
        values = [1]
        [[axes]]
        path = "batch_size"
        values = [16, 0.5, 16]
        [[axes]]
        path = "optimizer"
        values = ["adam", {nam = "sgd"}, {name = "sgdx"}]
        [[axes]]
        path = "seed"
        valus = [3]
        [[overrides]]
        when = {"optimizer.name" = "rprop"}
        skip = true
        set = {method = 3}
        [[overrides]]
        set = {}
        [[overrides]]
        when = {"method.radios" = 3}
        set = {"method.radius" = true}
        """
    )
    expected = [
        "axes[3].valus: no such key; known keys: path, values; did you mean values?",
        "axes[3].values: missing",
        "overrides[1].when: missing",
        "axes[0].path: learning_rte: no such setting of the recipe; known are task, learning_rate",
        "axes[1].values: expected each value once, got [16, 0.5, 16]",
        "axes[1].values: expected a whole number, got 0.5",
        "axes[2].values: expected a table of settings of optimizer, got 'adam'",
        "axes[2].values: optimizer.nam: no such setting of the recipe; known are task, learning_rate",
        "axes[2].values.name: expected one of sgd, adam",
        "axes[3].path: seed: no such setting of the recipe; known are task, learning_rate",
        "overrides[0].when.optimizer.name: expected one of sgd, adam",
        "overrides[0].set: method: no such setting of the recipe; known are task, learning_rate",
        "overrides[0]: expected either set or skip = true",
        "overrides[1]: expected either set or skip = true",
        "overrides[2].when: method.radios: no such setting of a method; known are method.",
        "overrides[2].set.method.radius: expected a number",
    ]
    assert len(told) == len(expected)
    for line, beginning in zip(told, expected, strict=True):
        assert line.startswith(beginning)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes": (RATES, RATES)}, "axes: learning_rate has 2 axes, expected one"),
        (
            {"axes": (Axis("learning_rate", ()),)},
            "axes[0].values: expected a list of at least one value, got ()",
        ),
        (
            {"overrides": (Override((("learning_rate", 0.7),), skip=True),)},
            "overrides[0].when: fits no run: {learning_rate = 0.7}",
        ),
        (
            {"overrides": (Override((("method.name", "none"),), (("method.radius", 2.0),)),)},
            "overrides[0].set: method.radius: none has no such setting",
        ),
        (
            {"overrides": (Override((("method.name", "wrs"),), (("method.radius", -2.0),)),)},
            "methods: wrs, as an override sets it: radius must be a finite number above 0, got -2.0",
        ),
        ({"overrides": (Override((), skip=True),)}, "overrides: they leave no run"),
        ({"overrides": (Override(3, skip=True),)}, "overrides[0].when: expected a table of settings, got 3"),
        ({"overrides": (Override((), skip=1),)}, "overrides[0].skip: expected true or false, got 1"),
        (
            {"axes": (Axis("n_epochs", tuple(range(1, 30_000))),)},
            "axes: they multiply to 119,996 runs, expected at most 10,000",
        ),
        (
            {"axes": (Axis("learning_rate", (0.1, -0.1)),)},
            "recipe.learning_rate: expected a finite number above 0, got -0.1 (in 4 of 8 runs)",
        ),
        (
            {"axes": (Axis("model.name", ("vgg4-bn", "vgg5")),)},
            "recipe.model.name: expected one of ",
        ),
        (
            {"recipe": dataclasses.replace(RECIPE, model=ModelSpec("vgg5"))},
            "smp:NAME, package.module:NAME or ./file.py:NAME; got 'vgg5'",
        ),
        (
            {
                "methods": (WeightDecay(0.1), LearningRateScaling(0.1)),
                "overrides": (Override((("method.name", "weight_decay"),), (("batch_size", 8),)),),
            },
            "which is not among the methods with otherwise equal settings",
        ),
    ],
)
def test_what_does_not_go_together_is_an_error(changes, message):
    with pytest.raises(SpecError, match=re.escape(message)):
        study(**changes)


def test_tables_of_the_wrong_shape_are_named():
    assert faults('axes = 3\noverrides = [1]\n[[methods]]\nname = "none"\n') == [
        "axes: expected [[axes]] tables, got 3",
        "overrides: expected [[overrides]] tables, got [1]",
    ]


TOGETHER = """
[[methods]]
name = "wrs"

[[axes]]
path = "recipe"
values = [{}, {batch_size = 32, "data.n_train" = 320}, {"model.width_factor" = 2}]
"""


def test_settings_may_change_together():
    spec = StudySpec.from_toml(f"seeds = [0]\n{TOGETHER}")
    shown = [
        (run.recipe.batch_size, run.recipe.data.n_train, run.recipe.model.width_factor) for run in spec.runs()
    ]
    assert shown == [(64, 400, 1.0), (32, 320, 1.0), (64, 400, 2.0)]
    assert spec.axes[0].paths == ("batch_size", "data.n_train", "model.width_factor")
    assert StudySpec.from_toml(spec.to_toml()) == spec


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ("[3]", "axes[0].values: expected tables of settings by dotted names, got 3"),
        ("[{batch_sise = 3}]", "axes[0].values: batch_sise: no such setting of the recipe"),
        ('[{batch_size = "x"}]', "axes[0].values.batch_size: expected a whole number, got 'x'"),
        ("[{batch_size = 0}]", "recipe.batch_size: expected at least 1, got 0"),
        ("[{n_epochs = 3}, {n_epochs = 3}]", "axes[0].values: expected each value once"),
        (
            "[{n_epochs = 3}, {}]\n[[axes]]\npath = 'n_epochs'\nvalues = [4]",
            "axes: n_epochs has 2 axes, expected one",
        ),
    ],
)
def test_wrong_settings_that_change_together_are_told(values, fault):
    with pytest.raises(SpecError) as caught:
        StudySpec.from_toml(f"[[methods]]\nname = 'wrs'\n[[axes]]\npath = 'recipe'\nvalues = {values}")
    assert fault in str(caught.value)


def test_settings_that_came_later_fit_at_their_defaults():
    spec = StudySpec.from_toml(
        "seeds = [0]\n[[methods]]\nname = 'wrs'\n[[axes]]\npath = 'n_cycles'\nvalues = [1, 2]\n"
        "[[overrides]]\nwhen = {n_cycles = 1, 'method.schedule' = 'plain'}\nset = {learning_rate = 0.5}"
    )
    assert [run.recipe.learning_rate for run in spec.runs()] == [0.5, 0.1]
    flat = spec.runs()[0].flat()
    assert {path: spec.runs()[0].at(path) for path in flat} == flat
    assert spec.runs()[0].at("optimizer.color") is None
