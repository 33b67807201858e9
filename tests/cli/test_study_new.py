"""`decayfree study new` and `schema`: what is written, asked, refused; and what shells complete."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from decayfree.cli.app import app
from decayfree.cli.study_new import SCHEMA_FILE
from decayfree.study import StudySpec
from decayfree.study.builtin.starts import start_spec
from decayfree.study.spec.schema import spec_schema
from support.command_line import call


def test_it_writes_a_study_that_can_be_run_and_the_schema_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "mine.toml"
    options = ["--optimizer", "adamw", "--method", "wrs", "--method", "turning", "--epochs", "3"]
    code, text, _ = call("study", "new", str(file), *options, "--seeds", "2")
    assert code == 0
    asked = start_spec(optimizer="adamw", methods=["wrs", "turning"], n_epochs=3, seeds=2)
    assert StudySpec.load(file) == asked
    assert f"{len(asked.runs())} runs of {asked.recipe.n_steps} steps" in " ".join(text.split())
    assert f"decayfree study run {file}" in text
    assert file.read_text(encoding="utf-8").startswith(f"#:schema ./{SCHEMA_FILE}\n")
    schema = file.with_name(SCHEMA_FILE).read_text(encoding="utf-8")
    assert json.loads(schema) == spec_schema()
    assert call("study", "schema")[1] == schema


def test_a_file_that_is_there_stays_and_a_wrong_name_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("mine", encoding="utf-8")
    code, _, error = call("study", "new", str(file))
    assert (code, file.read_text(encoding="utf-8")) == (2, "mine")
    assert "is there already: name another file" in error
    code, _, error = call("study", "new", str(tmp_path / "other.toml"), "--method", "wsr")
    assert code == 2
    assert "did you mean wrs?" in error
    assert list(tmp_path.iterdir()) == [file]


def test_in_a_terminal_it_asks_and_proposes_what_suits_the_answers(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "decayfree", "study", "new", str(file)]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        # Task, data, network, optimizer, methods, learning rate, epochs, seeds. Wrong ones are asked again.
        os.write(ours, b"counting\n\n\nlyon\nlion\nwsr\nwrs, turning\nfast\n\n2\n\n")
        said = b""
        while chunk := _read(ours):
            said += chunk
        assert process.wait(60) == 0, said.decode()
    os.close(ours)
    assert StudySpec.load(file) == start_spec(
        task="counting", optimizer="lion", methods=["wrs", "turning"], n_epochs=2
    )
    text = said.decode()
    assert "Data (scenes, shanghaitech" in text
    assert re.search(r"Network.* \[(csrnet|mcnn)-bn\]", text)
    assert "did you mean lion?" in text
    assert "did you mean wrs?" in text
    assert "Optimizer (sgd, " in text
    assert "Learning rate [0.0001]" in text


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other end is closed
        return b""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("study run fig", {"figure1", "figure1-tuned"}),
        ("study run mine", {"mine.toml", "mine-runs/"}),
        ("study new a.toml --task seg", {"segmentation"}),
        ("study new a.toml --data sc", {"scenes"}),
        ("study new a.toml --model wrn", {"wrn-16-4", "wrn-28-10"}),
        ("study new a.toml --optimizer adam", {"adam", "adamw", "adamax"}),
        ("study new a.toml --method wr", {"wrs"}),
        ("study sch", {"schema"}),
    ],
)
def test_a_shell_completes(
    words: str, expected: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").touch()
    (tmp_path / "mine.txt").touch()
    (tmp_path / "mine-runs").mkdir()
    asked = {
        "_DECAYFREE_COMPLETE": "complete_bash",
        "COMP_WORDS": f"decayfree {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    result = CliRunner().invoke(app, [], env=asked, prog_name="decayfree")
    assert set(result.stdout.split()) == expected
