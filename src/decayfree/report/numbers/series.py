"""The numbers behind the page: per method its finished runs, its curves over training, its final accuracies.

It writes no text and draws nothing. Only runs that are done count; the others are listed on the page.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from decayfree.study.files.results import Row, Run, Study
from decayfree.study.run_settings import Recipe, RunSettings
from decayfree.study.statistics.estimates import Estimate, mean_interval, paired_difference
from decayfree.study.statistics.significance import Family, Judgement, family_of

SHORT = {
    "none": "no decay",
    "learning_rate_scaling": "learning-rate scaling",
    "exact_replay": "exact replay",
    "wrs": "WRS",
}
"""What sentences call a method that occurs with one setting only."""


@dataclass(frozen=True)
class Curve:
    """A mean over seeds at every step that all seeds have sampled; None where a seed has no such number.

    ``low`` and ``high`` are the ends of the 95 % t interval, None throughout where there is one seed.
    """

    steps: tuple[int, ...]
    mean: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]

    @property
    def points(self) -> list[tuple[int, float]]:
        """(step, mean) where there is a mean."""
        return [(step, mean) for step, mean in zip(self.steps, self.mean, strict=True) if mean is not None]


@dataclass(frozen=True)
class MethodSeries:
    """One method of the study.

    What legends call it, what sentences call it, and its finished runs by seed.
    """

    label: str
    short: str
    name: str
    runs: Mapping[int, Run]
    settings: RunSettings
    """Of one of its seeds."""
    begun: tuple[Run, ...] = ()
    """All that have begun, finished or not."""

    @property
    def n(self) -> int:
        """Number of seeds whose run is done."""
        return len(self.runs)

    @property
    def final_test_accuracies(self) -> dict[int, float]:
        """Test accuracy after the last step, by seed; a share from 0 to 1."""
        return {seed: run.rows[-1].test_accuracy for seed, run in self.runs.items()}

    @cached_property
    def final_test(self) -> Estimate | None:
        """Mean final test accuracy; None where no run is done."""
        return self.final(lambda row: row.test_accuracy)

    @cached_property
    def weights(self) -> tuple[str, ...]:
        """Names of the scale-invariant weights, in the order of the model."""
        return next((tuple(run.rows[0].norms) for run in self.runs.values()), ())

    def final(self, value: Callable[[Row], float]) -> Estimate | None:
        """Mean of ``value`` after the last step; None where a seed has no such number, or no run is done."""
        values = [value(run.rows[-1]) for run in self.runs.values()]
        return mean_interval(values) if values and all(map(math.isfinite, values)) else None

    def curve(self, value: Callable[[Row], float], *, is_logarithmic: bool = False) -> Curve:
        """Mean and interval of ``value`` over seeds, step by step.

        Args:
            value: What to read from a row of metrics.
            is_logarithmic: Average logarithms: the mean is the geometric one and the interval stays above 0.
        """
        by_step = [{row.step: value(row) for row in run.rows} for run in self.runs.values()]
        steps = sorted(set.intersection(*map(set, by_step))) if by_step else []
        estimates = [_estimate([seed[step] for seed in by_step], is_logarithmic) for step in steps]
        back = math.exp if is_logarithmic else float
        return Curve(
            steps=tuple(steps),
            mean=tuple(None if e is None else back(e.mean) for e in estimates),
            low=tuple(None if e is None or e.low is None else back(e.low) for e in estimates),
            high=tuple(None if e is None or e.high is None else back(e.high) for e in estimates),
        )


@dataclass(frozen=True)
class StudyNumbers:
    """All that the page says in numbers."""

    study: Study
    methods: tuple[MethodSeries, ...]
    compared_with: str | None = None
    """Name or label of the method that the others are compared with, where one was asked for."""

    @property
    def recipe(self) -> Recipe:
        """What the runs have in common beside their method."""
        return self.methods[0].settings.recipe

    @property
    def shown(self) -> tuple[MethodSeries, ...]:
        """The methods that have a finished run."""
        return tuple(method for method in self.methods if method.n)

    @cached_property
    def reference(self) -> MethodSeries | None:
        """The method that the others are compared with.

        What was asked for, else WRS, else weight decay, else the first one shown.
        """
        for name in (self.compared_with, "wrs", "weight_decay"):
            for method in self.shown:
                if name in (method.name, method.label, method.short):
                    return method
        return self.shown[0] if self.shown else None

    @property
    def others(self) -> tuple[MethodSeries, ...]:
        """The methods shown, without the reference."""
        return tuple(method for method in self.shown if method is not self.reference)

    @cached_property
    def family(self) -> Family[str]:
        """Final test accuracy of every method minus that of the reference, paired by seed, by label.

        Corrected together.
        """
        base = self.reference.final_test_accuracies if self.reference else {}
        compared = {m.label: paired_difference(m.final_test_accuracies, base) for m in self.others}
        return family_of({label: comparison for label, comparison in compared.items() if comparison})

    def comparison(self, method: MethodSeries) -> Judgement | None:
        """What the difference of a method from the reference says as one of the family.

        None where there is none.
        """
        return self.family.judgements.get(method.label)

    @cached_property
    def unfinished(self) -> tuple[Run, ...]:
        """Runs that diverged, failed or are not done, in the order of the study."""
        return tuple(run for run in self.study.runs if run.state != "done")

    @property
    def n_done(self) -> int:
        """Number of finished runs."""
        return sum(method.n for method in self.methods)


def study_numbers(study: Study, compared_with: str | None = None) -> StudyNumbers:
    """Sort the runs of a study by method, in the order of its spec.

    Where runs of a method differ in more, `study_groups` sorts them.
    """
    begun = {run.key: run for run in study.runs}
    by_key = {run.key: run for run in study.runs if run.state == "done" and run.rows}
    planned: dict[Any, list[RunSettings]] = {}
    for settings in study.spec.runs():
        planned.setdefault(settings.method, []).append(settings)
    names = [method.name for method in planned]
    methods = []
    for method, own in planned.items():
        runs = {settings.seed: by_key[settings.key] for settings in own if settings.key in by_key}
        short = SHORT[method.name] if names.count(method.name) == 1 and method.name in SHORT else method.label
        every = tuple(begun[settings.key] for settings in own if settings.key in begun)
        methods.append(MethodSeries(method.label, short, method.name, runs, own[0], every))
    return StudyNumbers(study, tuple(methods), compared_with)


def norm_of(weight: str) -> Callable[[Row], float]:
    """What reads the mean block norm of one weight from a row."""
    return lambda row: row.norms[weight]


def rate_of(weight: str) -> Callable[[Row], float]:
    """What reads the mean effective learning rate of one weight from a row."""
    return lambda row: row.effective_learning_rates[weight]


def mean_norm(row: Row) -> float:
    """Geometric mean over the weights of their mean block norm; in units of the weights."""
    return geometric_mean(list(row.norms.values()))


def mean_effective_learning_rate(row: Row) -> float:
    """Geometric mean over the weights of their effective learning rate."""
    return geometric_mean(list(row.effective_learning_rates.values()))


def mean_angular_update(row: Row) -> float:
    """Geometric mean over the weights of the mean angle by which the last step turned their blocks.

    Radians.
    """
    return geometric_mean(list(row.angular_updates.values()))


def finals(methods: Sequence[MethodSeries], value: Callable[[Row], float]) -> dict[str, float]:
    """Mean of ``value`` after the last step, by method, where there is one."""
    estimates = {method.short: method.final(value) for method in methods}
    return {label: estimate.mean for label, estimate in estimates.items() if estimate is not None}


def starts(methods: Sequence[MethodSeries], value: Callable[[Row], float]) -> dict[str, float]:
    """Mean of ``value`` before the first step, by method, where there is one."""
    curves = {method.short: method.curve(value).mean for method in methods}
    return {label: means[0] for label, means in curves.items() if means and means[0] is not None}


def geometric_mean(values: Sequence[float]) -> float:
    """Geometric mean; NaN where there is no value, or one is not finite and above 0."""
    if not values or not all(math.isfinite(value) and value > 0 for value in values):
        return math.nan
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def _estimate(values: Sequence[float], is_logarithmic: bool) -> Estimate | None:
    if not all(math.isfinite(value) and (value > 0 or not is_logarithmic) for value in values):
        return None
    return mean_interval([math.log(value) for value in values] if is_logarithmic else values)
