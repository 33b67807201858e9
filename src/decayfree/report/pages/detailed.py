"""The page of a study whose runs differ in nothing but their method.

Every curve of every method, and what can be said about it.

It computes no statistics and writes no HTML.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from decayfree.report.charts import curves as charts
from decayfree.report.charts.curves import Chart, Look
from decayfree.report.numbers.compared import check_reference
from decayfree.report.numbers.groups import study_groups
from decayfree.report.numbers.series import MethodSeries, StudyNumbers, study_numbers
from decayfree.report.pages.overview import legend_entry
from decayfree.report.tables.costs import NOTE, Priced, costs_table, costs_text
from decayfree.report.tables.ending import faults, no_faults, set_aside, settings_tables
from decayfree.report.tables.final_rows import FinalRow, final_rows, strip_axis
from decayfree.report.tables.table import run_links
from decayfree.report.words import angles, spans, verdicts
from decayfree.report.words import curves as findings
from decayfree.report.words.wording import count, listing, percent
from decayfree.study.files.results import Study


@dataclass(frozen=True)
class Section:
    """A heading with one paragraph, its charts, small ones for each weight, and notes on how to read them."""

    id: str
    title: str
    text: str
    charts: list[Chart] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    by_weight: list[Chart] = dataclasses.field(default_factory=list)
    keys: list[dict[str, str]] = dataclasses.field(default_factory=list)
    """What is drawn in these charts beside the methods: the kind of mark and what it means."""


def detailed_page(study: Study, reference: str | None = None) -> dict[str, Any]:
    """All that the template shows.

    Args:
        study: A study whose runs differ in nothing but their method.
        reference: Name or label of the method that others are compared with; by default weight rescaling.

    Raises:
        UnknownReferenceError: If the study has no such method.
    """
    check_reference(study_groups(study), reference)
    numbers = study_numbers(study, reference)
    spec = study.spec
    looks = charts.looks(numbers.methods)
    base_method = numbers.reference
    n_seeds = len(spec.seeds)
    axis, digits = strip_axis(numbers), verdicts.decimals(numbers)
    sections, priced = _sections(numbers), _priced(numbers)
    base = _base(numbers)
    return {
        "title": spec.title,
        "question": spec.question,
        "kicker": (
            f"decayfree study · {numbers.recipe.data.name} · {count(len(numbers.methods), 'method')} × "
            f"{count(n_seeds, 'seed')}"
        ),
        "summary": verdicts.summary(numbers),
        "methods": [legend_entry(method.label, looks[method.label]) for method in numbers.shown],
        "results_text": verdicts.results(numbers),
        "table_caption": "Accuracy on the test images after the last step, mean over seeds.",
        "difference_heading": f"Minus {base_method.short}" if base_method else "Difference",
        "statistics_note": verdicts.statistics_note(numbers),
        "rows": [
            _row(row, method, looks[row.label], axis)
            for row, method in zip(final_rows(numbers), numbers.methods, strict=True)
        ],
        "strip_low": percent(axis[0], digits),
        "strip_high": percent(axis[1], digits),
        "sections": sections,
        "figures": {
            chart.id: chart.figure for section in sections for chart in section.charts + section.by_weight
        },
        "views": {},
        "costs": costs_table(priced, (), base),
        "costs_text": costs_text(priced, base),
        "costs_note": NOTE,
        "faults": faults(study),
        "no_faults": no_faults(study),
        "set_aside": set_aside(study),
        "settings_text": _settings_text(numbers),
        "settings": settings_tables(study),
    }


def _sections(numbers: StudyNumbers) -> list[Section]:
    if not numbers.shown:
        return []
    sections = [
        Section(
            "test",
            "Test accuracy while training",
            findings.test_accuracy(numbers),
            [charts.accuracy_chart(numbers, "test")],
        ),
        Section(
            "train",
            "Training accuracy",
            findings.train_accuracy(numbers),
            [charts.accuracy_chart(numbers, "train")],
        ),
        _norms(numbers),
        Section(
            "rates",
            "Effective learning rates",
            findings.effective_learning_rates(numbers),
            [charts.effective_learning_rate_chart(numbers)],
            findings.effective_learning_rate_notes(numbers),
            by_weight=charts.effective_learning_rate_charts(numbers),
        ),
        Section(
            "angles",
            "Angular updates",
            angles.angular_updates(numbers),
            [charts.angular_update_chart(numbers)],
            angles.angular_update_notes(numbers),
        ),
        Section(
            "span",
            "Off-span share of the first layer",
            spans.off_span(numbers),
            [charts.off_span_chart(numbers)],
            spans.off_span_notes(numbers),
            keys=[{"mark": "circle", "text": "what it must be, in the color of the method"}],
        ),
        Section(
            "spectrum",
            "Where the weights lie in the spectrum of their inputs",
            spans.spectrum(numbers),
            by_weight=charts.spectrum_charts(numbers),
            notes=spans.spectrum_notes(numbers),
            keys=[
                {"mark": "solid", "text": "before training, all methods"},
                {"mark": "area", "text": "variance of the inputs after training"},
            ],
        ),
    ]
    return [_without_empty_charts(section) for section in sections]


def _without_empty_charts(section: Section) -> Section:
    """What was not recorded is not drawn, nor explained; the text says so."""
    large = [chart for chart in section.charts if chart.has_points]
    by_weight = [chart for chart in section.by_weight if chart.has_points]
    if large or by_weight:
        return dataclasses.replace(section, charts=large, by_weight=by_weight)
    return dataclasses.replace(section, charts=[], by_weight=[], notes=[], keys=[])


def _norms(numbers: StudyNumbers) -> Section:
    drawn = charts.norm_charts(numbers)
    large, small = (drawn, []) if len(drawn) == 1 else ([], drawn)
    return Section("norms", "Weight norms", findings.norms(numbers), large, by_weight=small)


def _row(row: FinalRow, method: MethodSeries, look: Look, axis: tuple[float, float]) -> dict[str, Any]:
    """A row of the table with its strip: places along the common axis, in percent of its length."""

    def places(accuracies: Sequence[float]) -> list[float]:
        shares = [(accuracy - axis[0]) / (axis[1] - axis[0]) for accuracy in accuracies]
        return [round(100 * min(max(share, 0.0), 1.0), 2) for share in shares]

    return {
        "row": row,
        "runs": run_links(method.begun),
        "sort_mean": repr(row.mean_accuracy[0]) if row.mean_accuracy else "",
        "sort_difference": "" if row.difference_share is None else repr(row.difference_share),
        "color": look.color,
        "dots": places(row.accuracies),
        "middle": places(row.mean_accuracy),
        "whisker": places(row.ends),
    }


def _settings_text(numbers: StudyNumbers) -> str:
    recipe = numbers.recipe
    weights = numbers.shown[0].weights if numbers.shown else ()
    rest = f"weight decay {recipe.rest_weight_decay:g}" if recipe.rest_weight_decay else "no weight decay"
    named = (
        f"the {count(len(weights), 'scale-invariant weight')} ({listing(weights)})"
        if weights
        else "the scale-invariant weights"
    )
    return (
        f"What a method does, it does to {named} and to nothing else. Gains γ and biases β of the "
        f"normalizations and the last layer get {rest} under every method. A run takes {recipe.n_steps:,} "
        f"steps of {recipe.batch_size} images at a learning rate of {recipe.learning_rate:g} "
        f"({recipe.schedule} schedule). Training accuracy is measured in eval mode against the labels that "
        "were trained on, random ones included. Equal seeds start from equal weights and see equal batches."
    )


def _base(numbers: StudyNumbers) -> str:
    """What costs are compared with: no treatment, where it is there."""
    names = [method.short for method in numbers.methods if method.name == "none"]
    return names[0] if names else numbers.methods[0].short


def _priced(numbers: StudyNumbers) -> list[Priced]:
    base = next(method for method in numbers.methods if method.short == _base(numbers)).runs
    return [
        Priced(
            method.short,
            {},
            list(method.runs.values()),
            [(run, base[seed]) for seed, run in method.runs.items() if seed in base],
        )
        for method in numbers.methods
    ]
