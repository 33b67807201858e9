"""A study in a terminal: a bar with the time left, Ctrl-C, the final table, and where the page is.

Trains nothing and knows no command: it is told what to run, and gives back the exit code.
"""

import contextlib
import importlib.util
import math
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from decayfree.cli.options import FAILED, INTERRUPTED
from decayfree.errors import MissingExtraError

if TYPE_CHECKING:
    from decayfree.report.numbers.groups import StudyGroups
    from decayfree.study.runner.run_study import Progress as StudyProgress
    from decayfree.study.runner.run_study import StudyOutcome
    from decayfree.study.spec.study_spec import StudySpec

MAX_REASONS = 5


def run_and_report(
    spec: "StudySpec", out: Path, *, n_jobs: int, same_command: str, ray_address: str | None = None
) -> int:
    """Run a study behind a progress bar, write its page and print its main table.

    Returns:
        The exit code: 0, 1 where a run failed, 130 after Ctrl-C; ``same_command`` is printed to go on with.
    """
    from decayfree.study.runner.process_pool import handling
    from decayfree.study.runner.run_study import run_study

    def stop(*_: object) -> NoReturn:
        """A scheduler sends SIGTERM before it takes the machine away: runs are saved as at Ctrl-C."""
        raise KeyboardInterrupt

    def runs(progress: "StudyProgress") -> str:
        return f"run {min(progress.n_done + 1, progress.n_total)} of {progress.n_total}"

    console = Console()
    elsewhere: dict[str, Any] = {} if ray_address is None else {"ray_address": ray_address}
    with watching(console, runs) as watch, handling(signal.SIGTERM, stop):
        outcome = run_study(spec, out, n_jobs=n_jobs, **watch, **elsewhere)
    if outcome.interrupted:
        say_how_to_go_on(console, f"{outcome.n_done} of {outcome.n_total} runs are done", same_command)
        return INTERRUPTED
    return _show_results(outcome, out, console)


@contextlib.contextmanager
def watching(console: Console, describe: Callable[["StudyProgress"], str]) -> Iterator[dict[str, Any]]:
    """A bar with the time left, as the arguments with which `run_study` and `tune` move it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("starting", total=1.0, left="")

        def show(progress: "StudyProgress") -> None:
            left = "" if progress.seconds_left is None else f"{clock(progress.seconds_left)} left"
            bar.update(task, completed=progress.fraction, description=describe(progress), left=left)

        def say_stopping() -> None:
            console.print("Stopping: the runs save where they are.", highlight=False)

        yield {"on_progress": show, "on_stopping": say_stopping}


def say_how_to_go_on(console: Console, done: str, same_command: str) -> None:
    """After Ctrl-C: what is done, and the command that goes on."""
    console.print(f"\nStopped; {done}. To go on:", highlight=False)
    console.print(f"  {escape(same_command)}", highlight=False, soft_wrap=True)


def _show_results(outcome: "StudyOutcome", out: Path, console: Console) -> int:
    """Write the page, print the main table and, where runs failed, why; the exit code."""
    show_page(out, console)
    if outcome.set_aside:
        n = len(outcome.set_aside)
        console.print(
            f"Files of {n} run{'s' * (n != 1)} were set aside in their folders, and the runs begun anew:",
            highlight=False,
        )
        for said in outcome.set_aside[:MAX_REASONS]:
            console.print(f"  {escape(said)}", highlight=False, soft_wrap=True)
    return tell_failed(outcome)


def show_page(out: Path, console: Console, *, reference: str | None = None) -> None:
    """Write the page of the study in ``out`` and print its main table, compared with ``reference``."""
    from decayfree.report.numbers.groups import study_groups
    from decayfree.report.page import write_report
    from decayfree.study.files.results import read_study

    page = write_report(out, reference=reference)
    console.print(_comparisons(study_groups(read_study(out)), reference))
    console.print(f"The page: {escape(str(page))}", highlight=False, soft_wrap=True)


def tell_failed(outcome: "StudyOutcome") -> int:
    """Print which runs failed and why; the exit code."""
    if not outcome.n_failed:
        return 0
    typer.echo(f"Error: {outcome.n_failed} of {outcome.n_total} runs failed:", err=True)
    for reason in outcome.reasons[:MAX_REASONS]:
        typer.echo(f"  {reason}", err=True)
    if len(outcome.reasons) > MAX_REASONS:
        typer.echo(f"  and {len(outcome.reasons) - MAX_REASONS} more, all of them on the page", err=True)
    return FAILED


def tell_left_out(out: Path, spec: "StudySpec") -> None:
    """Say, beside the output, which finished runs in a folder its spec does not name any more."""
    from decayfree.study.files.results import left_out

    runs = left_out(out, spec)
    if not runs:
        return
    named = [
        *runs[:MAX_REASONS],
        *([f"and {len(runs) - MAX_REASONS} more"] if len(runs) > MAX_REASONS else []),
    ]
    typer.echo(
        f"Warning: {len(runs)} finished runs in {out} are no part of its study.toml, and the page leaves "
        f"them out: {', '.join(named)}. With the spec that they were made by they are back.",
        err=True,
    )


def tell_own(spec: "StudySpec") -> None:
    """Say, beside the output, what code of its author's a spec runs, and from where; runs none of it."""
    named = spec.own()
    if not named:
        return
    folder = Path(spec.source_dir or ".").resolve()
    typer.echo("This study runs code of its author's; run it only if you trust who wrote it:", err=True)
    for address, settings in named.items():
        where = f" in {folder}" if address.startswith("./") else ""
        typer.echo(f"  {address}{where} ({', '.join(settings)})", err=True)


