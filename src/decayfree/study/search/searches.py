"""What is searched for in a spec, and the spec that evaluates what was found.

Proposes nothing and trains nothing. A search covers the runs of a spec that differ in learning rate, weight
decay and seed only.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from decayfree.errors import InvalidInputError, closest
from decayfree.methods.method import Method
from decayfree.study.run_settings import RunSettings
from decayfree.study.spec.axes import Override, overridden
from decayfree.study.spec.study_spec import StudySpec
from decayfree.study.statistics.budget import Budget, expected_best, share_far_down

DECAY = "weight_decay"
_SEARCHED = frozenset({"learning_rate", f"method.{DECAY}"})


@dataclass(frozen=True)
class Trial:
    """One proposal, trained with every seed of the spec."""

    number: int
    learning_rate: float
    weight_decay: float | None
    """None for a method that has none."""
    validation_score: float
    """Mean over the seeds, from 0 to 1, after the last step; 0 for a seed that diverged."""
    runs: tuple[str, ...]
    """Keys of its runs: their folders below ``tuning/runs``."""


@dataclass(frozen=True)
class Search:
    """What is searched for, and the trials so far, in their order."""

    label: str
    start: RunSettings
    """The first proposal, and all that the search leaves as it is; its seed does not count."""
    trials: tuple[Trial, ...] = ()

    @property
    def best(self) -> Trial:
        """The trial of the highest validation accuracy, the first of several."""
        return max(self.trials, key=lambda trial: trial.validation_score)

    @property
    def budget(self) -> Budget:
        """Validation accuracy of the best of k of these trials, drawn at random, and not in their order."""
        return expected_best(self._scores, self._scores)

    @property
    def far_down(self) -> float:
        """Share of its trials that end more than 2 points below the best one."""
        return share_far_down(self._scores, self.best.validation_score)

    @property
    def _scores(self) -> list[list[float]]:
        return [[trial.validation_score for trial in self.trials]]


def searched_for(spec: StudySpec, methods: Sequence[str] | None) -> tuple[list[RunSettings], tuple[str, ...]]:
    """One run for each search: the spec's, of one seed, that differ in more than what is searched for."""
    known = {method.name for method in spec.methods}
    unknown = [name for name in methods or () if name not in known]
    if unknown:
        raise InvalidInputError(
            f"{', '.join(unknown)}: not among the spec's methods, which are {', '.join(sorted(known))}"
            f"{closest(unknown[0], known)}"
        )
    starts: dict[RunSettings, RunSettings] = {}
    left_out: dict[str, None] = {}
    for run in spec.runs():
        if run.seed != spec.seeds[0] or (methods and run.method.name not in methods):
            continue
        if run.method.replays is not None:
            left_out[run.method.name] = None
        else:
            starts.setdefault(_without_searched(run), run)
    if not starts:
        raise InvalidInputError(
            f"nothing to search for: {', '.join(left_out)} replays the norms of another "
            "run at that run's settings"
        )
    lacking = [start for start in starts.values() if start.recipe.data.n_validation < 1]
    if lacking:
        raise InvalidInputError(
            "recipe.data.n_validation: expected at least 1, since settings are chosen by validation score "
            "and never by the test; got 0"
        )
    return list(starts.values()), tuple(left_out)


def best_spec(spec: StudySpec, searches: Sequence[Search], *, n_seeds: int) -> StudySpec:
    """A study of the best trial of each search, with seeds that ``spec`` does not have."""
    first = max(spec.seeds) + 1
    plain = StudySpec(
        methods=tuple(dict.fromkeys(_method_of(spec, search.start) for search in searches)),
        seeds=tuple(range(first, first + n_seeds)),
        recipe=spec.recipe,
        axes=tuple(axis for axis in spec.axes if axis.path != "learning_rate"),
        title=f"{spec.title}, at settings chosen by validation",
        question=spec.question,
        data_dir=spec.data_dir,
        source_dir=spec.source_dir,
    )
    # What is chosen comes last, and so wins over what the spec sets.
    chosen = tuple(
        Override(when=when, set=_settings_of(search.best))
        for when, search in zip(_conditions([search.start for search in searches]), searches, strict=True)
    )
    best = dataclasses.replace(plain, overrides=(*_kept(spec.overrides, plain), *chosen))
    wanted = {_chosen_settings(search) for search in searches}
    if {dataclasses.replace(run, seed=0) for run in best.runs()} != wanted:
        raise InvalidInputError(
            "the search cannot be written as a spec: overrides of this one ask for a learning rate or a "
            "weight decay and set something else; write what they set as methods, "
            "axes or overrides that ask for other settings"
        )
    return best


