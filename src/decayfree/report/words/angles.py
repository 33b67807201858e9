"""How far steps turn weights, beside the predicted balance of decay and gradients: numbers and a paragraph.

It draws nothing. The prediction is the study's, from the recipe alone; nothing is fitted.
"""

import math
from collections.abc import Mapping, Sequence

from decayfree.arguments.address import Address
from decayfree.report.numbers.series import (
    Cell,
    StudyNumbers,
    geometric_mean,
    mean_angular_update,
    predicted_angles,
)
from decayfree.report.words.wording import (
    NOTHING,
    SPACE,
    Figures,
    by_method,
    factor,
    listing,
    percent,
    sentences,
    significant,
)
from decayfree.study.optimizers import equilibrium_at

CLOSE = 0.1
"""Within this relative distance an angle is said to be what is predicted."""
EARLY, LATE = (0.25, 0.5), (0.75, 1.0)
"""Shares of the training between which measured and predicted angles are compared."""
NOTHING_RECORDED = "No angular update was recorded."


def angular_updates(numbers: StudyNumbers) -> str:
    """How far angles are from predictions halfway and late, and whether they follow the learning rate."""
    if numbers.reference is None:
        return NOTHING
    curves = {method.short: _measured(method) for method in numbers.shown}
    if not any(curves.values()):
        return NOTHING_RECORDED
    decays = {
        method.short: ratios for method in numbers.shown if (ratios := _measured_over_predicted(method))
    }
    return sentences(
        _halfway(numbers, curves),
        _against_prediction(numbers, decays) if decays else "",
        *(_following(numbers, method) for method in numbers.shown if _has_only_a_held_norm(method)),
    )


def angular_update_notes(numbers: StudyNumbers) -> list[str]:
    """What is shown, what the prediction rests on, and when it can hold at all."""
    recipe = numbers.recipe
    notes = [
        "The angle is the one between a block before and after a single step, the last one before a sample: "
        "mean over the blocks of a weight, geometric mean over the weights and the seeds. "
        "A block without a gradient does not turn."
    ]
    if not _time_constants(numbers, 0):
        return notes
    forms = {
        getattr(method.settings.method, "form", "own") for method in numbers.shown if predicted_angles(method)
    }
    is_plain = "decoupled" not in forms and not recipe.optimizer.nesterov
    formula = " by √(2ηλ/(1+μ))" if is_plain else " by an angle"
    constant = " of (1−μ)/(4ηλ) steps" if is_plain else " in steps"
    cosine = (
        (
            " At the end of a cosine schedule η goes to zero, the time grows without end, "
            "and the norm stays behind."
        )
        if recipe.schedule == "cosine"
        else ""
    )
    return [
        *notes,
        f"Where decay and random gradients are in balance, a step of SGD turns a block{formula} that does "
        "not depend on the layer, on the norm or on the gradients. The thin dashed lines are this angle at "
        "the scheduled learning rate η.",
        "The balance is not there at once: the fourth power of the norm comes to it with a time "
        f"constant{constant}, which stands in the table; the training has {recipe.n_steps:,}.{cosine}",
        "A fixed norm has no such delay: its angle follows η, that of weight decay in balance √η.",
    ]


