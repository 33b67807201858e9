"""Accuracy against forgetting: the picture of docs/turning.md, and what it shows in words, out of kept rows.

    python docs/forgetting.py

Reads results/, and writes docs/pictures/forgetting.svg and what stands between the marks in docs/turning.md.
It states no figure of its own.
"""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from decayfree.equilibrium import correlation_time
from decayfree.methods import Hyperball, RotationalEquilibrium, TurningMethod, WeightDecay
from decayfree.report import study_groups
from decayfree.report.numbers.series import Cell
from decayfree.study import RunSettings, read_study

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
STUDIES = ("memory", "sensitivity", "baselines", "preset", "rates", "angles")
WIDTH = 120
BETWEEN = 0.3, 1.2
"""Amounts of forgetting that are compared in words: about those of the best."""
KINDS = {
    "turning": "#009e73",
    "weight decay": "#d55e00",
    "rotational equilibrium": "#0072b2",
    "Hyperball": "#cc79a7",
}


@dataclass(frozen=True)
class Point:
    """One setting in one group of a study."""

    study: str
    group: str
    kind: str
    forgotten: float
    """D over the whole run, of independent gradients in balance."""
    below: float
    """Points of validation accuracy below the best of its kind there."""


def main() -> None:
    """Write the picture and the paragraph."""
    points = list(points_of_studies())
    draw(points, HERE / "pictures" / "forgetting.svg")
    page = HERE / "turning.md"
    text = page.read_text(encoding="utf-8")
    marked = re.compile(r"(<!-- forgetting -->\n).*?(<!-- /forgetting -->)", re.DOTALL)
    page.write_text(marked.sub(lambda m: f"{m[1]}{words(points)}\n{m[2]}", text), encoding="utf-8")
    print(f"{len(points)} settings of {', '.join(dict.fromkeys(point.study for point in points))}")


def points_of_studies() -> Iterator[Point]:
    """All settings of the kept studies of which the forgetting is known."""
    for name in STUDIES:
        if not (RESULTS / name / "runs.tar.xz").is_file():
            continue
        for group in study_groups(read_study(RESULTS / name)).groups:
            by_kind: dict[str, list[tuple[float, float]]] = {}
            for cell in group.cells:
                forgotten = forgotten_of(cell.settings)
                accuracy = validation_of(cell)
                if forgotten and accuracy is not None:
                    by_kind.setdefault(kind_of(cell.settings), []).append((forgotten, accuracy))
            for kind, found in by_kind.items():
                best = max(accuracy for _, accuracy in found)
                for forgotten, accuracy in sorted(found):
                    yield Point(name, group.label, kind, forgotten, 100 * (accuracy - best))


def kind_of(settings: RunSettings) -> str:
    """As the legend calls its method."""
    return {"turning": "turning", "weight_decay": "weight decay", "hyperball": "Hyperball"}.get(
        settings.method.name, "rotational equilibrium"
    )


def forgotten_of(settings: RunSettings) -> float | None:
    """D = Σ κθ²/2 over the run, as its settings say it; None where they do not."""
    method, recipe = settings.method, settings.recipe
    rates = [recipe.learning_rate_at(step) for step in range(recipe.n_steps)]
    momentum = recipe.optimizer.momentum if recipe.optimizer.name == "sgd" else None
    if isinstance(method, TurningMethod):
        share = sum(rates) / recipe.learning_rate
        return method.forgetting or share / (method.memory_epochs * recipe.n_steps_per_epoch)
    if isinstance(method, WeightDecay | RotationalEquilibrium):
        if momentum is not None:
            return sum(rates) * method.weight_decay / (1 - momentum)
        decoupled = recipe.optimizer.name in ("adamw", "lion", "muon")
        return sum(rates) * method.weight_decay if decoupled else None
    if isinstance(method, Hyperball) and momentum is not None:
        return correlation_time(momentum) / 2 * sum(rate**2 for rate in rates)
    return None


def validation_of(cell: Cell) -> float | None:
    """Mean validation accuracy; None where a run has none."""
    values = list(cell.validation.values())
    return sum(values) / len(values) if values and all(value == value for value in values) else None


def draw(points: list[Point], path: Path) -> None:
    """Every setting below the best of its method in its group, over what it forgets."""
    plt.rcParams.update({"svg.hashsalt": "decayfree", "font.size": 9, "axes.grid": True, "grid.alpha": 0.25})
    kinds = [kind for kind in KINDS if any(point.kind == kind for point in points)]
    figure, panels = plt.subplots(
        1, len(kinds), figsize=(2.4 * len(kinds), 2.8), sharey=True, layout="constrained", squeeze=False
    )
    for panel, kind in zip(panels[0], kinds, strict=True):
        own = [point for point in points if point.kind == kind]
        for place in dict.fromkeys((point.study, point.group) for point in own):
            line = [point for point in own if (point.study, point.group) == place]
            xs, ys = [point.forgotten for point in line], [max(point.below, -6) for point in line]
            # Of decay several settings forget the same, so that a line would say what is not there.
            style = "o-" if kind == "turning" else "o"
            panel.plot(xs, ys, style, color=KINDS[kind], alpha=0.6, markersize=3.5, linewidth=0.8)
        panel.set_xscale("log")
        panel.set_xlim(1e-3, 1e3)
        panel.set_ylim(-6.2, 0.3)
        panel.set_title(kind, fontsize=9)
        panel.set_xlabel("forgotten over the run, D")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("validation accuracy below\nthe best there, points")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def words(points: list[Point]) -> str:
    """What the picture shows, with its figures."""
    worst, n = {}, {}
    for kind in ("turning", "weight decay"):
        near = [p.below for p in points if p.kind == kind and BETWEEN[0] <= p.forgotten <= BETWEEN[1]]
        worst[kind], n[kind] = -min(near), len(near)
    sentence = (
        f"Of settings that forget between {BETWEEN[0]:g} and {BETWEEN[1]:g} over a run, the worst of "
        f"{n['turning']} of turning is {worst['turning']:.1f} points below the best of its group, that of "
        f"{n['weight decay']} of decay {worst['weight decay']:.1f}. All methods are on no one curve: under "
        "decay norms have to find their balance first, and the learning rate is that of the rest of the "
        "network as well."
    )
    return "\n".join(textwrap.wrap(sentence, WIDTH))


if __name__ == "__main__":
    main()
