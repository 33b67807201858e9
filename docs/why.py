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
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from decayfree import theory
from decayfree.cli.verify import notes, tinted_digits
from decayfree.report import compare, study_groups, study_numbers
from decayfree.report.numbers import spectra
from decayfree.report.numbers.series import (
    Cell,
    StudyNumbers,
    mean_angular_update,
    norm_of,
    predicted_angles,
    rate_of,
)
from decayfree.report.words import angles, spans, verdicts
from decayfree.report.words import curves as findings
from decayfree.report.words.wording import percent
from decayfree.study import Row, read_study

HERE = Path(__file__).parent
PICTURES = HERE / "pictures"
WIDTH = 120
COLORS = ("#7f7f7f", "#e69f00", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#000000")


def main() -> None:
    """Write the page and its pictures."""
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/why.py STUDY_FOLDER")
    numbers = study_numbers(read_study(Path(sys.argv[1])))
    if not numbers.shown:
        sys.exit(f"{sys.argv[1]}: no run of this study is done")
    PICTURES.mkdir(exist_ok=True)
    draw(numbers)
    began_s = time.perf_counter()
    checks = list(theory.verify(*tinted_digits()))
    print(f"{len(checks)} statements checked in {time.perf_counter() - began_s:.0f} s")
    page = HERE / "why.md"
    page.write_text("\n".join(story(numbers, checks)) + "\n", encoding="utf-8")
    print(f"wrote {page} and {len(list(PICTURES.glob('*.svg')))} pictures")


def draw(numbers: StudyNumbers) -> None:
    """All pictures of the page."""
    plt.rcParams.update(
        {
            "svg.hashsalt": "decayfree",
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
        }
    )
    weights = numbers.shown[0].weights
    each_layer(numbers, "norms", "norm of a kernel", norm_of, weights)
    each_layer(numbers, "rates", "effective learning rate", rate_of, weights)
    angular_updates(numbers)
    off_span(numbers)
    energies(numbers, weights)
    accuracies(numbers)


def each_layer(
    numbers: StudyNumbers,
    name: str,
    label: str,
    value: Callable[[str], Callable[[Row], float]],
    weights: tuple[str, ...],
) -> None:
    """One small chart a layer."""
    figure, panels = plt.subplots(
        1, len(weights), figsize=(3 * len(weights), 2.8), sharey=True, squeeze=False
    )
    for axes, weight in zip(panels[0], weights, strict=True):
        for method in numbers.shown:
            curve(axes, numbers, method, value(weight))
        axes.set_title(weight, fontsize=9)
        logarithmic(axes)
        axes.set_xlabel("step")
    panels[0][0].set_ylabel(label)
    save(figure, name, panels[0][0])


def angular_updates(numbers: StudyNumbers) -> None:
    """Measured angles, and the equilibrium ones of the methods that decay."""
    figure, axes = plt.subplots(figsize=(8, 3.6))
    for method in numbers.shown:
        curve(axes, numbers, method, mean_angular_update)
        points = predicted_angles(method)
        if points:
            axes.plot(*zip(*points, strict=True), color=color(numbers, method), linestyle="--", linewidth=1)
    axes.set_ylabel("angular update, radians")
    axes.set_xlabel("step (dashed: equilibrium in theory)")
    logarithmic(axes)
    save(figure, "angles", axes)


def off_span(numbers: StudyNumbers) -> None:
    """Share of the first layer off the span, measured (lines) and by its law (circles)."""
    figure, axes = plt.subplots(figsize=(8, 3.6))
    for method in numbers.shown:
        measured, law = (
            method.curve(value) for value in (lambda row: row.off_span_share, lambda row: row.off_span_law)
        )
        axes.plot(*xy(measured.points), color=color(numbers, method), label=method.label, linewidth=1.4)
        circles = {"linestyle": "", "marker": "o", "markersize": 5, "markerfacecolor": "none"}
        axes.plot(*xy(law.points), color=color(numbers, method), **circles)
    axes.set_ylabel("off-span share ‖Qw‖/‖w‖")
    axes.set_xlabel("step (lines: measured, circles: law)")
    logarithmic(axes)
    save(figure, "off-span", axes)


def energies(numbers: StudyNumbers, weights: tuple[str, ...]) -> None:
    """Weight energy over the principal directions of each layer's inputs."""
    figure, panels = plt.subplots(
        1, len(weights), figsize=(3 * len(weights), 2.8), sharey=True, squeeze=False
    )
    for axes, weight in zip(panels[0], weights, strict=True):
        start = spectra.first_spectrum(numbers.shown, weight)
        if start is not None:
            axes.plot(start.ranks, start.energy, color="0.6", linewidth=1, label="before training")
        for method in numbers.shown:
            end = spectra.last_spectrum([method], weight)
            if end is not None:
                axes.plot(
                    end.ranks, end.energy, color=color(numbers, method), label=method.label, linewidth=1.4
                )
        axes.set_title(weight, fontsize=9)
        axes.set_xlabel("rank of direction, share")
        axes.set_yscale("log")
    panels[0][0].set_ylabel("energy, 1 = uniform")
    save(figure, "energy", panels[0][0])


def accuracies(numbers: StudyNumbers) -> None:
    """Final test accuracy of every seed, and the mean's interval."""
    figure, axes = plt.subplots(figsize=(8, 0.6 + 0.5 * len(numbers.shown)))
    for place, method in enumerate(numbers.shown):
        finals = [100 * value for value in method.test.values()]
        axes.plot(finals, [place] * len(finals), "o", color=color(numbers, method), markersize=4, alpha=0.5)
        estimate = method.final_test
        if estimate is not None and estimate.low is not None and estimate.high is not None:
            axes.plot([100 * estimate.low, 100 * estimate.high], [place] * 2, color=color(numbers, method))
            axes.plot([100 * estimate.mean], [place], "|", color=color(numbers, method), markersize=14)
    axes.set_yticks(range(len(numbers.shown)), [method.label for method in numbers.shown])
    axes.invert_yaxis()
    axes.set_xlabel("test accuracy after the last step, % (dots: seeds, line: 95 % interval of the mean)")
    save(figure, "accuracy", None)


def curve(axes: Axes, numbers: StudyNumbers, method: Cell, value: Callable[[Row], float]) -> None:
    """Geometric mean over seeds."""
    points = method.curve(value, is_logarithmic=True).points
    axes.plot(*xy(points), color=color(numbers, method), label=method.label, linewidth=1.4)


def xy(points: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """Coordinates apart."""
    return [x for x, _ in points], [y for _, y in points]


def color(numbers: StudyNumbers, method: Cell) -> str:
    """One for each method, told apart by the color-blind too."""
    return COLORS[numbers.methods.index(method) % len(COLORS)]


def logarithmic(axes: Axes) -> None:
    """A logarithmic axis: plain numbers where it spans little, at most five decades where it spans a lot."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high / low < 100:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(bottom=max(low, high * 1e-5))


def save(figure: plt.Figure, name: str, legend_of: Axes | None) -> None:
    """Write the picture, with one legend below it."""
    if legend_of is not None:
        figure.legend(
            *legend_of.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8.5
        )
    figure.savefig(PICTURES / f"{name}.svg", metadata={"Date": None}, facecolor="white")
    plt.close(figure)


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
