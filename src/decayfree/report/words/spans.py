"""Where weights lie among their inputs' directions, a paragraph a chart: off-span share and spectrum.

It draws nothing. It returns plain text that the page escapes.
"""

import math
from collections.abc import Mapping, Sequence

from decayfree.report.numbers.series import Cell, StudyNumbers, finals, starts
from decayfree.report.numbers.spectra import MeanSpectrum, first_spectrum, last_spectrum
from decayfree.report.words.wording import (
    NOTHING,
    SPACE,
    Figures,
    by_method,
    detectable_points,
    fine_percent,
    listing,
    percent,
    sentences,
    signed_interval,
    signed_points,
    significant,
)
from decayfree.study.files.results import MAIN_VARIANCE
from decayfree.study.statistics.estimates import Comparison, Outcome, paired_difference
from decayfree.study.statistics.power import POWER, detectable_difference

GRAY = ("digits", "fashion-mnist")
LAW_TOLERANCE = 0.01
"""Relative; rounding in float32 stays far below, so that shares further from the law do not follow it."""


def off_span(numbers: StudyNumbers) -> str:
    """How the first layer's off-span share changes, how well its law holds, and how methods compare."""
    if numbers.reference is None:
        return NOTHING
    layer = next(iter(numbers.reference.runs.values())).first_layer
    ends = finals(numbers.shown, lambda row: row.off_span_share)
    begins = starts(numbers.shown, lambda row: row.off_span_share)
    if not ends or not begins:
        return f"No off-span share of {layer or 'a first layer'} was recorded."
    is_common = len({percent(begin) for begin in begins.values()}) == 1
    began = f"{percent(min(begins.values()))} under every method" if is_common else by_method(begins, percent)
    return sentences(
        f"The share starts at {began}.",
        f"It ends at {by_method(ends, fine_percent)}.",
        _law(numbers),
        *_against(numbers.reference, numbers.others),
    )


def off_span_figures(numbers: StudyNumbers) -> Figures:
    """The share at the end, and how far the reference ends from it."""
    base = numbers.reference
    if base is None:
        return {}
    ends = finals(numbers.shown, lambda row: row.off_span_share)
    found = {
        method.short: paired_difference(_final_shares(base), _final_shares(method))
        for method in numbers.others
    }
    known = {name: comparison for name, comparison in found.items() if comparison is not None}
    differences = {name: comparison.difference for name, comparison in known.items()}
    return {
        "At the end": {name: (end, fine_percent(end)) for name, end in ends.items()},
        f"{base.short} minus …, points": {
            n: (one.mean, signed_points(one.mean)) for n, one in differences.items()
        },
        f"95{SPACE}% interval": {
            name: (one.mean, signed_interval(*one.interval))
            for name, one in differences.items()
            if one.interval
        },
        f"{base.short} is": {name: (one.difference.mean, _seen(one)) for name, one in known.items()},
    }


def spectrum_figures(numbers: StudyNumbers) -> Figures:
    """The energy in the main directions of the first and last layer, and how many these are of how many."""
    found: dict[str, dict[str, tuple[float, str]]] = {}
    for weight in _first_and_last(numbers):
        spectra = {"before training": first_spectrum(numbers.shown, weight)}
        spectra |= {method.short: last_spectrum([method], weight) for method in numbers.shown}
        known = {name: one for name, one in spectra.items() if one is not None}
        found[weight] = {name: (one.main_energy, _in_main(one)) for name, one in known.items()}
    return found


def off_span_notes(numbers: StudyNumbers) -> list[str]:
    """What a reader must know before drawing conclusions from off-span shares."""
    notes = [
        "The circles are what must be, by algebra alone: gradients have no off-span part, so that SGD, with "
        "momentum or without, leaves the off-span part q of a kernel as it was, and without decay its share "
        "falls only while the in-span part grows. Decay λ shrinks it: b ← μb + λq, q ← q − ηb. Rescaling "
        "multiplies it by the factor that puts the kernel back onto its norm. The circles start from the "
        "first share and take these settings and the measured norms, and no gradient.",
        "Under SGD, with momentum and L2 decay, and under Adam, what happens inside the span does not depend "
        "on the off-span part at all. There, off-span noise acts only through test images that have off-span "
        "content. Under WRS it does matter in training, because it takes part of the unit norm.",
        "Deep convolutions see more patches than a kernel has weights, so that their exact off-span space is "
        "usually empty. That is why only the first layer is shown here; "
        "for all layers see the spectrum below.",
    ]
    data = numbers.recipe.data.name
    if data in GRAY:
        rank = (
            "A 3×3 patch of one such channel has full rank, 9. The equal" if data == "digits" else "The equal"
        )
        notes.append(
            f"The images ({data}) are gray and are fed as three equal channels, as is usual when a color "
            f"network is given gray images. {rank} channels alone leave 18 of the 27 directions of a kernel "
            "off the span; pixels that never change may add to them. The off-span space seen here is "
            "there because of that choice."
        )
    return notes


def spectrum(numbers: StudyNumbers) -> str:
    """How much of the first and last layer's energy lies in directions that the inputs really take."""
    if numbers.reference is None:
        return NOTHING
    said = [_main_energies(numbers, weight) for weight in _first_and_last(numbers)]
    if not any(said):
        return "No spectrum was recorded."
    return sentences(
        f"How much of a kernel's energy ‖w‖² lies in the directions that hold {percent(MAIN_VARIANCE, 0)} of "
        "the variance of its inputs?",
        *said,
    )


