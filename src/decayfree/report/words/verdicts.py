"""Who is better.

The summary of a study, the paragraph on final test accuracies, and what their statistics mean.

What does not favor weight rescaling is said in the same words as what does. It returns plain text that the
page escapes.
"""

from decayfree.report.numbers.series import MethodSeries, StudyNumbers
from decayfree.report.words.wording import (
    SPACE,
    accuracy,
    count,
    interval_of_sizes,
    listing,
    percent,
    points,
    sentences,
)
from decayfree.study.statistics.estimates import CONFIDENCE
from decayfree.study.statistics.significance import Judgement

Compared = list[tuple[MethodSeries, Judgement]]


def decimals(numbers: StudyNumbers) -> int:
    """Decimals of a percentage: two where one would hide half of the intervals."""
    finals = [method.final_test for method in numbers.shown]
    widths = sorted(final.half_width for final in finals if final and final.half_width is not None)
    return 2 if widths and widths[len(widths) // 2] < 0.005 else 1


def summary(numbers: StudyNumbers) -> str:
    """The whole study in one paragraph."""
    reference = numbers.reference
    if reference is None or reference.final_test is None:
        return sentences(_what_was_trained(numbers), "Nothing can be said before a run is done.")
    return sentences(
        _what_was_trained(numbers),
        f"{reference.short} ends at a test accuracy of {accuracy(reference.final_test, decimals(numbers))}.",
        *_verdicts_in_short(numbers),
        "One network on one data set, with one learning rate for all, "
        "is a hint and not a verdict on any method.",
    )


def results(numbers: StudyNumbers) -> str:
    """The table of final accuracies: who is higher, who is lower, where no difference is seen."""
    reference, compared = numbers.reference, _compared(numbers)
    if reference is None:
        return "No run is done, so there is no final accuracy to show."
    if not compared:
        return f"{reference.short} has no finished run in common with another method: there is no comparison."
    n_decimals = decimals(numbers)
    return sentences(
        _highest(numbers),
        _seen("better", reference, _having("lower", compared), n_decimals),
        _seen("worse", reference, _having("higher", compared), n_decimals),
        *_unseen(reference, compared, n_decimals),
    )


def statistics_note(numbers: StudyNumbers) -> str:
    """How intervals, differences and the smallest visible difference are meant."""
    n_comparisons, level = numbers.family.n_tests, numbers.family.level
    is_beyond = any(m.final_test and (m.final_test.high or 0.0) > 1 for m in numbers.shown)
    return sentences(
        f"Intervals are {percent(CONFIDENCE, 0)} t intervals over seeds; n counts finished runs.",
        "A t interval of few seeds can reach beyond 100\N{NO-BREAK SPACE}%." if is_beyond else "",
        "Differences are taken seed by seed, over the seeds that both methods finished.",
        (
            "Whether a difference is seen is decided by paired t tests with Holm's correction for all "
            f"{count(n_comparisons, 'comparison')}: the chance that any shows a difference where there is "
            f"none is at most {percent(1 - CONFIDENCE, 0)}. The smallest difference that n seeds could have "
            "shown is the smallest mean difference that is seen at the level at which the correction stops "
            f"(p{SPACE}≤{SPACE}{level:.2g}); intervals are corrected for nothing, so that they may leave out "
            "zero where no difference is seen."
        )
        if n_comparisons
        else "",
        "All methods got the same learning rate, tuned for none of them; equal learning rates are not equal "
        "steps (see the effective learning rates), so a difference may be one of step size.",
    )


def _what_was_trained(numbers: StudyNumbers) -> str:
    spec, model = numbers.study.spec, numbers.recipe.model
    data = numbers.recipe.data
    noise = (
        f", {percent(data.label_noise, 0)} of the training labels drawn at random" if data.label_noise else ""
    )
    return (
        f"One network ({model.name}, {model.width_factor:g} of its published width) was trained on "
        f"{data.name} ({data.n_train:,} training and {data.n_test:,} test images{noise}) by "
        f"{count(len(numbers.methods), 'method')} with {count(len(spec.seeds), 'seed')} each; "
        f"{numbers.n_done} of {numbers.study.n_planned} runs are done."
    )


def _verdicts_in_short(numbers: StudyNumbers) -> list[str]:
    compared = _compared(numbers)
    names = {
        verdict: listing([method.short for method, _ in _having(verdict, compared)])
        for verdict in ("lower", "higher", "no difference seen", "too few seeds")
        if _having(verdict, compared)
    }
    templates = {
        "lower": "That is better than {}.",
        "higher": "That is worse than {}.",
        "no difference seen": "No difference is seen to {}.",
        "too few seeds": "One seed says nothing about the difference to {}.",
    }
    return [template.format(names[verdict]) for verdict, template in templates.items() if verdict in names]


def _highest(numbers: StudyNumbers) -> str:
    means = {m.short: m.final_test.mean for m in numbers.shown if m.final_test}
    best = max(means, key=lambda label: means[label])
    return f"The highest mean is that of {best}: {percent(means[best], decimals(numbers))}."


def _seen(word: str, reference: MethodSeries, compared: Compared, n_decimals: int) -> str:
    if not compared:
        return f"{reference.short} is not seen to be {word} than any other method."
    items = [f"{method.short} (by {_magnitude(comparison, n_decimals)})" for method, comparison in compared]
    return f"{reference.short} is {word} than {listing(items)}."


def _unseen(reference: MethodSeries, compared: Compared, n_decimals: int) -> list[str]:
    """Where no difference is seen, with the smallest that could have been.

    Methods of equal n in one sentence.
    """
    unseen = _having("no difference seen", compared)
    said = []
    for n in sorted({comparison.difference.n for _, comparison in unseen}, reverse=True):
        items = [
            f"{method.short} ({points(comparison.smallest_visible or 0.0, n_decimals)})"
            for method, comparison in unseen
            if comparison.difference.n == n
        ]
        said.append(
            f"No difference seen (smallest difference that these {n} seeds could have shown) between "
            f"{reference.short} and: {listing(items)}."
        )
    said += [
        f"About {m.short}, one seed in common says nothing." for m, _ in _having("too few seeds", compared)
    ]
    return said


def _magnitude(comparison: Judgement, n_decimals: int) -> str:
    """The size of a difference whose interval excludes zero: 4.1 points, 95 % interval 2.0 to 6.2."""
    difference = comparison.difference
    text = points(difference.mean, n_decimals)
    if difference.interval is None:
        return text
    return f"{text}, 95{SPACE}% interval {interval_of_sizes(*difference.interval, n_decimals)}"


def _compared(numbers: StudyNumbers) -> Compared:
    pairs = [(method, numbers.comparison(method)) for method in numbers.others]
    return [(method, comparison) for method, comparison in pairs if comparison is not None]


def _having(verdict: str, compared: Compared) -> Compared:
    return [(method, comparison) for method, comparison in compared if comparison.verdict == verdict]
