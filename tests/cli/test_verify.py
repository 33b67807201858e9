"""`decayfree verify`: the table, its notes, JSON, exit codes, and what bad requests are told."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner, Result

from decayfree import theory
from decayfree.cli.app import app
from decayfree.cli.verify import notes, summary, table, tinted_digits, what_does_not_apply
from decayfree.theory import Check

HOLDS = Check(
    "a = b", "Euclid 1", "apart by 1e-15", "0", 1e-15, 1e-9, "Measured on two numbers.", "Only in the plane."
)
FAILS = Check("b = c", "Euclid 2", "apart by 2", "0", 2.0, 1e-9, "Measured on [three] numbers.")
MISSING = Check("c = d", "Euclid 3", "", "", math.nan, math.nan, "There is no d.", is_applicable=False)


def verify(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["verify", *arguments], env={"COLUMNS": "200"})


def text_of(checks: list[Check], width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table(checks, width))
    return console.export_text()


@pytest.fixture
def small_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a factory in the current directory."""
    (tmp_path / "small_verified_model.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))\n"
        "def plain():\n"
        "    return nn.Linear(12, 2)\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    return "small_verified_model"


def given(monkeypatch: pytest.MonkeyPatch, *checks: Check) -> None:
    def yielded(*args: Any, **kwargs: Any) -> Iterator[Check]:
        yield from checks

    monkeypatch.setattr("decayfree.theory.verification.verify_model", yielded)


def test_a_model_is_verified(small_model: str) -> None:
    result = verify(f"{small_model}:build", "--input", "8,12")
    assert result.exit_code == 0, result.output
    assert "The gradient is orthogonal to the weight" in result.stdout
    assert "fails" not in result.stdout
    assert re.search(r"\d+ statements in \d+ s: \d+ hold", result.stdout)


def test_json_has_every_statement(small_model: str) -> None:
    result = verify(f"{small_model}:build", "--input", "8,12", "--json")
    found = json.loads(result.stdout)
    assert found["passed"] is True
    assert {check["verdict"] for check in found["checks"]} <= {"holds", "does not apply"}
    expected = list(
        theory.verify_model(nn.Sequential(nn.Linear(12, 4), nn.BatchNorm1d(4)), torch.randn(8, 12))
    )
    assert [check["statement"] for check in found["checks"]] == [check.statement for check in expected]
    held = [check for check in found["checks"] if check["verdict"] == "holds"]
    assert len(held) >= 20
    assert all(check["residual"] <= check["tolerance"] for check in held)


def test_a_statement_that_fails_is_explained_and_the_exit_code_is_1(
    small_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, HOLDS, FAILS, MISSING)
    result = verify(f"{small_model}:build", "--input", "8,12")
    assert result.exit_code == 1
    assert "fails: Measured on [three] numbers." in result.stdout
    assert "residual 2.0e+00, tolerance 1e-09" in result.stdout
    assert "Measured on two numbers." not in result.stdout
    assert "3 statements" in result.stdout
    as_json = verify(f"{small_model}:build", "--input", "8,12", "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)["passed"] is False


def test_explain_says_what_was_done(small_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, HOLDS, MISSING)
    result = verify(f"{small_model}:build", "--input", "8,12", "--explain")
    assert result.exit_code == 0
    assert "holds: Measured on two numbers." in result.stdout
    assert "does not apply: There is no d." in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["torchvision:resnet18"], "MODEL and --input go together"),
        (["--input", "4,3,8,8"], "MODEL and --input go together"),
        (
            ["small_verified_model:plain", "--input", "8,12"],
            "has no scale-invariant weight to try statements on",
        ),
        (["small_verified_model:build", "--input", "8,11"], "11"),
        (["nothing", "--input", "8,12"], "expected torchvision:NAME"),
    ],
)
def test_a_bad_request_is_told_and_the_exit_code_is_2(
    small_model: str, arguments: list[str], message: str
) -> None:
    result = verify(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("width", [60, 80, 120])
def test_table_has_every_statement_with_its_figures(width: int) -> None:
    text = " ".join(text_of([HOLDS, FAILS, MISSING], width).split())
    for part in (
        "a = b [1]",
        "Euclid 1",
        "apart by 1e-15",
        "holds",
        "b = c",
        "fails",
        "1e-15 ≤ 1e-09",
        "2 > 1e-09",
    ):
        assert part in text
    assert "c = d" not in text


def test_what_does_not_apply_is_said_once() -> None:
    other = replace(MISSING, statement="d = e")
    assert what_does_not_apply([HOLDS, MISSING, other]) == [
        "There is no d. So nothing was measured of: c = d; d = e."
    ]


def test_notes_are_there_once() -> None:
    assert notes([HOLDS, FAILS, HOLDS]) == ["Only in the plane."]


def test_summary_counts_verdicts() -> None:
    assert summary([HOLDS, HOLDS, FAILS], 3.2) == "3 statements in 3 s: 2 hold, 1 fails."


def test_a_residual_that_is_not_a_number_fails() -> None:
    assert Check("a", "b", "c", "d", math.nan, 1.0, "e").verdict == "fails"
    assert MISSING.passed
    assert MISSING.to_dict()["residual"] is None


def test_tinted_digits_leave_two_thirds_of_the_directions_out() -> None:
    images, labels = tinted_digits(20)
    assert images.shape == (20, 3, 8, 8)
    assert labels.shape == (20,)
    assert torch.allclose(images[:, 1], 0.7 * images[:, 0])


@pytest.mark.slow
def test_everything_holds_on_the_built_in_network() -> None:
    result = verify("--json")
    found = json.loads(result.stdout)
    assert [check["statement"] for check in found["checks"] if check["verdict"] != "holds"] == []
    assert len(found["checks"]) >= 30
    assert result.exit_code == 0
