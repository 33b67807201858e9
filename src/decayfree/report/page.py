"""The page: one self-contained HTML file made from the numbers of a study; the same files give the same bytes.

It computes no statistics. Everything from outside is escaped by the template, and JSON is embedded without any ``<``.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from decayfree.errors import MissingExtraError
from decayfree.report import angles, charts, findings, spans, verdicts
from decayfree.report.charts import Chart, Look
from decayfree.report.series import StudyNumbers, study_numbers
from decayfree.report.table import FinalRow, final_rows, strip_axis
from decayfree.report.wording import (
    SPACE,
    count,
    listing,
    percent,
)
from decayfree.study import Run, Study, read_study

FILE_NAME = "report.html"


def write_report(out: Path) -> Path:
    """Read the study in ``out`` and write its page there.

    Returns:
        The page's path, ``out/report.html``.

    Raises:
        ResultError: If there is no study, or its files are damaged.
        MissingExtraError: If plotly or jinja2 is not installed.
    """
    text = render(read_study(out))
    path = out / FILE_NAME
    unfinished = path.with_suffix(".html.tmp")
    unfinished.write_text(text, encoding="utf-8", newline="\n")
    unfinished.replace(path)
    return path


def render(study: Study) -> str:
    """The page of a study, as text."""
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingExtraError(
            f"the report needs {error.name}, which is not installed: pip install 'decayfree[study]'"
        ) from error
    page = _page(study_numbers(study))
    figures = {
        chart.id: chart.figure for section in page["sections"] for chart in section.charts + section.by_weight
    }
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=False, keep_trailing_newline=True
    )
    return environment.from_string(_resource("page.html")).render(
        page=page,
        style=Markup(_resource("page.css")),  # ours, like the script: nothing from outside is in them
        script=Markup(_resource("page.js")),
        plotly=Markup(get_plotlyjs()),
        figures=Markup(embedded_json(figures)),
    )


def embedded_json(value: Any) -> str:
    """JSON that can stand in a ``<script>`` element whatever text is in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


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


def _page(numbers: StudyNumbers) -> dict[str, Any]:
    spec = numbers.study.spec
    looks = charts.looks(numbers.methods)
    reference = numbers.reference
    n_seeds = len(spec.seeds)
    axis, digits = strip_axis(numbers), verdicts.decimals(numbers)
    return {
        "title": spec.title,
        "kicker": f"decayfree study · {spec.recipe.data.name} · {count(len(spec.methods), 'method')} × {count(n_seeds, 'seed')}",
        "summary": verdicts.summary(numbers),
        "methods": [_legend_entry(method.label, looks[method.label]) for method in numbers.shown],
        "results_text": verdicts.results(numbers),
        "table_caption": "Accuracy on the test images after the last step, mean over seeds.",
        "difference_heading": f"Minus {reference.short}" if reference else "Difference",
        "statistics_note": verdicts.statistics_note(numbers),
        "rows": [_row(row, looks[row.label], axis) for row in final_rows(numbers)],
        "strip_low": percent(axis[0], digits),
        "strip_high": percent(axis[1], digits),
        "sections": _sections(numbers),
        "faults": [_fault(run) for run in numbers.unfinished],
        "no_faults": _no_faults(numbers),
        "settings_text": _settings_text(numbers),
        "settings": _settings(numbers),
    }


