"""What two methods differ by over all groups, in a sentence, and what the numbers over groups mean.

It computes no statistics.
"""

from collections.abc import Sequence

from decayfree.report.numbers.pooled import Contrast
from decayfree.report.words.wording import SPACE, count, p_value, signed_points
from decayfree.study.statistics.estimates import Outcome


def pooled_text(found: Sequence[Contrast]) -> str:
    """The first contrast, which is the planned one where the study has it; empty without any."""
    if not found:
        return ""
    first = found[0]
    primary = first.test.primary
    p = "" if primary.p_value is None else f", p{SPACE}={SPACE}{p_value(primary.p_value)}"
    told = f"({signed_points(primary.difference.mean, 2)} points{p})".replace(f"={SPACE}<", "<")
    verdict = (
        f"{first.reference} is {primary.verdict} than {first.method}"
        if primary.verdict in ("higher", "lower")
        else f"no difference is seen between {first.reference} and {first.method}"
    )
    again = {"on the validation images": first.validation, "with the seeds that chose": first.of_choice}
    more = [_replicated(where, primary.verdict, one.primary.verdict) for where, one in again.items() if one]
    return f"Over {count(first.test.n_groups, 'group')} {verdict} {told}{''.join(more)}."


def pooled_notes(found: Sequence[Contrast]) -> list[str]:
    """How numbers over groups are meant; none without any."""
    if not found:
        return []
    images = " and test images" if all(contrast.is_over_images for contrast in found) else ""
    notes = [
        f"Over all groups each counts once. These groups alone: what other seeds{images} would show in them. "
        "Groups like these, from four on: what other groups would show, these being a sample of them, which "
        f"groups picked by hand hardly are. Both intervals know what seeds{images} do to all groups at once.",
        "Spread is the standard deviation of true differences between groups, without what chance adds.",
        "The p over groups are corrected for nothing: the first row is the comparison that was planned. The "
        "exact one of signs assumes no normality, but takes groups as independent.",
    ]
    if not images:
        notes.append(
            "Where runs do not say which test images are right, and for validation images, intervals over "
            "groups are over groups and seeds: the chance in the images that all are scored on is in none."
        )
    if any(contrast.test.shrunk for contrast in found):
        notes.append(
            "A shrunk difference is drawn towards the mean over groups, the more the less groups are seen to "
            "differ: nearer to the truth than its own number in the mean over groups, in which its interval "
            "holds as often as it says."
        )
    return notes


def _replicated(where: str, first: Outcome, again: Outcome) -> str:
    """Whether other images, or other seeds, say the same."""
    if again == "no difference seen":
        return f"; {where} none is seen{' either' if again == first else ''}"
    return f"; {where} it is {again}{', too' if again == first else ''}"
