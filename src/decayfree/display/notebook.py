"""How does a result show in a notebook? A small table in HTML, with the colors of whatever surrounds it.

Everything is escaped; nothing is fetched, and no script runs.
"""

from collections.abc import Sequence
from html import escape

MAX_ROWS = 20
"""More are counted, not shown: text has them all."""
_CELL = "text-align:left;vertical-align:top;padding:.15em .8em .15em 0"
_LINE = "border-bottom:1px solid currentColor"


def titled(title: str, rows: Sequence[Sequence[str]], note: str = "") -> str:
    """A title, a table whose first row is its head, and a note; of many rows the first ones.

    Example:
        >>> titled("a < b", [])
        '<div><b>a &lt; b</b></div>'
    """
    head, *body = rows or [[]]
    shown = [_row(row, "td", _CELL) for row in body[:MAX_ROWS]]
    left_out = f"and {len(body) - MAX_ROWS} more" if len(body) > MAX_ROWS else ""
    table = f"<table>{_row(head, 'th', f'{_CELL};{_LINE}')}{''.join(shown)}</table>" if head else ""
    notes = "".join(f"<div>{escape(text)}</div>" for text in (left_out, note) if text)
    return f"<div><b>{escape(title)}</b>{table}{notes}</div>"


def _row(cells: Sequence[str], tag: str, style: str) -> str:
    told = (f'<{tag} style="{style}">{escape(cell)}</{tag}>' for cell in cells)
    return f"<tr>{''.join(told)}</tr>"
