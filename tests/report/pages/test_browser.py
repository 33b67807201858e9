"""The page in a real browser: drawn, without errors or requests, within its width, in light and dark.

What the page says is not tested here.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest

from decayfree.report import write_report
from support.browser import Browser, find_browser
from support.synthetic_study import METHODS, WEIGHTS, Writer

N_LINES = {
    **dict.fromkeys(("test-score", "train-score"), len(METHODS)),
    **{f"norm-{index}": len(METHODS) for index in range(len(WEIGHTS))},
    "effective-learning-rate": len(METHODS),
    **{f"effective-learning-rate-{index}": len(METHODS) for index in range(len(WEIGHTS))},
    "angular-update": len(METHODS) + 2,  # and what is predicted for both decays
    "off-span-share": len(METHODS),
    **{f"spectrum-{index}": len(METHODS) + 1 for index in range(len(WEIGHTS))},  # and what was before
}
N_CIRCLES = {"off-span-share": len(METHODS) * 26}

Look = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def look(tmp_path_factory: pytest.TempPathFactory) -> Look:
    """Shows one page to the browser, once for each width and color scheme."""
    program = find_browser()
    states = {("weight decay 0.005", 3): ("diverged", "the loss was not finite at step 312")}
    page = write_report(Writer(tmp_path_factory.mktemp("study"), states=states).write())

    @lru_cache
    def look(*, width: int, is_dark: bool = False) -> dict[str, Any]:
        return Browser(program, tmp_path_factory.mktemp("browser")).look(page, width=width, is_dark=is_dark)

    return look


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_drawn_without_errors_or_requests(look: Look, width: int) -> None:
    seen = look(width=width)
    assert (seen["errors"], seen["console"], seen["refused"], seen["fetched"]) == ([], [], [], [])
    assert {chart["id"]: chart["nLines"] for chart in seen["charts"]} == N_LINES
    for chart in seen["charts"]:
        assert chart["isDrawn"]
        n_gray = chart["id"].startswith("spectrum")
        assert len(set(chart["colors"])) == len(METHODS) + n_gray, f"{chart['id']}: a color a method"
        assert chart["nCircles"] == N_CIRCLES.get(chart["id"], 0)


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_readable_at_its_width(look: Look, width: int) -> None:
    seen = look(width=width)
    assert (seen["width"], seen["fullWidth"], seen["wide"]) == (width, width, [])
    assert seen["textSize"] >= 14
    for chart in seen["charts"]:
        assert chart["isInside"], f"labels of {chart['id']} are cut off"
        assert chart["nLegends"] == 0, "a legend in a chart could cover its curves"
        assert chart["nLabels"] >= 6
        assert min(chart["fontSizes"]) >= 11
        assert 240 <= chart["width"] <= width
        assert chart["height"] >= 200


def test_a_press_on_the_legend_hides_a_method_in_every_chart(look: Look) -> None:
    seen = look(width=1280)
    assert seen["pressed"] == "false"
    assert seen["linesAfterPress"] == [n - 1 for n in N_LINES.values()]


def test_a_dark_browser_gets_a_dark_page_and_dark_charts(look: Look) -> None:
    light, dark = look(width=1280), look(width=1280, is_dark=True)
    assert dark["errors"] == []
    assert sum(channels(light["paper"])) > 600
    assert sum(channels(dark["paper"])) < 150
    for in_light, in_dark in zip(light["charts"], dark["charts"], strict=True):
        assert not set(in_light["colors"]) & set(in_dark["colors"])


def test_paper_is_white_and_charts_are_drawn_at_its_width(look: Look) -> None:
    seen, light = look(width=1280, is_dark=True), look(width=1280)
    assert channels(seen["printedPaper"]) == [255, 255, 255]
    for printed, dark, bright in zip(seen["printed"], seen["charts"], light["charts"], strict=True):
        assert printed["picture"] == printed["frame"] < dark["width"]
        assert set(printed["colors"]) < set(bright["colors"])  # the press has hidden one method


def channels(color: str) -> list[int]:
    """Red, green and blue of a color as the browser writes it: rgb(252, 252, 250)."""
    return [int(part) for part in color.removeprefix("rgb(").removesuffix(")").split(",")]
