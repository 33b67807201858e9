"""The spec: to TOML and back, all faults at once, and what a run's key depends on."""

import dataclasses
import re

import pytest

from decayfree.arguments.address import FORMS
from decayfree.methods import METHODS as ALL_METHODS
from decayfree.methods import WRS, LearningRateScaling, NoTreatment, WeightDecay
from decayfree.study import DataSpec, ModelSpec, OptimizerSpec, Recipe, SpecError, StudySpec
from support.small_study import METHODS, RECIPE, recipe, settings

STUDY = StudySpec(
    methods=METHODS, seeds=(3, 1), recipe=RECIPE, title='Quotes " and \\ and Ω', data_dir="/a b"
)


def names(kind: type) -> str:
    return ", ".join(field.name for field in dataclasses.fields(kind))


def test_toml_text_says_the_same_spec():
    assert StudySpec.from_toml(STUDY.to_toml()) == STUDY


def test_a_spec_of_odd_numbers_says_the_same_spec():
    odd = dataclasses.replace(STUDY, recipe=recipe(learning_rate=1e-300, rest_weight_decay=1 / 3))
    assert StudySpec.from_toml(odd.to_toml()) == odd


def test_the_toml_text_is_resolved():
    text = StudySpec(methods=(NoTreatment(),)).to_toml()
    for kind in (Recipe, DataSpec, ModelSpec, OptimizerSpec):
        for field in dataclasses.fields(kind):
            assert re.search(rf"^(\[recipe\.)?{field.name}\b", text, re.MULTILINE), field.name


def test_defaults_may_be_left_out_and_a_whole_number_is_a_number():
    text = '[recipe]\nlearning_rate = 1\n[[methods]]\nname = "wrs"\nradius = 2\n'
    expected = StudySpec(methods=(WRS(radius=2.0),), recipe=Recipe(learning_rate=1.0))
    assert StudySpec.from_toml(text) == expected


def test_all_faults_of_a_file_are_reported_at_once_with_the_known_keys():
    text = """
    seeds = [0, "one"]
    color = "red"
    [recipe]
    n_epochs = 1.5
    learning_rte = 0.1
    schedule = "linear"
    data = 3
    [recipe.model]
    width_factor = true
    [[methods]]
    name = "sgdx"
    [[methods]]
    name = "weight_decay"
    [[methods]]
    name = "none"
    evry = 2
    """
    with pytest.raises(SpecError) as caught:
        StudySpec.from_toml(text)
    assert [line.strip() for line in str(caught.value).splitlines()] == [
        "10 faults in the study's spec:",
        f"color: no such key; known keys: {names(StudySpec)}",
        "seeds: expected a list of whole numbers, got [0, 'one']",
        f"recipe.learning_rte: no such key; known keys: {names(Recipe)}; did you mean learning_rate or "
        "rest_learning_rate?",
        "recipe.schedule: expected one of cosine, constant, step, package.module:NAME, ./file.py:NAME; "
        "got 'linear'",
        "recipe.n_epochs: expected a whole number, got 1.5",
        "recipe.data: expected a table, got 3",
        "recipe.model.width_factor: expected a number, got True",
        f"methods[0].name: expected one of {', '.join((*ALL_METHODS, *FORMS))}; got 'sgdx'",
        "methods[1].weight_decay: missing",
        "methods[2].evry: no such key; known keys: none",
    ]


def test_types_and_ranges_of_a_file_are_reported_together():
    text = """
    sees = [0]
    [recipe]
    learning_rate = 0.0
    [[methods]]
    name = "wrs"
    radius = -1.0
    """
    with pytest.raises(SpecError) as caught:
        StudySpec.from_toml(text)
    assert [line.strip() for line in str(caught.value).splitlines()] == [
        "3 faults in the study's spec:",
        f"sees: no such key; known keys: {names(StudySpec)}; did you mean seeds?",
        "methods[0].radius must be a finite number above 0, got -1.0",
        "recipe.learning_rate: expected a finite number above 0, got 0.0",
    ]


