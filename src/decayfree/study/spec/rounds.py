"""What a study does once its grid has run: grow it where an optimum is at its edge, confirm what was chosen.

The rules stand in the file before the first run; what they have added so far stands in the study's own copy
of it. Reads no results: runner/growing.py does.
"""

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from decayfree.study.optimizers import optimizer_faults
from decayfree.study.run_settings import RunSettings
from decayfree.study.spec.axes import (
    SWEPT,
    TUNED,
    UNREAD,
    Override,
    is_table,
    override_faults,
    with_setting,
)
from decayfree.study.spec.bounds import shown
from decayfree.study.spec.checks import MAX_RUNS, seed_faults
from decayfree.study.spec.told import Fault
from decayfree.study.spec.toml import Table

_CHOSEN = (*SWEPT, *(f"method.{name}" for name in TUNED))
"""What an arm may have several values of; a rule for anything else would do nothing."""
_MOST_VALUES = 20


@dataclass(frozen=True)
class Extension:
    """A rule: as long as the chosen value is the outermost of settings like it, one more goes beyond it."""

    path: str
    """``learning_rate``, ``rest_learning_rate``, ``method.weight_decay``, ``method.memory_epochs`` or
    ``method.forgetting``: what is chosen in an arm.
    """
    factor: float = 2.0
    """Between neighbors."""
    at_most: int = 3
    """Values more at either end."""


@dataclass(frozen=True)
class Always:
    """Settings that are confirmed whether they were chosen or not: a published default."""

    when: Table
    """As in an override."""


@dataclass(frozen=True)
class Added:
    """Runs that a rule has added."""

    run: str
    """Key of a run that was there; these are like it but for what follows."""
    seeds: tuple[int, ...]
    set: Table = ()
    """Dotted names, and the values that they have here."""


def added_runs(runs: Collection[RunSettings], added: Sequence[Added]) -> Iterator[RunSettings]:
    """The runs that the entries stand for, one after the other; an entry may build upon those before it."""
    known = {run.key: run for run in runs} if added else {}
    for entry in added:
        for run in more_of(known[entry.run], entry):
            known[run.key] = run
            yield run


def more_of(base: RunSettings, entry: Added) -> Iterator[RunSettings]:
    """The runs of one entry, whose base is this run."""
    for path, value in entry.set:
        base = with_setting(base, path, value)
    return (dataclasses.replace(base, seed=seed) for seed in entry.seeds)


def rounds_faults(
    runs: Sequence[RunSettings],
    seeds: Sequence[int],
    confirm_seeds: Sequence[int],
    confirm_also: Sequence[Always],
    extend: Sequence[Extension],
    added: Sequence[Added],
) -> Iterator[Fault | str]:
    """What is wrong with the rules of a spec whose grid has these runs and seeds, and with what was added."""
    yield from seed_faults("confirm_seeds", confirm_seeds, may_be_none=True)
    both = sorted(set(seeds) & set(confirm_seeds))
    if both:
        yield f"confirm_seeds: {shown(both)} are among the seeds that settings are chosen by; expected others"
    rules = " and ".join(name for name, one in (("extend", extend), ("confirm_seeds", confirm_seeds)) if one)
    if rules and any(run.recipe.data.n_validation < 1 for run in runs):
        yield (
            f"{rules}: settings are chosen by validation score, expected recipe.data.n_validation of at "
            "least 1 in all runs"
        )
    if confirm_also and not confirm_seeds:
        yield "confirm_also: needs confirm_seeds"
    for index, one in enumerate(confirm_also):
        yield from _always_faults(one, f"confirm_also[{index}]", runs)
    for index, rule in enumerate(extend):
        yield from _extension_faults(rule, f"extend[{index}]", runs)
    known = {run.key: run for run in runs} if added else {}
    for index, entry in enumerate(added):
        faults = list(_added_faults(entry, f"added[{index}]", known))
        if not faults:
            more = tuple(more_of(known[entry.run], entry))
            faults = [f"added[{index}].set: {fault}" for fault in _run_faults(more[0])]
            known |= {run.key: run for run in more}
        yield from faults
    if len(known) > MAX_RUNS:
        yield f"added: they make {len(known):,} runs in all, expected at most {MAX_RUNS:,}"


def _always_faults(one: Always, where: str, runs: Sequence[RunSettings]) -> Iterator[Fault | str]:
    if one.when is UNREAD:
        return
    faults = list(override_faults(Override(one.when, skip=True), where))
    yield from faults
    if not faults and any(path == "seed" for path, _ in one.when):
        yield f"{where}.when: seed: expected settings other than the seed, which confirm_seeds says"
        return
    if not faults and not any(Override(one.when).fits(run) for run in runs):
        yield f"{where}.when: fits no run: {shown(dict(one.when))}"


def _extension_faults(rule: Extension, where: str, runs: Sequence[RunSettings]) -> Iterator[Fault | str]:
    path: object = rule.path
    is_there = path in _CHOSEN and any(run.at(path) is not None for run in runs)
    if path is not UNREAD and not is_there:
        wanted = f"the dotted name of a number that is chosen and some run has, one of {', '.join(_CHOSEN)}"
        yield Fault(f"{where}.path", wanted, rule.path)
    factor: object = rule.factor  # a file may say anything
    if isinstance(factor, bool) or not (isinstance(factor, int | float) and 1 < factor < math.inf):
        yield Fault(f"{where}.factor", "a finite number above 1", factor)
    if type(rule.at_most) is not int or not 1 <= rule.at_most <= _MOST_VALUES:
        yield Fault(f"{where}.at_most", f"a whole number from 1 to {_MOST_VALUES}", rule.at_most)


def _run_faults(run: RunSettings) -> Iterator[str]:
    yield from run.recipe.faults()
    yield from run.method.faults()
    yield from optimizer_faults(run.recipe.optimizer, run.method)


def _added_faults(entry: Added, where: str, runs: Mapping[str, RunSettings]) -> Iterator[Fault | str]:
    base = runs.get(entry.run) if isinstance(entry.run, str) else None
    wanted = "the key of a run of this study, or no [[added]], which the runner writes anew"
    if base is None and entry.run is not UNREAD:
        yield Fault(f"{where}.run", wanted, entry.run)
    seeds: object = entry.seeds
    if not isinstance(seeds, tuple) or not all(type(seed) is int for seed in seeds):
        if seeds is not UNREAD:
            yield Fault(f"{where}.seeds", "a list of whole numbers", seeds)
    else:
        yield from seed_faults(f"{where}.seeds", seeds)
    if base is not None and entry.set != ():
        yield from override_faults(Override((), entry.set), where)
        lacking = [path for path, _ in entry.set if path not in base.flat()] if is_table(entry.set) else []
        yield from (f"{where}.set: {path}: {base.label} has no such setting" for path in lacking)
