"""`decayfree study list DIR`: curves, what is given up where the terminal is narrow, and live."""

import _thread
import json
import threading
from pathlib import Path

import pytest

from decayfree.study import study_status
from support.command_line import call
from support.study_stand_in import FINAL, SPEC, written


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (50, ["State", "Run", "Seed", "Test", "Left"]),
        (60, ["State", "Run", "Seed", "Test", "Left", "Steps", "Time"]),
        (120, ["State", "Run", "Seed", "Test", "Left", "Steps", "Time", "Folder"]),
    ],
)
def test_a_narrow_terminal_has_fewer_columns_and_every_run(
    columns: int, shown: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    written(tmp_path, spec=SPEC, final_test=FINAL)
    lines = call("study", "list", str(tmp_path))[1].splitlines()
    assert max(map(len, lines)) <= columns
    assert next(line.split() for line in lines if line.startswith("State")) == shown
    assert [line.split()[:1] for line in lines].count(["done"]) == 4


def test_the_built_in_studies_fit_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = call("study", "list")[1].splitlines()
    assert max(map(len, lines)) <= 60
    assert any(line.split() == ["figure1", "30", "×", "2,028", "30", "×", "70,200"] for line in lines)


def test_a_run_has_the_curve_of_its_test_scores(tmp_path: Path) -> None:
    written(tmp_path, spec=SPEC, final_test=FINAL)
    first, *_ = study_status(tmp_path).runs
    assert len(first.test_scores) == 5
    assert first.test_scores[-1] == FINAL["no decay"][0]
    (line,) = (
        line
        for line in call("study", "list", str(tmp_path))[1].splitlines()
        if "no decay" in line and " 85.0" in line
    )
    assert "█ " in line
    record = json.loads(call("study", "list", str(tmp_path), "--json")[1])
    assert record["runs"][0]["test_scores"] == list(first.test_scores)


def test_live_it_is_drawn_anew_until_all_runs_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decayfree.cli.study._LOOK_AGAIN_AFTER_S", 0.01)
    written(tmp_path, spec=SPEC, final_test=FINAL)
    last = tmp_path / "runs" / study_status(tmp_path).runs[-1].settings.key
    last.rename(tmp_path / "later")
    timers = [
        threading.Timer(0.5, (tmp_path / "later").rename, (last,)),
        threading.Timer(30, _thread.interrupt_main),  # Ctrl-C, where it does not end by itself
    ]
    for timer in timers:
        timer.start()
    code, text, _ = call("study", "list", str(tmp_path), "--live")
    timers[-1].cancel()
    assert code == 0
    assert last.is_dir()
    assert "4 runs: 4 done; nobody is running it." in text


@pytest.mark.parametrize("words", [["--live"], ["nowhere", "--live", "--json"]])
def test_live_needs_a_folder_and_a_terminal(words: list[str]) -> None:
    code, _, error = call("study", "list", *words)
    assert code == 2
    assert "--live draws the runs in DIR" in error
