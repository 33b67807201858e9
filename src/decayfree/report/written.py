"""A table of a study as text for other programs: CSV, JSON, LaTeX, Markdown.

It computes no statistics: csv and json have the numbers of `frames`, latex and markdown the page's tables.
"""

from typing import Literal, get_args

from decayfree.display.frame import Columns
from decayfree.errors import InvalidInputError, closest
from decayfree.report import frames
from decayfree.report.pages.contents import contents
from decayfree.report.tables.formats import (
    columns_of_table,
    csv_text,
    json_text,
    latex_text,
    markdown_text,
    table_of_columns,
)
from decayfree.report.tables.table import Table
from decayfree.study.files.results import Study

Format = Literal["csv", "json", "latex", "markdown"]
OF_THE_PAGE = ("pooled", "choices", "forest", "ranks", "budget", "metrics", "everything", "costs")
"""Tables that a page has beside its comparisons, where its study has what they are about."""
NAMES = (*frames.TABLES, *OF_THE_PAGE)


def written(study: Study, format: Format, table: str = "comparisons", reference: str | None = None) -> str:
    """A table of a study in a format.

    Args:
        study: What `read_study` gives.
        format: csv or json: unrounded numbers, shares from 0 to 1. latex or markdown: as on the page.
        table: One of `NAMES`.
        reference: As for the page.

    Raises:
        InvalidInputError: If there is no such format, or the study no such table.
        UnknownReferenceError: If the study has no method called like the reference.
    """
    if format not in get_args(Format):
        known = get_args(Format)
        raise InvalidInputError(
            f"format must be one of {', '.join(known)}, got {format!r}{closest(format, known)}"
        )
    if table not in NAMES:
        raise InvalidInputError(
            f"table must be one of {', '.join(NAMES)}, got {table!r}{closest(table, NAMES)}"
        )
    if format in ("csv", "json"):
        columns = _columns(study, table, reference)
        return csv_text(columns) if format == "csv" else json_text(columns)
    shown = _shown(study, table, reference)
    return latex_text(shown) if format == "latex" else markdown_text(shown)


def _columns(study: Study, table: str, reference: str | None) -> Columns:
    if table in frames.TABLES:
        return frames.study_columns(study, table, reference)
    return columns_of_table(_on_page(study, table, reference))


def _shown(study: Study, table: str, reference: str | None) -> Table:
    if table == "comparisons":
        return _on_page(study, "comparison", reference)
    if table not in frames.TABLES:
        return _on_page(study, table, reference)
    columns = frames.study_columns(study, table, reference)
    return table_of_columns(table, f"{study.spec.title or 'A study'}: {table}.", columns)


def _on_page(study: Study, table: str, reference: str | None) -> Table:
    found = contents(study, reference)
    if found[table] is None:
        known = [*frames.TABLES, *(name for name in OF_THE_PAGE if found[name] is not None)]
        raise InvalidInputError(f"this study has no table {table!r}; it has {', '.join(known)}")
    shown: Table = found[table]
    return shown
