"""The schema refuses what reading a study refuses by kind or name; the file to begin with is whole."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from decayfree.methods import METHODS
from decayfree.study import StudySpec
from decayfree.study.builtin import BUILTIN, builtin_spec, builtin_text
from decayfree.study.builtin.specs import SIZES
from decayfree.study.builtin.starts import start_spec
from decayfree.study.run_settings import DATA_OF_TASK, DataSpec, ModelSpec, OptimizerSpec, Recipe
from decayfree.study.spec.commented import commented
from decayfree.study.spec.documented import documented
from decayfree.study.spec.schema import spec_schema
from decayfree.study.spec.study_spec import SpecError

SCHEMA = spec_schema()
VALIDATOR = Draft7Validator(SCHEMA)
METHOD = '[[methods]]\nname = "wrs"\n'


def is_valid(text: str) -> bool:
    return bool(VALIDATOR.is_valid(tomllib.loads(text)))


def test_it_is_a_schema_and_every_built_in_study_fits_it() -> None:
    Draft7Validator.check_schema(SCHEMA)
    for name in BUILTIN:
        for size in SIZES:
            assert is_valid(builtin_text(name, size)), (name, size)
            assert is_valid(builtin_spec(name, size).to_toml()), (name, size)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sedes = [1]\n" + METHOD,
        'seeds = ["a"]\n' + METHOD,
        "title = 3\n" + METHOD,
        METHOD + "[recipe]\nn_epoch = 3\n",
        METHOD + '[recipe]\nn_epochs = "3"\n',
        METHOD + "[recipe]\nn_epochs = 3.5\n",
        METHOD + '[recipe]\nschedule = "cosin"\n',
        METHOD + "[recipe]\ncompile = 1\n",
        METHOD + '[recipe.data]\nname = "digts"\n',
        METHOD + '[recipe.model]\nname = "resnet19"\n',
        METHOD + '[recipe.optimizer]\nname = "agdamw"\n',
        METHOD + "[recipe.optimizer]\nmomentum = true\n",
        '[[methods]]\nname = "wsr"\n',
        '[[methods]]\nname = "weight_decay"\n',
        '[[methods]]\nname = "weight_decay"\nweight_decay = []\n',
        '[[methods]]\nname = "wrs"\nradius = "int"\n',
        '[[methods]]\nname = "wrs"\nradios = 1.0\n',
        METHOD + '[[axes]]\npath = "learning_rte"\nvalues = [1.0]\n',
        METHOD + '[[axes]]\npath = "learning_rate"\n',
        METHOD + '[[axes]]\npath = "learning_rate"\nvalues = []\n',
        METHOD + "[[overrides]]\nskip = true\n",
        METHOD + '[[extend]]\npath = "learning_rate"\nfactr = 2.0\n',
    ],
)
def test_what_reading_refuses_by_kind_or_name_it_refuses(text: str) -> None:
    with pytest.raises(SpecError):
        StudySpec.from_toml(text)
    assert not is_valid(text)


@pytest.mark.parametrize(
    "text",
    [
        METHOD,
        'seeds = [3]\n[[methods]]\nname = "weight_decay"\nweight_decay = [1e-4, 1]\nform = "own"\n',
        '[[methods]]\nname = "wrs"\nradius = ["init", 1, 2.5]\n',
        METHOD + '[recipe.model]\nname = "timm:resnet18"\nargs = {drop_rate = 0.1}\n',
        METHOD + '[recipe.model]\nname = "./mine.py:Net"\n',
        METHOD + '[recipe.data]\nname = "mine.data:load"\nargs = {size = 3}\n',
        '[[methods]]\nname = "./mine.py:Method"\nargs = {strength = 2}\n',
        METHOD + '[[axes]]\npath = "recipe"\nvalues = [{n_epochs = 3, "data.n_train" = 80}]\n',
        METHOD + '[[overrides]]\nwhen = {"method.name" = "wrs"}\nset = {n_epochs = 3}\n',
    ],
)
def test_what_reading_takes_it_takes(text: str) -> None:
    StudySpec.from_toml(text)
    assert is_valid(text)


def test_every_setting_and_method_is_in_it_with_what_it_means() -> None:
    recipe = SCHEMA["properties"]["recipe"]["properties"]
    for cls, has in (
        (Recipe, recipe),
        (DataSpec, recipe["data"]["properties"]),
        (ModelSpec, recipe["model"]["properties"]),
        (OptimizerSpec, recipe["optimizer"]["properties"]),
    ):
        assert list(has) == [entry.name for entry in dataclasses.fields(cls)]
        assert {key: has[key].get("description") for key in documented(cls)} == documented(cls)
    methods = SCHEMA["properties"]["methods"]["items"]["anyOf"]
    assert [one["properties"]["name"].get("const") for one in methods] == [*METHODS, None]


EACH = [(task, data) for task, names in DATA_OF_TASK.items() for data in names]


@pytest.mark.parametrize(("task", "data"), EACH, ids=map("-".join, EACH))
def test_a_file_to_begin_with_reads_as_the_study_that_it_was_made_for(task: str, data: str) -> None:
    spec = start_spec(task=task, data=data, n_epochs=2, seeds=2)
    text = commented(spec, schema="./study.schema.json")
    assert text.startswith("#:schema ./study.schema.json\n")
    assert StudySpec.from_toml(text) == spec
    assert is_valid(text)
    assert (spec.recipe.task, spec.recipe.data.name, spec.recipe.n_epochs) == (task, data, 2)


def test_all_settings_stand_in_it_and_those_behind_a_mark_have_their_default() -> None:
    spec = start_spec(methods=list(METHODS), learning_rate=0.5)
    text = commented(spec)
    for cls in (Recipe, DataSpec, ModelSpec, OptimizerSpec, *METHODS.values()):
        for entry in dataclasses.fields(cls):  # type: ignore[arg-type]
            if entry.name not in ("data", "model", "optimizer"):
                assert f"\n{entry.name} = " in text or f"\n# {entry.name} = " in text, entry.name
    assert "\nlearning_rate = 0.5" in text
    # With nothing behind a mark it is the same study.
    resolved = "\n".join(
        line.removeprefix("# ") if is_setting(line) else line
        for line in text.split("# To choose")[0].splitlines()
    )
    assert StudySpec.from_toml(resolved.replace("confirm_seeds = []", "")) == dataclasses.replace(
        spec, data_dir=""
    )


def is_setting(line: str) -> bool:
    name, equals, _ = line.removeprefix("# ").partition(" = ")
    return bool(equals) and name.isidentifier()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"methods": ["wsr"]}, "did you mean wrs"),
        ({"task": "detecton"}, "did you mean detection"),
        ({"data": "digit"}, "did you mean digits"),
        ({"model": "resnet19"}, "did you mean resnet18"),
        ({"optimizer": "adamv"}, "did you mean adam or radam or nadam"),
        ({"seeds": 0}, "seeds"),
        ({"task": "segmentation", "model": "resnet18"}, "expected one of unet-bn"),
    ],
)
def test_a_name_that_nobody_knows_is_told(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        start_spec(**given)


def test_ones_own_parts_can_be_begun_with(tmp_path: Path) -> None:
    spec = start_spec(model="./m.py:Net", data="./m.py:load", optimizer="./m.py:Opt", methods=["./m.py:M"])
    assert StudySpec.from_toml(commented(spec)) == spec
    assert {*spec.own()} == {"./m.py:load", "./m.py:Net", "./m.py:Opt", "./m.py:M"}
