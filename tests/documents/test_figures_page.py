"""docs/figures.md: its snippets run as they stand, its tables name what there is."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import decayfree
from decayfree import plots
from decayfree.report.frames import TABLES, study_columns
from decayfree.report.written import OF_THE_PAGE
from decayfree.study import read_study
from support.available import import_or_skip
from support.command_line import call
from support.synthetic_study import Writer, study_spec

TEXT = (Path(__file__).parents[2] / "docs" / "figures.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
OF_FRAMES = TEXT.partition("## Tables")[0]
ROWS = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", OF_FRAMES, re.MULTILINE))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a study called mine, and a recorder's file."""
    monkeypatch.chdir(tmp_path)
    Writer(tmp_path / "mine", spec=study_spec(n_seeds=2), n_intervals=4).write()
    return tmp_path


def test_its_snippets_run_and_write_what_they_say(here: Path) -> None:
    for name in ("matplotlib", "pandas", "polars"):
        import_or_skip(name)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = decayfree.find_invariant(model, torch.randn(16, 4))
    decayfree.Recorder(optimizer, found, every=1)
    model(torch.randn(16, 4)).square().mean().backward()
    optimizer.step()
    names = {"found": found}
    for kind, code in BLOCKS:
        if kind == "python":
            exec(code, names)
    assert {file.name for file in here.glob("*.*") if file.stat().st_size} == {
        *("dynamics.jsonl", "norms.pdf", "forest.svg", "angles.pdf", "model.pdf"),
    }


def test_its_commands_do_what_they_say(here: Path) -> None:
    commands = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
    for command in commands:
        program, *words = command.split()
        if program == "decayfree":
            code, text, errors = call(*words)
            assert (code, errors) == (0, ""), command
            assert bool(text) == ("--out" not in words)
    assert (here / "runs.csv").is_file()


def test_its_tables_name_every_frame_and_column(here: Path) -> None:
    study = read_study("mine")
    assert set(ROWS) == set(TABLES)
    for table, said in ROWS.items():
        named = set(re.findall(r"`(\w+)`", said))
        first, last = ("is_confirming", "run") if table in ("rows", "weights") else ("", "")
        columns = list(study_columns(study, table))
        own = columns[columns.index(first) + 1 :] if last else columns
        other = {"runs": ("parameter_bytes", "optimizer_state_bytes", "method_state_bytes"), "settings": ()}
        unnamed = {name for name in own if "." not in name and name not in other.get(table, ())}
        unnamed -= {f"{name}{end}" for name in named for end in ("_low", "_high")}
        unnamed -= {
            "train_score",
            "test_score",
            "validation_score",
            "train_loss",
            "test_loss",
            "validation_loss",
        }
        assert unnamed <= named, table
    assert set(re.findall(r"`(\w+)`", TEXT)) >= set(OF_THE_PAGE)


def test_its_table_of_figures_names_every_function() -> None:
    rows = re.findall(r"^\| (`[\w`, ]+`) \|", TEXT.partition("## Figures")[2], re.MULTILINE)
    assert [name for row in rows for name in re.findall(r"\w+", row)] == [
        *("norms", "effective_learning_rates", "angles", "off_span"),
        *("accuracy", "forest", "sensitivity", "budget"),
    ]
    assert set(plots.__all__) == {name for row in rows for name in re.findall(r"\w+", row)}
