"""docs/why.py writes the story from a study's files: every picture, equal bytes, no figure of its own."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import ModuleType

import pytest

from decayfree import theory
from decayfree.cli.verify import tinted_digits
from decayfree.report import study_numbers
from decayfree.study import read_study
from decayfree.theory import Check
from support.scripts import script
from support.synthetic_study import Writer

DOCS = Path(__file__).parents[2] / "docs"
CHECKS = [
    Check("a = b", "Euclid 1", "|a| ≤ 1e-15", "0", 1e-15, 1e-9, "Measured.", "Only in the plane."),
    Check("c = d", "Euclid 3", "", "", math.nan, math.nan, "There is no d.", is_applicable=False),
]


@pytest.fixture
def why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, writing into a folder of the test."""
    pytest.importorskip("matplotlib", reason="pip install 'decayfree[plots]'")
    module = script("docs/why.py")
    monkeypatch.setattr(module, "HERE", tmp_path)
    monkeypatch.setattr(module, "PICTURES", tmp_path / "pictures")
    monkeypatch.setattr(module.theory, "verify", lambda *_: iter(CHECKS))
    return module


def written(why: ModuleType, study: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    monkeypatch.setattr("sys.argv", ["why.py", str(study)])
    why.main()
    return {path.name: path.read_bytes() for path in why.HERE.rglob("*") if path.suffix in (".md", ".svg")}


@pytest.fixture
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Writer(tmp_path_factory.mktemp("study")).write()


def test_the_page_shows_every_picture(why: ModuleType, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = written(why, study, monkeypatch)
    page = files["why.md"].decode()
    shown = set(re.findall(r"\]\(pictures/([\w-]+\.svg)\)", page))
    assert shown == {name for name in files if name.endswith(".svg")}
    assert len(shown) == 7
    statements = files["statements.md"].decode()
    for text in (page, statements):
        lines = [line for line in text.splitlines() if not line.startswith(("|", "!"))]
        assert max(map(len, lines)) <= why.WIDTH
    assert r"| a = b | Euclid 1 | \|a\| ≤ 1e-15 | 0 | holds |" in statements
    assert "- **a = b.** Only in the plane." in statements


def test_the_same_study_gives_the_same_bytes(
    why: ModuleType, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {"accuracy": why.DRAWN["accuracy"]}  # says as much as six
    monkeypatch.setattr(why, "DRAWN", one)
    first = written(why, study, monkeypatch)
    assert set(first) == {"why.md", "statements.md", "accuracy.svg"}
    assert written(why, study, monkeypatch) == first


def test_a_study_without_a_finished_run_is_refused(
    why: ModuleType, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from decayfree.study.demo import demo_spec

    folder = tmp_path_factory.mktemp("empty")
    (folder / "study.toml").write_text(demo_spec().to_toml(), encoding="utf-8")
    with pytest.raises(SystemExit, match="no run of this study is done"):
        written(why, folder, monkeypatch)


def test_the_page_that_is_kept_shows_a_picture_a_section_in_few_words_and_figures() -> None:
    page = (DOCS / "why.md").read_text(encoding="utf-8")
    first, *sections = page.split("\n## ")
    assert len(sections) == 7
    for section in sections:
        (picture,) = re.findall(r"\]\((pictures/[\w-]+\.svg)\)", section)
        assert (DOCS / picture).is_file()
    for section in [first, *sections]:
        prose = " ".join(line for line in section.splitlines()[1:] if not line.startswith(("|", "!", "<!--")))
        prose = re.sub(r"\]\([^)]*\)", "]", prose)  # where links lead
        assert len(prose.split()) <= 80, prose
        assert len(re.findall(r"\d[\d.,]*(?:e[+−-]?\d+)?", prose)) <= 5, prose


def test_every_kept_statement_holds() -> None:
    page = (DOCS / "statements.md").read_text(encoding="utf-8")
    assert page.count("| holds |") >= 30
    assert "| fails |" not in page
    assert "| does not apply |" not in page


def test_the_story_is_that_of_the_rows_that_are_kept() -> None:
    lines = script("docs/why.py").story(study_numbers(read_study(DOCS / "why")))
    assert "\n".join(lines) + "\n" == (DOCS / "why.md").read_text(encoding="utf-8")


def test_the_page_of_statements_is_what_they_measure() -> None:
    module = script("docs/why.py")
    lines = module.as_measured(list(theory.verify(*tinted_digits())))
    page = (DOCS / "statements.md").read_text(encoding="utf-8")
    assert without_rounding("\n".join(lines) + "\n") == without_rounding(page)


def without_rounding(text: str) -> str:
    """Residuals below 1e-9, which each processor has its own of, are one."""
    return re.sub(r"\d+e-1\d", "rounding", text)
