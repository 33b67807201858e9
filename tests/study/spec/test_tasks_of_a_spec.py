"""What goes with which task is told before anything is loaded."""

import pytest

from decayfree.methods import NoTreatment
from decayfree.study import DataSpec, ModelSpec, Recipe, SpecError, StudySpec
from decayfree.study.run_settings import DATA_OF_TASK, MODELS_OF_TASK
from decayfree.study.spec.axes import Axis

SCENES = DataSpec(name="scenes", image_size=64, n_train=8, n_validation=4, n_test=4)


def recipe_of(task: str, **changes: object) -> Recipe:
    model = ModelSpec(name=MODELS_OF_TASK[task][0][0])
    return Recipe(**{"task": task, "data": SCENES, "model": model, "batch_size": 4, **changes})


@pytest.mark.parametrize("task", ["segmentation", "detection", "counting"])
def test_each_task_has_scenes_and_a_network_of_ours(task):
    assert DATA_OF_TASK[task][0] == "scenes"
    assert recipe_of(task).faults() == []


def test_keys_of_runs_from_before_there_were_tasks_stay():
    assert Recipe().task == "classification"
    assert StudySpec(methods=(NoTreatment(),), seeds=(0,)).runs()[0].key == "e6c627ec4add12a2"


@pytest.mark.parametrize(
    ("recipe", "faults"),
    [
        (
            recipe_of("segmentation", data=DataSpec()),
            [
                "data.name: expected one of scenes, voc, cityscapes, camvid, coco-stuff, "
                "package.module:NAME or ./file.py:NAME for segmentation; "
                "got 'digits'"
            ],
        ),
        (
            Recipe(model=ModelSpec(name="unet-bn")),
            ["model.name: expected one of vgg4-bn"],
        ),
        (recipe_of("counting", model=ModelSpec(name="csrnet")), ["model.name: expected one of "]),
        (recipe_of("counting", label_smoothing=0.1), ["label_smoothing: counting has none, got 0.1"]),
        (
            recipe_of("detection", data=DataSpec(name="scenes", image_size=0, n_train=8, n_test=4)),
            ["data.image_size: expected the pixels of a side, since images of scenes differ in size; got 0"],
        ),
        (
            recipe_of(
                "detection",
                data=DataSpec(name="scenes", image_size=64, n_train=8, n_test=4, cutout=8, n_tasks=2),
            ),
            ["data.cutout: detection has none, got 8", "data.n_tasks: detection has 1, got 2"],
        ),
    ],
)
def test_what_is_not_for_a_task_is_told(recipe, faults):
    found = recipe.faults()
    assert len(found) == len(faults)
    assert all(one.startswith(wanted) for one, wanted in zip(found, faults, strict=True)), found


def test_a_study_has_one_task():
    both = (
        Axis(
            "recipe",
            (
                (("task", "segmentation"), ("model.name", "unet-bn")),
                (("task", "detection"), ("model.name", "fcos-bn")),
            ),
        ),
    )
    with pytest.raises(SpecError, match=r"task: expected one for all runs, .* got segmentation, detection"):
        StudySpec(methods=(NoTreatment(),), seeds=(0,), recipe=recipe_of("segmentation"), axes=both)
