"""The page of a study with axes.

What was compared, in tables and charts a group at a time, every number with its runs.

It computes no statistics and writes no HTML.
"""

from collections.abc import Mapping
from typing import Any

from decayfree.report.charts.curves import Look
from decayfree.report.charts.sensitivity import sensitivity_notes
from decayfree.report.charts.views import curve_views, method_looks, sensitivity_views
from decayfree.report.numbers.compared import Entries, compare_all, compare_chosen
from decayfree.report.numbers.groups import StudyGroups
from decayfree.report.tables import choices, costs, forest
from decayfree.report.tables.comparison import comparison_table
from decayfree.report.tables.costs import Priced
from decayfree.report.tables.ending import faults, no_faults, set_aside, settings_tables
from decayfree.report.words import summary
from decayfree.report.words.wording import count


def overview_page(numbers: StudyGroups, reference: str | None = None) -> dict[str, Any]:
    """All that the template shows.

    Args:
        numbers: The study.
        reference: Name or label of the method that others are compared with; by default weight decay.

    Raises:
        UnknownReferenceError: If the study has no such method.
    """
    study, looks = numbers.study, method_looks(numbers)
    chosen, everything = compare_chosen(numbers, reference), compare_all(numbers, reference)
    main = chosen if chosen.entries else everything
    views = [view for view in (sensitivity_views(numbers, looks), curve_views(numbers, looks)) if view.views]
    return {
        "title": study.spec.title,
        "question": study.spec.question,
        "kicker": _kicker(numbers),
        "summary": summary.paragraphs(numbers, main),
        "methods": [legend_entry(label, looks[label]) for label in numbers.methods],
        "comparison": comparison_table(numbers, main, "comparison-table", summary.caption(numbers, main)),
        "comparison_text": summary.reference_text(numbers, reference),
        "statistics_notes": summary.statistics_notes(main),
        "sensitivity_notes": sensitivity_notes(),
        **_choices(numbers),
        **_forest(numbers, main, reference, {label: look.color for label, look in looks.items()}),
        **_everything(numbers, main, everything),
        "view_sections": {"sensitivity": None, "curves": None, **{view.id: view for view in views}},
        "figures": {},
        "views": {view.id: view.data for view in views},
        **_costs(numbers),
        "faults": faults(study, _places(numbers)),
        "no_faults": no_faults(study),
        "set_aside": set_aside(study),
        "settings_text": summary.settings_text(numbers),
        "settings": settings_tables(study),
    }


def legend_entry(label: str, look: Look) -> dict[str, Any]:
    """A method in the legend of all charts."""
    return {
        "label": label,
        "group": label,
        "color": look.color,
        "width": look.width,
        "dashes": look.svg_dashes,
    }


def _kicker(numbers: StudyGroups) -> str:
    study = numbers.study
    data = list(dict.fromkeys(settings.recipe.data.name for settings in study.spec.runs()))
    parts = [
        "decayfree study",
        ", ".join(data),
        count(len(numbers.methods), "method"),
        count(len(numbers.groups), "group"),
        count(len(study.spec.seeds), "seed"),
        count(study.n_planned, "run"),
    ]
    return " · ".join(parts)


def _choices(numbers: StudyGroups) -> dict[str, Any]:
    if not numbers.is_swept:
        return {"choices": None, "choices_text": ""}
    table = choices.choices_table(numbers) if numbers.has_validation else None
    return {"choices": table, "choices_text": choices.choices_text(numbers)}


def _forest(
    numbers: StudyGroups, main: Entries, reference: str | None, colors: Mapping[str, str]
) -> dict[str, Any]:
    if len(numbers.groups) < 2 or not main.compared or (numbers.is_swept and not numbers.has_validation):
        return {"forest": None, "ranks": None, "forest_text": "", "ranks_text": "", "forest_note": ""}
    return {
        "forest": forest.forest_table(numbers, main, colors, reference),
        "ranks": forest.ranks_table(numbers, main, colors),
        "forest_text": forest.forest_text(numbers, main),
        "ranks_text": forest.ranks_text(numbers, main),
        "forest_note": forest.forest_note(),
    }


def _everything(numbers: StudyGroups, main: Entries, everything: Entries) -> dict[str, Any]:
    """Every setting, where the first table shows chosen ones alone."""
    if len(main.entries) == len(everything.entries):
        return {"everything": None, "everything_text": ""}
    caption = summary.caption(numbers, everything)
    return {
        "everything": comparison_table(numbers, everything, "everything-table", caption),
        "everything_text": summary.everything_text(everything),
    }


def _costs(numbers: StudyGroups) -> dict[str, Any]:
    names = {sweep.name: sweep.label for group in numbers.groups for sweep in group.sweeps}
    base = names.get("none", numbers.methods[0])
    priced = []
    for group in numbers.groups:
        base_cells = next((sweep.cells for sweep in group.sweeps if sweep.label == base), ())
        for sweep in group.sweeps:
            pairs = [
                (run, other.series.runs[seed])
                for cell in sweep.cells
                for other in base_cells
                if other.learning_rate == cell.learning_rate
                for seed, run in cell.series.runs.items()
                if seed in other.series.runs
            ]
            runs = [run for cell in sweep.cells for run in cell.series.runs.values()]
            priced.append(Priced(sweep.label, group.place, runs, pairs))
    return {
        "costs": costs.costs_table(priced, numbers.axes, base),
        "costs_text": costs.costs_text(priced, base),
        "costs_note": costs.NOTE,
    }


def _places(numbers: StudyGroups) -> dict[str, str]:
    return {
        run.key: f"{cell.series.label} · {group.label}" if numbers.axes else cell.series.label
        for group in numbers.groups
        for cell in group.cells
        for run in cell.runs.values()
    }
