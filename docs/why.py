"""Why train without weight decay.

The story of docs/why.md, with its pictures and numbers out of a finished study, and docs/statements.md, the
statements of theory as they were measured.

    python docs/why.py demo

Reads the study in the folder, keeps its rows in docs/why/, checks the statements of theory, and writes both
pages and docs/pictures/. It states no figure of its own, but on how many processors
the page was written; `python docs/why.py docs/why` writes the same story again.
"""

import math
import sys
import textwrap
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from decayfree import plots, theory
from decayfree.cli.verify import notes, tinted_digits
from decayfree.display.paper import COLORS, INK, MUTED, PAGE, new_figure, paper_style
from decayfree.plots.drawn import figure_of
from decayfree.report import compare, study_groups, study_numbers
from decayfree.report.charts.curves import spectrum_charts
from decayfree.report.numbers.series import Cell, StudyNumbers, starts
from decayfree.report.tables.comparison import comparison_table
from decayfree.report.words import angles, spans, verdicts
from decayfree.report.words import curves as findings
from decayfree.report.words.wording import Figures, percent, percent_range
from decayfree.study import Study, read_study
from decayfree.study.files.keeping import keep
from decayfree.study.files.results import MAIN_VARIANCE

HERE = Path(__file__).parent
PICTURES = HERE / "pictures"
WIDTH = 120


def main() -> None:
    """Write the pages and their pictures."""
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/why.py STUDY_FOLDER")
    folder = Path(sys.argv[1])
    numbers = study_numbers(read_study(folder))
    if not numbers.shown:
        sys.exit(f"{folder}: no run of this study is done")
    if not (HERE / "why").is_dir() or not folder.samefile(HERE / "why"):
        keep(folder, HERE / "why")
    PICTURES.mkdir(exist_ok=True)
    for name, drawn in DRAWN.items():
        drawn(numbers.study).savefig(PICTURES / f"{name}.svg")
    began_s = time.perf_counter()
    checks = list(theory.verify(*tinted_digits()))
    print(f"{len(checks)} statements checked in {time.perf_counter() - began_s:.0f} s")
    for name, lines in {"why.md": story(numbers), "statements.md": as_measured(checks)}.items():
        (HERE / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"wrote {HERE / name}")


def two_kernels(_: Study) -> Any:
    """A kernel and one of twice its length, and where a step for the same loss takes each."""
    with paper_style():
        figure = new_figure(PAGE, 1.5)
        ratios = {"width_ratios": (2.1, 3.4)}
        for panel, length in zip(figure.subplots(1, 2, gridspec_kw=ratios), (1.0, 2.0), strict=True):
            step = 0.5 / length  # g(cw) = g(w)/c
            turned = math.atan2(step, length)
            panel.plot((0, length), (0, 0), color=INK)
            panel.annotate(
                "", (length, step), (length, 0), arrowprops={"arrowstyle": "->", "color": COLORS[0]}
            )
            panel.plot((0, length), (0, step), color=COLORS[0], linestyle="--")
            arc = [turned * i / 40 for i in range(41)]
            panel.plot([length * math.cos(a) for a in arc], [length * math.sin(a) for a in arc], color=MUTED)
            panel.text(length / 2, -0.14, "w" if length == 1 else "2w", ha="center")
            panel.text(length + 0.04, step / 2, "−ηg" if length == 1 else "−ηg/2", va="center")
            longer = math.hypot(length, step) / length - 1
            panel.set_title(f"turned by {math.degrees(turned):.0f}°, longer by {percent(longer)}", fontsize=8)
            panel.set_xlim(-0.05, length + 0.5)
            panel.set_ylim(-0.2, 0.55)
            panel.set_aspect("equal")
            panel.set_axis_off()
    return figure


def energies(study: Study) -> Any:
    """Weight energy over the principal directions of each layer's inputs."""
    charts = spectrum_charts(study_numbers(study))
    return figure_of([(one.title, one) for one in charts], PAGE, y_title="energy, 1 = uniform")


DRAWN: dict[str, Callable[[Study], Any]] = {
    "steps": two_kernels,
    "norms": partial(plots.norms, by_weight=True, width=PAGE),
    "rates": partial(plots.effective_learning_rates, by_weight=True, width=PAGE),
    "angles": partial(plots.angles, width=PAGE),
    "off-span": partial(plots.off_span, width=PAGE),
    "energy": energies,
    "accuracy": partial(plots.accuracy, width=PAGE),
}
"""By name, all pictures of the page."""


