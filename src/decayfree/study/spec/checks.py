"""What is wrong with a spec as a whole: its seeds, its methods beside each other, the runs that it makes.

Reads no files. Of a file that could be read in part it tells what is wrong with that part, and claims nothing
that rests on the rest: whether an override fits a run is not said where a method has no known name.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from decayfree.methods.method import Method
from decayfree.methods.none import NoTreatment
from decayfree.study.checked_settings import is_unread, unread_in
from decayfree.study.optimizers import optimizer_faults
from decayfree.study.run_settings import Recipe, RunSettings
from decayfree.study.spec.axes import (
    UNREAD,
    WHOLE,
    Axis,
    Override,
    axis_faults,
    is_setting,
    overridden,
    override_faults,
    paths_set_by,
    recipes,
    set_by,
    unused_faults,
    usable,
)
from decayfree.study.spec.bounds import shown
from decayfree.study.spec.told import Told
from decayfree.study.spec.toml import as_field, field_paths, field_type, replaced

MAX_RUNS, MAX_METHODS = 10_000, 1_000
_MAX_LOOKS = 200_000
"""Runs times overrides."""


@dataclass(frozen=True)
class Parts:
    """What could be read of a spec; all of it, where it was made in Python."""

    methods: tuple[Method, ...]
    """Those that are whole."""
    seeds: tuple[int, ...] | None
    """None where they could not be read."""
    recipe: Recipe
    """With defaults for what could not be read."""
    axes: tuple[Axis, ...]
    """With the values that are without faults."""
    overrides: tuple[Override, ...]
    """Those that are without faults."""
    unread: frozenset[str]
    """Dotted names of what could not be read of the recipe, or is set by what could not."""
    methods_are_whole: bool
    """Whether ``methods`` are all that were meant."""
    paths_are_read: bool
    """Whether it is known what all axes and overrides set."""
    is_whole: bool
    """Whether all but the recipe and the seeds could be read: then it is known which runs there are."""


def parts_of(
    told: Told,
    methods: tuple[Method, ...],
    seeds: tuple[int, ...] | None,
    recipe: Recipe,
    axes: Mapping[int, Axis],
    overrides: Mapping[int, Override],
    *,
    methods_are_whole: bool = True,
    tables_are_whole: bool = True,
) -> Parts:
    """What can be used of a spec; what is wrong with single axes and overrides is told.

    Arguments are as in `Parts`, axes and overrides by their numbers in the file; tables are whole where these
    have the keys that they should.
    """
    unread = set(field_paths(Recipe)) if "recipe" in told.unread else unread_in("recipe", told.unread)
    sound_axes, sound_overrides, paths_are_read = [], [], not {"axes", "overrides"} & told.unread
    n_before = len(told.faults)
    for index, axis in axes.items():
        told.faults += axis_faults(axis, f"axes[{index}]")
        sound = usable(axis)
        if sound.values:
            sound_axes.append(sound)
        elif is_setting(axis.path) or axis.path == WHOLE:
            unread |= set(field_paths(Recipe)) if axis.path == WHOLE else {axis.path}
        else:
            paths_are_read = False
    paths = Counter(path for axis in axes.values() if axis.path is not UNREAD for path in axis.paths)
    told.faults += [f"axes: {path} has {n} axes, expected one" for path, n in paths.items() if n > 1]
    for index, override in overrides.items():
        faults = list(override_faults(override, f"overrides[{index}]"))
        told.faults += faults
        if not faults and override.when is not UNREAD:
            sound_overrides.append(override)
            continue
        paths_are_read = False
        unread |= {path for path in paths_set_by(override) if is_setting(path)}
        told.faults += _faults_of_values(set_by(override))
    tables_are_whole = tables_are_whole and len(told.faults) == n_before
    return Parts(
        methods,
        seeds,
        recipe,
        tuple(sound_axes),
        tuple(sound_overrides),
        frozenset(unread),
        methods_are_whole,
        paths_are_read,
        is_whole=methods_are_whole and tables_are_whole and paths_are_read,
    )


def whole_faults(parts: Parts) -> list[str]:
    """All that is wrong beyond single methods, axes and overrides; each fault once."""
    return [*_method_faults(parts), *seed_faults("seeds", parts.seeds), *_run_faults(parts)]


def grid_of(
    seeds: tuple[int, ...],
    recipe: Recipe,
    axes: tuple[Axis, ...],
    methods: tuple[Method, ...],
    overrides: tuple[Override, ...],
) -> tuple[RunSettings, ...]:
    """Every seed with every recipe and every method, as the overrides leave it; each once."""
    apart = _told_apart(seeds, overrides)
    planned = combinations(apart, recipe, axes, methods)
    left = [run for one in planned if (run := overridden(one, overrides)) is not None]
    every = left if apart == seeds else (replace(run, seed=seed) for seed in seeds for run in left)
    return tuple(dict.fromkeys(every))


def combinations(
    seeds: tuple[int, ...], recipe: Recipe, axes: tuple[Axis, ...], methods: tuple[Method, ...]
) -> Iterator[RunSettings]:
    """Every seed with every recipe and every method, before overrides."""
    for seed in seeds:
        for one in recipes(recipe, axes):
            for method in methods:
                yield RunSettings(method, seed, one)


def _told_apart(seeds: tuple[int, ...], overrides: tuple[Override, ...]) -> tuple[int, ...]:
    """The seeds, or the first one where no override asks for a seed: then it stands for all."""
    asks = any(path == "seed" for override in overrides for path, _ in override.when)
    return seeds if asks else seeds[:1]


def _faults_of_values(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with settings of the recipe, beside none but each other."""
    recipe = Recipe()
    for path, value in values.items():
        recipe = replaced(recipe, path, as_field(field_type(Recipe, path), value))
    tables = {path.rpartition(".")[0] for path in field_paths(Recipe)}
    others = {path for path in field_paths(Recipe) if path not in tables and path not in values}
    return [f"recipe.{fault}" for fault in recipe.faults(others)]


