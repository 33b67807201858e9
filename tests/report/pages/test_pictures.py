"""What stands on the page of another task: its score, its own numbers, pictures chosen by a rule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch

from decayfree.methods import WRS, WeightDecay
from decayfree.report.numbers.groups import study_groups
from decayfree.report.page import render
from decayfree.report.pages.contents import contents
from decayfree.report.pages.pictures import Shown, pictures, pictures_note
from decayfree.study import DataSpec, ModelSpec, Recipe, RunSettings, Study, StudySpec, read_study
from decayfree.study.data.images import Images
from decayfree.study.data.truth import Ragged
from decayfree.study.files.of_images import text_of_images
from decayfree.study.training.examples import MAX_BOXES, N_EXAMPLES, examples_of
from support.synthetic_study import Writer

N = 20
SCENES = DataSpec(name="scenes", image_size=32, n_train=64, n_validation=8, n_test=N)
PIXELS = torch.randint(256, (N, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
MODELS = {"segmentation": "unet-bn", "detection": "fcos-bn", "counting": "csrnet-bn"}
PREDICTED = {
    "segmentation": torch.full((N, 32, 32), 3, dtype=torch.uint8),
    "detection": Ragged.of_lists([torch.tensor([[1.0, 2, 11, 22, 4, 0.9], [0, 0, 5, 5, 1, 0.2]])] * N),
    "counting": torch.full((N, 8, 8), 0.25),
}
TRUE = {
    "segmentation": torch.zeros(N, 32, 32, dtype=torch.uint8),
    "detection": Ragged.of_lists([torch.tensor([[2.0, 2, 12, 22, 4, 0], [0, 0, 5, 5, 1, 1]])] * N),
    "counting": Ragged.of_lists([torch.tensor([[4.0, 4], [9, 20]])] * N),
}
METRICS: Mapping[str, Mapping[str, float]] = {
    "segmentation": {"IoU, dress": 0.5, "pixel accuracy": 0.9},
    "detection": {"mAP": 0.4, "mAP50": 0.6},
    "counting": {"MAE, items": 3.25, "RMSE, items": 1234.5},
}


def written(out: Path, task: str) -> Study:
    recipe = Recipe(task=task, data=SCENES, model=ModelSpec(MODELS[task]), n_epochs=4)
    spec = StudySpec(methods=(WeightDecay(5e-4), WRS()), seeds=(0, 1, 2), recipe=recipe)
    examples = examples_of(Images(PIXELS, TRUE[task]), PREDICTED[task])

    def change(settings: RunSettings, row: dict[str, Any]) -> None:
        row["test_metrics"] = METRICS[task]
        if row["step"] == settings.recipe.n_steps:
            # Image 7 is the best for the mean of both, 2 the worst, whatever one of them alone says.
            values = np.arange(N) / N + (0.3 if settings.method.name == "wrs" else -0.3) * (
                np.arange(N) == 11
            )
            values[[7, 2]] = 5.0, -5.0
            row["test_images"] = text_of_images(values + settings.seed)
            row["test_examples"] = examples

    writer = Writer(out, spec=spec, final_of=lambda run: 0.5, change_row=change, n_intervals=2)
    return read_study(writer.write())


@pytest.mark.parametrize("task", list(MODELS))
def test_images_are_chosen_by_the_mean_over_methods(task: str, tmp_path: Path) -> None:
    groups = study_groups(written(tmp_path, task))
    assert ("at most as many as there are true ones" in pictures_note(groups)) == (task == "detection")
    [shown] = pictures(groups)
    assert [image.title for image in shown.images] == ["Best", "Median", "Worst"]
    kept = examples_of(Images(PIXELS, TRUE[task]), PREDICTED[task])
    # Of the first twelve: 7, then 11, 10, 9, 8, 6, of which the seventh of all is 5, and 2.
    assert [_place(shown, at, kept["images"]) for at in range(3)] == [7, 5, 2]
    assert [picture.caption for picture in shown.images[0].pictures] == ["Truth", "weight decay", "WRS"]


def _place(shown: Shown, at: int, images: list[str]) -> int:
    return images.index(shown.images[at].pictures[0].image)


def test_shapes_are_those_that_were_said(tmp_path: Path) -> None:
    [boxes] = pictures(study_groups(written(tmp_path / "boxes", "detection")))
    truth, said, _ = boxes.images[0].pictures
    assert truth.boxes == [(2.0, 2.0, 10.0, 20.0, 144, False), (0.0, 0.0, 5.0, 5.0, 36, True)]
    assert said.boxes == [(1.0, 2.0, 10.0, 20.0, 144, False)]  # as many as are true and scored
    [points] = pictures(study_groups(written(tmp_path / "points", "counting")))
    truth, said, _ = points.images[0].pictures
    assert (truth.points, truth.text) == ([(4.0, 4.0), (9.0, 20.0)], "2\xa0items")
    assert said.text == "16.0 items"
    assert said.layer


def test_where_no_box_is_scored_the_surest_one_is_drawn(tmp_path: Path) -> None:
    study = written(tmp_path, "detection")
    for run in study.runs:
        for box in run.rows[-1].test_examples["truth"][7]["boxes"]:
            box[5] = 1.0
    _, said, _ = pictures(study_groups(study))[0].images[0].pictures
    assert said.boxes == [(1.0, 2.0, 10.0, 20.0, 144, False)]


@pytest.mark.parametrize("task", list(MODELS))
def test_the_page_calls_the_score_by_its_name(task: str, tmp_path: Path) -> None:
    study = written(tmp_path, task)
    name = {"segmentation": "mIoU", "detection": "mAP", "counting": "counting accuracy"}[task]
    page = contents(study)
    assert f"Test {name}" in [column.title for column in page["comparison"].columns]
    cells = {
        column.title: cell.text
        for column, cell in zip(page["metrics"].columns, page["metrics"].rows[0].cells, strict=True)
    }
    told = {
        "segmentation": {"IoU, dress": "50.0 %", "pixel accuracy": "90.0 %"},
        "detection": {"mAP": "40.0 %", "mAP50": "60.0 %"},
        "counting": {"MAE, items": "3.25", "RMSE, items": "1,234"},
    }[task]
    assert {key: value.replace("\xa0", " ") for key, value in cells.items() if key != "Method"} == told
    text = render(study)
    said = text.split("<main>")[1].split("<script")[0]
    assert "accuracy" not in unquote(said).replace("counting accuracy", "").replace("pixel accuracy", "")
    assert text.count('<img src="data:image/png;base64,') >= 9


def test_what_is_no_picture_is_not_put_into_the_page(tmp_path: Path) -> None:
    study = written(tmp_path, "segmentation")
    for run in study.runs:
        said = run.rows[-1].test_examples["said"]
        said[7]["mask"] = '"><script>alert(1)</script>'
    assert "alert(1)" not in render(study)


def test_only_the_best_of_many_boxes_are_kept() -> None:
    rows = 0.2 * torch.rand(200, 6)  # a small network is never surer
    kept = examples_of(
        Images(torch.zeros(N, 8, 8, dtype=torch.uint8), TRUE["detection"]), Ragged.of_lists([rows] * N)
    )
    assert [len(kept[key]) for key in ("images", "truth", "said")] == [N_EXAMPLES] * 3
    scores = [row[5] for row in kept["said"][0]["boxes"]]
    assert len(scores) == MAX_BOXES
    assert scores == sorted(scores, reverse=True)
    assert math.isclose(scores[0], float(rows[:, 5].max()), abs_tol=0.005)


def test_a_page_is_written_where_there_is_nothing_to_score(tmp_path: Path) -> None:
    """As for detection in images without a box."""
    recipe = Recipe(task="detection", data=SCENES, model=ModelSpec("fcos-bn"), n_epochs=4)
    spec = StudySpec(methods=(WeightDecay(5e-4), WRS()), seeds=(0, 1), recipe=recipe)

    def unknown(settings: RunSettings, row: dict[str, Any]) -> None:
        row["test_score"] = row["train_score"] = None
        row["validation_score"] = None

    writer = Writer(tmp_path, spec=spec, final_of=lambda run: 0.5, change_row=unknown, n_intervals=2)
    study = read_study(writer.write())
    assert "Test mAP" in render(study)
