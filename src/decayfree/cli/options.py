"""What commands have in common: kinds of options, an error as a message, a result as JSON.

Knows no command.
"""

import contextlib
import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from decayfree.dynamics.samples import without_nan
from decayfree.errors import DecayFreeError

FAILED, BAD_REQUEST, INTERRUPTED = 1, 2, 130
FORMS = "torchvision:NAME, timm:NAME, smp:NAME, package.module:NAME or ./file.py:NAME"
"""How a model is named."""


def option(metavar: str, help: str, *names: str, **settings: Any) -> Any:
    """An option with a value; named like its parameter, unless ``names`` say otherwise."""
    return typer.Option(*names, metavar=metavar, help=help, **settings)


def count(help: str, *, least: int = 1, **settings: Any) -> Any:
    """An option whose value is a whole number of at least ``least``."""
    return option("N", help, min=least, **settings)


def flag(name: str, help: str) -> Any:
    """An option that is given or not."""
    return option("", help, name)


TokensOption = Annotated[int | None, count("Make the inputs whole numbers below this, for token models.")]
ArgsOption = Annotated[
    list[str] | None,
    option("NAME=VALUE", "What the model is built with, as TOML has it: width=8; may be repeated.", "--arg"),
]
JsonOption = Annotated[bool, flag("--json", "Print JSON instead of the table.")]
JobsOption = Annotated[int, count("Trainings at a time, each with its share of the cores.")]


@contextlib.contextmanager
def errors_told(*kinds: type[Exception]) -> Iterator[None]:
    """End the command with the message of what says that the request cannot be met: by default, files too."""
    told = kinds or (DecayFreeError, OSError)
    try:
        yield
    except told as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(BAD_REQUEST) from error


def print_json(record: Any) -> None:
    """On one line; null for what is not finite."""
    typer.echo(json.dumps(without_nan(record), allow_nan=False))
