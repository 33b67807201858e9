"""A version is told in several places, and by the same name and date in all of them."""

import re
import tomllib
from pathlib import Path

import yaml

import decayfree

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
SECTIONS = re.findall(r"^## \[(.+?)\](?: - (.+))?$", CHANGELOG, re.MULTILINE)


def test_the_changelog_begins_with_what_is_not_released_and_dates_the_rest() -> None:
    assert SECTIONS[0] == ("Unreleased", "")
    dates = [date for _, date in SECTIONS[1:]]
    assert dates
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for date in dates)
    assert dates == sorted(dates, reverse=True)


def test_the_version_is_the_same_wherever_it_is_told() -> None:
    version, date = SECTIONS[1]
    assert PROJECT["dynamic"] == ["version"]
    assert decayfree.__version__ == version
    assert CITATION["version"] == version
    assert str(CITATION["date-released"]) == date


def test_all_addresses_of_the_project_lie_at_one_place() -> None:
    urls = PROJECT["urls"]
    assert set(urls) == {"Homepage", "Documentation", "Issues", "Changelog"}
    assert all(url.startswith(urls["Homepage"]) for url in urls.values())
    assert CITATION["repository-code"] == urls["Homepage"]
    told = [
        text
        for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / ".github").rglob("*.*"))
        for text in re.findall(r"https://github\.com/decayfree/[\w-]+", path.read_text(encoding="utf-8"))
    ]
    assert told
    assert set(told) == {urls["Homepage"]}
