"""What a study with axes shows, in a few paragraphs.

Every sentence is computed from its numbers, whichever way they came out.

It computes no statistics. What does not favor weight rescaling is said in the same words as what does.
"""

from decayfree.report.numbers.compared import Entries, Entry, mean_over_groups, reference_of
from decayfree.report.numbers.groups import StudyGroups
from decayfree.report.words.wording import (
    SPACE,
    count,
    listing,
    p_value,
    percent,
    points,
    sentences,
    signed_interval,
    signed_points,
)
from decayfree.study.statistics.estimates import CONFIDENCE, Outcome
from decayfree.study.statistics.power import POWER

MAX_NAMED = 6


def paragraphs(numbers: StudyGroups, main: Entries) -> list[str]:
    """What was trained; what each method shows beside the reference; what the study could have seen."""
    said = [_what_was_trained(numbers), _verdicts(numbers, main), _what_could_be_seen(main)]
    return [text for text in said if text]


def caption(numbers: StudyGroups, entries: Entries) -> str:
    """What the rows of a table of comparisons are."""
    what = "One row for each method" + (f" and {' and '.join(numbers.axes)}" if numbers.axes else "")
    if any(len(entry.sweep.cells) > 1 for entry in entries.entries):
        is_chosen = len({(entry.group.label, entry.sweep.label) for entry in entries.entries}) == len(
            entries.entries
        )
        what += ", at the setting that validation data chose" if is_chosen else " and setting"
    return f"{what}. Accuracy on the test images after the last step, mean over seeds."


def reference_text(numbers: StudyGroups, reference: str | None) -> str:
    """What the differences are taken from, and how that was chosen."""
    bases = [base for group in numbers.groups if (base := reference_of(group, reference))]
    labels = list(dict.fromkeys(base.label for base in bases))
    if not labels:
        return "There is nothing to compare with."
    first = f"Differences are taken from {listing(labels)} of the same group, seed by seed."
    if all(len(base.cells) == 1 for base in bases):
        return first
    if all(base.chosen for base in bases):
        return sentences(
            first, "Its setting in each group is the one with the highest mean validation accuracy."
        )
    return sentences(
        first,
        "No images were kept for validation to choose its setting by, so that each row is compared with its "
        "first setting of the same learning rate.",
    )


def statistics_notes(main: Entries) -> list[str]:
    """How intervals, p values and the smallest visible difference are meant."""
    level, n = main.family.level, main.family.n_tests
    return [
        f"Intervals are {percent(CONFIDENCE, 0)} t intervals over seeds, each for itself; n counts finished "
        "runs, and differences are over the seeds that both finished.",
        f"p is that of the paired t test, by Holm's procedure for the family of all {count(n, 'comparison')} "
        "of the first table: the chance that any of them shows a difference where there is none is at most "
        f"{percent(1 - CONFIDENCE, 0)}. The p below it is the same one alone, uncorrected.",
        "The smallest visible difference is the smallest mean difference that these seeds could have shown "
        f"at the level at which the procedure stopped ({_level(level)}): below it, no difference is seen. A "
        "true difference of that size would be seen about every other time; the one that is seen with a "
        f"probability of {percent(POWER, 0)}, alone and with the scatter of these seeds, "
        "is larger, and unfolds with n.",
    ]


def everything_text(everything: Entries) -> str:
    """Whose family the second table is."""
    return (
        f"The same for every setting, as a family of {count(everything.family.n_tests, 'comparison')}. "
        "Settings that no validation data chose stand here for completeness: "
        "the best of many is high by chance as well."
    )


def settings_text(numbers: StudyGroups) -> str:
    """What methods act on, and what is equal for all."""
    recipes = [cell.settings.recipe for cell in numbers.cells]
    decays = sorted({recipe.rest_weight_decay for recipe in recipes})
    rest = (
        f"weight decay {' or '.join(f'{decay:g}' for decay in decays)}" if any(decays) else "no weight decay"
    )
    return (
        "What a method does, it does to the scale-invariant weights and to nothing else. Gains γ and biases "
        f"β of the normalizations and the last layer get {rest}. Training accuracy is measured in eval mode "
        "against the labels that were trained on. Equal seeds start from equal weights and see equal "
        "batches, whatever the method."
    )


