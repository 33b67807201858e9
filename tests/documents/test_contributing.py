"""What contributors are told is so: files, names, the drawing of the house, forms, hooks."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from decayfree.invariance.verdict import VerdictName
from test_architecture import FLOORS, PACKAGE

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
TOLD = [
    *(ROOT / f"{name}.md" for name in ("CONTRIBUTING", "SECURITY", "CODE_OF_CONDUCT", "CHANGELOG")),
    *sorted(GITHUB.rglob("*.md")),
]
PAGES = [*TOLD, ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# It tells of names that are gone.
PAGES.remove(ROOT / "CHANGELOG.md")
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", TOLD, ids=lambda path: path.name)
def test_what_is_linked_is_there(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", text_of(page))
    assert not [target for target in targets if not (page.parent / target).exists()]


def test_files_and_folders_that_contributors_are_sent_to_are_there() -> None:
    named = re.findall(r"`((?:src|tests|benchmarks|docs)/[\w/.]*)`", text_of(ROOT / "CONTRIBUTING.md"))
    assert len(named) > 5
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_names_of_the_package_are_names_that_it_has(page: Path) -> None:
    whole = set(re.findall(r"(?<![\w./\"])decayfree((?:\.[A-Za-z_]\w*)+)", text_of(page)))
    assert not [name for name in whole if not is_there(name.split(".")[1:])]


def test_a_name_that_the_package_lacks_is_found() -> None:
    assert is_there(["span", "remove_off_span_"])
    assert not is_there(["cleaning", "remove_off_span_"])


def is_there(parts: list[str]) -> bool:
    """Whether attributes, or modules where there is no attribute, lead to the name."""
    thing: Any = import_module("decayfree")
    for part in parts:
        if not hasattr(thing, part):
            try:
                import_module(f"{thing.__name__}.{part}")
            except (ImportError, AttributeError):
                return False
        thing = getattr(thing, part)
    return True


def test_the_house_is_drawn_as_it_stands() -> None:
    drawn = re.search(r"<!-- house -->\n```text\n(.*?)```", text_of(ROOT / "CONTRIBUTING.md"), re.DOTALL)
    assert drawn
    lines = [re.split(r" {2,}", line)[0].split(", ") for line in drawn.group(1).splitlines()]
    place = {unit: number for number, units in enumerate(FLOORS) for unit in units}
    assert all(len({place[unit] for unit in units}) == 1 for units in lines)
    floors = [place[units[0]] for units in lines]
    assert floors == sorted(set(floors), reverse=True)
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} <= {
        one for line in lines for one in line
    }


def test_what_make_lint_runs_is_run_at_every_commit() -> None:
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", text_of(ROOT / "Makefile"), re.MULTILINE)
    assert lint
    made = [line.strip().replace("$(BIN)", ".venv/bin") for line in lint.group(1).splitlines()]
    (local,) = yaml.safe_load(text_of(ROOT / ".pre-commit-config.yaml"))["repos"]
    assert local["repo"] == "local"
    assert [hook["entry"] for hook in local["hooks"]] == made
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in local["hooks"])


def test_continuous_integration_runs_what_a_developer_can_run() -> None:
    jobs = yaml.safe_load(text_of(GITHUB / "workflows" / "ci.yml"))["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert commands == [".ci/run"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_asks_questions_that_can_be_told_apart(path: Path) -> None:
    form = yaml.safe_load(text_of(path))
    assert form["name"]
    assert form["description"]
    questions = [part for part in form["body"] if part["type"] in ("input", "textarea", "dropdown")]
    assert questions == form["body"]
    for key in ("id", "label"):
        asked = [question.get(key) or question["attributes"][key] for question in questions]
        assert len(set(asked)) == len(asked)
    assert any(question.get("validations", {}).get("required") for question in questions)


def test_the_form_for_a_weight_knows_the_verdicts_that_there_are() -> None:
    form = yaml.safe_load(text_of(GITHUB / "ISSUE_TEMPLATE" / "weight.yml"))
    verdict = next(part for part in form["body"] if part["id"] == "verdict")
    assert verdict["attributes"]["options"] == list(get_args(VerdictName))
