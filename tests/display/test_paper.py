"""Figures on paper: as wide as asked, with their fonts, the same bytes, in the page's colors."""

import re
from importlib.resources import files

import pytest

from decayfree.display import paper
from decayfree.errors import InvalidInputError
from support.available import import_or_skip

import_or_skip("matplotlib")


def test_colors_are_those_of_the_page() -> None:
    style = files("decayfree.report").joinpath("page.css").read_text(encoding="utf-8")
    light = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", style.partition("@media")[0]))
    assert tuple(light[f"m{slot}"] for slot in range(8)) == paper.COLORS
    assert (light["ink"], light["muted"], light["grid"]) == (paper.INK, paper.MUTED, paper.GRID)


@pytest.mark.parametrize("n", [1, 2, 5, 12])
@pytest.mark.parametrize("width", [paper.COLUMN, paper.TEXT, paper.PAGE])
def test_panels_are_wide_enough_to_be_read(n: int, width: float) -> None:
    figure, panels = paper.panels_of(n, width)
    spec = panels[0].get_subplotspec()
    assert spec is not None
    rows, columns = spec.get_gridspec().get_geometry()
    assert len(panels) == n
    assert figure.get_figwidth() == width
    assert width / columns >= 1.5
    assert rows * columns - n < columns


@pytest.mark.parametrize("width", [0, 1.9, 31, float("nan"), True, "3.25"])
def test_other_widths_are_refused(width: float) -> None:
    with pytest.raises(InvalidInputError, match=r"width must be from 2 to 30 inches, such as 3\.25, 5\.5 or"):
        paper.new_figure(width, 2.0)


def test_a_saved_figure_has_its_fonts_and_no_time(tmp_path) -> None:
    with paper.paper_style():
        figure = paper.new_figure(paper.COLUMN, 2.0)
        figure.add_subplot().set_title("$a_b$ η")
    for ending in ("pdf", "svg"):
        first, second = tmp_path / f"one.{ending}", tmp_path / f"two.{ending}"
        figure.savefig(first)
        figure.savefig(second)
        assert first.read_bytes() == second.read_bytes()
    pdf, svg = (tmp_path / "one.pdf").read_bytes(), (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert b"/FontFile2" in pdf  # TrueType, embedded
    assert b"/Type3" not in pdf
    assert b"/CreationDate" not in pdf
    assert "<text" not in svg  # outlines
    assert "<dc:date>" not in svg
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_settings_of_the_user_stay_as_they_are() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    with paper.paper_style():
        paper.panels_of(2, paper.TEXT)
    assert dict(matplotlib.rcParams) == before