def _method_faults(parts: Parts) -> Iterator[str]:
    if parts.methods_are_whole:
        if not parts.methods:
            yield "methods: expected at least one"
        if len(parts.methods) > MAX_METHODS:
            yield f"methods: they are {len(parts.methods):,}, expected at most {MAX_METHODS:,}"
        if len(set(parts.methods)) < len(parts.methods):
            yield "methods: the same method with the same settings is there twice"


def seed_faults(where: str, seeds: Sequence[int] | None, *, may_be_none: bool = False) -> Iterator[str]:
    """What is wrong with seeds; nothing where they could not be read."""
    if seeds is None:
        return
    if not seeds and not may_be_none:
        yield f"{where}: expected at least one"
    if len(set(seeds)) < len(seeds):
        yield f"{where}: expected each once, got {shown(list(seeds))}"
    if any(seed < 0 for seed in seeds):
        yield f"{where}: expected whole numbers from 0, got {shown(list(seeds))}"
    if any(seed >= 2**63 for seed in seeds):
        yield f"{where}: expected whole numbers below 2^63, got {shown(list(seeds))}"


def _run_faults(parts: Parts) -> list[str]:
    """What is wrong with the runs as axes and overrides make them, with the number of runs that have it."""
    # What is not there is told already; a stand-in of which nothing can be wrong shows the faults of the
    # rest.
    seeds, methods = parts.seeds or (0,), parts.methods or (NoTreatment(),)
    n_runs = len(seeds) * len(methods) * math.prod(len(axis.values) for axis in parts.axes)
    too_many = ""
    if n_runs > MAX_RUNS:
        too_many = f"axes: they multiply to {n_runs:,} runs, expected at most {MAX_RUNS:,}"
    elif n_runs * len(parts.overrides) > _MAX_LOOKS:
        at_most = _MAX_LOOKS // n_runs
        too_many = f"overrides: {len(parts.overrides):,} over {n_runs:,} runs, expected at most {at_most:,}"
    if too_many:
        varied = {path for axis in parts.axes for path in axis.paths} | parts.unread
        return [too_many, *(f"recipe.{fault}" for fault in parts.recipe.faults(varied))]
    apart = _told_apart(seeds, parts.overrides)
    all_runs = tuple(combinations(apart, parts.recipe, parts.axes, methods))
    left = [run for one in all_runs if (run := overridden(one, parts.overrides)) is not None]
    runs = tuple(dict.fromkeys(left))
    n_each = len(set(seeds)) // len(set(apart))
    unused = list(unused_faults(all_runs, parts.overrides, parts.unread)) if parts.is_whole else []
    if not runs and parts.is_whole and not parts.unread:
        return [*unused, "overrides: they leave no run"]
    varied = {path for axis in parts.axes for path in axis.paths}
    unread = {path for path in parts.unread if not is_unread(path, varied)}
    said = {recipe: recipe.faults(unread) for recipe in dict.fromkeys(run.recipe for run in runs)}
    counted = Counter(fault for run in runs for fault in _faults_of(run, said[run.recipe], parts, unread))
    # How many runs have it is known only where it is known which runs there are.
    faults = unused + [
        fault
        if n == len(runs) or not parts.is_whole
        else f"{fault} (in {n * n_each} of {len(runs) * n_each} runs)"
        for fault, n in counted.items()
    ]
    if unused or not parts.is_whole:  # there may be overrides that none of these runs has met
        faults += [
            fault
            for override in parts.overrides
            for fault in _faults_of_values(set_by(override))
            if fault not in counted
        ]
    return faults + (list(dict.fromkeys(_missing_runs(runs))) if parts.is_whole else [])


def _faults_of(run: RunSettings, of_recipe: list[str], parts: Parts, unread: set[str]) -> Iterator[str]:
    """What is wrong with one run, but for the faults of methods that are told already."""
    yield from (f"recipe.{fault}" for fault in of_recipe)
    # Which optimizer a method meets, and with which settings, hangs on all that changes either.
    if parts.paths_are_read and not is_unread("optimizer.name", unread):
        yield from (f"recipe.{fault}" for fault in optimizer_faults(run.recipe.optimizer, run.method))
    if run.method not in parts.methods:
        yield from (
            f"methods: {run.method.name}, as an override sets it: {fault}" for fault in run.method.faults()
        )


def _missing_runs(runs: tuple[RunSettings, ...]) -> Iterator[str]:
    """Runs whose norms are replayed must be there."""
    there = set(runs)
    for run in runs:
        replayed = run.replayed_run
        if replayed is not None and replayed not in there:
            yield (
                f"methods: {run.label} replays the runs of {replayed.label}, "
                "which is not among the methods with otherwise equal settings"
            )
