"""What does a study run next, by the rules of its file and what has come out so far?

Results of training and validation alone decide; test results are not looked at. The same results give the
same runs, whenever and in however many sittings they were made.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from decayfree.study.files.integrity import ResultError
from decayfree.study.files.results import (
    ENDED,
    ROWS_FILE,
    file_faults,
    read_record,
    read_rows,
    run_directory,
)
from decayfree.study.run_settings import RunSettings
from decayfree.study.spec.arms import arms_of
from decayfree.study.spec.axes import Override, with_setting
from decayfree.study.spec.rounds import Added, Extension
from decayfree.study.spec.study_spec import StudySpec
from decayfree.study.spec.toml import Table
from decayfree.study.statistics.sweeps import best_of_sweep


def grown(spec: StudySpec, out: Path) -> StudySpec:
    """The study with all that its rules have added by now.

    Args:
        spec: The study; what was added to it before counts as nothing.
        out: Its folder; a run whose files are damaged counts as one that has not ended.

    Returns:
        The spec with ``added``: nothing yet while runs are missing that a rule needs.
    """
    spec = dataclasses.replace(spec, added=())
    if not (spec.extend or spec.confirm_seeds):
        return spec
    validation: dict[str, float] = {}
    while _take_in(spec, out, validation):
        new = list(_extensions(spec, validation))
        if not new:
            confirmed = _confirmations(spec, validation) if spec.confirm_seeds else ()
            return dataclasses.replace(spec, added=(*spec.added, *confirmed))
        spec = dataclasses.replace(spec, added=(*spec.added, *new))
    return spec


def _take_in(spec: StudySpec, out: Path, validation: dict[str, float]) -> bool:
    """Read the last validation accuracies, NaN of a run that diverged; whether all runs have ended."""
    for run in spec.runs():
        if run.key not in validation:
            directory = run_directory(out, run.key)
            try:
                record = read_record(directory)
                if record["state"] not in ENDED or file_faults(directory, record, (ROWS_FILE,)):
                    return False
                rows = read_rows(directory / ROWS_FILE, may_be_cut=False)
            except ResultError:
                return False
            validation[run.key] = rows[-1].validation_score if record["state"] == "done" else math.nan
    return True


def _extensions(spec: StudySpec, validation: Mapping[str, float]) -> Iterator[Added]:
    """One value more for each arm whose chosen value is the outermost of several."""
    planned = {dataclasses.replace(run, seed=spec.seeds[0]) for run in spec.grid()}
    for settings in arms_of(spec).values():
        chosen = _chosen(spec, settings, validation)
        for rule in spec.extend:
            beyond = chosen and _beyond(chosen, settings, planned, rule)
            if chosen and beyond:
                yield from _with_replayed(chosen, spec.seeds, ((rule.path, beyond),))


def _with_replayed(run: RunSettings, seeds: tuple[int, ...], changed: Table = ()) -> Iterator[Added]:
    """More of a run; a run that replays the norms of another needs that one as well."""
    if run.replayed_run:
        yield Added(run.replayed_run.key, seeds, changed)
    yield Added(run.key, seeds, changed)


def _beyond(
    chosen: RunSettings, settings: Sequence[RunSettings], planned: set[RunSettings], rule: Extension
) -> float | None:
    """The value that comes after the chosen one; None where that is not at an edge, or enough were added.

    The edge is that of the settings that are like the chosen one in all else: what was added to an arm is no
    whole grid.
    """
    having = [run for run in settings if run.at(rule.path) is not None]
    of_file = [run.at(rule.path) for run in having if run in planned]
    if len(set(of_file)) < 2:  # a default, that nobody tunes
        return None
    own: float = chosen.at(rule.path)
    values = sorted({run.at(rule.path) for run in having if with_setting(run, rule.path, own) == chosen})
    if own == values[-1] and sum(value > max(of_file) for value in values) < rule.at_most:
        return own * rule.factor
    if own == values[0] > 0 and sum(value < min(of_file) for value in values) < rule.at_most:
        return own / rule.factor
    return None


def _confirmations(spec: StudySpec, validation: Mapping[str, float]) -> Iterator[Added]:
    """What was chosen in each arm, and what is confirmed whatever was, with new seeds."""
    for settings in arms_of(spec).values():
        chosen = _chosen(spec, settings, validation)
        for run in settings:
            if run == chosen or any(Override(one.when).fits(run) for one in spec.confirm_also):
                yield from _with_replayed(run, spec.confirm_seeds)


def _chosen(
    spec: StudySpec, settings: Sequence[RunSettings], validation: Mapping[str, float]
) -> RunSettings | None:
    """The setting of an arm with the best mean validation accuracy; one alone needs no choice."""
    if len(settings) == 1:
        return settings[0]
    results = {
        run: {seed: validation.get(dataclasses.replace(run, seed=seed).key, math.nan) for seed in spec.seeds}
        for run in settings
    }
    return best_of_sweep(results).chosen
