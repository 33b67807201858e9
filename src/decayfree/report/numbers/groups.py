"""The runs of a study sorted into groups, methods and settings; one network without axes is one group.

A group is all runs that agree in everything that was not treated or tuned: optimizer, network, data. In it, a
method's cells differ only in what is swept (learning rate, coefficient of decay); a cell's runs differ only
in the seed. It judges nothing and draws nothing.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from decayfree.arguments.kinds import checked
from decayfree.report.numbers.series import Cell
from decayfree.study.files.results import Run, Study
from decayfree.study.run_settings import RunSettings
from decayfree.study.spec.arms import GroupAxis, axes_of, treatment_of
from decayfree.study.statistics.sweeps import Choice, best_of_sweep
from decayfree.study.tasks.metric import Metric, metric_of

MAX_DETAILED_CELLS = 8
MAX_DETAILED_SWEEP = 3


@dataclass(frozen=True)
class Sweep:
    """The cells of one method in one group: they differ in nothing but what is swept."""

    label: str
    """What the page calls the method, in all groups."""
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """The method's name in the study's file."""
        return self.cells[0].settings.method.name

    @property
    def is_treatment(self) -> bool:
        """Whether the method does anything at all."""
        return self.cells[0].settings.method.is_treatment

    @cached_property
    def choice(self) -> Choice[int]:
        """The index of the cell that validation data chooses; a single cell needs no choice."""
        if len(self.cells) == 1:
            return Choice(0, ())
        return best_of_sweep({index: cell.validation for index, cell in enumerate(self.cells)})

    @property
    def chosen(self) -> Cell | None:
        """The cell that was chosen; None where there is a choice and no validation data."""
        return None if self.choice.chosen is None else self.cells[self.choice.chosen]

    @property
    def anew(self) -> Cell | None:
        """The chosen setting with seeds that nothing was chosen by; None before a run of these is done."""
        cell = self.chosen and self.chosen.confirmation
        return cell if cell and cell.n else None

    @property
    def standing(self) -> Cell | None:
        """The runs that stand for the method: of the chosen setting, anew where there are such."""
        return self.anew or self.chosen


@dataclass(frozen=True)
class Group:
    """What was treated alike: one sweep a method."""

    place: Mapping[str, str]
    """Name of an axis -> this group's value, both in words."""
    sweeps: tuple[Sweep, ...]

    @property
    def label(self) -> str:
        """The values, in the order of the axes, in the words of the tables; empty for a single group."""
        return " · ".join(self.place.values())

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, in the order of the methods."""
        return tuple(cell for sweep in self.sweeps for cell in sweep.cells)

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """All that occur, rising."""
        return tuple(sorted({cell.learning_rate for cell in self.cells}))


@dataclass(frozen=True)
class StudyGroups:
    """A study, sorted."""

    study: Study
    axes: tuple[str, ...]
    """In words; those that groups differ in."""
    groups: tuple[Group, ...]

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """What the methods are called, in the order in which they occur."""
        return tuple(dict.fromkeys(sweep.label for group in self.groups for sweep in group.sweeps))

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, group by group."""
        return tuple(cell for group in self.groups for cell in group.cells)

    @property
    def metric(self) -> Metric:
        """What scores are called; a study has one task."""
        return self.cells[0].metric

    @property
    def is_swept(self) -> bool:
        """Whether any method has several settings in a group."""
        return any(len(sweep.cells) > 1 for group in self.groups for sweep in group.sweeps)

    @property
    def has_validation(self) -> bool:
        """Whether any finished run has a validation score."""
        return any(value == value for cell in self.cells for value in cell.validation.values())

    @property
    def are_methods_all(self) -> bool:
        """Whether runs differ only in seed, method and few settings of it: one page shows all curves."""
        cells = self.cells
        sizes = [len(sweep.cells) for group in self.groups for sweep in group.sweeps]
        return (
            len(self.groups) <= 1
            and len({cell.learning_rate for cell in cells}) <= 1
            and all(name.startswith("method.") for name in self.study.spec.varying())
            and len(cells) <= MAX_DETAILED_CELLS
            and max(sizes, default=0) <= MAX_DETAILED_SWEEP
        )


@checked()
def study_groups(study: Study) -> StudyGroups:
    """Sort the runs of a study, in the order of its spec."""
    begun = {run.key: run for run in study.runs}
    planned: dict[RunSettings, list[RunSettings]] = {}
    for settings in study.spec.runs():
        planned.setdefault(replace(settings, seed=study.spec.seeds[0]), []).append(settings)
    cells = list(planned)
    axes = axes_of(study.spec)
    names = _method_names(cells)
    swept = tuple(
        name
        for name in study.spec.varying()
        if name != "method.name" and all(name not in axis.names for axis in axes)
    )
    grouped: dict[tuple[Any, ...], dict[str, list[RunSettings]]] = {}
    for settings in cells:
        place = tuple(axis.value(settings) for axis in axes)
        grouped.setdefault(place, {}).setdefault(names[treatment_of(settings)], []).append(settings)
    words = _axis_words(axes, cells)
    said = (run.metric for run in study.runs if run.metric)
    metric = next(said, metric_of(cells[0].recipe.task))
    cell = partial(_cell, metric, swept, planned, begun, frozenset(study.spec.confirm_seeds))
    groups = StudyGroups(
        study,
        tuple(axis.title for axis in axes),
        tuple(
            Group(
                place={axis.title: words[axis.title, value] for axis, value in zip(axes, place, strict=True)},
                sweeps=tuple(
                    Sweep(label, tuple(cell(one, label) for one in settings))
                    for label, settings in methods.items()
                ),
            )
            for place, methods in grouped.items()
        ),
    )
    return _with_whole_labels(groups) if groups.are_methods_all else groups