def spectrum_notes(numbers: StudyNumbers) -> list[str]:
    """What the axes are, over what means are taken, and what the spectrum of a deep layer can say."""
    n_seeds = {method.short: method.n for method in numbers.shown}
    n_text = (
        f"n{SPACE}={SPACE}{next(iter(n_seeds.values()))}"
        if len(set(n_seeds.values())) == 1
        else f"n: {by_method(n_seeds, lambda n: f'{n:.0f}')}"
    )
    return [
        "From left to right are the principal directions of a layer's centered input patches, those of the "
        "largest variance first, in bins of neighboring directions; upwards is the energy in them as a "
        "multiple of what an even spread would give. Means over the kernels of a layer and "
        f"over the seeds ({n_text}).",
        "The inputs of a deep layer change while it is trained; each spectrum is taken over those of its own "
        "moment, in train mode. The gray area is the variance of the inputs after the last "
        "step, mean over the methods.",
        "A gradient is a sum of inputs: it is weak along directions in which they hardly vary, and has no "
        "part along those in which they do not vary at all, as there are in the first layer of gray images.",
    ]


def _law(numbers: StudyNumbers) -> str:
    """The largest relative difference of a measured share from what it must be, over all samples."""
    distances = {
        method.short: max(
            (
                abs(row.off_span_share / row.off_span_law - 1)
                if row.off_span_law
                else abs(row.off_span_share)
                for run in method.runs.values()
                for row in run.rows
                if math.isfinite(row.off_span_share) and math.isfinite(row.off_span_law)
            ),
            default=math.nan,
        )
        for method in numbers.shown
    }
    known = {name: distance for name, distance in distances.items() if math.isfinite(distance)}
    if not known:
        return "Its law was not recorded with these runs."
    apart = [name for name in known if known[name] > LAW_TOLERANCE]
    alike = [name for name in known if known[name] <= LAW_TOLERANCE]
    of_whom = f"of {listing(alike)}" if apart else "of every method"
    worst = max(alike, key=lambda name: known[name], default="")
    if not alike:
        said = "The law (circles), which knows no gradient, says something else."
    elif known[worst] == 0:
        said = f"The law (circles) says exactly that, at every sample {of_whom}."
    else:
        said = (
            f"The law (circles), which knows no gradient, says the same at every sample {of_whom}: they "
            f"differ by a relative {significant(known[worst], 2)} at most, under {worst}."
        )
    far = apart if len(apart) < 3 else sorted(apart, key=lambda name: known[name])[:: len(apart) - 1]
    by_whom = listing([f"{significant(known[name], 2)} under {name}" for name in far])
    departed = (
        f"Measured shares depart from the law by a relative {by_whom}, at the sample where they do most."
    )
    return sentences(said, departed if apart else "")


def _main_energies(numbers: StudyNumbers, weight: str) -> str:
    before = first_spectrum(numbers.shown, weight)
    after = {
        method.short: found
        for method in numbers.shown
        if (found := last_spectrum([method], weight)) is not None
    }
    if before is None or not after:
        return ""
    energies = {name: found.main_energy for name, found in after.items()}
    return (
        f"In {weight} it is {percent(before.main_energy)} before training, after it "
        f"{by_method(energies, percent)}."
    )


def _first_and_last(numbers: StudyNumbers) -> list[str]:
    weights = numbers.reference.weights if numbers.reference else ()
    return list(dict.fromkeys(weights[:1] + weights[-1:]))


def _in_main(found: MeanSpectrum) -> str:
    """The energy in the main directions, and how many of all these are."""
    counts = sorted(set(found.n_main))
    few = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{percent(found.main_energy)} in {few} of {found.n_directions}"


def _seen(comparison: Comparison) -> str:
    """What a difference says, and where it says none, the one that would have been seen."""
    if comparison.verdict != "no difference seen":
        return comparison.verdict
    size = detectable_points(detectable_difference(comparison.difference) or 0.0)
    return f"{comparison.verdict} ({percent(POWER, 0)} power: {size})"


def _against(reference: Cell, others: Sequence[Cell]) -> list[str]:
    """Which methods end higher and which lower than the reference, paired by seed."""
    found: dict[str, list[str]] = {}
    for method in others:
        comparison = paired_difference(_final_shares(reference), _final_shares(method))
        if comparison is not None:
            found.setdefault(comparison.verdict, []).append(method.short)
    return [
        template.format(reference.short, listing(found[verdict]))
        for verdict, template in _TEMPLATES.items()
        if verdict in found
    ]


_TEMPLATES: Mapping[Outcome, str] = {
    "higher": "{} ends higher than {}.",
    "lower": "{} ends lower than {}.",
    "no difference seen": "Between {} and {} no difference is seen.",
    "too few seeds": "One seed in common says nothing about {} against {}.",
}


def _final_shares(method: Cell) -> dict[int, float]:
    shares = {seed: run.rows[-1].off_span_share for seed, run in method.runs.items()}
    return {seed: share for seed, share in shares.items() if math.isfinite(share)}
