"""Where samples go: lines of JSON and back, TensorBoard, and flat names for other loggers."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from decayfree.dynamics.sinks import JsonLines, Sample, TensorBoard, read_jsonl
from decayfree.errors import InvalidInputError, MissingExtraError
from support.available import import_or_skip

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


# ---------------------------------------------------------------------------------------------- TensorBoard


class Writer:
    """What a SummaryWriter is asked for."""

    def __init__(self) -> None:
        self.scalars: list[tuple[str, float, int]] = []
        self.n_flushes = 0

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.scalars.append((tag, value, step))

    def flush(self) -> None:
        self.n_flushes += 1


def test_tensorboard_gets_a_scalar_for_each_chosen_statistic() -> None:
    writer = Writer()
    TensorBoard(writer)(sample(7))  # type: ignore[arg-type]
    assert writer.scalars == [
        ("norm/mean/conv.weight", 1.5, 7),
        ("norm/min/conv.weight", 1.0, 7),
        ("norm/max/conv.weight", 2.0, 7),
    ]
    assert writer.n_flushes == 1
    TensorBoard(writer, statistics=("q50",))(sample(8))  # type: ignore[arg-type]
    assert writer.scalars[3:] == [("norm/q50/conv.weight", 1.25, 8)]


def test_without_the_package_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtraError, match=r'pip install "decayfree\[tensorboard\]"'):
        TensorBoard(tmp_path)


def test_a_folder_gets_a_writer_of_its_own(tmp_path: Path) -> None:
    import_or_skip("tensorboard")
    sink = TensorBoard(tmp_path / "log")
    sink(sample())
    sink.writer.close()
    assert list((tmp_path / "log").glob("events.*"))
