"""What numbers does a study have, as frames: of its runs, their rows and weights, comparisons, settings?

It computes no statistics: the numbers are those that the page shows, unrounded, and NaN where there is none.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

from decayfree.display.frame import Library, columns_of, frame_of, library_for
from decayfree.errors import InvalidInputError, choice_faults, faults_of, raise_all
from decayfree.report.numbers import series
from decayfree.report.numbers.compared import Entries, Entry, compare
from decayfree.report.numbers.groups import Group, Sweep, study_groups
from decayfree.report.numbers.pooled import contrasts, shrunk_differences
from decayfree.report.numbers.series import Cell
from decayfree.study.files.results import Row, Run, Study
from decayfree.study.statistics.estimates import Comparison, Estimate

Record = dict[str, Any]
EXPLORATORY, CONFIRMATORY = "exploratory", "confirmatory"
"""Whether settings were chosen by the same runs, or seeds are new to every choice."""


def study_frame(study: Study, table: str, library: Library | None = None) -> Any:
    """What `Study.frame` gives: see there for the columns."""
    library = library_for(library)
    return frame_of(study_columns(study, table), library)


def study_columns(study: Study, table: str, reference: str | None = None) -> dict[str, list[Any]]:
    """The columns of a table by name.

    Raises:
        InvalidInputError: If there is no such table.
        UnknownReferenceError: If no method is called like the reference.
    """
    raise_all(faults_of(InvalidInputError, choice_faults("table", table, TABLES)))
    return columns_of(TABLES[table](_Sorted(study, reference)))


class _Sorted:
    """A study, sorted, and its comparisons, where somebody asks for them."""

    def __init__(self, study: Study, reference: str | None) -> None:
        self.reference = reference
        self.groups = study_groups(study)

    @cached_property
    def entries(self) -> Entries:
        return compare(self.groups, self.reference)

    def cells(self) -> Iterator[tuple[Group, Sweep, Cell, Record]]:
        """Every setting, with what tells it from the others."""
        for group in self.groups.groups:
            for sweep in group.sweeps:
                for cell in sweep.cells:
                    yield group, sweep, cell, _told(group, sweep, cell)

    def runs(self) -> Iterator[tuple[Run, Record]]:
        """Every run that has begun, with what tells it from the others."""
        for _, _, cell, told in self.cells():
            for own, is_new in ((cell, False), (cell.confirmation, True)):
                for run in own.begun.values() if own else ():
                    yield run, {"run": run.key, **told, "seed": run.seed, "is_confirming": is_new}


def _told(group: Group, sweep: Sweep, cell: Cell) -> Record:
    """Method, place of the group on each axis, and setting, in the words of the page."""
    place = {title.replace(" ", "_"): value for title, value in group.place.items()}
    return {"method": sweep.label, **place, "setting": cell.setting}


def _runs(numbers: _Sorted) -> Iterator[Record]:
    for run, told in numbers.runs():
        last = run.rows[-1] if run.rows else None
        yield {
            **told,
            "state": run.state,
            "reason": run.reason,
            "n_steps": run.n_steps,
            "elapsed_s": float(run.elapsed_s),
            **_scores(last),
            **(dict(last.test_metrics) if last else {}),
            **run.cost,
        }


_SCORES = ("train_score", "test_score", "validation_score", "train_loss", "test_loss", "validation_loss")


def _scores(row: Row | None) -> Record:
    return {name: getattr(row, name, math.nan) for name in _SCORES}


def _rows(numbers: _Sorted) -> Iterator[Record]:
    for run, told in numbers.runs():
        for row in run.rows:
            yield {
                **told,
                "step": row.step,
                "epoch": row.epoch,
                "learning_rate": row.learning_rate,
                **_scores(row),
                "norm": series.mean_norm(row),
                "effective_learning_rate": series.mean_effective_learning_rate(row),
                "angular_update_rad": series.mean_angular_update(row),
                "off_span_share": row.off_span_share,
                "off_span_law": row.off_span_law,
            }


def _weights(numbers: _Sorted) -> Iterator[Record]:
    for run, told in numbers.runs():
        for row in run.rows:
            for name, norm in row.norms.items():
                yield {
                    **told,
                    "step": row.step,
                    "weight": name,
                    "norm": norm,
                    "effective_learning_rate": row.effective_learning_rates.get(name, math.nan),
                    "angular_update_rad": row.angular_updates.get(name, math.nan),
                }


def _settings(numbers: _Sorted) -> Iterator[Record]:
    varying = numbers.groups.study.spec.varying()
    for _, sweep, cell, told in numbers.cells():
        own = cell.settings.flat()
        yield {
            **told,
            "learning_rate": float(cell.learning_rate),
            "weight_decay": math.nan if cell.weight_decay is None else float(cell.weight_decay),
            "n_planned": cell.n_planned,
            "n_done": cell.n,
            "n_diverged": cell.n_diverged,
            "is_chosen": cell is sweep.chosen,
            **_interval("test_score", cell.final_test),
            **_interval("validation_score", cell.final(lambda row: row.validation_score)),
            **_interval("confirmed_score", cell.confirmation.final_test if cell.confirmation else None),
            **{name: _plain(own[name]) for name in varying if name in own},
        }


def _comparisons(numbers: _Sorted) -> Iterator[Record]:
    entries = numbers.entries.entries
    for entry, shrunk in zip(entries, shrunk_differences(numbers.entries), strict=True):
        if entry.judgement is not None:
            yield {
                **_judged(entry, CONFIRMATORY if entry.is_anew else EXPLORATORY),
                **_interval("validation_difference", entry.validation_difference),
                **_interval("shrunk_difference", shrunk),
            }
        if entry.of_choice is not None:
            yield _judged(entry.of_choice, EXPLORATORY)

    for contrast in contrasts(numbers.groups, numbers.reference):
        kind_of_test = CONFIRMATORY if contrast.is_anew else EXPLORATORY
        for kind, pooled in ((kind_of_test, contrast.test), (EXPLORATORY, contrast.of_choice)):
            if pooled is not None:
                told = {"scope": "all groups", "method": contrast.method, "reference": contrast.reference}
                yield {**told, "kind": kind, **_comparison(pooled.primary), "n": pooled.n_groups}


def _judged(entry: Entry, kind: str) -> Record:
    assert entry.judgement is not None
    assert entry.reference is not None
    return {
        "scope": "group",
        **_told(entry.group, entry.sweep, entry.cell),
        "reference": entry.reference.short,
        "reference_setting": entry.reference.setting,
        "kind": kind,
        **_comparison(entry.judgement.comparison),
        "p_holm": _number(entry.judgement.adjusted_p),
        "detectable": _number(entry.judgement.detectable),
        "verdict": entry.judgement.verdict,
    }


def _comparison(found: Comparison) -> Record:
    return {**_interval("difference", found.difference), "n": found.difference.n, "p": _number(found.p_value)}


def _interval(name: str, found: Estimate | None) -> Record:
    low, high = (found.low, found.high) if found else (None, None)
    return {
        name: found.mean if found else math.nan,
        f"{name}_low": _number(low),
        f"{name}_high": _number(high),
    }


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _plain(value: Any) -> Any:
    """A setting as a frame can hold it: what is no number, text or truth is told in words."""
    return value if isinstance(value, int | float | str | None) else str(value)


TABLES: Mapping[str, Callable[[_Sorted], Iterator[Record]]] = {
    "runs": _runs,
    "rows": _rows,
    "weights": _weights,
    "comparisons": _comparisons,
    "settings": _settings,
}
