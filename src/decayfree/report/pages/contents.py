"""What stands on the page of a study: tables, charts and texts by the names that the template knows.

Where runs differ in nothing but their method, all their curves and what they say; else a set of charts a
group, and the choices. It computes no statistics and writes no HTML.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from decayfree.report.charts.axes import Look
from decayfree.report.charts.budget import budget_views
from decayfree.report.charts.sensitivity import sensitivity_notes
from decayfree.report.charts.views import Viewed, curve_views, method_looks, sensitivity_views
from decayfree.report.numbers.budget import GroupBudget, budgets_of
from decayfree.report.numbers.compared import Entries, compare, compare_all, drawn_together
from decayfree.report.numbers.groups import StudyGroups, study_groups
from decayfree.report.numbers.pooled import contrasts
from decayfree.report.pages import runs
from decayfree.report.pages.pictures import pictures, pictures_note
from decayfree.report.pages.training import Section, sections
from decayfree.report.tables import choices, costs, ending, forest
from decayfree.report.tables.budget import budget_table
from decayfree.report.tables.comparison import comparison_table
from decayfree.report.tables.glance import glance_table
from decayfree.report.tables.metrics import metrics_table
from decayfree.report.tables.pooled import pooled_table
from decayfree.report.words import verdicts
from decayfree.report.words.budget import budget_notes
from decayfree.report.words.pooled import pooled_notes
from decayfree.report.words.wording import count, sentences
from decayfree.study.files.results import Study

CURVES_NOTES = [
    "The effective learning rate of a block is η/‖w‖² under SGD and its relatives, η/‖w‖ under optimizers "
    "that divide by the size of the gradients; of others it is not known and not drawn.",
    "Where a method has several coefficients, its lines are the fainter the smaller the coefficient is.",
    "The angular update is the angle by which one step turns a block.",
]


def contents(study: Study, reference: str | None = None) -> dict[str, Any]:
    """All that the template shows; an `UnknownReferenceError` if the study has no method called so."""
    numbers = study_groups(study)
    looks, main = method_looks(numbers), compare(numbers, reference)
    colors = {label: look.color for label, look in looks.items()}
    budgets, over_groups = budgets_of(numbers, reference), contrasts(numbers, reference)
    is_one_group = len(numbers.groups) == 1
    results = verdicts.results(main) if is_one_group else ""
    places, run_charts = _places(numbers), runs.run_charts(numbers.metric)
    page = {
        "title": study.spec.title,
        "question": study.spec.question,
        "kicker": _kicker(numbers, len(looks)),
        "verdict": verdicts.verdict(numbers, main, over_groups),
        "summary": verdicts.summary(numbers, main),
        "methods": [_legend_entry(label, look) for label, look in looks.items()],
        "pooled": pooled_table(over_groups),
        "comparison": comparison_table(
            numbers,
            main,
            "comparison-table",
            verdicts.caption(numbers, main),
        ),
        "glance": glance_table(numbers, main, over_groups, colors),
        "comparison_text": sentences(results, verdicts.reference_text(main)),
        "statistics_notes": [
            *pooled_notes(over_groups),
            *verdicts.statistics_notes(numbers, main),
            *([verdicts.table_note()] if main.family.n_tests else []),
        ],
        "sensitivity_notes": sensitivity_notes(),
        **_choices(numbers),
        **_forest(numbers, main, colors),
        **_everything(numbers, main, reference),
        **_charts(numbers, looks, budgets, reference),
        "metric": numbers.metric.name,
        "metric_meaning": numbers.metric.meaning,
        "metrics": metrics_table(numbers),
        "pictures": pictures(numbers),
        "pictures_note": pictures_note(numbers),
        "budget": budget_table(budgets, numbers.axes) if budgets else None,
        "budget_notes": budget_notes(budgets, is_extended=any(one.set for one in study.spec.added))
        if budgets
        else [],
        **_costs(numbers),
        "curves_notes": CURVES_NOTES,
        "run_charts": run_charts,
        "run_data": runs.runs_data(study, places, run_charts),
        "run_files": study.archive or "runs/",
        "faults": ending.faults(study, places),
        "no_faults": ending.no_faults(study),
        "set_aside": ending.set_aside(study),
        "left_out": ending.left_out(study),
        "changed_sources": ending.changed_sources(study),
        "data_notes": list(dict.fromkeys(note for run in study.runs for note in run.notes)),
        "settings_text": ending.settings_text(numbers),
        "settings": ending.settings_tables(study),
    }
    return {**page, "bar": _bar(page)}


def _bar(page: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Where the contents bar leads, and what it says: the sections that the page has."""
    views = page["view_sections"]
    return [
        ("top", "In short"),
        ("comparison", "Tables"),
        *([("metrics", "Metrics")] if page["metrics"] else []),
        *([("pictures", "Pictures")] if page["pictures"] else []),
        *((section.id, section.short) for section in page["sections"]),
        *([("sensitivity-section", "Sensitivity")] if views["sensitivity"] else []),
        *([("choices", "Choices")] if page["choices_text"] else []),
        *([("budget-section", "Trials")] if views["budget"] else []),
        *([("everything", "Every setting")] if page["everything"] else []),
        *([("curves-section", "Curves")] if views["curves"] else []),
        *([("costs", "Cost")] if page["costs"] else []),
        ("runs", "Unfinished"),
        ("settings", "Settings"),
    ]


