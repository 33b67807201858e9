"""What the curves show, one paragraph a chart, computed from the numbers.

It judges no final accuracy (`verdicts` does) and draws nothing. It returns plain text that the page escapes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from decayfree.report.numbers.series import (
    Cell,
    StudyNumbers,
    finals,
    mean_effective_learning_rate,
    mean_norm,
    norm_of,
)
from decayfree.report.words.wording import (
    NOTHING,
    Figures,
    by_method,
    count,
    factor,
    listing,
    percent,
    points,
    sentences,
    signed_points,
    significant,
)
from decayfree.study.files.results import Row

FALL = 0.05
"""How far the mean test accuracy must fall below what it has reached to be worth a sentence."""


def test_score(numbers: StudyNumbers) -> str:
    """Who reaches a level that all reach first, and who falls in mid-training."""
    reference = numbers.reference
    if reference is None:
        return NOTHING
    curves = {method.short: method.curve(lambda row: row.test_score).points for method in numbers.shown}
    if not all(curves.values()):
        return NOTHING
    level, first = _first_steps(curves)
    return sentences(
        f"The means of all methods end above {percent(level, 0)}.",
        f"That level is first reached {_reached(first)}.",
        _rank(reference.short, first),
        f"Samples are {_spacing(curves[reference.short])} apart.",
        _falls(curves),
    )


def test_figures(numbers: StudyNumbers) -> Figures:
    """At which step each method reaches the level that all end above, and how far its mean falls."""
    curves = {method.short: method.curve(lambda row: row.test_score).points for method in numbers.shown}
    if not curves or not all(curves.values()):
        return {}
    level, first = _first_steps(curves)
    falls = {name: _fall(curve)[0] for name, curve in curves.items()}
    return {
        f"Step of {percent(level, 0)}": {name: (step, f"{step:,}") for name, step in first.items()},
        "Deepest fall": {name: (depth, points(depth)) for name, depth in falls.items()},
    }


def train_figures(numbers: StudyNumbers) -> Figures:
    """The last score on training images, and by how much it is above that on test images."""
    ends = finals(numbers.shown, lambda row: row.train_score)
    gaps = finals(numbers.shown, lambda row: row.train_score - row.test_score)
    return {
        "At the end": {name: (end, percent(end)) for name, end in ends.items()},
        "Minus test, points": {name: (gap, signed_points(gap)) for name, gap in gaps.items()},
    }


def norm_figures(numbers: StudyNumbers) -> Figures:
    """By how much norms change, over the training and in its second half."""
    whole = _changes(numbers.shown, mean_norm)
    half = _changes(numbers.shown, mean_norm, from_half=True)
    return {"Last over first": _factors(whole), "Second half alone": _factors(half)}


def rate_figures(numbers: StudyNumbers) -> Figures:
    """Effective learning rates halfway, over that of the reference, and their changes."""
    if numbers.reference is None:
        return {}
    _, rate, ratios = _half_way(numbers, numbers.reference)
    changes = _changes(numbers.shown, _per_learning_rate)
    return {
        f"Halfway, over {numbers.reference.short}": _factors(
            {numbers.reference.short: 1.0, **ratios} if rate else {}
        ),
        "Change, schedule divided out": _factors(changes),
    }


def train_score(numbers: StudyNumbers) -> str:
    """Where training accuracy ends and how far test accuracy stays below it."""
    if numbers.reference is None:
        return NOTHING
    name = numbers.reference.metric.name
    ends = finals(numbers.shown, lambda row: row.train_score)
    gaps = finals(numbers.shown, lambda row: row.train_score - row.test_score)
    if not gaps:
        return NOTHING
    least, most = min(gaps, key=lambda name: gaps[name]), max(gaps, key=lambda name: gaps[name])
    noise = numbers.recipe.data.label_noise
    return sentences(
        f"Training {name} ends at {by_method(ends, percent)}.",
        f"Training minus test {name} is lowest for {least} ({signed_points(gaps[least])} points) and "
        f"highest for {most} ({signed_points(gaps[most])} points).",
        f"As {percent(noise, 0)} of the training labels are random, to fit them all is to learn wrong ones."
        if noise
        else "",
    )


def norms(numbers: StudyNumbers) -> str:
    """How the norms change from the first sample to the last, and how still rescaling holds them."""
    if numbers.reference is None:
        return NOTHING
    changes = _changes(numbers.shown, mean_norm)
    n_weights = count(len(numbers.reference.weights), "weight")
    return sentences(
        f"From the first sample to the last the norms change by {by_method(changes, factor)}: geometric "
        f"means over {n_weights} and all seeds.",
        *(_largest_change(method) for method in numbers.shown if not method.settings.method.is_treatment),
        *(_second_half(method) for method in numbers.shown if _decays(method)),
        *(_held(method) for method in numbers.shown if method.settings.method.holds_norms),
    )


def effective_learning_rates(numbers: StudyNumbers) -> str:
    """Effective learning rates in mid-training, what norms alone did to them, and how a replay follows."""
    if numbers.reference is None:
        return NOTHING
    changes = _changes(numbers.shown, _per_learning_rate)
    relative = (
        "Divided by the scheduled learning rate, so that the schedule cancels, it changes over the training "
        f"by {by_method(changes, factor)}."
    )
    replays = [method for method in numbers.shown if method.settings.method.replays is not None]
    if not any(method.curve(mean_effective_learning_rate).points for method in numbers.shown):
        return "No effective learning rate was recorded: with this optimizer none is known."
    return sentences(
        _half_way_text(numbers, numbers.reference),
        relative if changes else "",
        *(_tracking(method, numbers) for method in replays),
    )


def effective_learning_rate_notes(numbers: StudyNumbers) -> list[str]:
    """What is shown, and what dominates it."""
    formula = "η/‖w‖²" if numbers.recipe.optimizer.name == "sgd" else "η/‖w‖"
    return [
        (
            f"The effective learning rate of a block is {formula}: "
            "the size of the steps that its direction takes."
        ),
        "It is averaged over the blocks of a weight, so that blocks whose norm has decayed almost to "
        "nothing, as those of dead channels do under strong decay, dominate it.",
    ]


def _rank(name: str, first: Mapping[str, int]) -> str:
    others = [step for other, step in first.items() if other != name]
    if not others:
        return ""
    if first[name] == min(others):
        return f"{name} is among the first."
    return f"{name} is {'the first' if first[name] < min(others) else 'not the first'}."


def _spacing(curve: Sequence[tuple[int, float]]) -> str:
    steps = [step for step, _ in curve]
    gaps = sorted({after - before for before, after in pairwise(steps)})
    if len(gaps) <= 1:
        return count(gaps[0] if gaps else 0, "step")
    return f"{gaps[0]} to {count(gaps[-1], 'step')}"


def _falls(curves: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    falls = {name: fall for name, curve in curves.items() if (fall := _fall(curve))[0] > FALL}
    if not falls:
        return f"No mean falls by more than {points(FALL, 0)} on the way."
    most = max(falls, key=lambda name: falls[name])
    depth, after, step = falls[most]
    more = f" (so do those of {listing([name for name in falls if name != most])})" if len(falls) > 1 else ""
    return (
        f"On the way the mean of {most} falls by {points(depth)}, to {percent(after)} at step {step:,}{more}."
    )


def _fall(curve: Sequence[tuple[int, float]]) -> tuple[float, float, int]:
    """The deepest fall of the mean below a level that it had reached before: by, to, and at which step."""
    depth, after, at_step, highest = 0.0, 0.0, 0, 0.0
    for step, mean in curve:
        highest = max(highest, mean)
        if highest - mean > depth:
            depth, after, at_step = highest - mean, mean, step
    return depth, after, at_step


def _first_steps(curves: Mapping[str, Sequence[tuple[int, float]]]) -> tuple[float, dict[str, int]]:
    """A level that all means end above, and the step at which each first reaches it."""
    lowest = min(curve[-1][1] for curve in curves.values())
    level = math.floor(100 * lowest - 5 * abs(lowest)) / 100  # counts may be worse than none at all, below 0
    return level, {name: next(s for s, mean in curve if mean >= level) for name, curve in curves.items()}


def _reached(first: Mapping[str, int]) -> str:
    steps = sorted(set(first.values()))
    ends = steps if len(steps) < 2 else (steps[0], steps[-1])
    said = [
        f"at step {step:,} by {listing([name for name in first if first[name] == step])}" for step in ends
    ]
    return said[0] if len(said) == 1 else f"{said[0]}, and last {said[1]}"


def _factors(values: Mapping[str, float]) -> dict[str, tuple[float, str]]:
    return {name: (value, factor(value)) for name, value in values.items()}


def _changes(
    methods: Sequence[Cell], value: Callable[[Row], float], *, from_half: bool = False
) -> dict[str, float]:
    """Last over first value (if asked, first after half-time) of the geometric mean over seeds, by method."""
    changes = {}
    for method in methods:
        known = method.curve(value, is_logarithmic=True).points
        if from_half and known:
            known = [(step, mean) for step, mean in known if 2 * step >= known[-1][0]]
        if len(known) > 1:
            changes[method.short] = known[-1][1] / known[0][1]
    return changes


def _held(method: Cell) -> str:
    """How far rescaling lets the norms depart from what they are at the first sample."""
    if all(len(run.rows) < 2 for run in method.runs.values()):
        return ""
    deviation = max(
        abs(norm / run.rows[0].norms[name] - 1)
        for run in method.runs.values()
        for row in run.rows
        for name, norm in row.norms.items()
    )
    held = "at all" if deviation == 0 else f"by more than {significant(deviation, 2)} of it"
    return (
        f"Under {method.short} the mean norm of no weight departs from its first value {held}, in any sample."
    )


def _largest_change(method: Cell) -> str:
    changes = {name: _changes([method], norm_of(name)) for name in method.weights}
    growth = {name: change[method.short] for name, change in changes.items() if change}
    if len(growth) < 2:
        return ""
    least, most = min(growth, key=lambda name: growth[name]), max(growth, key=lambda name: growth[name])
    return (
        f"Under {method.short} the change is largest for {most} ({factor(growth[most])}) and smallest for "
        f"{least} ({factor(growth[least])})."
    )


def _decays(method: Cell) -> bool:
    """Whether decay shrinks the norms, and nothing puts them back."""
    return bool(method.weight_decay) and not method.settings.method.holds_norms


def _second_half(method: Cell) -> str:
    """Whether decay has come to its equilibrium: what it still changes late."""
    change = _changes([method], mean_norm, from_half=True).get(method.short)
    return f"{method.short} changes them by {factor(change)} in the second half alone." if change else ""


def _half_way_text(numbers: StudyNumbers, reference: Cell) -> str:
    step, rate, ratios = _half_way(numbers, reference)
    if not rate:
        return ""
    return sentences(
        f"Halfway, at step {step:,}, the effective learning rate of {reference.short} is "
        f"{significant(rate)}.",
        f"Over that, those of the others are {by_method(ratios, factor)}." if ratios else "",
    )


def _half_way(numbers: StudyNumbers, reference: Cell) -> tuple[int, float, dict[str, float]]:
    """At the sampled step nearest to half-time: the reference's rate, 0 if unknown, and others' over it."""
    curves = {
        method.short: dict(method.curve(mean_effective_learning_rate, is_logarithmic=True).points)
        for method in numbers.shown
    }
    if not curves.get(reference.short):
        return 0, 0.0, {}
    last_step = numbers.recipe.n_steps
    step = min(curves[reference.short], key=lambda candidate: abs(2 * candidate - last_step))
    rate = curves[reference.short][step]
    return (
        step,
        rate,
        {m.short: curves[m.short][step] / rate for m in numbers.others if step in curves[m.short]},
    )


def _per_learning_rate(row: Row) -> float:
    return mean_effective_learning_rate(row) / row.learning_rate if row.learning_rate > 0 else math.nan


def _tracking(method: Cell, numbers: StudyNumbers) -> str:
    """How closely a run that replays weight decay follows it, seed by seed and sample by sample."""
    followed = [other for other in numbers.shown if other.settings.method == method.settings.method.replays]
    if not followed:
        return ""
    decay = followed[0]
    pairs = [
        (mean_effective_learning_rate(mine), mean_effective_learning_rate(theirs))
        for seed in sorted(method.runs.keys() & decay.runs.keys())
        for mine, theirs in zip(method.runs[seed].rows, decay.runs[seed].rows, strict=False)
        if mine.step == theirs.step
    ]
    distances = [abs(mine / theirs - 1) for mine, theirs in pairs if math.isfinite(mine) and theirs > 0]
    if not distances:
        return ""
    within = f"within a relative {significant(max(distances), 2)}" if max(distances) else "exactly"
    return (
        f"{method.short} follows {decay.short} of the same seed, as it is meant to, {within} at every sample."
    )
