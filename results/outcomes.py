"""The outcomes that studies' files decide beforehand, computed from the rows: tables of their READMEs.

keep.py writes them. It states no figure of its own.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import fmean, median

from decayfree.methods import TurningMethod
from decayfree.report.numbers.budget import GroupBudget, budgets_of
from decayfree.report.numbers.compared import compare_chosen
from decayfree.report.numbers.groups import Group, StudyGroups, Sweep, study_groups
from decayfree.report.numbers.pooled import Contrast, contrast_of
from decayfree.report.numbers.series import Cell
from decayfree.report.words.wording import signed_interval, signed_points
from decayfree.study import Override, Run, RunSettings, Study
from decayfree.study.files.of_images import images_of_text
from decayfree.study.statistics.estimates import Estimate, mean_interval
from decayfree.study.statistics.sweeps import best_of_sweep, spread_of
from decayfree.study.statistics.two_way import difference_on_images

Settings = RunSettings
MARGIN = 0.003
"""Below tuned decay by less than this share is not inferior."""


def memory(study: Study) -> Iterator[str]:
    """Mean validation accuracy by memory and combination, and what the rule chooses."""
    found = by_memory_in(study)
    memories = sorted({memory for by_memory in found.values() for memory in by_memory})
    yield "Validation accuracy in %, mean over two seeds:\n"
    yield f"| network, optimizer | {' | '.join(f'{memory:g} epochs' for memory in memories)} |"
    yield "|---|" + "--:|" * len(memories)
    for place, by_memory in found.items():
        yield f"| {place} | {' | '.join(_percent(fmean(by_memory[memory])) for memory in memories)} |"
    means = {memory: fmean(fmean(found[place][memory]) for place in found) for memory in memories}
    yield f"| **mean** | {' | '.join(f'**{_percent(means[memory])}**' for memory in memories)} |"
    chosen = chosen_memory(means)
    best = {place: max(map(fmean, by_memory.values())) for place, by_memory in found.items()}
    lost = {place: best[place] - fmean(by_memory[chosen]) for place, by_memory in found.items()}
    most = max(lost, key=lambda place: lost[place])
    yield (
        f"\nThe rule of the study's file chooses {chosen:g} epochs. Against the best of the four in each "
        f"combination that loses {100 * fmean(lost.values()):.2f} points in the mean, and "
        f"{100 * lost[most]:.2f} at most ({most})."
    )


def by_memory_in(study: Study) -> dict[str, dict[float, list[float]]]:
    """Combination of network and optimizer -> memory in epochs -> validation accuracies, one a seed."""
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for settings, run in planned(study):
        assert isinstance(settings.method, TurningMethod)
        found[combination(settings)][settings.method.memory_epochs].append(run.rows[-1].validation_score)
    return found


def combination(settings: Settings) -> str:
    """Network and optimizer, in words."""
    return f"{settings.recipe.model.name}, {settings.recipe.optimizer.label}"


def chosen_memory(means: Mapping[float, float]) -> float:
    """The memory with the best mean; the longest of those that are less than 0.1 points below it."""
    return max(memory for memory, mean in means.items() if max(means.values()) - mean < 0.001)


def preset(study: Study) -> Iterator[str]:
    """Every arm minus tuned decay on seeds that nothing was chosen by, pooled; what trials of decay buy."""
    groups = study_groups(study)
    default = "weight decay, published default"
    beside = replace(groups, groups=tuple(_with_default(one, study, default) for one in groups.groups))
    yield from beside_decay(minus_decay(beside))
    anew, _ = turning_minus_decay(groups)
    verdict, where = inferiority(anew)
    yield (
        "\n**Primary outcome:** turning as it comes minus tuned decay is "
        f"{_told(anew.test.primary.difference)} points; the lower end is {where} −{100 * MARGIN:g}: "
        f"{verdict}."
    )
    yield from _trials(budgets_of(groups))
    yield from _by_optimizer(groups)


def turning_minus_decay(groups: StudyGroups) -> tuple[Contrast, Contrast | None]:
    """Turning with its default memory minus tuned decay, on new seeds and on those that chose."""
    arms = (_minus_decay(groups, label) for label in groups.methods if "memory" in label)
    return next(arm for arm in arms if arm is not None)


def inferiority(found: Contrast) -> tuple[str, str]:
    """The verdict on a difference, and on which side of the margin its lower end is."""
    difference = found.test.primary.difference
    low = difference.mean if difference.low is None else difference.low
    return ("not inferior", "above") if low > -MARGIN else ("not shown to be non-inferior", "below")


def beside_decay(arms: Iterable[tuple[str, Contrast, Contrast | None]]) -> Iterator[str]:
    """A row for each arm: what is chosen minus tuned decay, on new seeds and as it was chosen, pooled."""
    yield "Minus tuned weight decay, points, 95 % interval over cells, seeds and images:\n"
    yield "| arm | new seeds (test images) | these cells alone | validation images | spread | cells |"
    yield "|---|--:|--:|--:|--:|--:|"
    for label, anew, chose in arms:
        validation, found = (chose or anew).validation, anew.test
        yield (
            f"| {label} | {_told(found.primary.difference)} | {_ends(found.these_groups)} | "
            f"{_told(validation.primary.difference) if validation else '–'} | {100 * found.spread:.2f} | "
            f"{found.n_groups} |"
        )


def minus_decay(groups: StudyGroups) -> Iterator[tuple[str, Contrast, Contrast | None]]:
    """Arm, its difference to tuned decay on new seeds, and with those that chose, where several did."""
    for label in groups.methods:
        if (arm := _minus_decay(groups, label)) is not None:
            yield label, *arm


def _minus_decay(groups: StudyGroups, label: str) -> tuple[Contrast, Contrast | None] | None:
    entries = compare_chosen(groups, label).of("weight decay")
    anew = contrast_of([entry for entry in entries if entry.is_anew])
    return anew and (anew, contrast_of([one for entry in entries if (one := entry.of_choice)]))


def rates(study: Study) -> Iterator[str]:
    """Every arm minus tuned decay; how far the median and the worst of its settings are below its best."""
    groups = study_groups(study)
    yield from beside_decay(minus_decay(groups))
    yield "\nBelow the best setting of the arm, points of test accuracy, mean over cells (diverged: 0 %):\n"
    yield "| arm | settings, cells | median | worst |"
    yield "|---|--:|--:|--:|"
    for label, n, n_cells, middle, worst in lost_over_grids(groups):
        yield f"| {label} | {n}, {n_cells} | {100 * middle:.2f} | {100 * worst:.2f} |"
    plain, root = (label for label in groups.methods if label.startswith("WRS"))
    found = contrast_of([one for one in compare_chosen(groups, root).of(plain) if one.is_anew])
    if found is not None:
        yield f"\n{root} minus {plain}, on new seeds: {_told(found.test.primary.difference)} points."


def lost_over_grids(groups: StudyGroups) -> Iterator[tuple[str, int, int, float, float]]:
    """Arm, settings, cells, and by how much the median and the worst setting are below the best, a share."""
    for label in groups.methods:
        sweeps = [sweep for group in groups.groups for sweep in group.sweeps if sweep.label == label]
        spreads = [
            one for sweep in sweeps if (one := spread_of([_with_diverged(cell) for cell in sweep.cells]))
        ]
        middle, worst = (
            fmean(one.best - getattr(one, name) for one in spreads) for name in ("median", "worst")
        )
        yield label, sum(len(sweep.cells) for sweep in sweeps), len(sweeps), middle, worst


def angles(study: Study) -> Iterator[str]:
    """Every arm minus tuned decay, pooled; the memory that validation images choose for each optimizer."""
    groups = study_groups(study)
    yield from beside_decay(minus_decay(groups))
    chosen: dict[str, dict[str, float]] = defaultdict(dict)
    for group in groups.groups:
        for sweep in group.sweeps:
            if sweep.chosen and isinstance(method := sweep.chosen.settings.method, TurningMethod):
                recipe = sweep.chosen.settings.recipe
                chosen[recipe.optimizer.label][recipe.data.name] = method.memory_epochs
    data = list(dict.fromkeys(name for by_data in chosen.values() for name in by_data))
    yield "\nThe memory that validation images choose, epochs:\n"
    yield f"| optimizer | {' | '.join(data)} |"
    yield "|---|" + "--:|" * len(data)
    for optimizer, by_data in chosen.items():
        told = [f"{by_data[name]:g}" if name in by_data else "–" for name in data]
        yield f"| {optimizer} | {' | '.join(told)} |"
    for name in data:
        memories = sorted(by_data[name] for by_data in chosen.values() if name in by_data)
        middle = median(memories)
        near = sum(middle / 2 <= one <= 2 * middle for one in memories)
        yield (
            f"\n{name}: from {memories[0]:g} to {memories[-1]:g} epochs, median {middle:g}; {near} of "
            f"{len(memories)} within a factor of 2 of it."
        )


def figure1_tuned(study: Study) -> Iterator[str]:
    """Every arm minus weight decay on new seeds, after the last step and in the middle of training."""
    (group,) = study_groups(study).groups
    arms = {sweep.label: sweep.chosen.confirmation for sweep in group.sweeps if sweep.chosen}
    decay = arms.pop("weight decay")
    assert decay is not None
    yield "Minus tuned weight decay on new seeds, points, 95 % interval:\n"
    yield "| arm | after the last step (seeds and images) | in the middle (seeds) | seeds |"
    yield "|---|--:|--:|--:|"
    for label, cell in arms.items():
        if cell is None or (last := difference_on_images(cell.of_images, decay.of_images)) is None:
            continue
        seeds = sorted(cell.runs.keys() & decay.runs.keys())
        middle = [_in_the_middle(cell.runs[seed]) - _in_the_middle(decay.runs[seed]) for seed in seeds]
        yield f"| {label} | {_told(last.difference)} | {_told(mean_interval(middle))} | {len(seeds)} |"


def of_other_tasks(study: Study) -> Iterator[str]:
    """Every arm minus tuned decay on new seeds, pooled over networks."""
    yield from beside_decay(minus_decay(study_groups(study)))


def _by_optimizer(groups: StudyGroups) -> Iterator[str]:
    yield "\nExploratory, decided after a look: turning minus decay by optimizer, points.\n"
    yield (
        "| optimizer | minus tuned decay (new seeds) | least of a cell | minus decay at turning's own "
        "learning rate, best coefficient by validation | cells |"
    )
    yield "|---|--:|--:|--:|--:|"
    own: dict[str, list[float]] = defaultdict(list)
    for group in groups.groups:
        if (found := _at_its_own_rate(group)) is not None:
            own[_optimizer_of(group)].append(found)
    for optimizer, anew in by_optimizer(groups).items():
        yield (
            f"| {optimizer} | {_told(anew.test.primary.difference)} | "
            f"{signed_points(min(anew.test.by_group), 2)} | {_told(mean_interval(own[optimizer]))} | "
            f"{anew.test.n_groups} |"
        )


def by_optimizer(groups: StudyGroups) -> dict[str, Contrast]:
    """Optimizer -> turning with its default memory minus tuned decay on new seeds, over its cells."""
    found: dict[str, list[Group]] = defaultdict(list)
    for group in groups.groups:
        found[_optimizer_of(group)].append(group)
    return {
        optimizer: turning_minus_decay(replace(groups, groups=tuple(of_optimizer)))[0]
        for optimizer, of_optimizer in found.items()
    }


def _optimizer_of(group: Group) -> str:
    return group.cells[0].settings.recipe.optimizer.label


def _at_its_own_rate(group: Group) -> float | None:
    """Turning minus decay with the same learning rate for all that has a scale, on seeds that choose."""
    turning = next(sweep.cells[0] for sweep in group.sweeps if "memory" in sweep.label)
    decay = next(sweep for sweep in group.sweeps if sweep.name == "weight_decay")
    same = [cell for cell in decay.cells if cell.learning_rate == turning.learning_rate]
    done = [cell for cell in same if cell.final_test]
    if not done or not turning.final_test:
        return None
    best = max(done, key=lambda cell: fmean(cell.validation.values()))
    assert best.final_test
    return turning.final_test.mean - best.final_test.mean


def _in_the_middle(run: Run) -> float:
    return run.rows[len(run.rows) // 2].test_score


def _with_diverged(cell: Cell) -> float:
    return fmean(_test_score(run) for run in cell.begun.values())


def _trials(budgets: Sequence[GroupBudget]) -> Iterator[str]:
    """How many trials of decay's grid are worth as much as turning, in the mean over cells."""
    decay = [next(one for one in group.methods if one.sweep.name == "weight_decay") for group in budgets]
    turning = [
        next(one for one in group.methods if "memory" in one.sweep.label).budget.mean[0] for group in budgets
    ]
    n = min(one.budget.n for one in decay)
    means = [fmean(one.budget.mean[k] for one in decay) for k in range(n)]
    worth = next((k + 1 for k, mean in enumerate(means) if mean >= fmean(turning)), None)
    yield (
        f"\nTurning's mean test accuracy over cells is {_percent(fmean(turning))} %; the best by validation "
        f"of k random trials of decay's grid has {_percent(means[0])} % with one, "
        f"{_percent(means[min(3, n - 1)])} % with four and {_percent(means[-1])} % with {n}: turning is "
        "worth " + (f"{worth} trials." if worth else f"more than {n} trials.")
    )


