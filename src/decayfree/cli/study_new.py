"""``decayfree study new`` and ``schema``: a file to begin a study with, and what editors know of such files.

Writes what `start_spec` chooses, from options or from answers.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from decayfree.cli.completion import (
    data_named,
    methods_named,
    models_named,
    optimizers_named,
    tasks_named,
)
from decayfree.cli.options import count, errors_told, option
from decayfree.errors import DecayFreeError, InvalidInputError

SCHEMA_FILE = "study.schema.json"


def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write: mine.toml.")],
    task: Annotated[
        str | None,
        option(
            "NAME",
            "classification, segmentation, detection, counting, or your own.",
            autocompletion=tasks_named,
        ),
    ] = None,
    data: Annotated[
        str | None,
        option("NAME", "What to train on; by default what is embedded.", autocompletion=data_named),
    ] = None,
    model: Annotated[
        str | None,
        option("NAME", "A network of ours, timm:NAME, or ./file.py:NAME.", autocompletion=models_named),
    ] = None,
    optimizer: Annotated[
        str | None, option("NAME", "sgd, adamw, lion, …, or ./file.py:NAME.", autocompletion=optimizers_named)
    ] = None,
    method: Annotated[
        list[str] | None,
        option(
            "NAME",
            "What to compare; may be repeated.",
            show_default="three of them",
            autocompletion=methods_named,
        ),
    ] = None,
    lr: Annotated[float | None, option("X", "Learning rate; by default one that suits the rest.")] = None,
    epochs: Annotated[int | None, count("Epochs; by default as many as suit the rest.")] = None,
    seeds: Annotated[int | None, count("Seeds, counted from 0.", show_default="3")] = None,
) -> None:
    """Write a study's file with a comment at each setting, and the schema that editors check it by.

    In a terminal, without options, it asks. Nothing is run, and no study is replaced.
    """
    given: dict[str, Any] = {
        "task": task,
        "data": data,
        "model": model,
        "optimizer": optimizer,
        "methods": method,
        "learning_rate": lr,
        "n_epochs": epochs,
        "seeds": seeds,
    }
    given = {key: value for key, value in given.items() if value is not None}
    with errors_told():
        from decayfree.study.builtin.starts import start_spec
        from decayfree.study.spec.commented import commented
        from decayfree.study.spec.study_spec import StudySpec

        if file.exists():
            raise InvalidInputError(f"{file} is there already: name another file, or remove it first")
        if not given and sys.stdin.isatty():
            given = _asked()
        spec = start_spec(**given)
        text = commented(spec, schema=f"./{SCHEMA_FILE}")
        StudySpec.from_toml(text)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        beside = file.with_name(SCHEMA_FILE)
        beside.write_text(_schema_text(), encoding="utf-8")
    runs = spec.runs()
    typer.echo(
        f"Wrote {file}, {len(runs)} runs of {runs[0].recipe.n_steps:,} steps, and {beside.name}, which "
        "editors check it by."
    )
    typer.echo(f"Write down what you expect, as its question, then: decayfree study run {file}")


def schema() -> None:
    """Print the JSON schema of a study's file, by which editors complete and check it.

    A file whose first line is "#:schema ./study.schema.json" is checked by the schema in that file.
    """
    typer.echo(_schema_text(), nl=False)


def _schema_text() -> str:
    from decayfree.study.spec.schema import spec_schema

    return json.dumps(spec_schema(), indent=1, ensure_ascii=False) + "\n"


def _asked() -> dict[str, Any]:
    """Answers, each of which decides what is proposed next; one that cannot be is asked for again."""
    from decayfree.study.builtin.starts import METHODS_TO_COMPARE, start_spec
    from decayfree.study.run_settings import DATA_OF_TASK

    given: dict[str, Any] = {}

    def ask(
        key: str, question: str, proposed: Any, *, names: Sequence[str] = (), several: bool = False
    ) -> None:
        listed_names = f" ({', '.join(names)})" if names else ""
        while key not in given:
            answer = typer.prompt(f"{question}{listed_names}", proposed, type=type(proposed))
            value = answer.replace(",", " ").split() if several else answer
            try:
                start_spec(**given, **{key: value})
            except DecayFreeError as error:
                typer.echo(f"  {error}", err=True)
            else:
                given[key] = value

    ask("task", "Task", "classification", names=tuple(DATA_OF_TASK))
    data = DATA_OF_TASK.get(given["task"], ("digits",))
    ask("data", "Data", data[0], names=(*data, "./file.py:NAME"))
    recipe = start_spec(**given).recipe
    ask("model", "Network; all names: docs/models.md", str(recipe.model.name))
    ask("optimizer", "Optimizer", str(recipe.optimizer.name), names=optimizers_named(""))
    methods = " ".join(METHODS_TO_COMPARE)
    ask("methods", "Methods to compare, with spaces between", methods, names=methods_named(""), several=True)
    recipe = start_spec(**given).recipe
    ask("learning_rate", "Learning rate", recipe.learning_rate)
    ask("n_epochs", "Epochs", recipe.n_epochs)
    ask("seeds", "Seeds", 3)
    return given
