"""The examples run as they stand, and do what they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What each one prints, as a pattern.
PRINTS = {
    "record_to_loggers.py": r"step 10: 10 numbers to 3 loggers\nstep 20: 10 numbers to 3 loggers\n",
    "record_training.py": r"no +300 .*\n(.*\n)*yes +300 +1\.00 ",
    "train_characters.py": r"decay +validation \d\.\d+ nats.*\nQK-norm held .*\nall matrices held +val",
    "train_digits.py": r"test accuracy 9\d\.\d%\n.* after 180 steps",
}


FEW_STEPS = {"train_characters.py": ["30"]}


def test_every_example_is_known_and_short() -> None:
    paths = sorted((ROOT / "examples").glob("*.py"))
    assert [path.name for path in paths] == sorted(PRINTS)
    assert all(len(path.read_text(encoding="utf-8").splitlines()) < 80 for path in paths)


@pytest.mark.parametrize("name", PRINTS)
def test_an_example_runs_and_prints_what_it_promises(name: str, tmp_path: Path) -> None:
    environment = dict(os.environ, PYTHONPATH=str(ROOT / "src"), MLFLOW_LOGGING_LEVEL="ERROR")
    command = [sys.executable, ROOT / "examples" / name, *FEW_STEPS.get(name, [])]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert re.search(PRINTS[name], run.stdout), run.stdout
    assert not run.stderr