def story(numbers: StudyNumbers) -> Iterator[str]:
    """The page, line by line: each section one picture and what is seen in it."""
    recipe = numbers.study.spec.recipe
    data, momentum = recipe.data, recipe.optimizer.momentum
    none, decay, held = three_of(numbers)
    yield "# Why train without weight decay"
    yield ""
    yield (
        "<!-- Written by `make why` from a study and from the checks of theory; "
        "change docs/why.py instead. -->"
    )
    yield from paragraph(
        "What does weight decay do to a weight that feeds a normalization? Pictures and numbers are of one "
        f"small study: {recipe.n_steps:,} steps on {data.n_train:,} images, "
        f"{percent(data.label_noise, 0)} of whose labels are drawn at random, so that there is something to "
        f"memorize; learning rate {recipe.learning_rate:g} for all methods, {len(numbers.study.spec.seeds)} "
        "seeds each. Studies that decide more are in [results](../results/README.md), and the algebra is "
        "measured [statement by statement](statements.md)."
    )
    yield from table(
        ("images", "test images", "network", "optimizer", "batch", "schedule", "weight decay"),
        [
            (
                data.name,
                f"{data.n_test:,}",
                f"{recipe.model.name}, {recipe.model.width_factor:g} of its width",
                f"SGD, momentum {momentum:g}",
                f"{recipe.batch_size}",
                recipe.schedule,
                ", ".join(f"{cell.weight_decay:g}" for cell in numbers.shown if decays(cell)),
            )
        ],
    )
    yield from section(
        "A weight without scale",
        "BatchNorm divides by the standard deviation. Multiply the kernel before it by any positive number, "
        "and the same comes out: only its direction computes. So the gradient has no part along the kernel, "
        "⟨w, g⟩ = 0, and shrinks as the kernel grows, g(cw) = g(w)/c. A step of SGD goes off at a right "
        "angle and makes the kernel longer, ‖w'‖² = ‖w‖² + η²‖g‖². The longer it is, the less it turns: by "
        "the effective learning rate, η/‖w‖².",
        picture="steps",
        alt="The same loss moves a kernel of twice the length half as far, and turns it a quarter as much",
    )
    grown = of(findings.norm_figures(numbers), "Last over first")
    yield from section(
        "Norms",
        f"Over the training norms change by {grown[none.short]} without decay, by {grown[decay.short]} under "
        f"the stronger decay and by {grown[held.short]} under weight rescaling (WRS), which puts each kernel "
        "back onto its norm after every step. Momentum lets them grow faster than Pythagoras: its buffer v "
        "remembers where the kernel came from, so that ⟨w, v⟩ < 0 in ‖w'‖² = ‖w‖² − 2η⟨w, v⟩ + η²‖v‖².",
        picture="norms",
        alt="Norms of each layer's kernels by step and method",
    )
    halfway = of(findings.rate_figures(numbers), "Halfway, over")
    yield from section(
        "The norm sets the step",
        "Weight decay can't make such a weight simpler: a smaller one computes the same. It makes it "
        "shorter, and thereby turns it faster. Halfway through the training the effective learning rate "
        f"without decay is {halfway[none.short]} of that of WRS, and {halfway[decay.short]} under the "
        "stronger decay.",
        picture="rates",
        alt="Effective learning rates of each layer by step and method",
    )
    turned = angles.angle_figures(numbers)
    early, late = of(turned, "Over predicted"), of(turned, "… last quarter")
    yield from section(
        "Where decay leads",
        "Growth and decay balance where a step turns every kernel by the same angle, √(2ηλ/(1+μ)) with "
        "momentum, whatever the layer and the gradients (dashed). The stronger decay turns by "
        f"{early[decay.short]} of it in the second quarter of the training, and by {late[decay.short]} in "
        "the last: a norm needs time to find its balance, the more the smaller the learning rate. A norm "
        "that is held needs none; its angles follow the learning rate.",
        picture="angles",
        alt="Angular updates by step and method, with the equilibrium of theory dashed",
    )
    began = starts(numbers.shown, lambda row: row.off_span_share).get(none.short, math.nan)
    ended = of(spans.off_span_figures(numbers), "At the end")
    yield from section(
        "Where a weight lives",
        "SGD moves a kernel only in the span of its patches. What it starts with off that span "
        "stays without decay, shrinks under decay, and under WRS by the growth taken back: laws that "
        f"know no gradient (circles). From {percent(began)} the share falls to "
        f"{ended[none.short]} without decay, {ended[decay.short]} under the stronger, {ended[held.short]} "
        f"under WRS. {gray_images(numbers)}[More of the span](span.md).",
        picture="off-span",
        alt="Off-span share of the first layer by step and method, with its law",
    )
    yield from section(
        "Deeper layers",
        "Deeper layers reach every direction, but not equally. From left to right are the principal "
        "directions of a layer's inputs, those of the largest variance first; upwards is the energy of its "
        f"kernels in them. {main_energy(numbers)}",
        picture="energy",
        alt="Weight energy over the input spectrum of each layer",
    )
    groups = study_groups(numbers.study)
    main = compare(groups)
    yield from section(
        "Does it matter?",
        verdicts.verdict(groups, main)
        + " One network, one data set, one learning rate for all, and equal rates are not equal steps. Equal "
        "seeds on another processor are another draw, since it rounds otherwise: this page was written on "
        "four, and on one it saw WRS above the stronger decay. What five seeds see is not to be built on.",
        picture="accuracy",
        alt="Final test accuracies of every method",
    )
    shown = comparison_table(groups, main, "", "")
    yield from table(
        tuple(f"{column.title}{f' ({column.note})' if column.note else ''}" for column in shown.columns),
        [
            tuple(f"{cell.text}{f' ({cell.note})' if cell.note else ''}" for cell in row.cells)
            for row in shown.rows
        ],
    )


