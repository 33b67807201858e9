"""What ``decayfree study`` shows, as tables or JSON: built-in studies, a folder's runs, what a search found.

Computes nothing and knows no command.
"""

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from decayfree.cli.options import print_json
from decayfree.cli.study_progress import clock
from decayfree.cli.watch import sparkline

if TYPE_CHECKING:
    from decayfree.study.files.status import RunStatus, StudyStatus
    from decayfree.study.search.searches import Search
    from decayfree.study.spec.study_spec import StudySpec

_COLUMNS = ("State", "Run", "Seed", "Test", "Left", "Steps", "Time", "Folder")
"""In the order in which they are given up where the terminal is narrow, the last first."""
_NUMBERS = ("Seed", "Left", "Steps", "Time")
_WIDE = 80
"""Below, there is no room for questions."""
_LEAST_RUN, _GAP, _CURVE = 28, 2, 8
_BUDGETS = (3, 10, 30, 100, 300)
_STATES = ("done", "running", "waiting", "diverged", "failed")
_FIRST_LIVE = ("running", "failed", "diverged", "done", "waiting")
_AT_LEAST = ("State", "Run", "Seed", "Test")


def list_builtin(*, as_json: bool) -> None:
    """Print the built-in studies: names, questions, and the work in each size."""
    from decayfree.study.builtin.specs import BUILTIN, SIZES, builtin_spec

    specs = {(name, size): builtin_spec(name, size) for name in BUILTIN for size in SIZES}
    records = [
        {
            "name": name,
            "size": size,
            "title": spec.title,
            "question": spec.question,
            "n_runs": len(spec.runs()),
            "n_steps": sum(run.recipe.n_steps for run in spec.runs()),
            "device": spec.recipe.device,
        }
        for (name, size), spec in specs.items()
    ]
    if as_json:
        print_json(records)
        return
    console = Console()
    table = Table(box=None, pad_edge=False)
    table.add_column("Name", no_wrap=True)
    if console.width >= _WIDE:
        table.add_column("Question")
    for size in SIZES:
        table.add_column(f"Runs × steps, {size}", justify="right")
    for name in BUILTIN:
        sizes = [specs[name, size].runs() for size in SIZES]
        lengths = [sorted({run.recipe.n_steps for run in runs}) for runs in sizes]
        work = [
            f"{len(runs)} × {' to '.join(f'{n:,}' for n in dict.fromkeys((steps[0], steps[-1])))}"
            for runs, steps in zip(sizes, lengths, strict=True)
        ]
        question = [escape(specs[name, "small"].question)] if console.width >= _WIDE else []
        table.add_row(name, *question, *work)
    console.print(table)
    console.print(
        "\ndecayfree study show NAME prints one, decayfree study run NAME runs it.", highlight=False
    )


def list_runs(spec: "StudySpec", status: "StudyStatus", *, as_json: bool) -> None:
    """Print where every run of a study stands, its test scores, why runs failed, and the time left."""
    if as_json:
        print_json(_record(status))
        return
    console, names = Console(), _names(spec)
    console.print(_table_of(spec, names, status.runs, console.width))
    for run in status.runs:
        for said, reason in ((run.state, run.reason), *(("set aside", reason) for reason in run.set_aside)):
            if reason:
                name = f"{names[run.settings.key]}, seed {run.settings.seed}"
                console.print(f"\n{escape(name)}, {said}: {escape(reason)}", highlight=False)
    console.print(f"\n{_summary(spec, status)}", highlight=False)


def follow_runs(out: Path, console: Console, every_s: float) -> None:
    """Draw the table anew, as many runs as fit, those at work first, until all have ended or Ctrl-C."""
    from decayfree.study.files.results import spec_in
    from decayfree.study.files.status import study_status

    with Live(console=console, auto_refresh=False, transient=True) as live, suppress(KeyboardInterrupt):
        while True:
            status, spec = study_status(out), spec_in(out)
            n_shown = max(console.height - 5, 1)
            runs = sorted(status.runs, key=lambda run: _FIRST_LIVE.index(run.state))
            table = _table_of(spec, _names(spec), runs[:n_shown], console.width)
            live.update(Group(table, Text(f"\n{_summary(spec, status)}")), refresh=True)
            is_over = status.holder is None and not spec.may_grow(
                sum(run.state in ("done", "diverged") for run in runs)
            )
            if is_over and all(run.state not in ("running", "waiting") for run in runs):
                return
            time.sleep(every_s)