def angle_figures(numbers: StudyNumbers) -> Figures:
    """Angles halfway, those of decay over predicted ones, and the time that the balance takes to come."""
    curves = {method.short: curve for method in numbers.shown if (curve := _measured(method))}
    if not curves:
        return {}
    step = _middle(numbers, [step for curve in curves.values() for step in curve])
    decays = {
        method.short: ratios for method in numbers.shown if (ratios := _measured_over_predicted(method))
    }
    n_steps = numbers.recipe.n_steps
    over = {
        "Over predicted, second quarter": _mean_between(decays, n_steps, *EARLY),
        "… last quarter": _mean_between(decays, n_steps, *LATE),
        "… last step": {name: ratios[max(ratios)] for name, ratios in decays.items()},
    }
    waits = {
        "Time constant at first": _time_constants(numbers, 0),
        "… halfway": _time_constants(numbers, n_steps // 2),
    }
    return {
        f"Angle at step {step:,}": {
            n: (of[step], _radians(of[step])) for n, of in curves.items() if step in of
        },
        **{title: {n: (one, factor(one)) for n, one in of.items()} for title, of in over.items()},
        **{title: {n: (one, _steps(one)) for n, one in of.items()} for title, of in waits.items()},
    }


def _time_constants(numbers: StudyNumbers, step: int) -> dict[str, float]:
    """By method for which angles are predicted; NaN where it has none."""
    return {m.short: _time_constant(m, step) for m in numbers.shown if predicted_angles(m)}


def _steps(number: float) -> str:
    return f"{number:,.0f}{SPACE}steps" if math.isfinite(number) else "–"


def _measured(method: Cell) -> dict[int, float]:
    return dict(method.curve(mean_angular_update, is_logarithmic=True).points)


def _measured_over_predicted(method: Cell) -> dict[int, float]:
    measured = _measured(method)
    return {step: measured[step] / angle for step, angle in predicted_angles(method) if step in measured}


def _halfway(numbers: StudyNumbers, curves: Mapping[str, Mapping[int, float]]) -> str:
    step = _middle(numbers, [step for curve in curves.values() for step in curve])
    angles = {name: curve[step] for name, curve in curves.items() if step in curve}
    return f"Halfway, at step {step:,}, one step turns a block by {by_method(angles, _radians)}."


def _against_prediction(numbers: StudyNumbers, decays: Mapping[str, Mapping[int, float]]) -> str:
    recipe = numbers.recipe
    early, late = (_mean_between(decays, recipe.n_steps, *ends) for ends in (EARLY, LATE))
    last = {name: ratios[max(ratios)] for name, ratios in decays.items()}
    half = recipe.learning_rate_at(round(EARLY[1] * recipe.n_steps)) / recipe.learning_rate
    return sentences(
        (
            f"In the second quarter of the steps, until the learning rate is {percent(half, 0)} of its "
            f"first, the angle is {by_method(early, factor)} of the predicted one, in the geometric mean "
            "over samples."
        )
        if early
        else "",
        f"In the last quarter it is {by_method(late, factor)}.",
        f"After the last step it is {by_method(last, factor)}.",
        _whether_it_holds(late),
        _why_it_fails(numbers, late),
    )


def _mean_between(
    decays: Mapping[str, Mapping[int, float]], n_steps: int, low: float, high: float
) -> dict[str, float]:
    """Geometric mean of each method's ratios between two shares of the training, where there are any."""
    means = {
        name: geometric_mean([ratios[step] for step in ratios if low < step / n_steps <= high])
        for name, ratios in decays.items()
    }
    return {name: mean for name, mean in means.items() if math.isfinite(mean)}


def _whether_it_holds(late: Mapping[str, float]) -> str:
    holding = [name for name, ratio in late.items() if abs(ratio - 1) <= CLOSE]
    failing = [name for name in late if name not in holding]
    if not failing:
        return f"So it is what is predicted within {percent(CLOSE, 0)} also in the last quarter."
    return f"So in the last quarter the prediction does not hold for {listing(failing)}."


def _why_it_fails(numbers: StudyNumbers, late: Mapping[str, float]) -> str:
    """Where angles are smaller than in balance late: the time that the norms would need, beside that left."""
    recipe = numbers.recipe
    begin = round(LATE[0] * recipe.n_steps)
    waits = {
        method.short: _time_constant(method, begin)
        for method in numbers.shown
        if late.get(method.short, 1.0) < 1 - CLOSE
    }
    known = {name: wait for name, wait in waits.items() if wait > 0}
    if not known:
        return ""
    at_first = recipe.learning_rate_at(begin) / recipe.learning_rate
    return (
        "Where it is smaller, the norm cannot follow. When the last quarter begins, the learning rate is "
        f"{percent(at_first, 0)} of its first, and {recipe.n_steps - begin:,} steps are left. The norm comes "
        f"to its balance with a time constant of {by_method(known, _steps)}, which grows as the rate falls "
        "on. A norm that stays turns by angles that follow η, "
        "and not √η, and by less still as the gradients shrink."
    )


def _has_only_a_held_norm(method: Cell) -> bool:
    """Whether its norms are held and its steps are those that the learning rate makes, and no other ones."""
    kind = method.settings.method
    return kind.holds_norms and kind.replays is None and method.weight_decay is None


def _following(numbers: StudyNumbers, method: Cell) -> str:
    """Whether angles under a held norm scale with the learning rate; the rest is the gradients' change."""
    recipe, curve = numbers.recipe, _measured(method)
    if not curve:  # its weights did not turn
        return ""
    middle = _middle(numbers, list(curve))
    later = [step for step in curve if step >= middle]
    if len(later) < 2 or isinstance(recipe.schedule, Address):  # a page runs nothing of the user's
        return ""
    rates = {step: recipe.learning_rate_at(step - 1) for step in later}
    changes = [curve[step] / rates[step] / (curve[middle] / rates[middle]) for step in later]
    return (
        f"Under {method.short} the norm is held, so that the angle follows the learning rate: from halfway "
        f"on that changes by {factor(rates[later[-1]] / rates[middle])}, and the angle over it is "
        f"{factor(min(changes))} to {factor(max(changes))} of what it was, as the gradients change."
    )


def _middle(numbers: StudyNumbers, steps: Sequence[int]) -> int:
    """The sampled step nearest to half of the training."""
    return min(steps, key=lambda step: abs(2 * step - numbers.recipe.n_steps))


def _time_constant(method: Cell, step: int) -> float:
    balance = equilibrium_at(method.settings.method, method.settings.recipe, step)
    return math.nan if balance is None or balance.time_constant_steps is None else balance.time_constant_steps


def _radians(angle: float) -> str:
    return f"{significant(angle)}\N{NO-BREAK SPACE}rad"
