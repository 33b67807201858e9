"""``make gpu`` tried on the host: one file with what was tested and measured, or none and the reason."""

import importlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from support.scripts import ROOT

RESULTS = """<testsuites><testsuite>
<testcase classname="tests.a" name="test_one[cuda]" time="0.1" />
<testcase classname="tests.a" name="test_two"><failure message="no">assert 1 == 2</failure></testcase>
<testcase classname="tests.b" name="test_three"><error message="no">in a fixture</error></testcase>
<testcase classname="tests.b" name="test_four"><skipped message="no package">there</skipped></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("gpu")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch, of RMSNorm in autocast
def test_tests_and_benchmarks_come_into_one_file(gpu: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    settings = ["--device", "cpu", "--size", "tiny", "--rounds", "2", "--only", "resnet50", "gpt"]
    tests = ["--tests", "tests/invariance/test_wrong_inputs.py"]
    assert gpu.main([*settings, *tests, "--out", str(out)]) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["versions"]["torch"] == torch.__version__
    assert f"torch {torch.__version__}" in report["hardware"]
    assert report["unfinished"] == {}
    ran = report["tests"]
    assert (ran["passed"] + len(ran["skipped"]), ran["failed"], ran["unfinished"]) == (1, [], None)
    if not torch.cuda.is_available():
        assert list(ran["skipped"].values()) == ["needs a GPU that torch sees"]
    figures = [(one["part"], one["what"].partition(": ")[2], one["target"]) for one in report["figures"]]
    share = "WRS adds, share of a step"
    assert [one for one in figures if one[1] == share] == [
        ("resnet50", share, 0.01),
        ("resnet50", share, 0.005),
        ("gpt", share, 0.01),
        ("gpt", share, None),
    ]
    assert ("gpt", "the rescale / one multiply of each", None) in figures
    for one in report["figures"]:
        is_held_to_something = None not in (one["value"], one["target"])
        met = {True: "met", False: "missed"}[one["value"] <= one["target"]] if is_held_to_something else None
        assert one["verdict"] == met, one


def test_without_a_gpu_nothing_is_written_and_it_says_why(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "gpu.json"
    assert gpu.main(["--out", str(out)]) == 0
    reason = f"torch {torch.__version__} sees no GPU"
    assert capsys.readouterr().out == f"skipped, {out} is not written: {reason}\n"
    assert not out.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="processes that are spawned cannot be sent a closure")
def test_a_benchmark_that_does_not_come_to_its_end_says_why_and_keeps_its_figures(gpu: ModuleType) -> None:
    def ends(by: str) -> Iterator[object]:
        yield gpu.Line("first", "1")
        if by == "error":
            raise ValueError("no such thing\nat all")
        if by == "exit":
            os._exit(3)
        if by == "time":
            time.sleep(60)

    reasons = {
        "itself": None,
        "error": "ValueError: no such thing",
        "exit": "its process ended with 3",
        "time": "no time was left",
    }
    for by, reason in reasons.items():
        start = time.monotonic()
        lines, said = gpu.measured(lambda by=by: ends(by), start + (2 if by == "time" else 60))
        assert [line.what for line in lines] == ["first"], by
        assert said == reason


@pytest.mark.parametrize("failed", ["test", "tests", "benchmark"])
def test_it_fails_where_something_did(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failed: str
) -> None:
    ends = gpu.counted(RESULTS) if failed == "test" else gpu.counted("<testsuites/>")
    ends["unfinished"] = "timed out" if failed == "tests" else None
    monkeypatch.setattr(gpu, "tested", lambda *_: ends)
    reason = "no time was left" if failed == "benchmark" else None
    monkeypatch.setattr(gpu, "measured", lambda *_: ([], reason))
    assert gpu.main(["--device", "cpu", "--only", "gpt", "--out", str(tmp_path / "gpu.json")]) == 1


def test_results_are_counted(gpu: ModuleType) -> None:
    assert gpu.counted(RESULTS) == {
        "passed": 1,
        "failed": ["tests.a.test_two", "tests.b.test_three"],
        "skipped": {"tests.b.test_four": "no package"},
        "unfinished": None,
    }


def test_nobody_but_conftest_asks_whether_there_is_a_gpu_to_be_tested() -> None:
    asking = "skipif(" + "not torch.cuda.is_available()"
    assert not [path for path in (ROOT / "tests").rglob("*.py") if asking in path.read_text(encoding="utf-8")]
