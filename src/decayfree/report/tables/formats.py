"""How is a table written for other programs? As CSV and JSON with numbers, as LaTeX and Markdown with texts.

It computes nothing: numbers are those that cells are sorted by, and the ends of their intervals.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from decayfree.display.frame import Columns, columns_of
from decayfree.dynamics.samples import without_nan
from decayfree.report.tables.table import Column, Table, TableCell, TableRow, table_of
from decayfree.report.words.wording import MINUS, SPACE, significant


def columns_of_table(table: Table) -> dict[str, list[Any]]:
    """Its numbers by heading, with columns for the ends of intervals and for notes; strips are left out."""
    shown = _told_apart(table)
    return columns_of(
        {
            key: value
            for cell, (name, column) in zip(row.cells, shown, strict=True)
            if cell.strip is None
            for key, value in _values(cell, name, column)
        }
        for row in table.rows
    )


def table_of_columns(id: str, caption: str, columns: Columns) -> Table:
    """Columns as a table for people, with numbers of four digits."""
    of_numbers = {name for name, values in columns.items() if any(isinstance(one, float) for one in values)}
    heads = [Column(name, is_number=name in of_numbers) for name in columns]
    rows = zip(*columns.values(), strict=True)
    return table_of(id, caption, heads, [TableRow(tuple(map(_cell_of, row))) for row in rows])


def csv_text(columns: Columns) -> str:
    """Lines that end in a line feed, with all digits, and nothing where there is no number."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(map(_without_unknown, zip(*columns.values(), strict=True)))
    return file.getvalue()


def json_text(columns: Columns) -> str:
    """A list with an object a row; null where there is no number."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return json.dumps(without_nan(rows), allow_nan=False, indent=1, ensure_ascii=False) + "\n"


def markdown_text(table: Table) -> str:
    """A table of GitHub's Markdown below its caption."""
    heads = [_with_note(column.title, column.note) for column in _texts(table)]
    lines = [heads, [":--" if not column.is_number else "--:" for column in _texts(table)]]
    lines += [[_markdown(text) for text in row] for row in _cells(table)]
    lines[0] = [_markdown(text) for text in heads]
    return "\n".join([_markdown(table.caption), "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def latex_text(table: Table) -> str:
    """A ``table`` with the rules of the package booktabs; compiles with any engine of today's LaTeX."""
    columns = _texts(table)
    heads = [[column.title for column in columns], [column.note for column in columns]]
    label = re.sub(r"[^a-z0-9]+", "-", table.id.lower())
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{latex(table.caption)}}}",
        rf"  \label{{tab:{label}}}",
        rf"  \begin{{tabular}}{{{''.join('r' if column.is_number else 'l' for column in columns)}}}",
        r"    \toprule",
        *(_latex_row(head) for head in heads if any(head)),
        r"    \midrule",
        *map(_latex_row, _cells(table)),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def latex(text: str) -> str:
    r"""Text as LaTeX sets it.

    Example:
        >>> print(latex("50 % & a_b"))
        50 \% \& a\_b
    """
    return "".join(_LATEX.get(character, character) for character in text).replace("--", "-{}-")


_LATEX = {
    **{character: f"\\{character}" for character in "%&#_{}$"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # In brackets behind the end of a row LaTeX reads a length.
    **{character: f"{{{character}}}" for character in "[]"},
    **{character: f"${character}$" for character in "<>|"},
    "`": r"\textasciigrave{}",
    SPACE: "~",
    MINUS: "$-$",
    "–": r"\textendash{}",
    "…": r"\ldots{}",
    "‖": r"$\|$",
    **{
        character: f"$\\{name}$"
        for character, name in zip(
            "±×·≤≥√→⟨⟩αβγδεηθκλμπρστφωΔ",
            (
                *("pm", "times", "cdot", "leq", "geq", "surd", "to", "langle", "rangle", "alpha", "beta"),
                *("gamma", "delta", "varepsilon", "eta", "theta", "kappa", "lambda", "mu", "pi", "rho"),
                *("sigma", "tau", "varphi", "omega", "Delta"),
            ),
            strict=True,
        )
    },
    **{character: f"$^{digit}$" for character, digit in zip("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789", strict=True)},
    **{character: f"$_{digit}$" for character, digit in zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True)},
}


def _told_apart(table: Table) -> list[tuple[str, Column]]:
    """Headings in words of which no two are alike."""
    names: list[str] = []
    for column in table.columns:
        name = _plain(column.title)
        names.append(name if name not in names else f"{name}, {_plain(column.note)}")
    return list(zip(names, table.columns, strict=True))


def _values(cell: TableCell, name: str, column: Column) -> Iterable[tuple[str, Any]]:
    is_number = column.is_number and isinstance(cell.sort, float)
    yield name, int(cell.text) if cell.text.isdecimal() else cell.sort if is_number else _plain(cell.text)
    if cell.ends is not None:
        yield from zip((f"{name}, low", f"{name}, high"), cell.ends, strict=True)
    elif cell.note:
        yield f"{name}, note", _plain(cell.note)


def _cell_of(value: Any) -> TableCell:
    if isinstance(value, float):
        return TableCell("–" if math.isnan(value) else significant(value, 4), sort=value)
    return TableCell("–" if value is None else str(value))


def _without_unknown(row: Iterable[Any]) -> list[Any]:
    return ["" if isinstance(one, float) and math.isnan(one) else one for one in row]


def _plain(text: str) -> str:
    """Text as other programs read it."""
    return text.replace(SPACE, " ").replace(MINUS, "-")


def _texts(table: Table) -> list[Column]:
    return [column for column in table.columns if not column.ends[0]]


def _cells(table: Table) -> list[list[str]]:
    kept = [index for index, column in enumerate(table.columns) if not column.ends[0]]
    return [[_with_note(row.cells[at].text, row.cells[at].note) for at in kept] for row in table.rows]


def _with_note(text: str, note: str) -> str:
    return f"{text} ({note})" if note else text


def _markdown(text: str) -> str:
    return re.sub(r"([\\|*_<>`\[\]~#])", r"\\\1", text.replace("\n", " "))


def _latex_row(cells: Sequence[str]) -> str:
    return f"    {' & '.join(map(latex, cells))} \\\\"
