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
    "record_to_loggers.py": (
        r"wandb got \d+ numbers at step 10\nmlflow got \d+ .*\n"
        r"lightning got (.*\n)+tensorboard is written"
    ),
    "record_training.py": r"no +300 .*\n(.*\n)*yes +300 +1\.00 ",
    "train_ddp.py": r"epochs 0 to 1 on 2 ranks, (\d+) steps\ntest accuracy \d\d\.\d%; problems: \[\]\n",
    "train_digits.py": r"test accuracy 9\d\.\d%\n.* after 180 steps",
    "train_fsdp.py": r"2 weights held on 2 ranks; .*\(64, 64\) of it.*\n.* [89]\d\..*problems: \[\]\n",
}
# Those of several processes.
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
PARALLEL = {"train_ddp.py": ["1"], "train_fsdp.py": []}


def test_every_example_is_known_and_short() -> None:
    paths = sorted((ROOT / "examples").glob("*.py"))
    assert [path.name for path in paths] == sorted(PRINTS)
    assert all(len(path.read_text(encoding="utf-8").splitlines()) < 80 for path in paths)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in PARALLEL)) for name in PRINTS]
)
def test_an_example_runs_and_prints_what_it_promises(name: str, tmp_path: Path) -> None:
    printed = ran(name, tmp_path, *PARALLEL.get(name, []))
    assert re.search(PRINTS[name], printed), printed
    if name == "train_ddp.py":
        assert re.search(r"epochs 1 to 2 on 2 ranks, \d+ steps\n.*problems: \[\]", ran(name, tmp_path, "2"))


def ran(name: str, folder: Path, *arguments: str) -> str:
    """What an example prints, run in a folder."""
    environment = dict(os.environ, PYTHONPATH=str(ROOT / "src"), OMP_NUM_THREADS="1")
    launcher = TORCHRUN if name in PARALLEL else []
    command = [sys.executable, *launcher, str(ROOT / "examples" / name), *arguments]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert not run.stderr
    return run.stdout