def test_values_out_of_range_are_reported_at_once():
    broken = Recipe(
        learning_rate=0.0,
        n_epochs=0,
        batch_size=100,
        n_warmup_epochs=-1.0,
        label_smoothing=1.0,
        rest_weight_decay=-1.0,
        n_samples=1,
        data=DataSpec(n_train=50, n_validation=-1, n_test=0, image_size=8, label_noise=1.5, cutout=-2),
        model=ModelSpec("timm:resnet18", width_factor=0.5),
        optimizer=OptimizerSpec(momentum=1.0, beta1=-0.1, eps=-1.0),
    )
    with pytest.raises(SpecError) as caught:
        StudySpec(methods=(WRS(radius=-1.0),), seeds=(0, 0, -1), recipe=broken)
    assert sorted(line.strip() for line in str(caught.value).splitlines()) == sorted(
        [
            "19 faults in the study's spec:",
            "recipe.n_epochs: expected at least 1, got 0",
            "recipe.n_warmup_epochs: expected a finite number from 0, got -1.0",
            "recipe.label_smoothing: expected at least 0 and below 1, got 1.0",
            "recipe.data.n_test: expected at least 1, got 0",
            "recipe.data.n_validation: expected at least 0, got -1",
            "recipe.data.cutout: expected at least 0, got -2",
            "recipe.data.image_size: digits has a size of its own, expected 0, got 8",
            "recipe.model.width_factor: timm:resnet18 has a width of its own, expected 1, got 0.5",
            "recipe.n_samples: expected at least 2 (start and end) with off_span, got 1",
            "recipe.learning_rate: expected a finite number above 0, got 0.0",
            "recipe.rest_weight_decay: expected a finite number from 0, got -1.0",
            "recipe.data.label_noise: expected a share from 0 to 1, got 1.5",
            "recipe.optimizer.momentum: expected at least 0 and below 1, got 1.0",
            "recipe.optimizer.beta1: expected at least 0 and below 1, got -0.1",
            "recipe.optimizer.eps: expected a finite number from 0, got -1.0",
            "recipe.batch_size: expected at most the 50 training images, got 100",
            "methods[0].radius must be a finite number above 0, got -1.0",
            "seeds: expected each once, got [0, 0, -1]",
            "seeds: expected whole numbers from 0, got [0, 0, -1]",
        ]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ()}, "methods: expected at least one"),
        ({"methods": (WRS(), WRS())}, "methods: the same method with the same settings is there twice"),
        ({"seeds": ()}, "seeds: expected at least one"),
        (
            {"methods": (WeightDecay(0.1), LearningRateScaling(0.2))},
            (
                "methods: learning-rate scaling (as 0.2) replays the runs of weight "
                "decay 0.2, which is not among"
            ),
        ),
        (
            {"recipe": recipe(optimizer=OptimizerSpec(momentum=0.0, nesterov=True))},
            "recipe.optimizer.nesterov: needs a momentum above 0",
        ),
    ],
)
def test_what_does_not_go_together_is_an_error(changes, message):
    with pytest.raises(SpecError, match=re.escape(message)):
        dataclasses.replace(STUDY, **changes)


def test_text_that_is_not_toml_is_an_error():
    with pytest.raises(SpecError, match="the spec is not TOML: "):
        StudySpec.from_toml("seeds = [0,")


def test_a_spec_without_methods_is_an_error():
    with pytest.raises(SpecError, match=r"methods: expected at least one \[\[methods\]\] table"):
        StudySpec.from_toml("seeds = [0]")


