"""How large a page is: its bytes, and at 1280 pixels its height before anything is unfolded."""

from importlib.resources import files
from pathlib import Path

import pytest

from decayfree.report import render
from decayfree.report.page import PLOTLY
from decayfree.study import read_study
from support.browser import Browser, find_browser

RESULTS = Path(__file__).resolve().parents[3] / "results"
MEGABYTE = 1_000_000


def test_the_library_that_draws_is_small_and_has_its_license() -> None:
    folder = files("decayfree.report").joinpath(PLOTLY)
    text = folder.read_text(encoding="utf-8")
    assert len(text.encode()) <= 1.5 * MEGABYTE
    assert text.startswith("/**\n* plotly.js (basic - minified) v")
    assert "</script" not in text
    license = files("decayfree.report").joinpath("plotly/LICENSE").read_text(encoding="utf-8")
    assert "Permission is hereby granted, free of charge" in license


@pytest.mark.slow
def test_the_page_of_twelve_optimizers_is_small_and_short(tmp_path: Path) -> None:
    program, page = find_browser(), tmp_path / "report.html"
    page.write_text(render(read_study(RESULTS / "optimizers")), encoding="utf-8")
    (tmp_path / "browser").mkdir()
    browser = Browser(program, tmp_path / "browser", timeout_s=600)  # thousands of cells for axe
    assert page.stat().st_size <= 3 * MEGABYTE
    for width in (1280, 390):
        seen = browser.look(page, width=width, wanted={"axe": True})
        told = (
            f"optimizers at {width}: {page.stat().st_size:,} bytes, {seen['height']:,} px, axe {seen['axe']}"
        )
        print(told)  # noqa: T201
        assert seen["axe"] == []
        assert seen["places"]["verdict"][1] < seen["places"]["glance"][0]
        assert width < 1280 or seen["height"] <= 10_000
