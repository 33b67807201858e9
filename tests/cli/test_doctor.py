"""`decayfree doctor`: what is there, what is not, and how to get it."""

import errno
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from decayfree.cli import doctor
from decayfree.cli.app import app
from decayfree.cli.doctor import Finding, examined


def found() -> dict[str, Finding]:
    return {one.name: one for one in examined()}


def test_everything_that_is_asked_has_one_answer_and_what_is_wrong_a_cure() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    findings = [Finding(**one) for one in json.loads(result.stdout)]
    names = [one.name for one in findings]
    assert len(names) == len(set(names))
    for thing in ("torch", "device", "torchvision", "extra study", "data digits", "this folder"):
        assert thing in names
    assert all(one.answer for one in findings)
    assert all(bool(one.cure) == (one.state != "ok") for one in findings)
    assert result.exit_code == any(one.state == "broken" for one in findings)


@pytest.mark.parametrize("columns", [60, 120])
def test_it_is_readable_in_a_narrow_terminal(columns: int) -> None:
    result = CliRunner(env={"COLUMNS": str(columns)}).invoke(app, ["doctor"])
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert any(line.startswith("✓ torch ") and torch.__version__ in line for line in lines)


def test_extras_of_users_are_asked_for_and_those_of_developers_are_not() -> None:
    asked = {name.removeprefix("extra ") for name in found() if name.startswith("extra ")}
    every = set(importlib.metadata.metadata("decayfree").get_all("Provides-Extra") or ())
    assert asked == every - {"test", "lint", "release", "site", "benchmarks", "docs"}


def test_what_is_not_installed_is_missing_and_what_is_too_old_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    version = doctor._version_of
    fake = {"numba": None, "optuna": "2.9.1", "torchvision": None}
    monkeypatch.setattr(doctor, "_version_of", lambda name: fake.get(name, version(name)))
    said = found()
    assert said["extra fused"] == Finding(
        "extra fused", "missing", "not installed: numba", "pip install 'decayfree[fused]'"
    )
    assert said["extra tune"].state == "broken"
    assert said["extra tune"].answer.startswith("too old: optuna 2.9.1 (needs ")
    assert said["torchvision"].state == "missing"


def test_a_torchvision_of_another_torch_says_why_it_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(doctor, "_version_of", lambda name: "0.1")
    monkeypatch.setattr("importlib.import_module", fails)
    said = doctor._torchvision()
    assert said.state == "broken"
    assert said.answer == "0.1 does not import: RuntimeError: operator torchvision::nms does not exist"
    assert "built with this torch" in said.cure


def test_data_that_is_nowhere_says_where_it_was_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("decayfree.study.data.fashion_mnist.DEBIAN_DIR", tmp_path / "nowhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said = found()["data fashion-mnist"]
    assert said.state == "missing"
    assert said.answer == "Fashion-MNIST was not found"
    assert f"{tmp_path / 'nowhere'}: no such folder" in said.cure
    assert "Install Debian's package dataset-fashion-mnist" in said.cure


def test_a_folder_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert found()["this folder"] == Finding("this folder", "ok", f"{Path.cwd()} can be written")
    assert doctor._writable("gone", tmp_path / "nowhere").state == "broken"

    def full(descriptor: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    said = doctor._writable("this folder", tmp_path)
    assert (said.state, said.answer) == ("broken", f"{tmp_path} cannot be written: No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_torch_for_gpus_that_sees_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    assert doctor._device().state == "missing"
    monkeypatch.setattr("torch.version.cuda", None)
    assert doctor._device().state == "ok"
