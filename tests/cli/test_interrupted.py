"""Ctrl-C before anything is there to save: exit code 130, and no traceback."""

import os
import signal
import subprocess
import sys

import pytest

# Interrupts itself while it imports: at the first, the hundredth and the last of the modules before it runs.
CODE = """
import os, signal, sys
n_left = int(sys.argv.pop(1))
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        global n_left
        n_left -= 1
        if n_left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return None
from decayfree.__main__ import main
sys.meta_path.insert(0, Interrupt())
main()
"""


@pytest.mark.parametrize("at", [1, 100, 400])
@pytest.mark.parametrize("words", [["study", "list"], ["study", "report", "."]])
def test_it_ends_without_a_traceback(at, words, tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", CODE, str(at), *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        timeout=300,
    )
    assert "Traceback" not in process.stderr
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_that_is_ignored_stays_so(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", CODE, "100", "study", "list"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        timeout=300,
    )
    assert (process.returncode, process.stderr) == (0, "")
