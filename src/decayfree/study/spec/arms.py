"""Which runs of a study belong together: groups that were treated alike, and in each a method's settings.

An arm is a method in a group with what is swept left open: learning rates, coefficients of decay, how long
turning remembers. One setting of it is to be chosen. It reads no results.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

from decayfree.study.run_settings import RunSettings, flattened
from decayfree.study.spec.axes import SWEPT, TUNED
from decayfree.study.spec.study_spec import StudySpec


@dataclass(frozen=True)
class GroupAxis:
    """What groups differ in."""

    title: str
    names: tuple[str, ...]
    """Dotted names of the settings that make it up."""

    def value(self, settings: RunSettings) -> tuple[Any, ...]:
        """Where a run stands on it."""
        return tuple(map(settings.at, self.names))


def axes_of(spec: StudySpec) -> list[GroupAxis]:
    """The axes that make groups; all settings of the optimizer are one, and so are those of the model."""
    paths = [path for axis in spec.axes for path in axis.paths]
    named: dict[str, list[str]] = {}
    # Data sets differ in how many images they have: that goes with the name.
    whole = ("optimizer", "model", *(["data"] if "data.name" in spec.varying() else []))
    for name in spec.varying():
        if name in SWEPT or not any(name == path or name.startswith(f"{path}.") for path in paths):
            continue  # a method's own, tuned, or what an override made of the others
        table, _, last = name.rpartition(".")
        title = table if table in whole else last.replace("_", " ")
        named.setdefault(title, []).append(name)
    found = [GroupAxis(title, tuple(names)) for title, names in named.items()]
    return sorted(
        found,
        key=lambda axis: min(index for index, path in enumerate(paths) if axis.names[0].startswith(path)),
    )


def treatment_of(settings: RunSettings) -> tuple[Any, ...]:
    """What a method is when its coefficient, or for how long it remembers, is left open."""
    table = settings.to_dict()["method"]
    return tuple(item for item in flattened(table).items() if not item[0].endswith(TUNED))


def arms_of(spec: StudySpec) -> dict[Hashable, tuple[RunSettings, ...]]:
    """Group and treatment -> its settings, each with the study's first seed, in the order of the spec."""
    axes = axes_of(spec)
    arms: dict[Hashable, dict[RunSettings, None]] = {}
    for run in spec.runs():
        arm = tuple(axis.value(run) for axis in axes), treatment_of(run)
        arms.setdefault(arm, {})[replace(run, seed=spec.seeds[0])] = None
    return {arm: tuple(settings) for arm, settings in arms.items()}
