"""Tables as data: what a cell is sorted by, which columns filter, where a value lies on a strip.

How they are used in a browser is tested in `test_overview_browser`.
"""

import pytest

from decayfree.report.tables.table import Column, TableCell, TableRow, place, table_of


def test_a_cell_is_sorted_by_its_number_else_by_its_text_and_nothing_goes_last() -> None:
    assert TableCell("90.1 %", sort=0.9012345).key == "0.9012345"
    assert TableCell("Adam").key == "Adam"
    assert TableCell("–", sort=float("nan")).key == ""


def test_a_column_filters_where_it_has_several_values() -> None:
    columns = [Column("Method", is_filter=True), Column("Optimizer", is_filter=True), Column("n")]
    rows = [
        TableRow((TableCell(name), TableCell("Adam"), TableCell(str(n))))
        for n, name in enumerate(("a", "b", "a"))
    ]
    table = table_of("id", "caption", columns, rows)
    assert table.filters == {0: ("a", "b")}
    assert not table.is_long


@pytest.mark.parametrize(
    ("value", "percent"), [(-1.0, 0.0), (0.0, 50.0), (0.5, 75.0), (7.0, 100.0), (-7.0, 0.0)]
)
def test_a_value_has_its_place_on_an_axis_and_never_beyond(value: float, percent: float) -> None:
    assert place(value, (-1.0, 1.0)) == percent