def tell_differing(out: Path, spec: "StudySpec") -> None:
    """Say, beside the output, what runs in a folder had several sources of; by their records alone."""
    from decayfree.study.files.archive import folder_of_runs
    from decayfree.study.files.results import sources_in
    from decayfree.study.files.sources import differing

    if spec.own():
        with folder_of_runs(out) as folder:
            for said in differing(sources_in(folder, spec)):
                typer.echo(f"Warning: {said}.", err=True)


def clock(seconds: float) -> str:
    """A time as a bar shows it: 1:02 for 61.2 seconds, 2:00:00 for two hours."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes_of_hour = divmod(minutes, 60)
    return f"{hours}:{minutes_of_hour:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def as_typed(context: typer.Context) -> str:
    """The command with the options that were given, to be typed again."""
    words = context.command_path.split(" ")
    for parameter in context.command.params:
        name, value = str(parameter.name), context.params.get(str(parameter.name))
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE":
            continue
        for one in value if isinstance(value, list) else [value]:
            text = [] if value is True else [str(one)]
            words += text if parameter.param_type_name == "argument" else [parameter.opts[0], *text]
    return shlex.join(words)


def require(purpose: str, *distributions: str) -> None:
    """Raise before any training if what the study or its page needs is not installed."""
    modules = {"scikit-learn": "sklearn"}
    missing = [name for name in distributions if importlib.util.find_spec(modules.get(name, name)) is None]
    if missing:
        raise MissingExtraError(
            f"{purpose} needs {', '.join(missing)}, not installed here: pip install 'decayfree[study]'"
        )


def _comparisons(groups: "StudyGroups", reference: str | None) -> Table:
    """Each method's cell in each group, as on the page but shorter; all cells if none could be chosen."""
    from decayfree.report.numbers.compared import compare
    from decayfree.report.tables.comparison import comparison_table

    entries = compare(groups, reference)
    shown = comparison_table(groups, entries, "", "")
    name = groups.metric.name
    title = escape(f"Test {name} after the last step")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    left_out = ("p", "… shrunk", "… on validation", "… of the choice")
    kept = [(index, column) for index, column in enumerate(shown.columns) if column.title not in left_out]
    for _, column in kept:
        table.add_column(
            _heading(column.title, column.note),
            justify="right" if column.is_number else "left",
            no_wrap=column.is_number,
            overflow="fold",
        )
    n_judged = len(entries.compared)
    if n_judged > 1:
        table.caption = (
            f"Seen after Holm's correction for {n_judged} comparisons; the intervals are not corrected."
        )
        table.caption_justify = "left"
    for entry, row in zip(entries.entries, shown.rows, strict=True):
        cells = [(row.cells[index], column) for index, column in kept[1:]]
        texts = (_brief(cell.text, cell.note, column.title) for cell, column in cells)
        table.add_row(*map(escape, (entry.cell.short, *texts)))
    return table


def _heading(title: str, note: str) -> str:
    """A heading within the width of a terminal; whose verdict it is stands in the note."""
    name = title.removeprefix("Test ")
    if name != title:
        return escape(name.capitalize() if name.islower() else name)
    short = {"Seen": note.replace(" ", "\n")}
    return escape(short.get(title, title.replace(" minus …", "\nminus")))


def _brief(text: str, note: str, title: str) -> str:
    """A cell in the width of a terminal: intervals of accuracies and other notes are on the page."""
    if (title == "n" or title.endswith("minus …")) and note:
        return f"{text} ({note})"
    if title == "Setting":
        return text.replace("learning rate ", "lr ").replace("weight decay ", "wd ")
    return {"the one compared with": "reference", "no difference seen": "not seen to differ"}.get(text, text)
