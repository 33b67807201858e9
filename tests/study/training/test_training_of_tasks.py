"""Runs of other tasks: what they leave, and that a run which was stopped goes on bitwise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from decayfree.methods import WRS, TurningMethod
from decayfree.report import write_report
from decayfree.study import DataSpec, ModelSpec, Recipe, Row, RunSettings, StudySpec, read_study
from decayfree.study.data.images import Images
from decayfree.study.files.of_images import images_of_text
from decayfree.study.files.results import ROWS_FILE, read_rows, read_spectra, run_directory
from decayfree.study.run_settings import MODELS_OF_TASK
from decayfree.study.tasks.task import Score
from decayfree.study.training.building import build
from decayfree.study.training.examples import N_EXAMPLES
from decayfree.study.training.loop import train
from decayfree.study.training.sampling import Sampler
from support.available import import_or_skip

TASKS = ("segmentation", "detection", "counting")
NETWORKS = [(task, name) for task in TASKS for name in MODELS_OF_TASK[task][0]]
WIDTHS = {"mcnn-bn": 0.25, "unet-bn": 0.0625}
KEYS = {
    "segmentation": {"IoU, ground", "pixel accuracy"},
    "detection": {"mAP", "mAP50"},
    "counting": {"MAE, items", "RMSE, items"},
}


def settings_of(task: str, name: str, *, off_span: bool = True, clean: bool = False) -> RunSettings:
    data = DataSpec(name="scenes", image_size=32, n_train=24, n_validation=6, n_test=14, flip=True)
    model = ModelSpec(name, width_factor=WIDTHS.get(name, 0.125))
    recipe = Recipe(
        task=task,
        data=data,
        model=model,
        n_epochs=2,
        batch_size=8,
        n_samples=3,
        learning_rate=0.01,
        off_span=off_span,
        clean_off_span=clean,
    )
    method = TurningMethod() if name == "unet-bn" else WRS()
    return StudySpec(methods=(method,), seeds=(3,), recipe=recipe).runs()[0]


def rows_of(out: Path, settings: RunSettings) -> tuple[Row, ...]:
    return read_rows(run_directory(out, settings.key) / ROWS_FILE, may_be_cut=False)


@pytest.mark.parametrize(("task", "name"), NETWORKS)
def test_a_run_keeps_what_its_task_tells_and_goes_on_bitwise(task: str, name: str, tmp_path: Path) -> None:
    if name == "fcos-bn":
        import_or_skip("torchvision.ops")
    settings = settings_of(task, name)
    assert train(settings, tmp_path / "whole") == "done"
    assert train(settings, tmp_path / "parts", on_step=lambda n_done: n_done < 4) == "running"
    assert train(settings, tmp_path / "parts") == "done"
    rows, again = (rows_of(tmp_path / folder, settings) for folder in ("whole", "parts"))
    last = rows[-1]
    assert [repr(row) for row in rows] == [repr(row) for row in again]
    assert set(last.test_metrics) >= KEYS[task]
    of_images = images_of_text(last.test_images)
    assert len(of_images) in (0, 14)  # none where leaving one image out leaves nothing to score
    mean = np.mean(of_images, dtype=np.float64) if len(of_images) else last.test_score
    assert mean == pytest.approx(last.test_score, abs=1e-6)
    kept = last.test_examples
    assert [len(kept[key]) for key in ("images", "truth", "said")] == [N_EXAMPLES] * 3
    assert all(not row.test_images and not row.test_examples for row in rows[:-1])
    assert all(math.isfinite(value) for value in (last.train_score, last.validation_score, last.test_loss))
    assert not math.isnan(last.off_span_share) or name == "mcnn-bn"
    assert read_spectra(run_directory(tmp_path / "whole", settings.key))


@pytest.mark.filterwarnings("ignore:fewer inputs were watched")
@pytest.mark.parametrize("task", TASKS)
def test_weights_are_cleaned_by_what_the_task_makes_of_images(task: str, tmp_path: Path) -> None:
    name = MODELS_OF_TASK[task][0][-1]
    plain, cleaned = (settings_of(task, name, off_span=False, clean=clean) for clean in (False, True))
    for settings in (plain, cleaned):
        assert train(settings, tmp_path) == "done"
    first, last = (rows_of(tmp_path, settings)[-1] for settings in (plain, cleaned))
    assert set(first.norms) == set(last.norms)
    assert all(last.norms[weight] <= first.norms[weight] * (1 + 1e-6) for weight in first.norms)


@pytest.mark.parametrize(
    ("name", "package", "task"),
    [
        ("nuclei", "stardist", "detection"),
        ("nuclei", "stardist", "counting"),
        ("coins", "skimage", "detection"),
        ("coins", "skimage", "counting"),
        ("faces", "skimage", "detection"),
    ],
)
def test_annotated_pictures_of_packages_are_learned_from(
    name: str, package: str, task: str, tmp_path: Path
) -> None:
    import_or_skip(package)
    data = DataSpec(name, n_train=6, n_validation=2, n_test=3, image_size=32)
    recipe = Recipe(
        task=task,
        data=data,
        model=ModelSpec({"detection": "ttfnet-bn", "counting": "csrnet-bn"}[task], width_factor=0.125),
        n_epochs=15,
        batch_size=3,
        n_samples=3,
        learning_rate=0.01,
        off_span=False,
    )
    (settings,) = StudySpec(methods=(WRS(),), seeds=(3,), recipe=recipe).runs()
    assert train(settings, tmp_path) == "done"
    first, *_, last = rows_of(tmp_path, settings)
    assert last.train_loss < first.train_loss
    assert 0 <= last.test_score <= 1 or task == "counting"
    assert all(map(math.isfinite, last.test_metrics.values()))


def test_no_more_training_images_are_scored_than_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = build(settings_of("counting", "mcnn-bn", off_span=False), tmp_path, data_dir=None).sampler
    score, counts = Sampler._score, []

    def counted(self: Sampler, images: Images, *arguments: Any, **settings: Any) -> Score:
        counts.append(len(images))
        return score(self, images, *arguments, **settings)

    monkeypatch.setattr(Sampler, "_score", counted)
    sampler.row(step=0, learning_rate=0.01)
    assert counts == [14, 6, 14]  # of 24 to train on, 6 to validate and 14 to test with


def test_what_was_left_out_of_the_data_is_told_on_the_page(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for part, n in (("train", 12), ("val", 4)):
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True)
        for number in range(n):
            Image.new("RGB", (32, 32), (number * 9, 40, 90)).save(folder / "images" / part / f"{number}.png")
            (folder / "labels" / part / f"{number}.txt").write_text("0 0.9 0.5 0.5 0.5\n")
    (folder / "data.yaml").write_text("names: [thing]\n")
    data = DataSpec(name="yolo", image_size=32, n_train=8, n_validation=4, n_test=4)
    model = ModelSpec("ttfnet-bn", width_factor=0.125)
    recipe = Recipe(
        task="detection", data=data, model=model, n_epochs=1, batch_size=4, n_samples=1, off_span=False
    )
    spec = StudySpec(methods=(WRS(),), seeds=(0,), recipe=recipe, data_dir=str(folder))
    out = tmp_path / "study"
    out.mkdir()
    (out / "study.toml").write_text(spec.to_toml())
    train(spec.runs()[0], out, data_dir=folder)
    (run,) = read_study(out).runs
    said = "train: 8 of 8 boxes reach out of the image and are cut at its border."
    assert said in run.notes
    assert said in write_report(out).read_text()