def _with_whole_labels(numbers: StudyGroups) -> StudyGroups:
    """Where methods are all that differs, a legend has room for all settings of each."""
    sweeps = [
        Sweep(
            sweep.label,
            tuple(
                replace(
                    cell,
                    label=cell.settings.method.label,
                    short=sweep.label if len(sweep.cells) == 1 else cell.settings.method.label,
                )
                for cell in sweep.cells
            ),
        )
        for group in numbers.groups
        for sweep in group.sweeps
    ]
    return replace(numbers, groups=(Group({}, tuple(sweeps)),))


def _axis_words(axes: Sequence[GroupAxis], cells: Sequence[RunSettings]) -> dict[tuple[str, Any], str]:
    """(Title of an axis, value) -> words that tell its values apart: a name if enough, else what varies."""
    words: dict[tuple[str, Any], str] = {}
    for axis in axes:
        short = {axis.value(settings): _short_words(axis, settings) for settings in cells}
        counted = list(short.values())
        for value, text in short.items():
            words[axis.title, value] = (
                text if counted.count(text) == 1 else f"{text}, {_long_words(axis, value)}"
            )
    return words


def _short_words(axis: GroupAxis, settings: RunSettings) -> str:
    if axis.title == "optimizer":
        return settings.recipe.optimizer.label
    if axis.title == "model":
        return settings.recipe.model.name
    return _long_words(axis, axis.value(settings))


def _long_words(axis: GroupAxis, value: tuple[Any, ...]) -> str:
    if axis.title not in ("optimizer", "model"):
        return setting_text(value[0])
    named = zip(axis.names, value, strict=True)
    others = [(name.rpartition(".")[2], one) for name, one in named if not name.endswith(".name")]
    return ", ".join(f"{name.replace('_', ' ')} {setting_text(one)}" for name, one in others)


def setting_text(value: object) -> str:
    """A setting as the page writes it: yes, 0.005, sgd."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _method_names(cells: Sequence[RunSettings]) -> dict[tuple[Any, ...], str]:
    """A name for every treatment: its label if it is the same throughout, else how its labels begin."""
    labels: dict[tuple[Any, ...], list[str]] = {}
    shorts = {treatment_of(settings): settings.method.short for settings in cells}
    for settings in cells:
        labels.setdefault(treatment_of(settings), []).append(settings.label)
    names = [dict(treatment)["name"] for treatment in labels]
    found: dict[tuple[Any, ...], str] = {}
    for treatment, own in labels.items():
        name = dict(treatment)["name"]
        label = own[0] if len(set(own)) == 1 else _common_words(own)
        if names.count(name) == 1 and shorts[treatment]:
            label = shorts[treatment]
        if label in found.values():
            others = {**dict(treatment)}
            others.pop("name")
            label = (
                f"{label} ({', '.join(f'{key} = {setting_text(value)}' for key, value in others.items())})"
            )
        found[treatment] = label
    return found


def _common_words(labels: Sequence[str]) -> str:
    """The words that all labels begin with: weight decay, learning-rate scaling."""
    columns = zip(*(label.split() for label in labels), strict=False)
    words = [column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns)]
    return " ".join(words).rstrip(" ,(").removesuffix(" (as").removesuffix(" (of") or labels[0]


def _cell(
    metric: Metric,
    swept: Sequence[str],
    planned: Mapping[RunSettings, Sequence[RunSettings]],
    begun: Mapping[str, Run],
    confirm_seeds: frozenset[int],
    settings: RunSettings,
    method: str,
) -> Cell:
    own: tuple[list[RunSettings], list[RunSettings]] = [], []
    for one in planned[settings]:
        own[one.seed in confirm_seeds].append(one)
    runs, confirming = ({one.seed: begun[one.key] for one in part if one.key in begun} for part in own)
    setting = ", ".join(_setting_words(settings, swept))
    label = setting if setting.startswith(method) else f"{method}, {setting}" if setting else method
    cell = Cell(settings, runs, len(own[0]), label, method, metric, setting)
    if not own[1]:
        return cell
    return replace(cell, confirmation=replace(cell, begun=confirming, n_planned=len(own[1])))


def _setting_words(settings: RunSettings, swept: Sequence[str]) -> Iterator[str]:
    """What is not told by the method and the group: weight decay 0.005, learning rate 0.1."""
    flat = settings.flat()
    for name in sorted(swept, key=lambda name: not name.startswith("method.")):
        if name in flat:
            words = name.rpartition(".")[2].replace("_", " ").removeprefix("replayed ")
            yield f"{words} {setting_text(flat[name])}"
