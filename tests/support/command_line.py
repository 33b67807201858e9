"""The command line as a test calls it."""

import re
from pathlib import Path

from typer.testing import CliRunner

from decayfree.cli.app import app

SNAPSHOTS = Path(__file__).parents[1] / "cli" / "snapshots"


def call(*words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    result = CliRunner().invoke(app, words, prog_name="decayfree")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def unboxed(text: str) -> str:
    """Help without colors, boxes and runs of blanks, which differ between terminals."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [" ".join(re.sub("[─│╭╮╰╯]", " ", line).split()) for line in text.splitlines()]
    return "\n".join(line for line in lines if line) + "\n"
