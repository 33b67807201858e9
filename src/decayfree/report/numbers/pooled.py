"""What two methods differ by over all groups of a study, on test images and on those of validation.

Each stands for itself with the setting that validation images chose in each group, as in `compare_chosen`. It
computes no statistics.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decayfree.report.numbers.compared import REFERENCES, Entries, Entry, compare_chosen, reference_of
from decayfree.report.numbers.groups import StudyGroups
from decayfree.study.statistics.estimates import Estimate
from decayfree.study.statistics.pooled import PooledDifference, pooled_difference
from decayfree.study.statistics.two_way import CrossedEstimate


@dataclass(frozen=True)
class Contrast:
    """One method against one reference over all groups in which two seeds finished both."""

    reference: str
    method: str
    entries: tuple[Entry, ...]
    """One a group, in the order of the pooled numbers."""
    test: PooledDifference
    validation: PooledDifference | None
    """Over groups and seeds; None where there are no images to validate on."""
    of_choice: PooledDifference | None = None
    """Where ``test`` is of new seeds, with those that chose the settings; None where one seed did."""

    @property
    def is_anew(self) -> bool:
        """Whether ``test`` is of seeds that nothing was chosen by."""
        return all(entry.is_anew for entry in self.entries)

    @property
    def is_over_images(self) -> bool:
        """Whether the interval on test images is over these images as well, and not over seeds alone."""
        return self.test.is_over_images

    @property
    def name(self) -> str:
        """WRS minus weight decay."""
        return f"{self.reference} minus {self.method}"


def contrasts(numbers: StudyGroups, reference: str | None = None) -> tuple[Contrast, ...]:
    """Each method against each reference, weight rescaling against weight decay first; each pair once.

    References are those of `REFERENCES` that the study has, or the one that was asked for.
    """
    bases: list[str | None] = [name for name in REFERENCES if _is_in(numbers, name)]
    found: dict[frozenset[str], Contrast] = {}
    for asked in [reference] if reference else bases or [None]:
        entries = compare_chosen(numbers, asked)
        for method in numbers.methods:
            contrast = contrast_of(entries.of(method))
            if contrast is not None:
                found.setdefault(frozenset((contrast.reference, method)), contrast)
    return tuple(sorted(found.values(), key=lambda contrast: not _is_planned(contrast)))


def contrast_of(entries: Iterable[Entry]) -> Contrast | None:
    """What the comparisons of one method, group by group, say together.

    Over the seeds that all groups with two pairs have. None with fewer than two such groups or seeds, where a
    group has several settings of the method, or where references differ.
    """
    judged = tuple(entry for entry in entries if entry.judgement and entry.judgement.p_value is not None)
    references = {entry.reference.short for entry in judged if entry.reference}
    if len(references) != 1 or not all(entry.is_alone for entry in judged):
        return None
    by_seed = _pooled([entry.by_seed("test") for entry in judged])
    if by_seed is None:
        return None
    chose = contrast_of([one for entry in judged if (one := entry.of_choice)])
    test, own = _pooled_on_images(judged) or (by_seed, judged)
    return Contrast(
        references.pop(),
        judged[0].sweep.label,
        tuple(own),
        test,
        _pooled([entry.by_seed("validation") for entry in judged]),
        chose.test if chose else None,
    )


def shrunk_differences(entries: Entries) -> tuple[Estimate | None, ...]:
    """In their order: each difference as all groups of its method together have it, where they do."""
    methods = dict.fromkeys(entry.sweep.label for entry in entries.entries)
    found = [contrast for method in methods if (contrast := contrast_of(entries.of(method)))]
    by_entry = {
        id(entry): estimate
        for contrast in found
        if contrast.test.shrunk
        for entry, estimate in zip(contrast.entries, contrast.test.shrunk, strict=True)
    }
    return tuple(by_entry.get(id(entry)) for entry in entries.entries)


def _pooled(differences: Sequence[Mapping[int, Any]]) -> PooledDifference | None:
    """Of differences by seed, group by group: numbers, or arrays over images."""
    seeds = sorted(set.intersection(*map(set, differences)))
    if len(differences) < 2 or len(seeds) < 2:
        return None
    return pooled_difference([[of[seed] for seed in seeds] for of in differences])


def _pooled_on_images(entries: Sequence[Entry]) -> tuple[PooledDifference, list[Entry]] | None:
    """With the entries in its order, data set by data set; None unless all kept which images are right."""
    if not all(isinstance(entry.difference, CrossedEstimate) for entry in entries):
        return None
    by_data: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in entries:
        data = entry.cell.settings.recipe.data
        by_data.setdefault((data.name, data.n_test, data.image_size), []).append(entry)
    tables = [[_by_image(entry) for entry in own] for own in by_data.values()]
    seeds = sorted(set.intersection(*(set(of) for table in tables for of in table)))
    if len(seeds) < 2 or min(map(len, tables)) < 2:
        return None
    cells = [[[of[seed] for seed in seeds] for of in table] for table in tables]
    return pooled_difference(*cells), [entry for own in by_data.values() for entry in own]


def _by_image(entry: Entry) -> dict[int, Any]:
    """Reference minus cell by seed, (n_images,)."""
    assert entry.reference is not None
    first, second = entry.reference.of_images, entry.cell.of_images
    return {seed: first[seed].astype(float) - second[seed] for seed in first.keys() & second.keys()}


def _is_in(numbers: StudyGroups, name: str) -> bool:
    return any(reference_of(group.sweeps, name) for group in numbers.groups)


def _is_planned(contrast: Contrast) -> bool:
    """Whether it is what a study is made for: weight rescaling against weight decay."""
    entry = contrast.entries[0]
    return entry.reference is not None and {
        entry.sweep.name,
        entry.reference.settings.method.name,
    } == set(REFERENCES)
