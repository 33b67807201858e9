"""Who is better: the summary of a study, what its tables compare, and what their statistics mean.

Every sentence is computed from the numbers, whichever way they came out: what does not favor weight rescaling
is said in the same words as what does. It returns plain text that the page escapes.
"""

from collections.abc import Sequence

from decayfree.report.numbers.compared import Entries, Entry
from decayfree.report.numbers.groups import StudyGroups
from decayfree.report.numbers.pooled import Contrast
from decayfree.report.words.pooled import pooled_text
from decayfree.report.words.wording import (
    SPACE,
    clipped,
    count,
    listing,
    p_value,
    percent,
    points,
    sentences,
)
from decayfree.study.files.results import ENDED, Study
from decayfree.study.statistics.estimates import CONFIDENCE, Outcome
from decayfree.study.statistics.power import POWER
from decayfree.study.statistics.significance import MAX_SIGN_FLIPS, sign_flip_p

MAX_NAMED = 6
_SEEN = ("higher", "lower")


def exact_p(entry: Entry) -> float | None:
    """P of the exact sign-flip test, uncorrected; None without pairs, or with too many to try all signs."""
    return sign_flip_p(entry.pairs) if 1 < len(entry.pairs) <= MAX_SIGN_FLIPS else None


def decimals(entries: Sequence[Entry]) -> int:
    """Decimals of a percentage: two where one would hide half of the intervals."""
    finals = [entry.cell.final_test for entry in entries]
    widths = sorted(final.half_width for final in finals if final and final.half_width is not None)
    return 2 if widths and widths[len(widths) // 2] < 0.005 else 1


def verdict(numbers: StudyGroups, main: Entries, contrasts: Sequence[Contrast] = ()) -> str:
    """The result in one sentence: over all groups where there are several, else method by method."""
    if not any(entry.cell.n for entry in main.entries):
        return "Nothing can be said before a run is done."
    if len(numbers.groups) == 1:
        return _in_short(main)
    if contrasts:
        return pooled_text(contrasts)
    if not main.compared:
        return "There is no comparison yet: it takes two seeds that two methods of a group finished."
    method = next(
        method for method in numbers.methods if any(one in main.compared for one in main.of(method))
    )
    return _beside(main, method)


def summary(numbers: StudyGroups, main: Entries) -> list[str]:
    """What was trained; of several groups what each method's comparisons show; what could have been seen."""
    shown = _over_groups(numbers, main) if len(numbers.groups) > 1 else ""
    hint = (
        "One network on one data set, with one learning rate for all, "
        "is a hint and not a verdict on any method."
        if numbers.are_methods_all
        else ""
    )
    said = [_what_was_trained(numbers), shown, sentences(_what_could_be_seen(main), hint)]
    return [text for text in said if text]


def results(main: Entries) -> str:
    """One group: who is higher, who is lower, and where no difference is seen."""
    means = {entry.name: entry.cell.final_test.mean for entry in main.entries if entry.cell.final_test}
    if not means:
        return "No run is done, so there is no final result to show."
    if not any(entry.judgement for entry in main.entries):
        return f"{main.reference} has no finished run in common with another method: there is no comparison."
    digits = decimals(main.entries)
    best = max(means, key=lambda name: means[name])
    return sentences(
        f"The highest mean is that of {best}: {percent(means[best], digits)}.",
        _seen("better", main.reference, _having("higher", main.entries)),
        _seen("worse", main.reference, _having("lower", main.entries)),
        *_unseen(main),
    )


def caption(numbers: StudyGroups, entries: Entries) -> str:
    """What the rows of a table of comparisons are."""
    what = "One row for each method" + (f" and {' and '.join(numbers.axes)}" if numbers.axes else "")
    if any(len(entry.sweep.cells) > 1 for entry in entries.entries):
        are_chosen = all(entry.is_alone for entry in entries.entries)
        what += ", at the setting that validation data chose" if are_chosen else " and setting"
    seeds = "seeds that nothing was chosen by" if any(one.is_anew for one in entries.entries) else "seeds"
    return f"{what}. Test {numbers.metric.name} after the last step, mean over {seeds}."


def reference_text(main: Entries) -> str:
    """Which way differences are taken, and how the setting of the reference was chosen."""
    bases = [entry.reference for entry in main.entries if entry.reference]
    if not bases:
        return "There is nothing to compare with."
    first = (
        f"Every difference is {main.reference} minus the method of the row, in the same group and seed by "
        f"seed: above zero, {main.reference} is higher."
    )
    groups = {id(entry.group): entry for entry in main.entries if entry.is_reference}
    sweeps = [entry.sweep for entry in groups.values()]
    if all(len(sweep.cells) == 1 for sweep in sweeps):
        return first
    if all(sweep.chosen for sweep in sweeps):
        score = f"validation {bases[0].metric.name}"
        return f"{first} Its setting in each group is the one with the highest mean {score}."
    return (
        f"{first} No images were kept for validation to choose its setting by, so that each row is compared "
        "with its first setting of the same learning rate."
    )


def statistics_notes(numbers: StudyGroups, main: Entries) -> list[str]:
    """How intervals, p values, power and differences on validation images are meant."""
    level, n = main.family.level, main.family.n_tests
    finals = [entry.cell.final_test for entry in main.entries]
    is_beyond = any(
        final and final.interval and clipped(final.interval, final.mean) != final.interval for final in finals
    )
    notes = [
        f"Intervals are {percent(CONFIDENCE, 0)} t intervals over seeds, each for itself and corrected for "
        "nothing, so that one of a difference may leave out zero where none is seen; n counts finished runs, "
        "and differences are over the seeds that both finished."
        + (f" Those of accuracies that reach beyond 0 or 100{SPACE}% are cut there." if is_beyond else "")
    ]
    if main.is_over_images:
        notes.append(
            "Intervals of differences are over seeds and test images, both of which are samples: what would "
            "happen with other seeds and other images of the same kind."
        )
    if n:
        notes += [
            f"p is that of the {'t test over seeds and images' if main.is_over_images else 'paired t test'}, "
            "by Holm's procedure for the family of all "
            f"{count(n, 'comparison')}: the chance that any of them shows a difference where there is none "
            f"is at most {percent(1 - CONFIDENCE, 0)}.",
            f"{percent(POWER, 0)} power: so large must a true difference be for {percent(POWER, 0)} of "
            "studies like this one, with as many seeds and as much scatter, to show it at the level at which "
            f"the procedure stopped (p{SPACE}≤{SPACE}{level:.2g}).",
        ]
    if any(entry.judgement and entry.judgement.verdict in _SEEN for entry in main.entries):
        notes.append(
            "Beside what is seen stands the exact p of its signs alone, which assumes no normality and is "
            f"at least 2/2ⁿ: {p_value(2 / 2**5)} with five seeds, whatever they show."
        )
    if numbers.has_validation:
        notes.append(
            "The same difference on the validation images is a replication on other images, by the same "
            "runs. It is not quite free: these images chose the settings, and favor a method with more to "
            "choose from."
        )
    if any(entry.is_anew for entry in main.entries):
        notes.append(
            "New seeds are seeds, and where images are drawn by seed images to train on, that no choice has "
            "seen; test images are the same. So differences lack the luck of the choice, which is in those "
            "of the seeds that chose. What trials buy is of the seeds that chose."
        )
    if numbers.are_methods_all:
        notes.append(
            "All methods got the same learning rate, tuned for none of them; equal learning rates are not "
            "equal steps (see the effective learning rates), so a difference may be one of step size."
        )
    return notes


def table_note() -> str:
    """What else a table of comparisons shows."""
    return (
        "Below each p is the same one alone, uncorrected. What a comparison says alone, its exact p and its "
        "power, unfolds with n."
    )


def everything_text(everything: Entries) -> str:
    """Whose family the second table is."""
    return (
        f"The same for every setting, as a family of {count(everything.family.n_tests, 'comparison')}. "
        "Settings that no validation data chose stand here for completeness: "
        "the best of many is high by chance as well."
    )


def _what_was_trained(numbers: StudyGroups) -> str:
    study = numbers.study
    states = [run.state for run in study.runs]
    lost = [f"{states.count(state)} {state}" for state in ("diverged", "failed") if state in states]
    done = sentences(
        f"{states.count('done')} of {study.n_planned} runs are done.",
        f"{listing(lost)}." if lost else "",
        _of_rules(study),
    )
    n_seeds = count(len(study.spec.seeds), "seed")
    if numbers.are_methods_all:
        recipe = study.spec.recipe
        data, model = recipe.data, recipe.model
        width = "" if model.width_factor == 1 else f", {model.width_factor:g} of its published width"
        noise = f"{percent(data.label_noise, 0)} of the training labels are drawn at random."
        return sentences(
            f"One network ({model.name}{width}) was trained on "
            f"{data.name} by {count(len(numbers.cells), 'method')} with {n_seeds} each.",
            f"There are {data.n_train:,} training and {data.n_test:,} test images.",
            noise if data.label_noise else "",
            done,
        )
    axes = f" over {listing([_axis(numbers, axis) for axis in numbers.axes])}" if numbers.axes else ""
    methods = f"{count(len(numbers.methods), 'method')} ({listing(numbers.methods)})"
    return sentences(f"{methods}{axes}, with {n_seeds} each.", done)


def _of_rules(study: Study) -> str:
    """How many runs have seeds that chose nothing, or that runs may come to these."""
    if study.spec.may_grow(sum(run.state in ENDED for run in study.runs)):
        return "The study's rules may add more."
    n = sum(run.state == "done" and run.seed in study.spec.confirm_seeds for run in study.runs)
    new = count(len(study.spec.confirm_seeds), "new seed")
    return f"{n} of these have {new}, by which nothing was chosen." if n else ""


def _axis(numbers: StudyGroups, axis: str) -> str:
    values = list(dict.fromkeys(group.place[axis] for group in numbers.groups))
    if len(values) > MAX_NAMED:
        return f"{len(values)} values of {axis}"
    return f"{axis} ({listing(values)})"


def _in_short(main: Entries) -> str:
    """Of one group: where the reference ends, and beside whom that is better or worse."""
    finals = [entry.cell.final_test for entry in main.entries if entry.is_reference and entry.cell.final_test]
    # Where nothing was chosen, every learning rate has a reference of its own, and none of them is "that".
    only = finals[0] if len(finals) == 1 else None
    templates: dict[Outcome, str] = {
        "higher": "better than {}",
        "lower": "worse than {}",
        "no difference seen": "not seen to differ from {}",
        "too few seeds": "of one seed only beside {}, which says nothing",
    }
    said = [
        template.format(listing([entry.name for entry in found]))
        for outcome, template in templates.items()
        if (found := _having(outcome, main.entries))
    ]
    told = "; ".join(said)
    if only is None:
        return f"{main.reference} is {told or 'not compared with anything'}."
    end = f"{main.reference} ends at {percent(only.mean, decimals(main.entries))} test {main.metric.name}"
    return f"{end}: {told}." if told else f"{end}."


def _over_groups(numbers: StudyGroups, main: Entries) -> str:
    """For every method in how many groups the reference is higher, lower, or nothing is seen."""
    if not main.compared:
        return "There is no comparison yet: it takes two seeds that two methods of a group finished."
    said = [_beside(main, method) for method in numbers.methods]
    return sentences(f"Group by group, in test {numbers.metric.name}:", *said)


def _beside(main: Entries, method: str) -> str:
    entries = [entry for entry in main.of(method) if entry in main.compared]
    if not entries:
        return ""
    found = {outcome: _having(outcome, entries) for outcome in _WORDS}
    parts = [
        f"{word} in {len(having)}" + (f" ({listing([one.group.label for one in having])})" if few else "")
        for outcome, word in _WORDS.items()
        if (having := found[outcome])
        for few in [len(having) <= MAX_NAMED // 2]
    ]
    groups = count(len(entries), "group")
    if not parts:
        return f"{main.reference} is not seen to differ from {method} in any of {groups}."
    return f"Beside {method}, {main.reference} is {listing(parts)} of {groups}."


_WORDS: dict[Outcome, str] = {"higher": "higher", "lower": "lower"}


def _seen(word: str, reference: str, found: Sequence[Entry]) -> str:
    if not found:
        return f"{reference} is not seen to be {word} than any other method."
    return f"{reference} is {word} than {listing([entry.name for entry in found])}."


def _unseen(main: Entries) -> list[str]:
    unseen = [entry.name for entry in _having("no difference seen", main.entries)]
    return [
        *([f"No difference is seen between {main.reference} and {listing(unseen)}."] if unseen else []),
        *(
            f"About {entry.name}, one seed in common says nothing."
            for entry in _having("too few seeds", main.entries)
        ),
    ]


def _having(verdict: Outcome, entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.judgement and entry.judgement.verdict == verdict]


def _what_could_be_seen(main: Entries) -> str:
    unseen = [
        entry.judgement.detectable
        for entry in _having("no difference seen", main.entries)
        if entry.judgement and entry.judgement.detectable is not None
    ]
    if not unseen:
        return ""
    low, high = min(unseen), max(unseen)
    seen = f"Where no difference is seen, {percent(POWER, 0)} of such studies would have seen a true one of"
    if low > 1:
        return f"{seen} more than 100{SPACE}points only: with so few seeds nothing can be ruled out."
    if high > 1:
        return (
            f"{seen} {points(low, 2)} at best, and not even one of 100{SPACE}points at worst: smaller ones "
            "are not ruled out."
        )
    size = points(low, 2) if len(unseen) == 1 else f"{100 * low:.2f} to {points(high, 2)}"
    return f"{seen} {size}: smaller ones are not ruled out."
