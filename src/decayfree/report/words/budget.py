"""What a trial buys, in words: of every group, and how the curves and the two figures are meant.

It computes no statistics and returns plain text that the page escapes.
"""

from collections.abc import Sequence

from decayfree.report.numbers.budget import Bought, GroupBudget
from decayfree.report.words.wording import SPACE, by_method, count, listing, percent, points, sentences
from decayfree.study.statistics.budget import FAR_DOWN, TUNERS


def budget_text(found: GroupBudget) -> str:
    """What one trial and all trials lead to, what others need for what the reference buys, the default."""
    first = {bought.sweep.label: bought.budget.mean[0] for bought in found.methods}
    last = {bought.sweep.label: bought.budget.mean[-1] for bought in found.methods if bought.budget.n > 1}
    return sentences(
        f"In the mean, one trial leads to {by_method(first, _percent)}.",
        f"The best by validation of all leads to {by_method(last, _percent)}." if last else "",
        _beside_reference(found),
        _default_text(found),
    )


def budget_notes(groups: Sequence[GroupBudget], *, is_extended: bool = False) -> list[str]:
    """What a trial and a tuner are, and what the figures of the table stand for."""
    name = groups[0].metric.name
    left_out = sum(bought.n_left_out for found in groups for bought in found.methods)
    defaults = {found.default.published: None for found in groups if found.default}
    return [
        "A trial is one run: a setting out of the study's grid, drawn at random, with one seed. After k of "
        f"them, all different and of one seed, a tuner keeps the one of highest validation {name}; "
        f"shown is its test {name}, the mean over all tuners that there can be and the band in which "
        f"{percent(TUNERS, 0)} of them lie. A run that diverged is a trial that ends at 0{SPACE}%.",
        "The first table chooses by the mean over all seeds instead, with as many runs for every setting as "
        "there are seeds, and so the last points differ a little from it.",
        "Bands are over tuners and are no intervals of a mean: what few seeds leave open of a difference "
        "between methods stands in the first table.",
        "Somebody chose the grids: a wider one makes the first trials worse, one around the optimum makes "
        "them better. A method with a single setting has a single point."
        + (" What rules added beyond the edge of a grid belongs to it here." if is_extended else ""),
        f"Far down are trials more than {points(FAR_DOWN, 0)} below what the best method of the group "
        "reaches with all its trials.",
        *(
            f"The published default is weight decay {one.weight_decay:g} at learning rate "
            f"{one.learning_rate:g}. So {one.source}; network, batches and steps are those of this study."
            for one in defaults
        ),
        *(
            [f"{count(left_out, 'setting')} of which runs have no result yet are left out."]
            if left_out
            else []
        ),
    ]


def _percent(share: float) -> str:
    return percent(share, 2)


def _beside_reference(found: GroupBudget) -> str:
    base = found.reference
    if base is None:
        return ""
    n, aim = base.budget.n, base.budget.mean[-1]
    whole = (
        f"{'the one trial' if n == 1 else 'all trials'} of {base.sweep.label} {'buys' if n == 1 else 'buy'}"
    )
    others = [bought for bought in found.methods if bought is not base]
    return _takes(f"what {whole} ({percent(aim, 2)})", others, aim)


def _default_text(found: GroupBudget) -> str:
    if found.default is None:
        return ""
    aim = found.default.accuracy
    return _takes(f"the published default ({percent(aim, 2)})", found.methods, aim)


def _takes(what: str, methods: Sequence[Bought], accuracy: float) -> str:
    """Which methods reach an accuracy in the mean with how many trials, and which do not."""
    needed = {bought.sweep.label: bought.budget.trials_to_reach(accuracy) for bought in methods}
    reached = {name: float(k) for name, k in needed.items() if k is not None}
    never = listing([name for name, k in needed.items() if k is None])
    if not needed:
        return ""
    if not reached:
        return f"{what} is not reached with all trials of {never}."
    return f"{what} takes {by_method(reached, lambda k: count(round(k), 'trial'))}" + (
        "." if len(reached) == len(needed) else f"; it is not reached with all trials of {never}."
    )
