"""The page of a study with axes in a real browser: drawn, sorted, searched, filtered, dark and on paper.

What the page says is tested in `test_overview`.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest

from decayfree.report import write_report
from decayfree.study import Axis
from support.browser import Browser, find_browser
from support.synthetic_study import DECAYS, OPTIMIZERS, Writer, bumpy, hot, sweep_spec

Look = Callable[..., dict[str, Any]]
RATES, N_OPTIMIZERS = (0.1, 0.3), 2
N_SETTINGS = N_OPTIMIZERS * len(RATES) * (len(DECAYS) + 2)
USE = {
    "table": "everything-table",
    "sort": 3,
    "search": "adam wrs",
    "filter": [0, "weight decay"],
    "views": "curves",
    "run": True,
    "axe": True,
}
FIRST_SCREEN = {1280: 800, 390: 844}


@pytest.fixture(scope="module")
def look(tmp_path_factory: pytest.TempPathFactory) -> Look:
    """Shows one page to the browser, once for each width and color scheme."""
    program = find_browser()
    tables = tuple((("name", one.name), ("momentum", one.momentum)) for one in OPTIMIZERS[:3:2])
    spec = sweep_spec(n_seeds=3, axes=(Axis("optimizer", tables), Axis("learning_rate", RATES)))
    out = tmp_path_factory.mktemp("study")
    page = write_report(Writer(out, spec=spec, final_of=bumpy, state_of=hot, n_intervals=6).write())

    @lru_cache
    def look(*, width: int, is_dark: bool = False) -> dict[str, Any]:
        browser = Browser(program, tmp_path_factory.mktemp("browser"))
        return browser.look(page, width=width, is_dark=is_dark, wanted=USE)

    return look


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_drawn_without_errors_or_requests(look: Look, width: int) -> None:
    seen = look(width=width)
    assert (seen["errors"], seen["console"], seen["refused"], seen["fetched"]) == ([], [], [], [])
    slots = (("sensitivity", 3), ("budget", 1), ("curves", 5))
    ids = [f"{name}-{index}" for name, n in slots for index in range(n)]
    assert [chart["id"] for chart in seen["charts"]] == ids
    assert all(chart["isDrawn"] for chart in seen["charts"])
    lines = {chart["id"]: chart["nLines"] for chart in seen["charts"]}
    assert lines["sensitivity-0"] == 3, "weight decay, the level of WRS, and no decay as a single point"
    assert lines["budget-0"] == 3, "no decay, weight decay and WRS, all with several settings"
    assert lines["curves-0"] == len(DECAYS) + 2


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_readable_at_its_width(look: Look, width: int) -> None:
    seen = look(width=width)
    assert (seen["width"], seen["fullWidth"], seen["wide"]) == (width, width, [])
    assert seen["textSize"] >= 14
    for chart in seen["charts"]:
        assert chart["isInside"], f"labels of {chart['id']} are cut off"
        assert chart["nLegends"] == 0
        assert chart["nLabels"] >= 4
        assert min(chart["fontSizes"]) >= 11


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_keeps_people_out(look: Look, width: int) -> None:
    seen = look(width=width)
    assert seen["axe"] == []
    assert seen["nRules"] > 15


@pytest.mark.parametrize("width", [1280, 390])
def test_the_first_screen_has_the_bar_the_verdict_and_the_picture(look: Look, width: int) -> None:
    places = look(width=width)["places"]
    assert places["contents"][0] == 0
    assert places["contents"][1] <= places["verdict"][0] < places["verdict"][1] <= places["glance"][0]
    assert places["glance"][1] <= FIRST_SCREEN[width]


def test_tables_are_cards_on_a_small_screen(look: Look) -> None:
    wide, small = look(width=1280)["cell"], look(width=390)["cell"]
    assert wide == ["table-cell", "none"]
    assert small[0] == "flex"
    assert small[1].strip('"')


def test_a_link_to_a_run_opens_its_curves_settings_and_files_on_the_page(look: Look) -> None:
    opened = look(width=1280)["opened"]
    assert opened["isOpen"]
    assert opened["title"].endswith(", seed 0")
    assert opened["nLines"] == [1] * 5
    assert ["learning_rate", "0.1"] in opened["settings"]
    assert [link.split("/")[2] for link in opened["files"]] == ["run.json", "metrics.jsonl", "spectra.json"]
    assert {link.split("/")[0] for link in opened["files"]} == {"runs"}
    assert (opened["isClosed"], opened["hash"]) == (True, "")


def test_paper_has_what_a_screen_folds(look: Look) -> None:
    seen = look(width=390)
    assert not all(seen["folds"])
    assert all(seen["unfolded"])


def test_diverged_settings_have_a_cross_that_is_seen(look: Look) -> None:
    # At the learning rate 0.3 a point for each coefficient and one at 0, and the cross.
    circles = {chart["id"]: chart["nCircles"] for chart in look(width=1280)["charts"]}
    assert circles["sensitivity-0"] == len(DECAYS) + 1
    assert circles["sensitivity-1"] == len(DECAYS) + 1 + 1


def test_tables_are_sorted_searched_and_filtered(look: Look) -> None:
    used = look(width=1280)["used"]
    assert used["hasFocus"], "headings are buttons that a keyboard reaches"
    shares = [float(text.split("%")[0]) for text in used["rising"]]
    assert len(shares) == N_SETTINGS
    assert shares == sorted(shares)
    assert used["mark"] == "ascending"
    assert [float(text.split("%")[0]) for text in used["falling"]] == sorted(shares, reverse=True)
    assert used["found"] == len(RATES)
    assert used["shown"] == f"{len(RATES)} of {N_SETTINGS} rows"
    assert used["filtered"] == ["weight decay"] * N_OPTIMIZERS * len(RATES) * len(DECAYS)
    assert used["all"] == N_SETTINGS


def test_groups_are_gone_through_one_at_a_time(look: Look) -> None:
    chosen = look(width=1280)["chosen"]
    optimizers = ("SGD, momentum 0.9", "Adam")
    assert [one["label"] for one in chosen] == [
        f"{optimizer} · learning rate {rate}" for optimizer in optimizers for rate in RATES
    ]
    assert {one["nCharts"] for one in chosen} == {5}
    assert len({one["path"] for one in chosen}) > 1


def test_a_press_on_the_legend_hides_a_method_in_every_chart(look: Look) -> None:
    seen = look(width=1280)
    assert seen["pressed"] == "false"
    before = {chart["id"]: chart["nLines"] for chart in seen["charts"]}
    assert sum(seen["linesAfterPress"]) < sum(before.values())


def test_a_dark_browser_gets_a_dark_page_and_dark_charts(look: Look) -> None:
    light, dark = look(width=1280), look(width=1280, is_dark=True)
    assert dark["errors"] == []
    assert light["paper"] != dark["paper"]
    for in_light, in_dark in zip(light["charts"], dark["charts"], strict=True):
        assert not set(in_light["colors"]) & set(in_dark["colors"])


def test_charts_are_drawn_at_the_width_of_the_paper(look: Look) -> None:
    seen = look(width=1280, is_dark=True)
    assert seen["printedPaper"] == "rgb(255, 255, 255)"
    assert all(printed["picture"] == printed["frame"] for printed in seen["printed"])
