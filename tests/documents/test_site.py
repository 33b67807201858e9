"""docs/site: what `make site` shows, and what it refuses; continuous integration builds the site itself."""

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import decayfree
from support.available import import_or_skip

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PACKAGE = Path(decayfree.__file__).parent
PAGE = '<link rel="stylesheet" href="style.css"><a href="other.html#there">on</a><a href="https://x.y">x</a>'


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules of docs/site can be imported, as Sphinx does."""
    monkeypatch.syspath_prepend(DOCS / "site")
    for name in ("public", "reference", "formulas", "check", "accessibility"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


def test_every_public_name_has_a_page(site: None) -> None:
    for name in ("jax", "flax", "optax", "lightning", "transformers"):
        import_or_skip(name)
    pages = dict(module("reference").written())
    for path in sorted(PACKAGE.rglob("__init__.py")):
        face = ".".join(["decayfree", *path.parent.relative_to(PACKAGE).parts])
        for name in getattr(importlib.import_module(face), "__all__", []):
            assert f"   * - :py:obj:`{name} <" in pages[f"{face}.rst"]
    linked = {page for text in pages.values() for page in re.findall(r"   \* - :py:obj:`\w+ <(.+)>`", text)}
    assert {f"{page}.rst" for page in linked} | {
        f"{face}.rst" for face in re.findall(r"^   (decayfree\S*)$", pages["index.rst"], re.MULTILINE)
    } | {"index.rst"} == pages.keys()
    assert len(linked) > 200
    assert ".. autofunction:: decayfree.find_invariant\n" in pages["decayfree.find_invariant.rst"] + "\n"
    assert "also in ``decayfree.invariance``" in pages["decayfree.find_invariant.rst"]


def test_every_page_of_docs_stands_in_a_table_of_contents() -> None:
    trees = re.findall(
        r"^```{toctree}\n(.*?)^```$",
        (DOCS / "index.md").read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )
    named = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    assert len(set(named)) == len(named)
    pages = {
        path.relative_to(DOCS).with_suffix("").as_posix()
        for end in ("md", "ipynb")
        for path in DOCS.rglob(f"*.{end}")
    }
    assert set(named) - {"reference/index"} == pages - {"index"}


def test_no_line_of_a_page_is_a_comment_to_sphinx() -> None:
    for path in DOCS.rglob("*.md"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if line.lstrip().startswith("%")], path


@pytest.mark.parametrize(
    ("page", "other", "fault"),
    [
        (PAGE, '<p id="there">', ""),
        (PAGE, "<p>", "index.html: other.html#there has no such heading"),
        (PAGE.replace("other", "another"), '<p id="there">', "index.html: no another.html#there"),
        (PAGE + '<script src="//x.y/z.js"></script>', '<p id="there">', "index.html fetches //x.y/z.js"),
        (PAGE + '<p style="background: url(http://x.y)">', '<p id="there">', "index.html fetches http://x.y"),
        (PAGE, '<p id="there"><img src="https://x.y/z.png">', "other.html fetches https://x.y/z.png"),
    ],
)
def test_a_dead_link_and_a_fetch_from_elsewhere_are_found(
    site: None, tmp_path: Path, page: str, other: str, fault: str
) -> None:
    (tmp_path / "index.html").write_text(page)
    (tmp_path / "other.html").write_text(other)
    (tmp_path / "style.css").write_text("p { background: url(image.png) }")
    assert "".join(module("check").faults(tmp_path)) == fault
    (tmp_path / "style.css").write_text("@import 'https://x.y/font.css';")
    assert "style.css fetches https://x.y/font.css" in list(module("check").faults(tmp_path))


def test_a_formula_is_a_picture_of_the_words_colour_that_can_be_read_aloud(site: None) -> None:
    import_or_skip("ziamath")
    picture = module("formulas").drawn(r"\eta/\lVert w\rVert^2", is_inline=True)
    assert picture.startswith('<svg role="img" aria-label="\\eta/\\lVert w\\rVert^2" style="width:')
    assert "currentColor" in picture
    assert "font-family" not in picture
    assert "id=" not in picture