def transfer(study: Study) -> Iterator[str]:
    """Regret in points at every place of what validation images choose at the smallest, by arm.

    A run that diverged counts as one that ends at 0 %, as in what a trial buys.
    """
    runs = dict(planned(study, with_diverged=True))
    optimizers = dict.fromkeys(settings.recipe.optimizer.label for settings in runs)
    arms = {"(rate, decay)": "weight_decay", "(rate) with WRS": "wrs", "(D)": "D", "(memory)": "memory"}
    places = list(dict.fromkeys(map(_place, runs)))
    yield f"| regret, points | {' | '.join(_place_words(place, places[0]) for place in places[1:])} | mean |"
    yield "|---|" + "--:|" * len(places)
    for label, arm in arms.items():
        rows = []
        for optimizer in optimizers:
            own = {s: r for s, r in runs.items() if _arm(s) == arm and s.recipe.optimizer.label == optimizer}
            rows.append([_regret(own, places[0], place) for place in places[1:]])
            cells = [f"{100 * regret:.2f}" for regret in (*rows[-1], fmean(rows[-1]))]
            yield f"| {label}, {optimizer} | {' | '.join(cells)} |"
        means = [fmean(column) for column in zip(*rows, strict=True)]
        yield f"| **{label}** | {' | '.join(f'**{100 * one:.2f}**' for one in (*means, fmean(means)))} |"


