"""Why train without weight decay.

The story of docs/why.md, with its pictures and numbers out of a finished study.

    python docs/why.py demo

Reads the study in the folder, checks the statements of theory, and writes docs/why.md and docs/pictures/. It
states no figure of its own.
"""

import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from decayfree import plots, theory
from decayfree.cli.verify import notes, tinted_digits
from decayfree.display.paper import PAGE
from decayfree.plots.drawn import figure_of
from decayfree.report import compare, study_groups, study_numbers
from decayfree.report.charts.curves import spectrum_charts
from decayfree.report.numbers.series import StudyNumbers
from decayfree.report.words import angles, spans, verdicts
from decayfree.report.words import curves as findings
from decayfree.report.words.wording import percent
from decayfree.study import Study, read_study

HERE = Path(__file__).parent
PICTURES = HERE / "pictures"
WIDTH = 120


def main() -> None:
    """Write the page and its pictures."""
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/why.py STUDY_FOLDER")
    numbers = study_numbers(read_study(Path(sys.argv[1])))
    if not numbers.shown:
        sys.exit(f"{sys.argv[1]}: no run of this study is done")
    PICTURES.mkdir(exist_ok=True)
    for name, drawn in DRAWN.items():
        drawn(numbers.study).savefig(PICTURES / f"{name}.svg")
    began_s = time.perf_counter()
    checks = list(theory.verify(*tinted_digits()))
    print(f"{len(checks)} statements checked in {time.perf_counter() - began_s:.0f} s")
    page = HERE / "why.md"
    page.write_text("\n".join(story(numbers, checks)) + "\n", encoding="utf-8")
    print(f"wrote {page} and {len(list(PICTURES.glob('*.svg')))} pictures")


def energies(study: Study) -> Any:
    """Weight energy over the principal directions of each layer's inputs."""
    charts = spectrum_charts(study_numbers(study))
    return figure_of([(one.title, one) for one in charts], PAGE, y_title="energy, 1 = uniform")


DRAWN: dict[str, Callable[[Study], Any]] = {
    "norms": partial(plots.norms, by_weight=True, width=PAGE),
    "rates": partial(plots.effective_learning_rates, by_weight=True, width=PAGE),
    "angles": partial(plots.angles, width=PAGE),
    "off-span": partial(plots.off_span, width=PAGE),
    "energy": energies,
    "accuracy": partial(plots.accuracy, width=PAGE),
}
"""By name, all pictures of the page."""


