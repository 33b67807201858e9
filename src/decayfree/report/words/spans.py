"""Where weights lie among their inputs' directions, a paragraph a chart: off-span share and spectrum.

It draws nothing. It returns plain text that the page escapes.
"""

import math
from collections.abc import Mapping

from decayfree.report.numbers.series import Cell, StudyNumbers, finals, starts
from decayfree.report.numbers.spectra import MeanSpectrum, first_spectrum, last_spectrum
from decayfree.report.words.wording import (
    NOTHING,
    SPACE,
    by_method,
    count,
    fine_percent,
    interval_of_sizes,
    listing,
    percent,
    points,
    sentences,
    significant,
)
from decayfree.study.files.results import MAIN_VARIANCE
from decayfree.study.statistics.estimates import paired_difference
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
        f"The share starts at {began} and ends at {by_method(ends, fine_percent)}.",
        _law(numbers),
        *(_against(numbers.reference, method) for method in numbers.others),
    )


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
            "A 3×3 patch of one such channel has full rank, 9 of 9; the equal"
            if data == "digits"
            else "The equal"
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
    weights = numbers.reference.weights
    said = [_main_energies(numbers, weight) for weight in dict.fromkeys(weights[:1] + weights[-1:])]
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
        else f"n: {listing([f'{n} ({name})' for name, n in n_seeds.items()])}"
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
    by_whom = listing([f"{significant(known[name], 2)} under {name}" for name in apart])
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
        f"In {weight} it is {percent(before.main_energy)} before training, in {_n_main({'': before})}; "
        f"after it {by_method(energies, percent)}, in {_n_main(after)}."
    )


def _n_main(spectra: Mapping[str, MeanSpectrum]) -> str:
    counts = sorted({n for found in spectra.values() for n in found.n_main})
    n_directions = next(iter(spectra.values())).n_directions
    few = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{few} of {count(n_directions, 'direction')}"


def _against(reference: Cell, method: Cell) -> str:
    """The final off-span share of the reference minus that of a method, paired by seed."""
    comparison = paired_difference(_final_shares(reference), _final_shares(method))
    if comparison is None:
        return ""
    difference = comparison.difference
    if difference.interval is None or difference.half_width is None:
        return f"One seed in common says nothing about {reference.short} against {method.short}."
    if comparison.verdict == "no difference seen":
        size = points(detectable_difference(difference) or 0.0)
        return (
            f"Between {reference.short} and {method.short}: no difference seen ({percent(POWER, 0)} of such "
            f"studies of {difference.n} seeds would show a true one of {size})."
        )
    return (
        f"{reference.short} ends {comparison.verdict} than {method.short}, by {points(difference.mean)} "
        f"(95{SPACE}% interval {interval_of_sizes(*difference.interval)})."
    )


def _final_shares(method: Cell) -> dict[int, float]:
    shares = {seed: run.rows[-1].off_span_share for seed, run in method.runs.items()}
    return {seed: share for seed, share in shares.items() if math.isfinite(share)}