def _legend_entry(label: str, look: Look) -> dict[str, Any]:
    return {"label": label, "color": look.color, "width": look.width, "dashes": look.svg_dashes}


def _kicker(numbers: StudyGroups, n_methods: int) -> str:
    study = numbers.study
    n_new = len(study.spec.confirm_seeds)
    data = list(dict.fromkeys(settings.recipe.data.name for settings in study.spec.runs()))
    parts = [
        "decayfree study",
        ", ".join(data),
        count(n_methods, "method"),
        *([count(len(numbers.groups), "group")] if numbers.axes else []),
        count(len(study.spec.seeds), "seed") + (f" and {n_new} to confirm" if n_new else ""),
        count(study.n_planned, "run"),
    ]
    return " · ".join(parts)


def _charts(
    numbers: StudyGroups,
    looks: Mapping[str, Look],
    budgets: Sequence[GroupBudget],
    reference: str | None,
) -> dict[str, Any]:
    found: list[Section] = []
    views: list[Viewed] = [budget_views(budgets, looks)]
    if numbers.are_methods_all:
        sweeps = [sweep for group in numbers.groups for sweep in group.sweeps]
        found = sections(drawn_together(numbers.study, sweeps, reference))
    else:
        views = [sensitivity_views(numbers, looks), *views, curve_views(numbers, looks)]
    views = [view for view in views if view.views]
    drawn = [chart for section in found for chart in section.charts + section.by_weight]
    return {
        "sections": found,
        "figures": {chart.id: chart.figure for chart in drawn},
        "view_sections": {
            "sensitivity": None,
            "budget": None,
            "curves": None,
            **{view.id: view for view in views},
        },
        "views": {view.id: view.data for view in views},
    }


def _choices(numbers: StudyGroups) -> dict[str, Any]:
    if not numbers.is_swept or numbers.are_methods_all:
        return {"choices": None, "choices_text": ""}
    table = choices.choices_table(numbers) if numbers.has_validation else None
    return {"choices": table, "choices_text": choices.choices_text(numbers)}


def _forest(numbers: StudyGroups, main: Entries, colors: Mapping[str, str]) -> dict[str, Any]:
    if len(numbers.groups) < 2 or not main.compared or (numbers.is_swept and not numbers.has_validation):
        return {"forest": None, "ranks": None, "ranks_text": "", "forest_note": ""}
    return {
        "forest": forest.forest_table(numbers, main, colors),
        "ranks": forest.ranks_table(numbers, main, colors),
        "ranks_text": forest.ranks_text(numbers, main),
        "forest_note": forest.forest_note(),
    }


def _everything(numbers: StudyGroups, main: Entries, reference: str | None) -> dict[str, Any]:
    """Every setting, where the first table shows chosen ones alone."""
    everything = compare_all(numbers, reference)
    if len(main.entries) == len(everything.entries):
        return {"everything": None, "everything_text": ""}
    caption = verdicts.caption(numbers, everything)
    return {
        "everything": comparison_table(numbers, everything, "everything-table", caption),
        "everything_text": verdicts.everything_text(everything),
    }


def _costs(numbers: StudyGroups) -> dict[str, Any]:
    base, priced = costs.priced(numbers)
    return {
        "costs": costs.costs_table(priced, numbers.axes, base),
        "costs_text": costs.costs_text(priced, base),
        "costs_note": costs.NOTE,
    }


def _places(numbers: StudyGroups) -> dict[str, str]:
    return {
        run.key: f"{cell.label} · {group.label}" if numbers.axes else cell.label
        for group in numbers.groups
        for cell in group.cells
        for run in cell.begun.values()
    }
