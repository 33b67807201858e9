"""`decayfree watch`: what a recorder writes, in a terminal of any width, while it writes and at the end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from decayfree.cli.watch import sparkline
from decayfree.dynamics.samples import Sample
from decayfree.dynamics.sinks import JsonLines
from support.command_line import call


def sample(step: int, run: str = "a", n_weights: int = 2) -> Sample:
    """Norms that grow, angles that fall, and no effective learning rate of the second weight."""
    weights = {
        f"layers.{index}.a_long_name_of_a_part.weight": {
            "norm": {"mean": 1.0 + index + step / 100},
            "angular_update_rad": {"mean": 0.1 / step},
        }
        | ({} if index == 1 else {"effective_learning_rate": {"mean": 0.25}})
        for index in range(n_weights)
    }
    return Sample(run, step, dict.fromkeys(weights, 0.1), weights)


def written(path: Path, *samples: Sample) -> Path:
    sink = JsonLines(path)
    for one in samples:
        sink(one)
    return path


@pytest.mark.parametrize("width", [40, 60, 100, 200])
def test_a_terminal_of_any_width_shows_lines_that_fit(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    path = written(
        tmp_path / "samples.jsonl", sample(5, "old"), *(sample(10 * step) for step in range(1, 41))
    )
    code, text, _ = call("watch", str(path), "--once")
    assert code == 0
    lines = text.split("The page")[0].splitlines()
    assert lines[0] == "run a, step 400, 40 samples"
    assert max(map(len, lines)) <= width
    head, *rows = lines[1:5]
    shown = ["norm", *["angle, rad"] * (width >= 60), *["eff. rate"] * (width >= 100)]
    assert head.split("now")[:-1] == [part for part in head.split("now") if part.strip()]
    assert [part.split()[-1] for part in head.split("now")[:-1]] == [name.split()[-1] for name in shown]
    now = [[word for word in row.split() if word[0].isdigit()] for row in rows]
    assert now == [
        ["5.5", "0.00025", "0.25"][: len(shown)],
        ["5", "0.00025", "0.25"][: len(shown)],
        ["6", "0.00025"][: len(shown)],
    ]
    assert rows[0].startswith("mean of all")
    assert re.match(r"layers\.0\..*part ", rows[1])
    assert re.match(r"layers\.1\..*part ", rows[2])
    assert all(bar in rows[1] for bar in "▁█")
    assert (tmp_path / "samples.html").is_file()


def test_more_weights_than_lines_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "10")
    path = written(tmp_path / "samples.jsonl", sample(1, n_weights=30))
    _, text, _ = call("watch", str(path), "--once", "--page", str(tmp_path / "elsewhere.html"))
    assert "and 25 more weights, on the page" in text
    assert not (tmp_path / "samples.html").exists()
    assert "layers.29.a_long_name" in (tmp_path / "elsewhere.html").read_text(encoding="utf-8")


def test_a_file_that_is_not_there_or_holds_no_sample_is_said(tmp_path: Path) -> None:
    code, _, said = call("watch", str(tmp_path / "nothing.jsonl"), "--once")
    assert (code, said.startswith("Error: there is no file ")) == (2, True)
    (tmp_path / "empty.jsonl").touch()
    code, _, said = call("watch", str(tmp_path / "empty.jsonl"), "--once")
    assert (code, said) == (2, "Error: the file holds no sample yet\n")


@pytest.fixture
def watching(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Of a file that is not there yet."""
    path = tmp_path / "samples.jsonl"
    command = [sys.executable, "-u", "-m", "decayfree", "watch", str(path), "--every", "0.1"]
    environment = dict(os.environ, COLUMNS="100", TERM="xterm", FORCE_COLOR="1")
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs are deaf to it
    )
    yield process
    process.kill()
    process.communicate()


def test_it_waits_for_the_file_follows_it_and_writes_the_page_at_the_end(
    tmp_path: Path, watching: subprocess.Popen[bytes]
) -> None:
    path = tmp_path / "samples.jsonl"
    assert watching.stdout is not None
    os.set_blocking(watching.stdout.fileno(), False)
    seen = ""

    def wait_for(text: str) -> None:
        nonlocal seen
        until = time.monotonic() + 180
        is_over = False
        while text not in seen and time.monotonic() < until and not is_over:
            # Asked before the last look, or what it says at its end is missed.
            is_over = watching.poll() is not None
            seen += (watching.stdout.read() or b"").decode()  # type: ignore[union-attr]
            time.sleep(0.05)
        assert text in seen, seen

    wait_for("Waiting for ")
    path.touch()
    time.sleep(0.5)
    path.write_text('{"run": "a", "st')  # a line that is being written
    time.sleep(0.5)
    assert watching.poll() is None
    path.unlink()
    time.sleep(0.5)
    written(path, sample(10))
    wait_for("step 10, 1 samples")
    written(path, sample(20))
    wait_for("step 20, 2 samples")
    watching.send_signal(signal.SIGINT)
    wait_for("The page: ")
    assert watching.wait(30) == 0
    assert (tmp_path / "samples.html").is_file()


def test_bars_of_many_values_are_means_and_rounding_is_flat() -> None:
    assert sparkline([0.0, 2.0, 7.0, 7.0], 2) == "▁█"
    assert sparkline([1.0, 1.00001, 0.99999], 8) == "▁▁▁"
    assert sparkline(list(range(1000)), 8) == "▁▂▃▄▅▆▇█"