def _what_was_trained(numbers: StudyGroups) -> str:
    study = numbers.study
    states = [run.state for run in study.runs]
    n_done = states.count("done")
    lost = [f"{states.count(state)} {state}" for state in ("diverged", "failed") if state in states]
    axes = f" over {listing([_axis(numbers, axis) for axis in numbers.axes])}" if numbers.axes else ""
    return sentences(
        f"{count(len(numbers.methods), 'method')} ({listing(numbers.methods)}){axes}, with "
        f"{count(len(study.spec.seeds), 'seed')} each: {n_done} of {study.n_planned} runs are "
        f"done{', ' + listing(lost) if lost else ''}.",
    )


def _axis(numbers: StudyGroups, axis: str) -> str:
    values = list(dict.fromkeys(group.place[axis] for group in numbers.groups))
    if len(values) > MAX_NAMED:
        return f"{len(values)} values of {axis}"
    return f"{axis} ({listing(values)})"


def _verdicts(numbers: StudyGroups, main: Entries) -> str:
    """For every method: in how many groups it is higher, lower, or no difference is seen."""
    if not main.compared:
        return "There is no comparison yet: it takes two seeds that two methods of a group finished."
    said = [
        _of_method(method, [e for e in main.of(method) if e in main.compared], len(numbers.groups))
        for method in numbers.methods
    ]
    cells = dict.fromkeys(entry.cell.series.label for entry in main.entries if entry.is_reference)
    sweeps = dict.fromkeys(entry.sweep.label for entry in main.entries if entry.is_reference)
    base = next(
        (listing(list(names)) for names in (cells, sweeps) if len(names) == 1), "the reference of the group"
    )
    return sentences(f"Beside {base}, in test accuracy:", *said)


def _of_method(method: str, entries: list[Entry], n_groups: int) -> str:
    if not entries:
        return ""
    if len(entries) == 1:
        return f"{method}: {_one(entries[0])}."
    parts = []
    for verdict, words in _WORDS.items():
        having = [entry for entry in entries if entry.judgement and entry.judgement.verdict == verdict]
        is_named = len(having) <= 3 and verdict != "no difference seen"
        named = f" ({listing([_named(entry, n_groups) for entry in having])})" if is_named else ""
        parts += [f"{words} in {len(having)}{named}"] if having else []
    mean = mean_over_groups(entries) if n_groups > 1 and len(entries) <= n_groups else None
    tail = (
        f"; {signed_points(mean.mean, 2)} points in the mean over {mean.n} groups"
        if mean and mean.n > 1
        else ""
    )
    return f"{method} is {listing(parts)} of {len(entries)} comparisons{tail}."


_WORDS: dict[Outcome, str] = {
    "higher": "higher",
    "lower": "lower",
    "no difference seen": "not seen to differ",
}


def _named(entry: Entry, n_groups: int) -> str:
    return entry.group.label if n_groups > 1 else entry.cell.setting or entry.cell.series.label


def _one(entry: Entry) -> str:
    judgement, difference = entry.judgement, entry.difference
    assert judgement is not None
    assert difference is not None
    n = f"n{SPACE}={SPACE}{difference.n}"
    if judgement.verdict == "no difference seen":
        return f"no difference seen (smallest visible {points(judgement.smallest_visible or 0.0, 2)}, {n})"
    interval = signed_interval(*difference.interval, 2) if difference.interval else ""
    p = p_value(judgement.adjusted_p or 0.0)
    return (
        f"{judgement.verdict} by {points(difference.mean, 2)} (95{SPACE}% interval "
        f"{interval}, {n}, p{SPACE}{p})"
    )


def _what_could_be_seen(main: Entries) -> str:
    unseen = [
        entry.judgement.smallest_visible
        for entry in main.compared
        if entry.judgement
        and entry.judgement.verdict == "no difference seen"
        and entry.judgement.smallest_visible is not None
    ]
    if not unseen:
        return ""
    low, high = min(unseen), max(unseen)
    size = points(low, 2) if len(unseen) == 1 else f"{points(low, 2)} to {points(high, 2)}"
    return (
        "Where no difference is seen, the smallest that could have been seen in this family of "
        f"{count(main.family.n_tests, 'comparison')} was {size}: smaller ones are not ruled out."
    )


def _level(level: float) -> str:
    return f"p{SPACE}≤{SPACE}{level:.2g}"
