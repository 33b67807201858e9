"""On how old a torch and a Python does it run? What was never run is looked up in the source.

docs/limits.md says which of them were run.
"""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from test_architecture import FILES, FLOORS, PACKAGE

ROOT = PACKAGE.parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]
MATRIX = ROOT / ".github" / "workflows" / "floors.yml"
# What is above the core needs an extra, whose floors are not those of torch alone.
ABOVE = {"cli", "integrations", "report", "study"}
# What of torch somebody may call, by the version that brought it. The core calls nothing that is newer
# than the floor in pyproject.toml, and something that is as new.
CAME_WITH = {
    "torch.compiler.is_compiling": (2, 1),
    "torch.get_default_device": (2, 3),
    "torch.nn.functional.rms_norm": (2, 4),
    "torch.rms_norm": (2, 4),
    "torch.nn.attention.flex_attention": (2, 5),
    "torch.nn.Buffer": (2, 5),
    "torch.distributed.tensor.DTensor": (2, 5),
    "torch.accelerator": (2, 6),
    "torch.compiler.set_stance": (2, 6),
    "torch.distributed.fsdp.fully_shard": (2, 6),
    "torch.optim.Muon": (2, 9),
}
# The same of methods, which are known by their names only.
METHODS_AFTER_THE_FLOOR = {"_can_decompose"}
# Possessive quantifiers and atomic groups, which re knows from Python 3.11 on.
NEWER_IN_PATTERNS = re.compile(r"(?<!\\)[*+?}]\+|\(\?>")


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def floors_of(requirements: list[str]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for text in requirements:
        parsed = re.match(r"([\w.-]+)(?:>=|==)([\w.]+)", text)
        if parsed:
            yield parsed[1], numbers(parsed[2])
        else:
            assert text.startswith("decayfree["), f"{text} has no floor"


PYTHON = numbers(PROJECT["requires-python"])
TORCH = dict(floors_of(PROJECT["dependencies"]))["torch"]
EXTRAS = PROJECT["optional-dependencies"]


def named_in(source: str) -> set[str]:
    """What of torch a source names, with all that it lies in: ``torch.nn`` besides ``torch.nn.Linear``."""
    tree = ast.parse(source)
    names = {"torch": "torch"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "torch":
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    whole = set(names.values())
    for node in ast.walk(tree):
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts, node = [node.attr, *parts], node.value
        if parts and isinstance(node, ast.Name) and node.id in names:
            whole.add(".".join([names[node.id], *parts]))
    return {
        ".".join(parts[:n]) for parts in (one.split(".") for one in whole) for n in range(1, len(parts) + 1)
    }


def core() -> list[Path]:
    assert set().union(*FLOORS) >= ABOVE
    return [path for name, path in FILES.items() if name.partition(".")[0] not in ABOVE]


def test_the_core_works_with_torch_alone_where_numpy_does_not_import() -> None:
    script = ROOT / "tests" / "support" / "core_alone.py"
    run = [sys.executable, "-W", "error", str(script)]
    here = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    result = subprocess.run(run, env=here, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "works with torch" in result.stdout


def test_the_core_calls_what_is_as_old_as_the_floor_of_torch() -> None:
    used = set().union(*(named_in(path.read_text(encoding="utf-8")) for path in core()))
    assert max(CAME_WITH[name] for name in used & CAME_WITH.keys()) == TORCH


def test_names_of_torch_are_seen_however_they_are_imported() -> None:
    source = "from torch import nn as n\nfrom torch.optim import Muon\nn.Buffer(1)\ntorch.accelerator.count()"
    assert named_in(source) & CAME_WITH.keys() == {"torch.nn.Buffer", "torch.optim.Muon", "torch.accelerator"}


def test_the_core_calls_no_method_that_torch_got_later() -> None:
    for path in core():
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        called = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        assert not called & METHODS_AFTER_THE_FLOOR, path


def test_no_file_has_grammar_newer_than_the_oldest_python() -> None:
    for path in FILES.values():
        source = path.read_text(encoding="utf-8")
        ast.parse(source, feature_version=PYTHON)
        assert not [text for text in patterns_in(source) if NEWER_IN_PATTERNS.search(text)], path


def patterns_in(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("re."):
            yield from (one.value for one in ast.walk(node) if is_text(one))


def is_text(node: Any) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_checks_and_pages_are_of_the_oldest_python() -> None:
    oldest = ".".join(map(str, PYTHON))
    said = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    assert said == [f"3.{minor}" for minor in range(PYTHON[1], PYTHON[1] + len(said))]
    assert SETTINGS["tool"]["mypy"]["python_version"] == oldest
    assert SETTINGS["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    torch = ".".join(map(str, TORCH))
    for page in ("README.md", "docs/limits.md"):
        text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
        assert f"Python {oldest}" in text
        assert f"torch {torch}" in text
    jobs = yaml.safe_load(MATRIX.read_text(encoding="utf-8"))["jobs"]["alone"]["strategy"]["matrix"][
        "include"
    ]
    assert sorted({one["python"] for one in jobs}, key=numbers) == said
    assert min(numbers(one["torch"]) for one in jobs if one["torch"] != "latest") == TORCH
    assert {one["python"] for one in jobs if one["torch"] == "latest"} == set(said)


def test_limits_say_the_torch_that_all_tests_run_with() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (version,) = (line.removeprefix("torch==") for line in lines if line.startswith("torch=="))
    row = f"| all tests were run | {version.rpartition('.')[0]} |"
    assert row in (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("extra", EXTRAS)
def test_what_the_tests_run_with_is_as_new_as_the_floors(extra: str) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    versions = {re.sub(r"[-_.]+", "-", name).lower(): numbers(version) for name, version in pinned.items()}
    for name, floor in floors_of(EXTRAS[extra]):
        if name != "tomli":  # of Pythons older than those that the tests run with
            assert versions[re.sub(r"[-_.]+", "-", name).lower()] >= floor, name
