"""Where samples go: lines of JSON and back, and real loggers, offline, beside a training that logs too."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from decayfree import Recorder, find_invariant
from decayfree.dynamics.samples import Sample, read_jsonl
from decayfree.dynamics.sinks import JsonLines, MLflow, TensorBoard, WandB
from decayfree.errors import InvalidInputError, MissingExtraError
from support.available import import_or_skip
from support.wandb_file import history

NORM = {"mean": 1.5, "min": 1.0, "max": 2.0, "q50": 1.25, "undefined": 0.0}


def sample(step: int = 50, run: str = "a", mean: float = 1.5) -> Sample:
    return Sample(run, step, {"conv.weight": 0.1}, {"conv.weight": {"norm": {**NORM, "mean": mean}}})


# ---------------------------------------------------------------------------------------------- flat


def test_flat_names_say_instrument_statistic_and_weight() -> None:
    assert sample().flat() == {
        "norm/mean/conv.weight": 1.5,
        "norm/min/conv.weight": 1.0,
        "norm/max/conv.weight": 2.0,
        "norm/q50/conv.weight": 1.25,
        "norm/undefined/conv.weight": 0.0,
    }
    assert sample().flat("mean", "max") == {"norm/mean/conv.weight": 1.5, "norm/max/conv.weight": 2.0}


# ---------------------------------------------------------------------------------------------- JSON lines


def test_samples_come_back_as_they_were(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "samples.jsonl")
    samples = [sample(50), sample(100), sample(50, run="b", mean=1 / 3)]
    for one in samples:
        sink(one)
    assert read_jsonl(tmp_path / "samples.jsonl") == samples


def test_each_line_is_one_object_and_is_there_at_once(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    sink = JsonLines(path)
    assert not path.exists()
    for number in (1, 2, 3):
        sink(sample(number))
        lines = path.read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, number + 1))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_null_in_the_file_and_nan_when_read(value: float, tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    JsonLines(path)(sample(mean=value))
    assert json.loads(path.read_text())["weights"]["conv.weight"]["norm"]["mean"] is None
    (read,) = read_jsonl(path)
    assert math.isnan(read.weights["conv.weight"]["norm"]["mean"])
    assert read.weights["conv.weight"]["norm"]["max"] == 2.0


def test_another_object_appends_to_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    JsonLines(path)(sample(1))
    JsonLines(str(path))(sample(2))
    assert [one.step for one in read_jsonl(path)] == [1, 2]


def test_of_a_step_taken_twice_by_one_run_the_later_is_read(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "samples.jsonl")
    for one in (sample(1), sample(2, mean=7.0), sample(2, run="b"), sample(2, mean=8.0), sample(3)):
        sink(one)
    read = read_jsonl(sink.path)
    assert [(one.run, one.step, one.weights["conv.weight"]["norm"]["mean"]) for one in read] == [
        ("a", 1, 1.5),
        ("b", 2, 1.5),
        ("a", 2, 8.0),
        ("a", 3, 1.5),
    ]


def test_a_line_that_was_cut_off_is_left_out_with_a_warning_and_what_follows_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    sink = JsonLines(path)
    sink(sample(1))
    whole = path.read_text()
    path.write_text(whole + whole[:40])
    with pytest.warns(UserWarning, match=r"samples.jsonl: line 2 holds no sample and was left out"):
        assert [one.step for one in read_jsonl(path)] == [1]
    sink(sample(2))
    with pytest.warns(UserWarning, match="line 2 holds"):
        assert [one.step for one in read_jsonl(path)] == [1, 2]


@pytest.mark.parametrize("line", ["5", "{}", '{"step": 1, "other": 2}'])
def test_lines_of_others_are_left_out_with_a_warning(line: str, tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(line + "\n")
    with pytest.warns(UserWarning, match="line 1 holds no sample"):
        assert read_jsonl(path) == []


def test_the_file_stays_where_it_was_when_the_working_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sink = JsonLines("samples.jsonl")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    sink(sample())
    assert (tmp_path / "samples.jsonl").exists()


def test_a_file_in_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"the folder .*missing does not exist"):
        JsonLines(tmp_path / "missing" / "samples.jsonl")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="it is a folder; name a file in it"):
        JsonLines(tmp_path)


def test_a_file_that_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"there is no file .*nothing.jsonl with samples"):
        read_jsonl(tmp_path / "nothing.jsonl")


# ---------------------------------------------------------------------------------------------- loggers


def big_sample(step: int) -> Sample:
    """Of 60 weights; the last is the longest, and one reading is not a number."""
    instruments = (
        "norm",
        "angular_update_rad",
        "relative_update",
        "effective_learning_rate",
        "radial_share",
        "gradient_norm_at_unit_radius",
        "distance_to_equilibrium",
    )
    weights = {
        f"layers.{layer}.conv.weight": {
            instrument: {**NORM, "mean": 1.0 + layer * 0.01 + (layer == 59), "undefined": 1.0}
            for instrument in instruments
        }
        for layer in range(60)
    }
    weights["layers.0.conv.weight"]["norm"]["mean"] = math.nan
    return Sample("a", step, dict.fromkeys(weights, 0.1), weights)


def test_a_logger_gets_twelve_numbers_of_any_model_and_the_names_behind_them() -> None:
    told = big_sample(1).brief()
    assert len(told) == 12
    assert told["norm/mean"] == pytest.approx(sum(1 + 0.01 * layer for layer in range(1, 60)) / 59 + 1 / 59)
    assert told["norm/extreme"] == pytest.approx(2.59)
    assert told["undefined"] == 60 * 7
    assert set(big_sample(1).extremes().values()) == {"layers.59.conv.weight"}
    assert Sample("a", 1, {}, {}).brief() == {"undefined": 0.0}


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    package = import_or_skip("wandb")
    for key, value in {"MODE": "offline", "SILENT": "true", "DIR": str(tmp_path)}.items():
        monkeypatch.setenv(f"WANDB_{key}", value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield package
        package.teardown()
        package.run = None  # it stays there, and cannot be logged to


COUNTERS: dict[str, Callable[[int], int | None]] = {
    "by itself": lambda step: None,
    "optimizer steps": lambda step: step,
    "images": lambda step: 32 * step,
    "epochs, far slower than the samples": lambda step: step // 10,
}


@pytest.mark.parametrize("counter", COUNTERS)
def test_wandb_loses_nothing_of_the_training_nor_of_ours(counter: str, wandb: Any, tmp_path: Path) -> None:
    """Samples before and after what the training logs: a loss, and an accuracy at the same count."""
    run = wandb.init(project="project")
    sink = WandB(stepless=counter == "by itself")
    logged = 0
    for step in range(1, 41):
        if step % 2 == 0:
            sink(big_sample(step))
        if "epochs" not in counter or step % 10 == 0:
            run.log({"loss": step}, step=COUNTERS[counter](step))
            run.log({"accuracy": step}, step=COUNTERS[counter](step))
            logged += 1
        if step % 2 == 1:
            sink(big_sample(step))
    run_id = run.id
    wandb.teardown()
    files = {path.name: path for path in tmp_path.rglob("*.wandb") if path.parent.name != "latest-run"}
    rows = [row for path in files.values() for row in history(path)]
    assert sorted(row["decayfree/step"] for row in rows if "decayfree/step" in row) == list(range(1, 41))
    assert all(
        row["decayfree/norm/extreme_weight"] == "layers.59.conv.weight"
        for row in rows
        if "decayfree/step" in row
    )
    assert [sum(key in row for row in rows) for key in ("loss", "accuracy")] == [logged, logged]
    is_alone = list(files) == [f"run-{run_id}.wandb"]
    assert is_alone == (counter == "by itself")


def test_wandb_wants_a_run(wandb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb, "run", None)
    with pytest.raises(InvalidInputError, match=r"no run of W&B is open: call wandb\.init\(\) first"):
        WandB()


def test_mlflow_gets_every_sample_beside_what_the_training_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = import_or_skip("mlflow")
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/runs.db")
        try:
            with mlflow.start_run() as run:
                for sink in (MLflow(), MLflow(statistics=("mean", "max", "q50"))):
                    for step in (10, 20, 30):
                        sink(big_sample(step))
                        mlflow.log_metric("loss", 1.0, step=step // 10)
            client = mlflow.MlflowClient()
            seen, of_training = (
                client.get_metric_history(run.info.run_id, key) for key in ("decayfree/norm/extreme", "loss")
            )
            kept = client.get_run(run.info.run_id).data
        finally:
            mlflow.set_tracking_uri("")
    assert [(one.step, one.value) for one in seen] == [(step, pytest.approx(2.59)) for step in (10, 20, 30)]
    assert len(of_training) == 6
    assert len(kept.metrics) == 12 + 60 * 7 * 3 - 1 + 1  # all but the one that is no number, and the loss
    assert kept.tags["decayfree/norm/extreme_weight"] == "layers.59.conv.weight"


def test_tensorboard_gets_every_sample(tmp_path: Path) -> None:
    import_or_skip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = TensorBoard(tmp_path / "log")
    for step in (7, 8):
        sink(big_sample(step))
    TensorBoard(sink.writer, statistics=("q50",))(sample(9))
    sink.writer.close()
    events = EventAccumulator(str(tmp_path / "log")).Reload()
    assert [event.step for event in events.Scalars("decayfree/norm/extreme")] == [7, 8]
    assert len(events.Tags()["scalars"]) == 12 + 1
    assert events.Scalars("decayfree/norm/q50/conv.weight")[0].value == 1.25
    text = events.Tensors("decayfree/norm/extreme_weight/text_summary")[0].tensor_proto.string_val
    assert list(text) == [b"layers.59.conv.weight"]


def test_tensorboard_wants_a_writer_or_a_folder() -> None:
    with pytest.raises(InvalidInputError, match="writer must be a SummaryWriter or a folder, got 3"):
        TensorBoard(3)  # type: ignore[arg-type]


LOGGERS: dict[str, Callable[[], object]] = {
    "wandb": WandB,
    "mlflow": MLflow,
    "tensorboard": lambda: TensorBoard("folder"),
}


@pytest.mark.parametrize("package", LOGGERS)
def test_without_the_package_the_error_names_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf'pip install "decayfree\[{package}\]"'):
        LOGGERS[package]()


# ---------------------------------------------------------------------------------------------- failing sinks


def train(sink: Callable[[Sample], object], *, n_steps: int) -> Recorder:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = Recorder(optimizer, find_invariant(model, torch.randn(8, 4)), every=1, sink=sink)
    for _ in range(n_steps):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
    return recorder


def test_a_sink_that_fails_stops_no_training_is_told_once_and_its_samples_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    taken = []

    def sink(one: Sample) -> None:
        if one.step in (2, 3):
            raise ConnectionError("nobody is there")
        taken.append(one.step)

    said = r"the sink failed at step 2 \(ConnectionError: nobody is there\); this sample, and .* are kept in "
    with pytest.warns(UserWarning, match=said) as warned:
        recorder = train(sink, n_steps=4)
    assert len(warned) == 1
    assert recorder.n_steps == 4
    assert taken == [1, 4]
    assert [one.step for one in read_jsonl(tmp_path / "dynamics.jsonl")] == [2, 3]


def test_where_the_file_cannot_be_written_either_samples_are_lost_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dynamics.jsonl").mkdir()

    def sink(one: Sample) -> None:
        raise ConnectionError("nobody is there")

    with pytest.warns(UserWarning, match=r"cannot be written \(.*it is a folder.*\): samples are lost"):
        train(sink, n_steps=2)


def test_an_interrupted_sink_interrupts() -> None:
    def sink(one: Sample) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(sink, n_steps=1)