def _kept(overrides: Sequence[Override], plain: StudySpec) -> tuple[Override, ...]:
    """Those that do not ask for what is searched for, and that fit a run that is left."""
    left, kept = list(plain.runs()), []
    for override in overrides:
        asks_for_searched = _SEARCHED & {path for path, _ in override.when}
        if not asks_for_searched and any(override.fits(run) for run in left):
            kept.append(override)
            left = [run for one in left if (run := overridden(one, (override,)))]
    return tuple(kept)


def _chosen_settings(search: Search) -> RunSettings:
    """The run of the best trial, for seed 0."""
    best, start = search.best, search.start
    recipe = dataclasses.replace(start.recipe, learning_rate=best.learning_rate)
    return RunSettings(_with_decay(start.method, best.weight_decay), 0, recipe)


def _without_searched(run: RunSettings) -> RunSettings:
    """Equal for runs that one search covers."""
    recipe = dataclasses.replace(run.recipe, learning_rate=1.0)
    return RunSettings(_with_decay(run.method, 1.0), run.seed, recipe)


def _with_decay(method: Method, decay: float | None) -> Method:
    """The method with another weight decay, where it has one."""
    if decay is None or decay_of(method) is None:
        return method
    return dataclasses.replace(method, **{DECAY: decay})  # type: ignore[type-var]


def decay_of(method: Method) -> float | None:
    """The weight decay that is searched for; None for a method that has none."""
    has_one = any(entry.name == DECAY for entry in dataclasses.fields(method))  # type: ignore[arg-type]
    return getattr(method, DECAY) if has_one else None


def _method_of(spec: StudySpec, start: RunSettings) -> Method:
    """The spec's method that overrides made the start's: first of its name and settings, the decay aside."""
    wanted = _without_searched(start).method
    alike = [method for method in spec.methods if method.name == wanted.name]
    same = [
        method
        for method in alike
        if _without_searched(dataclasses.replace(start, method=method)).method == wanted
    ]
    return (same or alike)[0]


def _conditions(starts: Sequence[RunSettings]) -> list[tuple[tuple[str, Any], ...]]:
    """What tells the runs of each search from those of the others, as an override asks for it."""
    flat = [_without_searched(start).flat() for start in starts]
    conditions = []
    for one in flat:
        differing = [
            path
            for path, value in one.items()
            if path not in {*_SEARCHED, "seed", "method.name"}
            and any(
                other.get(path, value) != value
                for other in flat
                if not path.startswith("method.") or other["method.name"] == one["method.name"]
            )
        ]
        conditions.append((("method.name", one["method.name"]), *((path, one[path]) for path in differing)))
    return conditions


def labels_of(starts: Sequence[RunSettings]) -> list[str]:
    """What a table says: the method, and what else differs between searches."""
    labels = []
    for when in _conditions(starts):
        (_, name), *rest = when
        told = (
            f"{path.removeprefix('method.').removesuffix('.name')} {_text(value)}" for path, value in rest
        )
        labels.append(", ".join([str(name).replace("_", " "), *told]))
    return labels


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _settings_of(trial: Trial) -> tuple[tuple[str, Any], ...]:
    decay = () if trial.weight_decay is None else ((f"method.{DECAY}", trial.weight_decay),)
    return (("learning_rate", trial.learning_rate), *decay)