def test_an_error_in_a_file_names_the_file(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text("seeds = 3\n")
    with pytest.raises(SpecError, match=re.escape(f"{path}: 2 faults")):
        StudySpec.load(path)


def test_runs_are_every_method_with_every_seed():
    runs = STUDY.runs()
    assert [(run.seed, run.method) for run in runs] == [(seed, m) for seed in (3, 1) for m in METHODS]
    assert len({run.key for run in runs}) == 8


OTHER_VALUES = {
    "task": "other",
    "learning_rate": 0.2,
    "schedule": "constant",
    "n_cycles": 2,
    "n_warmup_epochs": 1.0,
    "n_epochs": 5,
    "batch_size": 8,
    "label_smoothing": 0.1,
    "rest_weight_decay": 0.1,
    "rest_learning_rate": 0.2,
    "precision": "bfloat16",
    "channels_last": False,
    "compile": True,
    "device": "cuda",
    "n_samples": 6,
    "off_span": False,
    "clean_off_span": True,
    "task_args": {"margin": 1.0},
    "schedule_args": {"power": 2.0},
}


def test_every_setting_changes_the_key():
    base = settings(WRS())
    changed = [
        settings(WRS(), seed=1),
        settings(WRS(radius=2.0)),
        settings(NoTreatment()),
        settings(WRS(), data=DataSpec()),
        settings(WRS(), model=ModelSpec("vgg6-bn")),
        settings(WRS(), optimizer=OptimizerSpec(momentum=0.5)),
        *(settings(WRS(), **{name: value}) for name, value in OTHER_VALUES.items()),
    ]
    assert len({run.key for run in [base, *changed]}) == 1 + len(changed)
    assert len(changed) == 3 + len(dataclasses.fields(Recipe))


def test_the_key_is_the_same_on_every_machine_and_where_the_images_lie_is_no_part_of_it():
    elsewhere = dataclasses.replace(STUDY, data_dir=None, title="Other")
    assert [run.key for run in elsewhere.runs()] == [run.key for run in STUDY.runs()]


def test_settings_name_the_method_with_its_own_settings_beside_the_recipe():
    record = settings(WeightDecay(0.01), seed=7).to_dict()
    assert (record["method"]["name"], record["method"]["weight_decay"], record["seed"]) == (
        "weight_decay",
        0.01,
        7,
    )
    assert record["data"]["name"] == "digits"
    assert record["optimizer"]["momentum"] == 0.9


def test_settings_by_dotted_name():
    flat = settings(WRS(radius=2.0), seed=7).flat()
    assert (flat["method.name"], flat["method.radius"], flat["seed"]) == ("wrs", 2.0, 7)
    assert (flat["learning_rate"], flat["optimizer.name"], flat["data.n_train"]) == (0.1, "sgd", 64)


def test_a_run_that_replays_needs_the_run_of_the_same_seed():
    needed = settings(LearningRateScaling(0.01), seed=2).replayed_run
    assert needed == settings(WeightDecay(0.01), seed=2)
    assert settings(WRS()).replayed_run is None


def test_the_cosine_goes_from_the_rate_through_its_half_to_nothing():
    cosine = recipe(learning_rate=2.0)
    assert cosine.learning_rate_at(0) == 2.0
    assert cosine.learning_rate_at(8) == pytest.approx(1.0)
    assert cosine.learning_rate_at(16) == pytest.approx(0.0)
    assert recipe(learning_rate=2.0, schedule="constant").learning_rate_at(15) == 2.0


def test_the_step_schedule_is_a_tenth_after_half_and_a_hundredth_after_three_quarters():
    step = recipe(learning_rate=2.0, schedule="step")
    assert [step.learning_rate_at(n) for n in (0, 7, 8, 11, 12, 15)] == pytest.approx(
        [2, 2, 0.2, 0.2, 0.02, 0.02]
    )


def test_warm_up_rises_linearly_to_the_schedule():
    """One epoch is four steps."""
    warm = recipe(learning_rate=2.0, schedule="constant", n_warmup_epochs=1.0)
    assert [warm.learning_rate_at(n) for n in range(5)] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    cosine = recipe(learning_rate=2.0, n_warmup_epochs=1.0)
    assert cosine.learning_rate_at(8) == recipe(learning_rate=2.0).learning_rate_at(8)


@pytest.mark.parametrize(
    ("optimizer", "label"),
    [
        (OptimizerSpec(momentum=0.0), "SGD"),
        (OptimizerSpec(), "SGD, momentum 0.9"),
        (OptimizerSpec(nesterov=True), "SGD, Nesterov momentum 0.9"),
        (OptimizerSpec("adamw"), "AdamW"),
    ],
)
def test_an_optimizer_is_called_by_what_it_does(optimizer, label):
    assert optimizer.label == label


def test_a_number_that_is_written_as_a_whole_one_is_the_same_number():
    whole = StudySpec(methods=(WRS(radius=1),), seeds=(0,), recipe=recipe(learning_rate=1))
    decimal = StudySpec(methods=(WRS(radius=1.0),), seeds=(0,), recipe=recipe(learning_rate=1.0))
    assert [run.key for run in whole.runs()] == [run.key for run in decimal.runs()]
    assert [run.key for run in StudySpec.from_toml(whole.to_toml()).runs()] == [
        run.key for run in whole.runs()
    ]


def test_a_title_may_hold_any_character():
    odd = dataclasses.replace(STUDY, title="".join(map(chr, range(1, 256))))
    assert StudySpec.from_toml(odd.to_toml()) == odd


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[methods]]\nname = ["wrs"]', "methods[0].name: expected one of none, "),
        (
            '[[methods]]\nname = "weight_decay"\nweight_decay = []',
            "methods[0].weight_decay: expected a value or a list of at least one, got []",
        ),
        (
            'seeds = [9223372036854775808]\n[[methods]]\nname = "none"',
            "seeds: expected whole numbers below 2^63, got [9223372036854775808]",
        ),
    ],
)
def test_values_that_cannot_be_are_named(text, message):
    with pytest.raises(SpecError, match=re.escape(message)):
        StudySpec.from_toml(text)


def test_settings_that_an_optimizer_does_not_have_are_not_looked_at():
    assert OptimizerSpec("adam", momentum=0.0, nesterov=True).faults() == []
