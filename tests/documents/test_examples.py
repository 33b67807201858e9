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
    "train_lightning.py": r"average 9\d\.\d%\n.* \de-0[678]\n6 samples",
    "train_timm.py": r"15 weights without decay, 12 groups\n.*average [89]\d\.\d%\n.* after 72 steps",
    "train_transformers.py": (
        r"resumed after 100 steps: bitwise the same\nsums that are right 100%\n4 samples"
    ),
}
# Whose frameworks take seconds to import, and talk while they train.
OF_FRAMEWORKS = {"train_lightning.py", "train_timm.py", "train_transformers.py"}


FEW_STEPS = {"train_characters.py": ["30"]}


def test_every_example_is_known_and_short() -> None:
    paths = sorted((ROOT / "examples").glob("*.py"))
    assert [path.name for path in paths] == sorted(PRINTS)
    assert all(len(path.read_text(encoding="utf-8").splitlines()) < 80 for path in paths)


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=pytest.mark.slow if one in OF_FRAMEWORKS else ()) for one in PRINTS]
)
def test_an_example_runs_and_prints_what_it_promises(name: str, tmp_path: Path) -> None:
    environment = dict(
        os.environ, PYTHONPATH=str(ROOT / "src"), MLFLOW_LOGGING_LEVEL="ERROR", HF_HUB_OFFLINE="1"
    )
    command = [sys.executable, ROOT / "examples" / name, *FEW_STEPS.get(name, [])]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert re.search(PRINTS[name], run.stdout), run.stdout
    assert not run.stderr or name in OF_FRAMEWORKS
