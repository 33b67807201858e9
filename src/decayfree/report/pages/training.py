"""What happened while training, section by section: every curve of every method, and what it says.

It computes no statistics, judges no final accuracy and writes no HTML.
"""

import dataclasses
from dataclasses import dataclass

from decayfree.report.charts import curves as charts
from decayfree.report.charts.axes import Chart
from decayfree.report.numbers.series import StudyNumbers
from decayfree.report.tables.table import Table, table_behind
from decayfree.report.words import angles, spans
from decayfree.report.words import curves as findings
from decayfree.report.words.wording import Figures


@dataclass(frozen=True)
class Section:
    """A heading with one paragraph, its charts, small ones for each weight, and notes on how to read them."""

    id: str
    short: str
    """What the contents bar calls it."""
    title: str
    text: str
    charts: list[Chart] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    by_weight: list[Chart] = dataclasses.field(default_factory=list)
    table: Table | None = None
    """The numbers behind the paragraph."""
    keys: list[dict[str, str]] = dataclasses.field(default_factory=list)
    """What is drawn in these charts beside the methods: the kind of mark and what it means."""


def sections(numbers: StudyNumbers) -> list[Section]:
    """All of them, in the order of the page; none where no run is done."""
    if not numbers.shown:
        return []
    name = numbers.shown[0].metric.name
    figures = {
        "test": findings.test_figures(numbers),
        "train": findings.train_figures(numbers),
        "norms": findings.norm_figures(numbers),
        "rates": findings.rate_figures(numbers),
        "angles": angles.angle_figures(numbers),
        "span": spans.off_span_figures(numbers),
        "spectrum": spans.spectrum_figures(numbers),
    }
    found = [
        Section(
            "test",
            "Test",
            f"Test {name} while training",
            findings.test_score(numbers),
            [charts.score_chart(numbers, "test")],
        ),
        Section(
            "train",
            "Training",
            f"Training {name}",
            findings.train_score(numbers),
            [charts.score_chart(numbers, "train")],
        ),
        _norms(numbers),
        Section(
            "rates",
            "Rates",
            "Effective learning rates",
            findings.effective_learning_rates(numbers),
            [charts.effective_learning_rate_chart(numbers)],
            findings.effective_learning_rate_notes(numbers),
            by_weight=charts.effective_learning_rate_charts(numbers),
        ),
        Section(
            "angles",
            "Angles",
            "Angular updates",
            angles.angular_updates(numbers),
            [charts.angular_update_chart(numbers)],
            angles.angular_update_notes(numbers),
        ),
        Section(
            "span",
            "Off-span",
            "Off-span share of the first layer",
            spans.off_span(numbers),
            [charts.off_span_chart(numbers)],
            spans.off_span_notes(numbers),
            keys=[{"mark": "circle", "text": "what it must be, in the color of the method"}],
        ),
        Section(
            "spectrum",
            "Spectrum",
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
    return [_with_table(_without_empty_charts(section), figures.get(section.id)) for section in found]


def _with_table(section: Section, figures: Figures | None) -> Section:
    table = table_behind(
        f"{section.id}-table", f"{section.title}: what the charts say, by method.", figures or {}
    )
    return dataclasses.replace(section, table=table)


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
    return Section("norms", "Norms", "Weight norms", findings.norms(numbers), large, by_weight=small)