def endless(study: Study) -> Iterator[str]:
    """Plasticity over a sequence of tasks, final accuracies, and falls of the training accuracy."""
    cells: dict[str, dict[tuple[str, str], list[Run]]] = defaultdict(lambda: defaultdict(list))
    for settings, run in planned(study):
        cells[_kind(settings)][settings.recipe.optimizer.label, settings.label].append(run)
    yield "A sequence of tasks, test accuracy at their ends in %; change in points, t interval over seeds:\n"
    yield "| optimizer | method | first five | last five | change | mean of all |"
    yield "|---|---|--:|--:|--:|--:|"
    for (optimizer, label), runs in cells["tasks"].items():
        first, last = ([_mean_of_ends(run, part) for run in runs] for part in (slice(1, 6), slice(-5, None)))
        change = mean_interval([after - before for before, after in zip(first, last, strict=True)])
        whole = fmean(_mean_of_ends(run, slice(1, None)) for run in runs)
        yield (
            f"| {optimizer} | {label} | {_percent(fmean(first))} | {_percent(fmean(last))} | "
            f"{_told(change)} | {_percent(whole)} |"
        )
    others = [kind for kind in cells if kind != "tasks"]
    yield "\nFinal test accuracy in %; largest fall of the training accuracy at a constant rate, points:\n"
    yield f"| optimizer | method | {' | '.join(others)} | largest fall |"
    yield "|---|---|" + "--:|" * (len(others) + 1)
    for place in cells[others[0]]:
        finals = [_percent(fmean(run.rows[-1].test_score for run in cells[kind][place])) for kind in others]
        fall = fmean(_largest_fall(run) for run in cells["constant"][place])
        yield f"| {place[0]} | {place[1]} | {' | '.join(finals)} | {100 * fall:.1f} |"


