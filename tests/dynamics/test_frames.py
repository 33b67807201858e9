"""A recorder's file as a frame has every number of the file, in its row."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import decayfree
from decayfree.dynamics import read_frame
from decayfree.errors import InvalidInputError
from support.available import import_or_skip

import_or_skip("polars")


def trained(sink: object, n_steps: int = 4) -> decayfree.Recorder:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = decayfree.find_invariant(model, torch.randn(16, 4))
    recorder = decayfree.Recorder(optimizer, found, every=2, sink=sink)  # type: ignore[arg-type]
    for _ in range(n_steps):
        model(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()
    return recorder


def test_a_file_has_a_row_for_each_weight_and_instrument_of_a_step(tmp_path: Path) -> None:
    file = tmp_path / "dynamics.jsonl"
    first, second = trained(file), trained(file)
    frame = read_frame(file, library="polars")
    assert frame["run"].unique(maintain_order=True).to_list() == [first.run, second.run]
    line = json.loads(file.read_text(encoding="utf-8").splitlines()[1])
    (seen,) = line["weights"].values()
    of_step = frame.filter((frame["run"] == first.run) & (frame["step"] == 4))
    assert of_step["instrument"].to_list() == list(seen)
    assert of_step["learning_rate"].to_list() == [0.1] * len(seen)
    assert of_step.drop("run", "step", "weight", "instrument", "learning_rate").to_dicts() == list(
        seen.values()
    )


def test_a_recorders_frame_is_that_of_its_own_run(tmp_path: Path) -> None:
    file = tmp_path / "dynamics.jsonl"
    trained(file)
    recorder = trained(file)
    whole = read_frame(file, library="polars")
    assert recorder.frame(library="polars").equals(whole.filter(whole["run"] == recorder.run))
    assert [sample.step for sample in recorder.samples()] == [2, 4]


def test_before_any_sample_the_frame_is_empty_with_its_columns(tmp_path: Path) -> None:
    frame = trained(tmp_path / "dynamics.jsonl", n_steps=1).frame(library="polars")
    assert (frame.height, frame.columns[:3]) == (0, ["run", "step", "weight"])


def test_samples_that_go_elsewhere_are_not_kept() -> None:
    recorder = trained(print)
    with pytest.raises(
        InvalidInputError, match=r"samples of this recorder go to <built-in function print> and "
    ):
        recorder.frame()
