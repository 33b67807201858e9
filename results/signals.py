"""Does anything that the first hundred steps show tell which memory is best? An exploratory look.

    python results/signals.py    # a table of the combinations of `memory`, and rank correlations; a minute

The first hundred steps of each combination of network and optimizer in the pilot are taken again, with the
memory that it chose. Beside them stand two gradients of other batches at the same weights, every tenth step:

    agreement    cosine between these two, row by row, in the mean over weights: how much is signal
    persistence  cosine between one of them and one of ten steps before: how long the signal stays
    noise        tr Σ/‖g‖² in batches (McCandlish et al., arXiv 1812.06162: the noise scale)

They are held against the memory with the best mean validation accuracy, and against the slope of that
accuracy over the logarithm of the memory. Twelve combinations are few.
"""

import math
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, linear_regression
from tempfile import TemporaryDirectory

from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent))
from outcomes import by_memory_in, combination

from decayfree.methods import TurningMethod
from decayfree.study import RunSettings, read_study
from decayfree.study.data.draws import batch_indices
from decayfree.study.training.building import Parts, build, set_rates

HERE = Path(__file__).resolve().parent
N_STEPS, EVERY, DEFAULT = 100, 10, 5.0
OTHER_BATCHES = 10_000
"""Batches of the steps from here on are none that these hundred see."""


@dataclass(frozen=True)
class Signals:
    """Means over the looks at one run."""

    agreement: float
    persistence: float
    noise: float


def main() -> None:
    """Print the table and the correlations."""
    study = read_study(HERE / "memory")
    found = by_memory_in(study)
    first = {combination(run): run for run in reversed(study.spec.runs())}
    chosen = {
        place: replace(run, method=TurningMethod(memory_epochs=DEFAULT)) for place, run in first.items()
    }
    print("| network, optimizer | best memory | slope, points | agreement | persistence | noise, batches |")
    print("|---|--:|--:|--:|--:|--:|")
    rows = []
    for place, by_memory in found.items():
        means = {memory: 100 * fmean(values) for memory, values in by_memory.items()}
        best = max(means, key=lambda memory: means[memory])
        slope = linear_regression([math.log2(memory) for memory in means], list(means.values())).slope
        signals = signals_of(chosen[place])
        rows.append((math.log2(best), slope, signals.agreement, signals.persistence, signals.noise))
        print(
            f"| {place} | {best:g} | {slope:+.2f} | {signals.agreement:.3f} | {signals.persistence:.3f} | "
            f"{signals.noise:.1f} |",
            flush=True,
        )
    columns = list(zip(*rows, strict=True))
    for name, column in zip(("agreement", "persistence", "noise"), columns[2:], strict=True):
        for what, target in (("best memory", columns[0]), ("slope", columns[1])):
            result = spearmanr(column, target)
            print(f"{name} and {what}: rank correlation {result.statistic:+.2f} (p = {result.pvalue:.2f})")


def signals_of(settings: RunSettings) -> Signals:
    """What the first steps of a run show."""
    seen: dict[str, list[float]] = defaultdict(list)
    with TemporaryDirectory() as out:
        parts = build(settings, Path(out), data_dir=None)
        before: dict[str, Tensor] = {}
        for step in range(N_STEPS):
            if step % EVERY == 0:
                first, second = (gradients(parts, settings, OTHER_BATCHES + 2 * step + k) for k in (0, 1))
                seen["agreement"].append(cosine(first, second))
                if before:
                    seen["persistence"].append(cosine(first, before))
                # E⟨g₁, g₂⟩ = ‖g‖² and E‖g₁ − g₂‖²/2 = tr Σ of a batch.
                signal = sum(float((first[name] * second[name]).sum()) for name in first)
                noise = sum(float((first[name] - second[name]).square().sum()) for name in first) / 2
                seen["signal"].append(signal)
                seen["noise"].append(noise)
                before = second
            set_rates(parts.optimizer, settings.recipe.learning_rate_at(step))
            gradients(parts, settings, step)
            parts.optimizer.step()
    return Signals(
        fmean(seen["agreement"]), fmean(seen["persistence"]), fmean(seen["noise"]) / fmean(seen["signal"])
    )


def gradients(parts: Parts, settings: RunSettings, step: int) -> dict[str, Tensor]:
    """Of the weights without scale, for the batch of a step."""
    recipe, data = settings.recipe, parts.dataset
    chosen = batch_indices(
        n_images=len(data.train), batch_size=recipe.batch_size, seed=settings.seed, step=step
    )
    parts.optimizer.zero_grad()
    outputs = parts.model(data.batch(chosen, recipe.data, seed=settings.seed, step=step))
    F.cross_entropy(outputs, parts.labels[chosen]).backward()
    named = dict(parts.model.named_parameters())
    return {one.name: named[one.name].grad.clone() for one in parts.found}


def cosine(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """Mean over weights of the mean cosine over their rows."""
    return fmean(
        float(F.cosine_similarity(first[name].flatten(1), second[name].flatten(1), dim=1).mean())
        for name in first
    )


if __name__ == "__main__":
    main()