def off_span(study: Study) -> Iterator[str]:
    """Test accuracy on images with content in empty directions, cleaned and not, at the chosen setting."""
    arms: dict[tuple[str, bool, str], dict[Settings, dict[int, Run]]] = defaultdict(lambda: defaultdict(dict))
    for settings, run in planned(study):
        place = settings.recipe.model.name, settings.recipe.clean_off_span, settings.label
        arms[place][replace(settings, seed=0)][settings.seed] = run
    chosen = {place: own[_best(own)] for place, own in arms.items()}
    yield "Test accuracy in %, with t interval over seeds, and by how much it is below validation accuracy:\n"
    yield "| network | method | as it is | below validation | cleaned | below validation |"
    yield "|---|---|--:|--:|--:|--:|"
    arms_of = [(network, label) for network, is_clean, label in chosen if not is_clean]
    for network, label in arms_of:
        cells = []
        for cleaned in (False, True):
            runs = chosen[network, cleaned, label].values()
            test = mean_interval([run.rows[-1].test_score for run in runs])
            fall = fmean(run.rows[-1].validation_score - run.rows[-1].test_score for run in runs)
            low, high = test.interval or (test.mean, test.mean)
            cells += [f"{_percent(test.mean)} ({100 * low:.2f} to {100 * high:.2f})", f"{100 * fall:.2f}"]
        yield f"| {network} | {label} | {' | '.join(cells)} |"
    yield "\nPaired differences in test accuracy, points, 95 % interval over seeds and images:\n"
    yield "| network | method | cleaned minus as it is | minus no decay | minus no decay, both cleaned |"
    yield "|---|---|--:|--:|--:|"
    for network, label in arms_of:
        own = [chosen[network, cleaned, label] for cleaned in (False, True)]
        none = [chosen[network, cleaned, "no decay"] for cleaned in (False, True)]
        pairs = [(own[1], own[0])] + [(mine, theirs) for mine, theirs in zip(own, none, strict=True)]
        cells = [_told(_paired(*pair)) if pair[0] is not pair[1] else "–" for pair in pairs]
        yield f"| {network} | {label} | {' | '.join(cells)} |"


