"""Sentences of the pages that state figures of kept rows, written out of these rows.

    python results/claims.py    # prints each, and whether its page has it

A test holds that every page has its sentences, word by word. The tables are `keep.py`'s.
"""

import math
import statistics
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from keep import HERE, OURS, ROOT, THEIRS, kept, of_method
from outcomes import by_optimizer, lost_over_grids, minus_decay, off_span, turning_minus_decay

from decayfree.report.numbers.compared import Entry, compare_chosen
from decayfree.report.numbers.groups import StudyGroups, Sweep, study_groups
from decayfree.report.numbers.pooled import contrasts
from decayfree.report.numbers.series import Cell
from decayfree.report.words.wording import p_value, signed_interval, signed_points
from decayfree.study import Run, Study, StudySpec, read_study
from decayfree.study.statistics.estimates import Estimate, paired_difference
from decayfree.study.statistics.power import detectable_difference
from decayfree.study.statistics.significance import sign_flip_p
from decayfree.study.statistics.sweeps import best_of_sweep

UNTUNED = 1e-3
FRONT = ROOT / "docs" / "numbers.md"
PAPER = ROOT / "docs" / "paper.md"
STUDIES = ROOT / "docs" / "studies.md"


def main() -> None:
    """Print every sentence; exit code 1 where a page lacks one."""
    lacking = 0
    for path, sentence in claims():
        has = sentence in flat(path)
        lacking += not has
        print(f"{'ok     ' if has else 'LACKING'} {path.relative_to(ROOT)}: {sentence}")
    sys.exit(lacking > 0)


def claims() -> Iterator[tuple[Path, str]]:
    """Page and sentence, one after the other."""
    yield from of_optimizers(entries_of("optimizers"))
    yield from of_untuned_decay(kept_study("sensitivity"))
    yield from of_one_experiment()
    yield from over_groups()
    yield from of_powers()
    yield from of_preset(study_groups(kept_study("preset")))
    yield from of_rates(kept_study("rates"))
    yield from of_off_span(kept_study("off-span"))
    yield from of_off_span_law(kept_study("figure1"))
    yield from of_tuned_rates()
    yield from of_other_tasks()
    yield from of_coefficients(kept_study("sensitivity"))
    yield from of_minutes()
    rates = {run.recipe.learning_rate for run in StudySpec.load(HERE / "architectures" / "study.toml").runs()}
    for path in (FRONT, page("architectures")):
        yield path, f"all its runs have a learning rate of {' or '.join(f'{rate:g}' for rate in rates)}"


@cache
def kept_study(name: str) -> Study:
    """Read once, since many sentences are of the same."""
    return read_study(HERE / name)


def of_optimizers(entries: list[Entry]) -> Iterator[tuple[Path, str]]:
    """Which of two differences that look large the validation images show as well."""
    theirs = {entry.group.label: entry for entry in of_method(entries, THEIRS)}
    scatter = {name: 100 * statistics.stdev(entry.pairs) for name, entry in theirs.items()}
    of_nadam = scatter.pop("NAdam")
    nadam, muon = theirs["NAdam"], theirs["Muon"]
    yield (
        page("optimizers"),
        f"NAdam's WRS is {told(nadam.difference)} points beside its weight decay on the test images "
        f"and {told(nadam.validation_difference)} on those of validation",
    )
    yield page("optimizers"), f"exact sign-flip p = {p_value(sign_flip_p(nadam.pairs))}"
    yield (
        page("optimizers"),
        f"its five differences have a standard deviation of {of_nadam:.2f} points, those of the other "
        f"{len(scatter)} optimizers of {min(scatter.values()):.2f} to {max(scatter.values()):.2f}",
    )
    yield (
        page("optimizers"),
        f"Muon's is {told(muon.difference)} on the test images and {told(muon.validation_difference)} "
        "on those of validation",
    )
    for name, entry in (("NAdam", nadam), ("Muon", muon)):
        yield (
            FRONT,
            f"{name} ({size(entry.difference)} points, {size(entry.validation_difference)} on validation "
            "images)",
        )


def of_untuned_decay(study: Study) -> Iterator[tuple[Path, str]]:
    """How close a decay is that nobody tuned, at its best rate by validation, beside WRS and tuned decay."""
    sweeps = {sweep.name: sweep for sweep in study_groups(study).groups[0].sweeps}
    tuned, ours, untuned = chosen(sweeps[THEIRS]), chosen(sweeps[OURS]), untuned_of(sweeps[THEIRS])
    for path in (FRONT, page("sensitivity")):
        yield (
            path,
            f"weight decay {UNTUNED:g} at its best rate lies {size(against(untuned, tuned))} points below "
            f"tuned decay, no decay {size(against(chosen(sweeps['none']), tuned))} and WRS "
            f"{size(against(ours, tuned))}",
        )
    replicated = against(ours, untuned, "validation")
    yield (
        page("sensitivity"),
        f"WRS minus that untuned decay is {told(against(ours, untuned))}, on the validation images "
        f"{told(replicated)}",
    )
    yield FRONT, f"WRS minus that untuned decay is {told(against(ours, untuned))}"
    hot = {cell.weight_decay: 100 * cell.final_test.mean for cell in at_rate(sweeps[THEIRS], 0.3)}
    yield FRONT, f"up to {max(hot.values()) - min(hot.values()):.0f} points at a learning rate of 0.3"


