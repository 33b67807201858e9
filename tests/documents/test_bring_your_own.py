"""docs/bring-your-own.md: its files are written, its commands typed, its table is that of the source."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from decayfree.study import StudySpec, read_study
from decayfree.study.own import OWN
from support.command_line import call

PAGE = Path(__file__).parents[2] / "docs" / "bring-your-own.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the page, of which each block continues one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for kind, text in BLOCKS:
        if kind != "bash":
            first, _, rest = text.partition("\n")
            with Path(first.removeprefix("# ")).open("a", encoding="utf-8") as file:
                file.write(rest)
    return tmp_path


def test_the_table_is_that_of_the_source() -> None:
    rows = [f"| `{name}` | {kind.called} | {kind.gives} |" for name, kind in OWN.items()]
    table = ["| setting | is called as | gives |", "|---|---|---|", *rows]
    assert TEXT.partition("<!-- kinds -->\n")[2].partition("<!-- /kinds -->")[0] == "\n".join(table) + "\n"


def test_its_spec_names_all_kinds(here: Path) -> None:
    named = StudySpec.load("mine.toml").own()
    assert {path for paths in named.values() for path in paths} == OWN.keys()


@pytest.mark.slow
def test_its_commands_do_what_they_say(here: Path) -> None:
    said = {}
    for command in COMMANDS:
        program, *words = command.split()
        if program == "python":
            arguments = {"check": True, "capture_output": True, "text": True, "timeout": 300}
            said[command] = subprocess.run([sys.executable, *words], **arguments).stdout
            continue
        code, said[command], errors = call(*words)
        assert code == 0, (command, errors)
        assert ("runs code of its author's" in errors) == (words[:2] in (["study", "show"], ["study", "run"]))
    assert said["python study.py"] == "2 runs are done\n"
    assert "8 kernels" in said[COMMANDS[0]]
    study = read_study("results")
    assert [run.state for run in study.runs] == ["done"] * 6
    assert {source["name"] for run in study.runs for source in run.sources.values()} == set(study.spec.own())