def _paired(first: Mapping[int, Run], second: Mapping[int, Run]) -> Estimate:
    """Over seeds and test images where runs kept which are right, else over seeds."""
    texts = [{seed: run.rows[-1].test_images for seed, run in runs.items()} for runs in (first, second)]
    if all(text for own in texts for text in own.values()):
        images = ({seed: images_of_text(text) for seed, text in own.items() if text} for own in texts)
        if (found := difference_on_images(*images)) is not None:
            return found.difference
    seeds = sorted(first.keys() & second.keys())
    return mean_interval([_test_score(first[seed]) - _test_score(second[seed]) for seed in seeds])


OUTCOMES: Mapping[str, Callable[[Study], Iterator[str]]] = {
    "memory": memory,
    "preset": preset,
    "transfer": transfer,
    "endless": endless,
    "off-span": off_span,
    "rates": rates,
    "angles": angles,
    "figure1-tuned": figure1_tuned,
    **dict.fromkeys(("segmentation", "detection", "counting"), of_other_tasks),
}


def planned(study: Study, *, with_diverged: bool = False) -> Iterator[tuple[Settings, Run]]:
    """The runs that are done with their settings; those that diverged too where they are asked for."""
    states = ("done", "diverged") if with_diverged else ("done",)
    done = {run.key: run for run in study.runs if run.state in states}
    return ((settings, done[settings.key]) for settings in study.spec.runs() if settings.key in done)


