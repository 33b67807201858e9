"""The notebooks of docs/ run from their first cell to their last, and are kept without what they print.

The site runs them once more, each in a kernel of its own, and shows what comes out.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from support.available import import_or_skip

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"
NAMES = ["practitioner", "researcher", "student"]


def cells(name: str) -> list[dict[str, Any]]:
    return json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


def test_there_are_three() -> None:
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_kept_without_what_it_prints(name: str) -> None:
    code = [cell for cell in cells(name) if cell["cell_type"] == "code"]
    assert not [cell for cell in code if cell["outputs"] or cell["execution_count"]]
    for cell in cells(name):
        assert all(len(line.rstrip("\n")) <= 120 for line in "".join(cell["source"]).splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_or_skip("sklearn")
    import_or_skip("matplotlib").use("agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names: dict[str, Any] = {"__name__": "notebook"}
    for cell in cells(name):
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            exec(compile(source, f"{name}.ipynb", "exec"), names)
    CHECKS[name](names)


def of_practitioner(names: dict[str, Any]) -> None:
    assert min(names[one] for one in ("with_decay", "without_decay", "of_average")) > 0.9
    assert names["wrs"].n_steps == 144


def of_researcher(names: dict[str, Any]) -> None:
    first, *_, last = (of["norm"] for of in names["samples"]["held"])
    assert [last[one] for one in ("min", "mean", "max")] == pytest.approx(
        [first[one] for one in ("min", "mean", "max")], rel=1e-5
    )
    assert min(names["accuracies"].values()) > 0.8


def of_student(names: dict[str, Any]) -> None:
    assert names["outcome"].n_done == 12
    assert names["page"].is_file()


CHECKS = {"practitioner": of_practitioner, "researcher": of_researcher, "student": of_student}
