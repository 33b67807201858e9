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
    "train_ddp.py": r"epochs 0 to 1 on 2 ranks, (\d+) steps\ntest accuracy \d\d\.\d%; problems: \[\]\n",
    "train_digits.py": r"test accuracy 9\d\.\d%\n.* after 180 steps",
    "train_flax.py": r"conv2.kernel .* 8 blocks of 4 rows, with bias(.*\n)*.* accuracy 9.*\n.* 1\.0000..\n",
    "train_fsdp.py": r"2 weights held on 2 ranks; .*\(64, 64\) of it.*\n.* [89]\d\..*problems: \[\]\n",
    "train_lightning.py": r"average 9\d\.\d%\n.* \de-0[678]\n6 samples",
    "train_timm.py": r"15 weights without decay, 12 groups\n.*average [89]\d\.\d%\n.* after 72 steps",
    "train_transformers.py": (
        r"resumed after 100 steps: bitwise the same\nsums that are right 100%\n4 samples"
    ),
}
# Whose frameworks take seconds to import, and talk while they train.
OF_FRAMEWORKS = {"train_flax.py", "train_lightning.py", "train_timm.py", "train_transformers.py"}
# Those of several processes.
OF_PROCESSES = {"train_ddp.py", "train_fsdp.py"}
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ARGUMENTS = {"train_characters.py": ["30"], "train_ddp.py": ["1"]}


def test_every_example_is_known_and_short() -> None:
    paths = sorted((ROOT / "examples").glob("*.py"))
    assert [path.name for path in paths] == sorted(PRINTS)
    assert all(len(path.read_text(encoding="utf-8").splitlines()) < 80 for path in paths)


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=[pytest.mark.slow] * (one in OF_FRAMEWORKS | OF_PROCESSES)) for one in PRINTS],
)
def test_an_example_runs_and_prints_what_it_promises(name: str, tmp_path: Path) -> None:
    printed = ran(name, tmp_path, *ARGUMENTS.get(name, []))
    assert re.search(PRINTS[name], printed), printed
    if name == "train_ddp.py":
        assert re.search(r"epochs 1 to 2 on 2 ranks, \d+ steps\n.*problems: \[\]", ran(name, tmp_path, "2"))


def ran(name: str, folder: Path, *arguments: str) -> str:
    """What an example prints, run in a folder."""
    settings = {"OMP_NUM_THREADS": "1", "MLFLOW_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **settings, "PYTHONPATH": str(ROOT / "src")}
    launcher = TORCHRUN if name in OF_PROCESSES else []
    command = [sys.executable, *launcher, str(ROOT / "examples" / name), *arguments]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert not run.stderr or name in OF_FRAMEWORKS
    return run.stdout