def of_preset(groups: StudyGroups) -> Iterator[tuple[Path, str]]:
    """What one preset of turning is beside tuned decay, over all cells and by optimizer."""
    whole, _ = turning_minus_decay(groups)
    differences = {name: told(anew.test.primary.difference) for name, anew in by_optimizer(groups).items()}
    sgd, adamw, lion = differences.values()
    for path in (FRONT, ROOT / "docs" / "turning.md"):
        yield (
            path,
            f"turning as it comes minus tuned decay is {told(whole.test.primary.difference)} points",
        )
        yield (
            path,
            f"over {whole.test.n_groups} cells" if path != FRONT else f"Over {whole.test.n_groups} cells",
        )
    yield FRONT, f"With SGD it is {sgd}, with Lion {lion}"
    yield ROOT / "docs" / "turning.md", f"{sgd} with SGD, {adamw} with AdamW and {lion} with Lion"


def of_rates(study: Study) -> Iterator[tuple[Path, str]]:
    """What turning is beside tuned decay where its memory is chosen, and what an arm loses over its grid."""
    groups = study_groups(study)
    anew = {label: told(found.test.primary.difference) for label, found, _ in minus_decay(groups)}
    yield FRONT, f"turning minus tuned decay is {anew['turning']} points"
    lost = {label: f"{100 * middle:.2f}" for label, _, _, middle, _ in lost_over_grids(groups)}
    turning, decay = lost["turning"], lost["weight decay"]
    plain, root = (lost[label] for label in lost if label.startswith("WRS"))
    yield (
        FRONT,
        f"its median setting is {turning} points below its best, that of decay {decay}, that of WRS {plain}, "
        f"and on the root of the schedule {root}",
    )
    yield (
        PAPER,
        f"its median setting {plain} points, decay's {decay}); on the root of the schedule {root}. Turning "
        f"loses {turning}",
    )


