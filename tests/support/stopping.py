"""A command that is stopped in mid-training, as a terminal or a scheduler stops it.

Says nothing of what it must have printed.
"""

import os
import signal
import subprocess
from pathlib import Path


def stopped(command: list[str], out: Path, sent: signal.Signals = signal.SIGINT) -> tuple[int, str, str]:
    """Start a command, signal it once a run under ``out`` has metrics; its exit code, output and errors."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs are deaf to it
    )
    while process.poll() is None and not list(out.glob("runs/*/metrics.jsonl")):
        try:
            process.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            continue
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # the terminal sends it to all
    else:
        process.send_signal(sent)
    text, errors = process.communicate(timeout=120)
    return process.returncode, text, errors
