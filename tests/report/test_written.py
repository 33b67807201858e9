"""A study's tables as text: numbers of the frames, tables of the page, one name for each."""

import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from decayfree.errors import InvalidInputError
from decayfree.report import write_report
from decayfree.report.frames import TABLES, study_columns
from decayfree.report.written import NAMES, written
from decayfree.study import Axis, Study, read_study
from support.synthetic_study import Writer, bumpy, sweep_spec

TWO = ((("name", "sgd"), ("momentum", 0.9)), (("name", "adam"),))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two optimizers, two rates and a sweep of decay."""
    spec = sweep_spec(axes=(Axis("optimizer", TWO), Axis("learning_rate", (0.03, 0.1))))
    folder = tmp_path_factory.mktemp("study")
    return Writer(folder, spec=spec, final_of=bumpy, n_intervals=2).write()


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    return read_study(folder)


@pytest.mark.parametrize("table", TABLES)
def test_csv_and_json_are_the_frames(study: Study, table: str) -> None:
    columns = study_columns(study, table)
    header, *lines = csv.reader(io.StringIO(written(study, "csv", table)))
    records = json.loads(written(study, "json", table))
    n = len(next(iter(columns.values())))
    assert header == list(columns)
    assert len(lines) == len(records) == n
    for name, values in columns.items():
        told = [record[name] for record in records]
        assert told == [None if one != one else one for one in values]
        at = header.index(name)
        assert [line[at] for line in lines] == [
            "" if one in (None,) or one != one else str(one) for one in values
        ]


def test_latex_and_markdown_of_comparisons_are_the_page_s(study: Study) -> None:
    latex, markdown = (written(study, form, "comparisons") for form in ("latex", "markdown"))
    assert latex.startswith("% \\usepackage{booktabs}\n\\begin{table}")
    assert r"\label{tab:comparison-table}" in latex
    assert "WRS minus \\ldots{}" in latex
    assert markdown.count("\n| ") == 2 + 6


@pytest.mark.parametrize("table", ["pooled", "choices", "forest", "budget", "everything", "costs"])
def test_tables_of_the_page_have_their_names(study: Study, table: str) -> None:
    assert written(study, "latex", table).count(r" \\") > 3
    assert len(json.loads(written(study, "json", table))) > 1


def test_what_the_study_does_not_have_is_told_with_what_it_has(study: Study) -> None:
    with pytest.raises(
        InvalidInputError, match=r"this study has no table 'ranks'; it has runs, rows, .* costs"
    ):
        written(study, "csv", "ranks")
    with pytest.raises(InvalidInputError, match=r"table must be one of runs, .*; did you mean budget\?"):
        written(study, "csv", "budge")
    with pytest.raises(
        InvalidInputError, match=r"format must be one of csv, json, latex, markdown, got 'tex'"
    ):
        written(study, "tex")  # type: ignore[arg-type]


def test_every_name_is_a_table_of_the_page_or_a_frame(study: Study) -> None:
    from decayfree.report.pages.contents import contents

    assert set(NAMES) - set(TABLES) <= contents(study).keys()


class Links(HTMLParser):
    """Downloads of a page by file name, and the ids of its tables."""

    def __init__(self) -> None:
        super().__init__()
        self.downloads: dict[str, str] = {}
        self.tables: list[str] = []
        self.spoken: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if tag == "table" and said.get("id"):
            self.tables.append(str(said["id"]))
        if tag == "a" and "download" in said:
            self.downloads[str(said["download"])] = str(said["href"])
            self.spoken.add(str(said["aria-label"]))


def test_below_each_table_of_the_page_is_the_same_csv(folder: Path, study: Study) -> None:
    links = Links()
    links.feed(write_report(folder).read_text(encoding="utf-8"))
    assert list(links.downloads) == [f"{name}.csv" for name in links.tables]
    assert len(links.tables) == len(links.spoken) == 8
    for name in ("pooled", "choices", "budget"):
        beginning, _, content = links.downloads[f"{name}-table.csv"].partition(",")
        assert beginning == "data:text/csv;charset=utf-8"
        assert unquote(content) == written(study, "csv", name)
