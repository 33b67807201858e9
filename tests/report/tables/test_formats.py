"""Tables for other programs: every character arrives, every number has all its digits, LaTeX compiles.

Where LaTeX is installed it compiles them; everywhere its source is read as strictly as it would.
"""

import csv
import io
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from decayfree.report.tables.formats import (
    columns_of_table,
    csv_text,
    json_text,
    latex,
    latex_text,
    markdown_text,
    table_of_columns,
)
from decayfree.report.tables.table import NOTHING, Column, Strip, Table, TableCell, TableRow, table_of
from decayfree.report.words.wording import SPACE
from decayfree.study.statistics import mean_interval

HOSTILE = "a_b & 50 % #1 ±2 −3 {x} $y$ ~z ^2 \\end{table} <|> [1] \"q\" `r` 'it's' η‖w‖² 3-4--5 – …"


def a_table() -> Table:
    columns = [
        Column("Method", is_filter=True),
        Column("Test accuracy", f"95{SPACE}% interval", is_number=True),
        Column("Each seed", ends=("80 %", "90 %")),
        Column("WRS minus …", "points", is_number=True),
        Column("n", "runs", is_number=True),
        Column("Seen", "WRS is"),
    ]
    share, difference = mean_interval([0.5, 0.25, 0.75]), mean_interval([-0.01, 0.02])
    strip = TableCell("", strip=Strip("--m0", "spoken", 50.0, None), sort=0.5)
    rows = [
        TableRow(
            (
                *(TableCell(HOSTILE), TableCell.of_share(share, 1), strip),
                *(
                    TableCell.of_difference(difference, 2),
                    TableCell.of_runs(3, ()),
                    TableCell("lower", "p = 1"),
                ),
            )
        ),
        TableRow((TableCell("[other]"), NOTHING, strip, NOTHING, TableCell.of_runs(0, ()), TableCell("–"))),
    ]
    return table_of("some-table", f"Caption: {HOSTILE}", columns, rows)


def test_columns_are_numbers_with_the_ends_of_their_intervals() -> None:
    columns = columns_of_table(a_table())
    share = mean_interval([0.5, 0.25, 0.75])
    assert columns["Test accuracy"][0] == 0.5
    assert (columns["Test accuracy, low"][0], columns["Test accuracy, high"][0]) == share.interval
    assert math.isnan(columns["Test accuracy"][1])
    assert columns["n"] == [3, 0]
    assert columns["WRS minus …"][0] == pytest.approx(0.005)
    assert columns["Seen, note"] == ["p = 1", None]
    assert not [name for name in columns if "seed" in name]


def test_csv_gives_back_what_went_in() -> None:
    text = csv_text(columns_of_table(a_table()))
    first, second = csv.DictReader(io.StringIO(text))
    assert first["Method"] == HOSTILE.replace("−", "-")
    assert float(first["Test accuracy, low"]) == mean_interval([0.5, 0.25, 0.75]).low
    assert (second["Test accuracy"], second["WRS minus …, low"], second["n"]) == ("", "", "0")


def test_json_gives_back_what_went_in() -> None:
    first, second = json.loads(json_text(columns_of_table(a_table())))
    assert first["Method"] == HOSTILE.replace("−", "-")
    assert first["Test accuracy"] == 0.5
    assert (second["Test accuracy"], second["n"]) == (None, 0)


def test_markdown_has_a_row_a_line_with_as_many_cells() -> None:
    caption, empty, *lines, end = markdown_text(a_table()).split("\n")
    assert (empty, end) == ("", "")
    assert caption.startswith(r"Caption: a\_b & 50 % \#1 ±2 −3")
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [6] * 4
    assert lines[1] == "| :-- | --: | --: | --: | :-- |"
    assert r"\<\|\> \[1\]" in lines[2]


def test_latex_is_read_as_it_is_meant() -> None:
    lines = read_strictly(latex_text(a_table()))
    assert lines["head"] == [
        ["Method", "Test accuracy", r"WRS minus \ldots{}", "n", "Seen"],
        ["", r"95~\% interval", "points", "runs", "WRS is"],
    ]
    first, second = lines["body"]
    assert first[1] == r"50.0~\% (0.0 to 100.0~\%)"
    assert first[4] == "lower (p = 1)"
    assert second == ["{[}other{]}", r"\textendash{}", r"\textendash{}", "0", r"\textendash{}"]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles_it(tmp_path: Path) -> None:
    begin = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
    source = f"{begin}{latex_text(a_table())}\n\\end{{document}}\n"
    (tmp_path / "table.tex").write_text(source, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stdout[-2000:]
    assert "Missing character" not in (tmp_path / "table.log").read_text(encoding="latin-1")


def test_latex_escapes_what_it_would_read() -> None:
    assert latex("a_b & 5 % #1 {x} $y") == r"a\_b \& 5 \% \#1 \{x\} \$y"
    assert latex("\\~^") == r"\textbackslash{}\textasciitilde{}\textasciicircum{}"
    assert latex("±−×≤‖…") == r"$\pm$$-$$\times$$\leq$$\|$\ldots{}"
    assert latex("--table --- a-b") == "-{}-table -{}-- a-b"
    assert latex("‖w‖² < 10⁻³".replace("⁻", "")) == r"$\|$w$\|$$^2$ $<$ 10$^3$"


def test_columns_are_a_table_for_people() -> None:
    table = table_of_columns("runs", "All runs.", {"name": ["a", None], "share": [0.123456, math.nan]})
    assert read_strictly(latex_text(table))["body"] == [
        ["a", "0.1235"],
        [r"\textendash{}", r"\textendash{}"],
    ]


def read_strictly(text: str) -> dict[str, list[list[str]]]:
    """The cells of a table, if LaTeX would read them as such; fails where it would not."""
    comment, *lines, end = text.split("\n")
    assert (comment, end) == (r"% \usepackage{booktabs}", "")
    body = "\n".join(lines)
    commands = r"\\(?:[a-zA-Z]+|[%&#_{}$|\\])"
    assert re.match(
        r"\\begin\{table\}\n  \\centering\n  \\caption\{.*\}\n  \\label\{tab:[a-z0-9-]+\}\n", body
    )
    plain = re.sub(commands, "", body)
    depth = 0
    for character in plain:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    assert plain.count("$") % 2 == 0
    assert not re.search(r"[%#_~^\\]", re.sub(r"\$\^\d\$|\$_\d\$|~", "", plain))
    assert not [character for character in body if ord(character) > 0xFF], "needs a package"
    assert not re.search(r"\\\\\s*[\[*]", body), "read as a length"
    (columns,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", body)
    parts = re.split(r"    \\(?:top|mid|bottom)rule\n", body.partition("tabular}{" + columns + "}\n")[2])
    assert [parts[0], parts[3].split("\n")] == ["", [r"  \end{tabular}", r"\end{table}"]]
    found: dict[str, list[list[str]]] = {"head": [], "body": []}
    for name, part in (("head", parts[1]), ("body", parts[2])):
        for line in part.splitlines():
            assert line.endswith(r" \\")
            found[name].append([cell.strip() for cell in re.split(r"(?<!\\)&", line.removesuffix(r" \\"))])
            assert len(found[name][-1]) == len(columns)
    return found
