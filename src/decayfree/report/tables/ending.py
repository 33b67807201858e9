"""The end of every page: unfinished runs, what runs share, methods and seeds, versions and hardware.

It judges nothing. A run that failed or diverged is told with its reason.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from decayfree.report.numbers.groups import StudyGroups, setting_text
from decayfree.report.tables.table import NOTHING, Column, RunLink, Table, TableCell, TableRow, table_of
from decayfree.report.words.wording import SPACE, count, listing, sentences
from decayfree.study.files.results import Run, Study
from decayfree.study.files.sources import differing

_MOST_LEFT_OUT = 100


def faults(study: Study, places: Mapping[str, str]) -> Table | None:
    """Runs that diverged, failed or are not done, in the study's order; ``places`` names them by key."""
    rows = [_fault(run, places.get(run.key, run.label)) for run in study.runs if run.state != "done"]
    columns = [
        Column("Method"),
        Column("Run"),
        Column("State", is_filter=True),
        Column("Last step seen", is_number=True),
        Column("Reason"),
    ]
    title = "Runs that did not finish"
    return table_of("faults", f"{title}, with what they said.", columns, rows, title=title) if rows else None


def no_faults(study: Study) -> str:
    """What is said where no run diverged or failed."""
    missing = study.n_planned - len(study.runs)
    if missing:
        return f"No run has diverged or failed; {count(missing, 'run')} of the study have not begun."
    return f"None: all {count(len(study.runs), 'run')} finished, none diverged and none failed."


def set_aside(study: Study) -> str:
    """How many runs were begun anew, damaged or of another source, and why; empty where none was."""
    damaged = [run for run in study.runs if run.set_aside]
    if not damaged:
        return ""
    reasons = "; ".join(dict.fromkeys(reason for run in damaged for reason in run.set_aside))
    return f"Files of {count(len(damaged), 'run')} were set aside, and the runs begun anew: {reasons}."


def left_out(study: Study) -> str:
    """Finished runs beside the study's own that its spec does not name any more; empty where none are."""
    n_more = len(study.left_out) - _MOST_LEFT_OUT
    named = [*study.left_out[:_MOST_LEFT_OUT], *([f"{n_more:,} more"] if n_more > 0 else [])]
    if not named:
        return ""
    return (
        f"{count(len(study.left_out), 'finished run')} beside these, no part of study.toml, "
        f"{'is' if len(study.left_out) == 1 else 'are'} not on this page: {listing(named)}."
    )


def changed_sources(study: Study) -> str:
    """What of the user's own was not the same in all runs; empty where all was."""
    return sentences(*(f"{said}." for said in differing(run.sources for run in study.runs)))


def settings_text(numbers: StudyGroups) -> str:
    """What methods act on, and what is equal for all."""
    recipes = [cell.settings.recipe for cell in numbers.cells]
    decays = sorted({recipe.rest_weight_decay for recipe in recipes})
    rest = (
        f"weight decay {' or '.join(f'{decay:g}' for decay in decays)}" if any(decays) else "no weight decay"
    )
    noise = ", random ones included" if any(recipe.data.label_noise for recipe in recipes) else ""
    acted_on, run = "the scale-invariant weights", ""
    if numbers.are_methods_all:
        recipe, weights = recipes[0], next((cell.weights for cell in numbers.cells if cell.n), ())
        if weights:
            acted_on = f"the {count(len(weights), 'scale-invariant weight')} ({listing(weights)})"
        run = (
            f"A run takes {recipe.n_steps:,} steps of {recipe.batch_size} images at a learning rate of "
            f"{recipe.learning_rate:g} ({recipe.schedule} schedule). "
        )
    return (
        f"What a method does, it does to {acted_on} and to nothing else. Gains γ and biases β of the "
        f"normalizations and the last layer get {rest} under every method. {run}"
        f"Training {numbers.metric.name} is measured in eval mode against the labels that were trained on"
        f"{noise}. Equal seeds start from equal weights and see equal batches, whatever the method."
    )


def settings_tables(study: Study) -> list[dict[str, Any]]:
    """What all runs have in common, what differs, versions and hardware."""
    spec, runs = study.spec, study.runs
    varying = set(spec.varying())
    planned = spec.runs()
    first = planned[0].flat()
    shared = [
        (name, setting_text(value))
        for name, value in first.items()
        if not name.startswith("method.") and name != "seed" and name not in varying
    ]
    steps = sorted({settings.recipe.n_steps for settings in planned})
    shared.append(("n_steps", f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"))
    methods = dict.fromkeys(settings.method for settings in planned)
    seeds = ("seeds", ", ".join(map(str, spec.seeds)))
    seconds = sum(run.elapsed_s for run in runs)
    time = ("training time, all runs", f"{seconds:,.0f}{SPACE}s")
    axes = [(name, _values(study, name)) for name in spec.varying() if not name.startswith("method.")]
    tables = (
        ("What all runs have in common", True, shared),
        *([("What differs between runs", True, axes)] if axes else []),
        ("Methods and seeds", False, [*((method.label, _method_text(method)) for method in methods), seeds]),
        ("Versions", False, _distinct([run.versions for run in runs])),
        ("Hardware", False, [*_distinct([run.hardware for run in runs]), time]),
    )
    return [{"title": title, "is_code": is_code, "rows": rows} for title, is_code, rows in tables]


def _fault(run: Run, label: str) -> TableRow:
    step = TableCell(f"{run.rows[-1].step:,}", sort=float(run.rows[-1].step)) if run.rows else NOTHING
    reason = run.reason or ("not done yet" if run.state == "running" else "no reason was recorded")
    link = TableCell("", link=RunLink(f"seed {run.seed}", run.key, ""))
    return TableRow((TableCell(label), link, TableCell(run.state), step, TableCell(reason)))


def _values(study: Study, name: str) -> str:
    """All values of a setting that occur, in the order of the runs."""
    return ", ".join(dict.fromkeys(setting_text(settings.flat()[name]) for settings in study.spec.runs()))


def _method_text(method: Any) -> str:
    options = ", ".join(
        f"{name} = {setting_text(value)}" for name, value in dataclasses.asdict(method).items()
    )
    return f"{method.name}: {options}" if options else str(method.name)


def _distinct(tables: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Every key with all values that occur, sorted: a study may have been run on several machines."""
    keys = sorted({key for table in tables for key in table})
    return [
        (key, ", ".join(sorted({setting_text(table[key]) for table in tables if key in table})))
        for key in keys
    ]