def three_of(numbers: StudyNumbers) -> tuple[Cell, Cell, Cell]:
    """No decay, the strongest decay and the method that holds norms, which the page tells of."""
    none = [cell for cell in numbers.shown if not cell.settings.method.is_treatment]
    decay = sorted((cell for cell in numbers.shown if decays(cell)), key=lambda cell: cell.weight_decay or 0)
    held = [cell for cell in numbers.shown if cell is numbers.reference]
    if not (none and decay and held):
        sys.exit("this page tells of no decay, weight decay and WRS; finished runs of one are missing")
    return none[0], decay[-1], held[0]


def decays(cell: Cell) -> bool:
    """Whether nothing but decay treats its norms."""
    return cell.settings.method.name == "weight_decay"


def of(figures: Figures, title: str) -> Mapping[str, str]:
    """By method what stands under the title that begins so; a dash where it has none."""
    found = next((column for name, column in figures.items() if name.startswith(title)), {})
    return defaultdict(lambda: "–", {name: text for name, (_, text) in found.items()})


def main_energy(numbers: StudyNumbers) -> str:
    """How much of the last layer's energy lies where its inputs vary, before training and after it."""
    columns = list(spans.spectrum_figures(numbers).items())
    if not columns:
        return ""
    weight, column = columns[-1]
    shares = {name: share for name, (share, _) in column.items()}
    before = shares.pop("before training", None)
    if before is None or not shares:
        return ""
    return (
        f"In the directions that hold {percent(MAIN_VARIANCE, 0)} of the inputs' variance lie "
        f"{percent(before)} of the energy of {weight} before training, and after it "
        f"{percent_range(min(shares.values()), max(shares.values()))}, whatever the method."
    )


def gray_images(numbers: StudyNumbers) -> str:
    """Where the directions off the span come from, of images that are gray."""
    if numbers.recipe.data.name not in spans.GRAY:
        return ""
    return "There is one because the images are gray, fed as three equal channels. "


def as_measured(checks: list[theory.Check]) -> Iterator[str]:
    """The page of statements, line by line."""
    yield "# Every statement, measured"
    yield ""
    yield "<!-- Written by `make why` from the checks of theory; change docs/why.py instead. -->"
    yield from paragraph(
        "What the [paper](paper.md) says of norms and of spans holds exactly, and can be run: `decayfree "
        "verify`, on a small BatchNorm network that trains on scanned digits, in float64, or on a model of "
        "yours. [Theory](theory.md) has the formulas. Where conclusions meet limits, the checks say so:"
    )
    first = {check.caution: check.statement for check in reversed(checks)}
    yield from listed([f"**{first[note]}.** {note}" for note in notes(checks)])
    yield from table(
        ("statement", "from", "measured", "expected", "verdict"),
        [(c.statement, c.source, c.measured, c.expected, c.verdict) for c in checks],
    )


def section(title: str, text: str, *, picture: str, alt: str) -> Iterator[str]:
    """A heading, what is to be seen, and the picture."""
    yield from ("", f"## {title}")
    yield from paragraph(text)
    yield from ("", f"![{alt}](pictures/{picture}.svg)")


def paragraph(text: str) -> Iterator[str]:
    """An empty line and the text in lines of at most 120 characters."""
    yield ""
    # A line that began with "%" would be a comment to what makes the site.
    for line in textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False):
        yield line.replace("\N{NO-BREAK SPACE}", " ")


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


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    """A table of Markdown."""
    yield from ("", "| " + " | ".join(head) + " |", "|---" * len(head) + "|")
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


if __name__ == "__main__":
    main()