def _table_of(spec: "StudySpec", names: Mapping[str, str], runs: "Sequence[RunStatus]", width: int) -> Table:
    """A line a run, with the columns for which there is room."""
    lines = [_line(names[run.settings.key], run) for run in runs]
    widths = {name: max(len(name), *(len(line[name]) for line in lines)) for name in _COLUMNS}
    widths["Run"] = min(widths["Run"], _LEAST_RUN)
    kept = list(_COLUMNS)
    while sum(widths[name] + _GAP for name in kept) - _GAP > width and len(kept) > len(_AT_LEAST):
        kept.pop()
    table = Table(title=escape(spec.title), title_justify="left", box=None, pad_edge=False)
    for name in kept:
        table.add_column(name, justify="right" if name in _NUMBERS else "left", no_wrap=name != "Run")
    for line in lines:
        table.add_row(*(Text(line[name]) for name in kept))
    return table


def _line(name: str, run: "RunStatus") -> dict[str, str]:
    n_steps = f"{run.settings.recipe.n_steps:,}"
    scores = [score for score in run.test_scores if not math.isnan(score)]
    return {
        "State": run.state,
        "Run": name,
        "Seed": str(run.settings.seed),
        "Test": f"{sparkline(scores, _CURVE):<{_CURVE}} {100 * scores[-1]:.1f}" if scores else "",
        "Left": "" if run.seconds_left is None else clock(run.seconds_left),
        "Steps": n_steps if run.fraction == 1 else f"{run.n_done:,} of {n_steps}",
        "Time": clock(run.elapsed_s) if run.elapsed_s else "",
        "Folder": run.settings.key,
    }


def _names(spec: "StudySpec") -> dict[str, str]:
    """What each run is called, by its key: its method and the settings of the recipe that vary."""
    varying = [path for path in spec.varying() if not path.startswith("method.")]
    names = {}
    for run in spec.runs():
        flat = run.flat()
        told = [f"{path.removesuffix('.name')} {flat[path]}" for path in varying]
        names[run.key] = ", ".join([run.label, *told])
    return names


def _summary(spec: "StudySpec", status: "StudyStatus") -> str:
    counts: Counter[str] = Counter(run.state for run in status.runs)
    told = ", ".join(f"{n} {state}" for state in _STATES if (n := counts[state]))
    left = "" if status.seconds_left in (None, 0.0) else f"; about {clock(status.seconds_left or 0.0)} left"
    at_work = "nobody is running it"
    if status.holder is not None:
        at_work = f"process {status.holder.pid} on {escape(status.holder.host)} is running it"
    more = "; its rules may add more" if spec.may_grow(counts["done"] + counts["diverged"]) else ""
    return f"{len(status.runs)} runs: {told}{left}{more}; {at_work}."


def _record(status: "StudyStatus") -> dict[str, Any]:
    return {
        "runs": [
            {
                "key": run.settings.key,
                "label": run.settings.label,
                "settings": run.settings.to_dict(),
                "state": run.state,
                "reason": run.reason,
                "n_done": run.n_done,
                "n_steps": run.settings.recipe.n_steps,
                "elapsed_s": run.elapsed_s,
                "seconds_left": run.seconds_left,
                "set_aside": run.set_aside,
                "test_scores": run.test_scores,
                "sources": run.sources,
            }
            for run in status.runs
        ],
        "seconds_left": status.seconds_left,
        "holder": None if status.holder is None else dataclasses.asdict(status.holder),
    }


def tuned_table(searches: "tuple[Search, ...]") -> Table:
    """The best trial of each search."""
    table = Table(title="Best of each search, by validation", title_justify="left", box=None, pad_edge=False)
    table.add_column("Method")
    for name in ("Learning rate", "Weight decay", "Validation", "Trial"):
        table.add_column(name, justify="right", no_wrap=True)
    for search in searches:
        best = search.best
        decay = "–" if best.weight_decay is None else f"{best.weight_decay:g}"
        score = _percent(best.validation_score)
        place = f"{best.number + 1} of {len(search.trials)}"
        table.add_row(escape(search.label), f"{best.learning_rate:g}", decay, score, place)
    return table


def tuned_budgets(searches: "tuple[Search, ...]") -> list[str]:
    """A sentence a search of several trials: what fewer of them lead to, and how many are far down."""
    told = []
    for search in searches:
        budget = search.budget
        several = [f"the best of {k} {_percent(budget.mean[k - 1])}" for k in _BUDGETS if k < budget.n]
        if budget.n > 1:
            told.append(
                f"{search.label}: one of its {budget.n} trials reaches "
                f"{', '.join([_percent(budget.mean[0]), *several])}; {100 * search.far_down:.0f}"
                "\N{NO-BREAK SPACE}% end more than 2 points below the best."
            )
    return told


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"
