"""Columns become frames of either library, and nothing is lost or made up on the way."""

import math

import pytest

from decayfree.display import frame
from decayfree.display.frame import columns_of, frame_of
from decayfree.errors import InvalidInputError, MissingExtraError
from support.available import import_or_skip

COLUMNS = {"name": ["a", None], "step": [1, 2], "norm": [math.nan, 2.5], "rate": [math.nan, math.nan]}


def test_polars_has_null_where_a_number_is_not_known() -> None:
    polars = import_or_skip("polars")
    made = frame_of(COLUMNS, "polars")
    assert made.to_dict(as_series=False) == {**COLUMNS, "norm": [None, 2.5], "rate": [None, None]}
    assert made["rate"].dtype == polars.Float64


def test_pandas_has_nan_where_a_number_is_not_known() -> None:
    import_or_skip("pandas")
    made = frame_of(COLUMNS, "pandas")
    assert list(made.columns) == list(COLUMNS)
    assert made["norm"].isna().tolist() == [True, False]
    assert [str(made[name].dtype) for name in ("step", "norm", "rate")] == ["int64", "float64", "float64"]


def test_what_is_installed_is_taken_polars_first(monkeypatch: pytest.MonkeyPatch) -> None:
    import_or_skip("pandas")
    import_or_skip("polars")
    assert type(frame_of({})).__module__.startswith("polars")
    monkeypatch.setattr(frame, "find_spec", lambda name: name == "pandas" or None)
    assert type(frame_of({})).__module__.startswith("pandas")


def test_without_either_the_error_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame, "find_spec", lambda name: None)
    cure = r"installed: pip install 'decayfree\[frames\]' for polars, or pip install pandas"
    with pytest.raises(
        MissingExtraError, match=f"a frame needs polars or pandas, neither of which is {cure}"
    ):
        frame_of({})
    with pytest.raises(MissingExtraError, match=f"a frame needs pandas, which is not {cure}"):
        frame_of({}, "pandas")


def test_another_library_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"library must be 'polars' or 'pandas' or None, got 'numpy'"):
        frame_of({}, "numpy")  # type: ignore[arg-type]


def test_rows_with_other_keys_share_their_columns() -> None:
    assert columns_of([{"a": 1}, {"b": "x"}]) == {"a": [1, None], "b": [None, "x"]}
    assert columns_of([]) == {}