def _sections(numbers: StudyNumbers) -> list[Section]:
    if not numbers.shown:
        return []
    return [
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
            findings.effective_learning_rate_notes(),
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


def _norms(numbers: StudyNumbers) -> Section:
    drawn = charts.norm_charts(numbers)
    large, small = (drawn, []) if len(drawn) == 1 else ([], drawn)
    return Section("norms", "Weight norms", findings.norms(numbers), large, by_weight=small)


def _legend_entry(label: str, look: Look) -> dict[str, Any]:
    return {
        "label": label,
        "group": label,
        "color": look.color,
        "width": look.width,
        "dashes": look.svg_dashes,
    }


def _row(row: FinalRow, look: Look, axis: tuple[float, float]) -> dict[str, Any]:
    """A row of the table with its strip: places along the common axis, in percent of its length."""

    def places(accuracies: Sequence[float]) -> list[float]:
        shares = [(accuracy - axis[0]) / (axis[1] - axis[0]) for accuracy in accuracies]
        return [round(100 * min(max(share, 0.0), 1.0), 2) for share in shares]

    return {
        "row": row,
        "color": look.color,
        "dots": places(row.accuracies),
        "middle": places(row.mean_accuracy),
        "whisker": places(row.ends),
    }


def _fault(run: Run) -> dict[str, Any]:
    last_step = f"{run.rows[-1].step:,}" if run.rows else "none"
    reason = run.reason or ("not done yet" if run.state == "running" else "no reason was recorded")
    return {
        "label": run.label,
        "seed": run.seed,
        "state": run.state,
        "last_step": last_step,
        "reason": reason,
    }


def _no_faults(numbers: StudyNumbers) -> str:
    missing = numbers.study.n_planned - len(numbers.study.runs)
    if missing:
        return f"No run has diverged or failed; {count(missing, 'run')} of the study have not begun."
    return f"None: all {count(numbers.n_done, 'run')} finished, none diverged and none failed."


def _settings_text(numbers: StudyNumbers) -> str:
    recipe = numbers.study.spec.recipe
    weights = numbers.shown[0].weights if numbers.shown else ()
    rest = f"weight decay {recipe.rest_weight_decay:g}" if recipe.rest_weight_decay else "no weight decay"
    named = (
        f"the {count(len(weights), 'scale-invariant weight')} ({listing(weights)})"
        if weights
        else "the scale-invariant weights"
    )
    return (
        f"What a method does, it does to {named} and to nothing else. Gains γ and biases β of the normalizations and the last layer get "
        f"{rest} under every method. A run takes {recipe.n_steps:,} steps of {recipe.batch_size} images at a learning rate "
        f"of {recipe.learning_rate:g} ({recipe.schedule} schedule). Training accuracy is measured in eval mode against the labels "
        "that were trained on, random ones included. Equal seeds start from equal weights and see equal batches."
    )


def _settings(numbers: StudyNumbers) -> list[dict[str, Any]]:
    spec = numbers.study.spec
    shared = [*_flat(dataclasses.asdict(spec.recipe)), ("n_steps", f"{spec.recipe.n_steps:,}")]
    methods = [(method.label, _method_text(method)) for method in spec.methods]
    seeds = [("seeds", ", ".join(map(str, spec.seeds)))]
    runs = numbers.study.runs
    versions = _distinct([run.versions for run in runs])
    hardware = _distinct([run.hardware for run in runs])
    seconds = sum(run.elapsed_s for run in runs)
    return [
        {"title": "What all runs have in common", "is_code": True, "rows": shared},
        {"title": "Methods and seeds", "is_code": False, "rows": methods + seeds},
        {"title": "Versions", "is_code": False, "rows": versions},
        {
            "title": "Hardware",
            "is_code": False,
            "rows": [*hardware, ("training time, all runs", f"{seconds:,.0f}{SPACE}s")],
        },
    ]


def _method_text(method: Any) -> str:
    options = ", ".join(f"{name} = {_text(value)}" for name, value in _flat(dataclasses.asdict(method)))
    return f"{method.name}: {options}" if options else str(method.name)


def _flat(table: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested table as dotted names and texts."""
    rows = []
    for name, value in table.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", _text(value)))
    return rows


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _distinct(tables: list[Any]) -> list[tuple[str, str]]:
    """Every key with all values that occur, sorted: a study may have been run on several machines."""
    keys = sorted({key for table in tables for key in table})
    return [(key, ", ".join(sorted({_text(table[key]) for table in tables if key in table}))) for key in keys]


def _resource(name: str) -> str:
    return files("decayfree.report").joinpath(name).read_text(encoding="utf-8")
