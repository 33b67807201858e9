"""The numbers behind the page: the runs of one setting, their curves over training, their final accuracies.

It writes no text and draws nothing. Only runs that are done count; the others are listed on the page.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from decayfree.study.files.of_images import OfImages, images_of_text
from decayfree.study.files.results import Row, Run, Study
from decayfree.study.optimizers import equilibrium_at
from decayfree.study.run_settings import Recipe, RunSettings
from decayfree.study.statistics.estimates import Estimate, mean_interval
from decayfree.study.tasks.metric import Metric


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
class Cell:
    """All runs with one setting; only the seed differs."""

    settings: RunSettings
    """Of its first seed."""
    begun: Mapping[int, Run]
    """Those that have begun, by seed, whatever became of them."""
    n_planned: int
    label: str
    """What legends call it, setting and all."""
    short: str
    """What sentences call it: the method, and its setting only where several are told together."""
    metric: Metric
    """What its score is called, as in the whole study."""
    setting: str = ""
    """What neither the method nor the group tells, in words: weight decay 0.005, learning rate 0.1."""
    confirmation: "Cell | None" = None
    """The same with the seeds that nothing was chosen by; None where none are planned for it."""

    @cached_property
    def runs(self) -> dict[int, Run]:
        """Those that are done, by seed."""
        return {seed: run for seed, run in self.begun.items() if run.state == "done" and run.rows}

    @property
    def n(self) -> int:
        """Number of seeds whose run is done."""
        return len(self.runs)

    @property
    def n_diverged(self) -> int:
        """Number of runs that ended in numbers that are not finite."""
        return sum(run.state == "diverged" for run in self.begun.values())

    @property
    def learning_rate(self) -> float:
        """The first one of its schedule."""
        return self.settings.recipe.learning_rate

    @property
    def weight_decay(self) -> float | None:
        """The method's own coefficient, 0 without any treatment; None where a method has no such setting."""
        if not self.settings.method.is_treatment:
            return 0.0
        value = getattr(self.settings.method, "weight_decay", None)
        return value if isinstance(value, float) else None

    @property
    def test(self) -> dict[int, float]:
        """Test score after the last step, by seed; a share. Without runs that had nothing to score."""
        scores = {seed: run.rows[-1].test_score for seed, run in self.runs.items()}
        return {seed: score for seed, score in scores.items() if math.isfinite(score)}

    @cached_property
    def of_images(self) -> dict[int, OfImages]:
        """What each test image adds to the score after the last step, by seed, of runs that kept it."""
        last = {seed: run.rows[-1].test_images for seed, run in self.runs.items()}
        return {seed: images_of_text(text) for seed, text in last.items() if text}

    @property
    def validation(self) -> dict[int, float]:
        """Validation score after the last step, by seed; NaN where no images are kept for it."""
        return {seed: run.rows[-1].validation_score for seed, run in self.runs.items()}

    @cached_property
    def final_test(self) -> Estimate | None:
        """Mean final test score; None where no run is done."""
        return self.final(lambda row: row.test_score)

    @cached_property
    def weights(self) -> tuple[str, ...]:
        """Names of the scale-invariant weights, in the order of the model."""
        return next((tuple(run.rows[0].norms) for run in self.runs.values()), ())

    def final(self, value: Callable[[Row], float]) -> Estimate | None:
        """Mean of ``value`` after the last step; None where a seed has no such number, or no run is done."""
        values = [value(run.rows[-1]) for run in self.runs.values()]
        return mean_interval(values) if values and all(map(math.isfinite, values)) else None

    def curve(self, value: Callable[[Row], float], *, is_logarithmic: bool = False) -> Curve:
        """Mean and interval of ``value`` over seeds, step by step; what is read from a row of metrics.

        Logarithms are averaged where it is logarithmic: a geometric mean, an interval that stays above 0.
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
    """What is drawn and told together: one network, one data set, a curve for each setting of a method."""

    study: Study
    methods: tuple[Cell, ...]
    reference: Cell | None
    """The one that the others are compared with, drawn on top of them; one that has a finished run."""

    @property
    def recipe(self) -> Recipe:
        """What the runs have in common beside their method."""
        return self.methods[0].settings.recipe

    @property
    def shown(self) -> tuple[Cell, ...]:
        """The methods that have a finished run."""
        return tuple(method for method in self.methods if method.n)

    @property
    def others(self) -> tuple[Cell, ...]:
        """The methods shown, without the reference."""
        return tuple(method for method in self.shown if method is not self.reference)


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
    """Geometric mean over the weights of the mean angle, in radians, by which the last step turned blocks."""
    return geometric_mean(list(row.angular_updates.values()))


def predicted_angles(method: Cell) -> list[tuple[int, float]]:
    """(Steps done, angle of the last at its balance), from the recipe alone; empty where none is known."""
    settings, points = method.settings, []
    for step in method.curve(mean_angular_update, is_logarithmic=True).steps:
        balance = equilibrium_at(settings.method, settings.recipe, step - 1) if step else None
        if balance is not None:
            points.append((step, balance.angle_rad))
    return points


def finals(methods: Sequence[Cell], value: Callable[[Row], float]) -> dict[str, float]:
    """Mean of ``value`` after the last step, by method, where there is one."""
    estimates = {method.short: method.final(value) for method in methods}
    return {label: estimate.mean for label, estimate in estimates.items() if estimate is not None}


def starts(methods: Sequence[Cell], value: Callable[[Row], float]) -> dict[str, float]:
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