def _with_default(group: Group, study: Study, label: str) -> Group:
    """The group with the published default of decay as an arm of its own."""
    decay = next(sweep for sweep in group.sweeps if sweep.name == "weight_decay")
    conditions = [Override(always.when) for always in study.spec.confirm_also]
    published = tuple(cell for cell in decay.cells if any(one.fits(cell.settings) for one in conditions))
    return replace(group, sweeps=(*group.sweeps, Sweep(label, published)))


def _told(estimate: Estimate) -> str:
    return f"{signed_points(estimate.mean, 2)} ({_ends(estimate)})"


def _ends(estimate: Estimate) -> str:
    return signed_interval(*estimate.interval, 2) if estimate.interval else "–"


def _best(arm: Mapping[Settings, Mapping[int, Run]]) -> Settings:
    """The setting with the best mean validation accuracy."""
    results = {
        settings: {seed: run.rows[-1].validation_score for seed, run in runs.items() if run.state == "done"}
        for settings, runs in arm.items()
    }
    chosen = best_of_sweep(results).chosen
    assert chosen is not None
    return chosen


def _regret(runs: Mapping[Settings, Run], smallest: Sequence[float], place: Sequence[float]) -> float:
    """What the recipe that is best at the smallest place loses at another one, a share."""
    by_place: dict[Sequence[float], dict[Settings, dict[int, Run]]] = defaultdict(lambda: defaultdict(dict))
    for settings, run in runs.items():
        if _place(settings) in (smallest, place):
            by_place[_place(settings)][replace(settings, seed=0)][settings.seed] = run
    carried, best = _best(by_place[smallest]), _best(by_place[place])
    there = next(one for one in by_place[place] if _recipe(one) == _recipe(carried))
    tests = [fmean(_test_score(run) for run in by_place[place][one].values()) for one in (best, there)]
    return tests[0] - tests[1]


def _test_score(run: Run) -> float:
    return run.rows[-1].test_score if run.state == "done" else 0.0


def _recipe(settings: Settings) -> tuple[object, ...]:
    return settings.method, settings.recipe.learning_rate


def _place(settings: Settings) -> tuple[float, ...]:
    recipe = settings.recipe
    return recipe.model.width_factor, recipe.batch_size, recipe.n_epochs, recipe.data.n_train


def _place_words(place: Sequence[float], smallest: Sequence[float]) -> str:
    names = ("width", "batch", "epochs", "images")
    return next(
        f"{name} × {own / least:g}"
        for name, own, least in zip(names, place, smallest, strict=True)
        if own != least
    )


def _arm(settings: Settings) -> str:
    method = settings.method
    return ("D" if method.forgetting else "memory") if isinstance(method, TurningMethod) else method.name


def _kind(settings: Settings) -> str:
    recipe = settings.recipe
    if recipe.data.n_tasks > 1:
        return "tasks"
    return "restarts" if recipe.n_cycles > 1 else {"step": "drop"}.get(recipe.schedule, recipe.schedule)


def _mean_of_ends(run: Run, part: slice) -> float:
    return fmean(row.test_score for row in run.rows[part])


def _largest_fall(run: Run) -> float:
    late = [row.train_score for row in run.rows if 4 * row.step >= run.n_steps]
    return max(before - after for before, after in pairwise(late))


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