def story(numbers: StudyNumbers, checks: list[theory.Check]) -> Iterator[str]:
    """The page, line by line."""
    recipe = numbers.study.spec.recipe
    data, momentum = recipe.data, recipe.optimizer.momentum
    groups = study_groups(numbers.study)
    main = compare(groups)
    yield "# Why train without weight decay"
    yield ""
    yield (
        "<!-- Written by `make why` from a study and from the checks of theory; "
        "change docs/why.py instead. -->"
    )
    yield from paragraph(
        "This page tells what weight decay does to a weight that feeds a normalization, with the pictures "
        f"and numbers of one study: {len(numbers.methods)} methods, {len(numbers.study.spec.seeds)} seeds "
        f"each, {recipe.n_steps:,} steps of {recipe.batch_size} of {data.n_train:,} real images "
        f"({data.name}), {percent(data.label_noise, 0)} of whose labels are drawn at random, so that there "
        f"is something to memorize; {data.n_test:,} test images; a small VGG with BatchNorm "
        f"({recipe.model.name}, {recipe.model.width_factor:g} of its width), SGD with momentum "
        f"{momentum:g}, learning rate {recipe.learning_rate:g} for all methods, {recipe.schedule} schedule. "
        "All figures below are of this study and come from its files."
    )
    yield from section(
        "A weight without scale",
        "A BatchNorm subtracts the mean and divides by the standard deviation. Multiply the kernel before it "
        "by any positive number, and what comes out is the same. So the gradient has no part along the "
        "kernel, ⟨w, g⟩ = 0, and shrinks as the kernel grows: g(cw) = g(w)/c. Only the direction of the "
        "kernel computes anything.",
        "Each step of SGD adds something orthogonal, so that by Pythagoras the norm can only grow: ‖w'‖² = "
        "‖w‖² + η²‖g‖². A step of the same learning rate then turns the longer kernel less. What counts for "
        "the direction is the effective learning rate η/‖w‖².",
        f"The study's steps have momentum {momentum:g}, and a buffer v of gradients at other directions is "
        "not orthogonal to the kernel: ‖w'‖² = ‖w‖² − 2η⟨w, v⟩ + η²‖v‖². Its product with the kernel is "
        "negative, since each step has moved the kernel against what it remembers, so that the norm grows "
        "all the faster: for gradients that are independent of each other by η²‖g‖²/(1−μ)² a step, where "
        "plain SGD has η²‖g‖².",
    )
    yield from section(
        "Norms",
        findings.norms(numbers),
        picture="norms",
        alt="Norms of each layer's kernels by step and method",
    )
    yield from section(
        "Decay sets the norm, and the norm sets the step",
        (
            "Weight decay cannot make such a weight simpler: a smaller one computes the same. It makes it "
            "shorter, and thereby turns it faster. "
        )
        + findings.effective_learning_rates(numbers),
        picture="rates",
        alt="Effective learning rates of each layer by step and method",
    )
    yield from section(
        "Where decay leads",
        "Growth and decay balance where a step turns every kernel by the same angle, whatever the layer and "
        "the gradients: √(2ηλ/(1+μ)) for SGD with momentum. A fixed norm has no such balance to find. Its "
        "angles follow the learning rate from the first step.",
        angles.angular_updates(numbers),
        picture="angles",
        alt="Angular updates by step and method, with the equilibrium of theory dashed",
    )
    yield from section(
        "Where a weight lives",
        "SGD, with momentum or without, moves a kernel only in the span of the patches that it sees. What "
        "its initial value has outside that span stays there without decay, shrinks under decay as the "
        "settings say, and under rescaling by exactly the growth that it takes back. The circles are these "
        "laws; the lines are measured.",
        spans.off_span(numbers),
        picture="off-span",
        alt="Off-span share of the first layer by step and method, with its law",
    )
    yield from listed(spans.off_span_notes(numbers))
    yield from section(
        "Deeper layers",
        "Deeper layers reach every direction, but not equally. This is how the energy of their kernels lies "
        "along the principal directions of their inputs, beside where it lay before training.",
        spans.spectrum(numbers),
        picture="energy",
        alt="Weight energy over the input spectrum of each layer",
    )
    yield from section(
        "Does it matter?",
        verdicts.results(main),
        " ".join(verdicts.statistics_notes(groups, main)),
        "Equal seeds on another processor are another draw, since it rounds otherwise. As written on another "
        "one before, this page also had the highest mean under WRS, and no difference seen between it and "
        "weight decay 0.005: what five seeds see or do not see between these two is not to be built on.",
        picture="accuracy",
        alt="Final test accuracies of every method",
    )
    yield from section(
        "What the algebra says of the paper's story",
        "What the paper says of norms and of spans holds exactly, and can be run: `decayfree verify`. Where "
        "its conclusions meet limits, the checks say so:",
    )
    first = {check.caution: check.statement for check in reversed(checks)}
    yield from listed([f"**{first[note]}.** {note}" for note in notes(checks)])
    yield from section(
        "Every statement, measured", "On a small BatchNorm network that trains on scanned digits, in float64:"
    )
    yield from statements(checks)


def section(title: str, *texts: str, picture: str = "", alt: str = "") -> Iterator[str]:
    """A heading, paragraphs, and a picture after the first of them."""
    yield from ("", f"## {title}")
    for index, text in enumerate(texts):
        yield from paragraph(text)
        if picture and index == len(texts) - 1:
            yield from ("", f"![{alt}](pictures/{picture}.svg)")


def paragraph(text: str) -> Iterator[str]:
    """An empty line and the text in lines of at most 120 characters."""
    yield ""
    yield from textwrap.wrap(
        text.replace("\N{NO-BREAK SPACE}", " "), WIDTH, break_long_words=False, break_on_hyphens=False
    )


def listed(texts: list[str]) -> Iterator[str]:
    """One bullet a text."""
    yield ""
    for text in texts:
        yield from textwrap.wrap(
            text,
            WIDTH,
            initial_indent="- ",
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )


def statements(checks: list[theory.Check]) -> Iterator[str]:
    """The table of checks."""
    yield from ("", "| statement | from | measured | expected | verdict |", "|---|---|---|---|---|")
    for check in checks:
        cells = (check.statement, check.source, check.measured, check.expected, check.verdict)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    main()
