"""`decayfree study report --format`: a table to the terminal or to a file, and nothing else with it."""

import csv
import io
import json
from pathlib import Path

import pytest

from decayfree.report.written import written
from decayfree.study import read_study
from support.command_line import call
from support.synthetic_study import Writer, study_spec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    return Writer(folder, spec=study_spec(n_seeds=2), n_intervals=2).write()


@pytest.mark.parametrize("format", ["csv", "json", "latex", "markdown"])
def test_a_table_is_all_that_is_printed(folder: Path, format: str) -> None:
    code, text, errors = call("study", "report", str(folder), "--format", format)
    assert (code, errors) == (0, "")
    assert text == written(read_study(folder), format)  # type: ignore[arg-type]
    assert not (folder / "report.html").exists()


def test_another_table_goes_to_a_file(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    code, text, _ = call(
        *("study", "report", str(folder), "--format", "csv", "--table", "runs", "--out", str(file)),
    )
    assert (code, text) == (0, "")
    assert len(list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))) == 10


def test_comparisons_are_with_the_method_that_is_named(folder: Path) -> None:
    code, text, _ = call("study", "report", str(folder), "--format", "json", "--reference", "none")
    assert code == 0
    assert {row["reference"] for row in json.loads(text)} == {"no decay"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--format", "csv", "--table", "run"], "table must be one of runs,"),
        (["--format", "csv", "--table", "budget"], "this study has no table 'budget'; it has runs,"),
        (["--table", "runs"], "--table and --out are for a table: say in which --format"),
        (["--out", "x"], "--table and --out are for a table: say in which --format"),
        (["--format", "csv", "--out", "no/such/folder/x.csv"], "no/such/folder"),
        (["--format", "csv", "--reference", "sgdp"], "expected a method to compare with"),
    ],
)
def test_what_cannot_be_met_is_told_and_nothing_printed(folder: Path, options: list[str], said: str) -> None:
    code, text, errors = call("study", "report", str(folder), *options)
    assert (code, text) == (2, "")
    assert said in errors