def of_off_span(study: Study) -> Iterator[tuple[Path, str]]:
    """What decay gains where test images have content off the span, and how much of it cleaning leaves."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in off_span(study)]
    pairs = {(row[0], row[1]): row[2:] for row in rows if len(row) == 5}

    def points(network: str, method: str, column: int) -> str:
        return pairs[network, method][column].partition(" ")[0].removeprefix("+")

    as_is, cleaned = (points("vgg11-bn", "weight decay 0.005", column) for column in (1, 2))
    of_mlp = [points("mlp-bn", "weight decay 0.005", column) for column in (2, 1)]
    wrs, turning = (points("vgg11-bn", name, 0) for name in ("WRS, radius 1", "turning, memory of 5 epochs"))
    yield FRONT, f"decay 0.005 is {as_is} points above no decay, and {cleaned} where both are cleaned"
    yield FRONT, f"which adds {wrs} points to WRS and {turning} to turning"
    both = " and ".join(pairs["vgg11-bn", "weight decay 0.005"][column] for column in (1, 2))
    yield PAPER, f"decay minus no decay is {both} points, the second where the noise is taken out of both"
    yield PAPER, f"{of_mlp[0]} of {of_mlp[1]} points are left"


def of_tuned_rates() -> Iterator[tuple[Path, str]]:
    """What WRS is beside decay where both have a learning rate of their own, and over twelve optimizers."""
    of_figure1, of_rates = (study_groups(kept_study(name)) for name in ("figure1-tuned", "rates"))
    plain, root = (label for label in of_figure1.methods if label.startswith("WRS"))
    tuned = {
        label: told(compare_chosen(of_figure1, label).of("weight decay")[0].difference)
        for label in (plain, root)
    }
    yield (
        PAPER,
        f"with tuned rates WRS minus decay is {tuned[root]} points on the root of the schedule, "
        f"{tuned[plain]} on the schedule itself",
    )
    anew = {label: told(found.test.primary.difference) for label, found, _ in minus_decay(of_rates)}
    yield (
        PAPER,
        f"with SGD, Adam and AdamW, all tuned, it is {anew[root]} points on the root of the schedule, "
        f"{anew[plain]} on the schedule itself",
    )
    pooled = contrasts(study_groups(kept_study("optimizers")))[0].test.primary
    yield (
        PAPER,
        f"{told(pooled.difference)} over twelve optimizers, p = {p_value(pooled.p_value)} uncorrected",
    )
    verdicts = {one.group.label: one.judgement.verdict for one in of_method(entries_of("optimizers"), THEIRS)}
    ((label, verdict),) = (one for one in verdicts.items() if one[1] != "no difference seen")
    yield FRONT, f"with one optimizer of twelve, where it is {verdict}: {label}"
    pairs = of_method(entries_of("architectures"), THEIRS)
    n_higher = sum(entry.difference.mean > 0 for entry in pairs)
    yield PAPER, f"a higher mean in {n_higher} of {len(pairs)}"


def of_other_tasks() -> Iterator[tuple[Path, str]]:
    """What WRS is beside tuned decay in the other tasks."""
    said = []
    for name, metric in (("segmentation", "mIoU"), ("detection", "mAP"), ("counting", "counting accuracy")):
        anew = {label: found for label, found, _ in minus_decay(study_groups(kept_study(name)))}
        said.append(f"{told(anew['WRS'].test.primary.difference)} points of {metric} in {name}")
        if name == "detection":
            p = anew["WRS"].test.primary.p_value
            yield PAPER, f"an interval that leaves out 0 (p = {p_value(p)}, uncorrected)"
    yield PAPER, f"WRS minus tuned decay is {', '.join(said)}"


def of_coefficients(study: Study) -> Iterator[tuple[Path, str]]:
    """How far accuracy moves over coefficients of decay, at the largest learning rate and at the best one."""
    (decay,) = (sweep for sweep in study_groups(study).groups[0].sweeps if sweep.name == THEIRS)
    rates = {cell.learning_rate for cell in decay.cells}
    found = {rate: [100 * cell.final_test.mean for cell in at_rate(decay, rate)] for rate in rates}
    spread = {rate: max(ends) - min(ends) for rate, ends in found.items()}
    best = max(found, key=lambda rate: max(found[rate]))
    yield (
        PAPER,
        f"accuracy moves by {spread[max(rates)]:.0f} points at the largest rate, by {spread[best]:.1f} at "
        "the best one",
    )


def of_minutes() -> Iterator[tuple[Path, str]]:
    """How long the kept runs of each study took."""
    rows = STUDIES.read_text(encoding="utf-8").splitlines()
    for name in kept():
        minutes = sum(run.elapsed_s for run in kept_study(name).runs) / 60
        row = next(row for row in rows if row.startswith(f"| `{name}` |"))
        before, _, of_paper = row.rsplit(" | ", 2)
        yield STUDIES, f"{before} | {minutes:,.0f} | {of_paper}"


def of_one_experiment() -> Iterator[tuple[Path, str]]:
    """What baselines and sensitivity have in common, by their files."""
    first, second = (StudySpec.load(HERE / name / "study.toml") for name in ("baselines", "sensitivity"))
    is_one = first.recipe == second.recipe and first.seeds == second.seeds
    common = {run.key for run in first.runs()} & {run.key for run in second.runs()}
    for name in ("baselines", "sensitivity"):
        yield (
            page(name),
            f"One experiment in two studies: recipe and seeds of baselines and sensitivity "
            f"{'are equal' if is_one else 'differ'}, and {len(common)} runs are in both",
        )


def over_groups() -> Iterator[tuple[Path, str]]:
    """What optimizers and networks say together."""
    for name, groups in (("optimizers", "optimizers"), ("architectures", "networks")):
        ours, beside_none, decay_beside_none = contrasts(study_groups(kept_study(name)))
        pooled = ours.test.primary
        yield (
            page(name),
            f"{told(pooled.difference)} points over {ours.test.n_groups} {groups}, "
            f"p = {p_value(pooled.p_value)}, on the validation images "
            f"{told(ours.validation and ours.validation.primary.difference)}",
        )
        yield page(name), f"over these {groups} alone {between(ours.test.these_groups)}"
        yield page(name), f"WRS minus no decay is {told(beside_none.test.primary.difference)}"
        yield page(name), f"weight decay minus no decay {told(decay_beside_none.test.primary.difference)}"
    ours = contrasts(study_groups(kept_study("optimizers")))[0]
    yield (
        FRONT,
        f"Over the twelve together WRS minus weight decay is {told(ours.test.primary.difference)}, on "
        f"validation images {told(ours.validation and ours.validation.primary.difference)}",
    )


def of_powers() -> Iterator[tuple[Path, str]]:
    """True differences from weight decay that four of five such studies would show."""
    for name in ("optimizers", "architectures"):
        known = [
            100 * entry.judgement.detectable
            for entry in of_method(entries_of(name), THEIRS)
            if entry.judgement.verdict == "no difference seen"
        ]
        yield page(name), f"80 % power lies at {min(known):.1f} to {max(known):.1f} points"
    for name in ("baselines", "sensitivity"):
        entry = of_method(entries_of(name), THEIRS)[0]
        yield (
            page(name),
            f"80 % power at {100 * entry.judgement.detectable:.2f} points in its family, at "
            f"{100 * detectable_difference(entry.difference):.2f} alone",
        )
    of_none = of_method(entries_of("figure1"), "none")[0]
    yield page("figure1"), f"0.36 points, 80 % power at {100 * of_none.judgement.detectable:.2f}"


def of_off_span_law(study: Study) -> Iterator[tuple[Path, str]]:
    """Where the off-span shares of learning-rate scaling depart from their law, and how long weights are."""
    runs = {run.seed: run for run in study.runs if run.settings["method"]["name"] == "learning_rate_scaling"}
    farthest = {seed: max(departures(run)) for seed, run in runs.items()}
    longest = {seed: max(max(row.norms.values()) for row in run.rows) for seed, run in runs.items()}
    most, least = max(farthest, key=farthest.get), min(farthest, key=farthest.get)
    next_ = sorted(farthest, key=farthest.get)[-2]
    strength = runs[most].settings["method"]["replayed_weight_decay"]
    replayed = {
        run.seed: run
        for run in study.runs
        if run.settings["method"]["name"] == THEIRS and run.settings["method"]["weight_decay"] == strength
    }
    factors = {seed: max(factors_of(run, replayed[seed])) for seed, run in runs.items()}
    yield (
        ROOT / "docs" / "span.md",
        f"where factors go beyond 10{'⁰¹²³⁴⁵⁶⁷⁸⁹'[int(math.log10(min(factors.values())))]}, shares come to "
        f"{1 + farthest[most]:.1f} times what the law says",
    )
    yield (
        page("figure1"),
        f"depart from their law by a relative {farthest[most]:.1f} at most, in a seed whose longest mean "
        f"norm is {rounded(longest[most])}; by {farthest[next_]:.1f} in one with {rounded(longest[next_])}, "
        f"and by {farthest[least]:.2f} in one with {rounded(longest[least])}",
    )


def departures(run: Run) -> list[float]:
    """Relative distance of the measured off-span share from its law, at every sample."""
    return [abs(row.off_span_share / row.off_span_law - 1) for row in run.rows]


def factors_of(run: Run, replayed: Run) -> list[float]:
    """‖w‖²/‖w^WD‖² of the first layer by its mean norms, at every sample."""
    first = next(iter(run.rows[0].norms))
    rows = zip(run.rows, replayed.rows, strict=True)
    return [(mine.norms[first] / theirs.norms[first]) ** 2 for mine, theirs in rows]


def rounded(value: float) -> str:
    """Two digits of a large number: 86,000,000."""
    return f"{float(f'{value:.2g}'):,.0f}"


def entries_of(name: str) -> list[Entry]:
    """Every method of a study at the setting that validation images chose."""
    return list(compare_chosen(study_groups(kept_study(name))).entries)


def chosen(sweep: Sweep) -> Cell:
    """The cell that validation images chose."""
    assert sweep.chosen is not None
    return sweep.chosen


def untuned_of(sweep: Sweep) -> Cell:
    """`UNTUNED` weight decay at the learning rate that validation images choose for it."""
    cells = [cell for cell in sweep.cells if cell.weight_decay == UNTUNED]
    best = best_of_sweep({index: cell.validation for index, cell in enumerate(cells)}).chosen
    assert best is not None
    return cells[best]


def at_rate(sweep: Sweep, rate: float) -> list[Cell]:
    """Cells of one learning rate."""
    return [cell for cell in sweep.cells if cell.learning_rate == rate]


def against(first: Cell, second: Cell, part: str = "test") -> Estimate:
    """Mean paired difference on "test" or "validation" images."""
    comparison = paired_difference(getattr(first, part), getattr(second, part))
    assert comparison is not None
    return comparison.difference


def told(difference: Estimate | None) -> str:
    """−0.52 (−0.64 to −0.40)."""
    assert difference is not None
    return f"{signed_points(difference.mean, 2)} ({between(difference)})"


def between(estimate: Estimate | None) -> str:
    """−0.64 to −0.40."""
    assert estimate is not None
    assert estimate.interval is not None
    return signed_interval(*estimate.interval, 2)


def size(difference: Estimate | None) -> str:
    """0.52, whichever way."""
    assert difference is not None
    return f"{100 * abs(difference.mean):.2f}"


def page(name: str) -> Path:
    """The page of a study."""
    return HERE / name / "README.md"


def flat(path: Path) -> str:
    """A page in one line."""
    return " ".join(path.read_text(encoding="utf-8").split())


if __name__ == "__main__":
    main()
