"""Every run for itself, as the page shows it when its link is followed: curves, settings, files.

It computes no statistics but means over weights, and draws nothing: the page's script does.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from decayfree.report.charts.axes import Chart, run_layout
from decayfree.report.numbers.groups import setting_text
from decayfree.report.numbers.series import mean_angular_update, mean_effective_learning_rate, mean_norm
from decayfree.report.words.wording import SPACE, percent
from decayfree.study.files.results import ERROR_FILE, RECORD_FILE, ROWS_FILE, SPECTRA_FILE, Row, Run, Study
from decayfree.study.run_settings import flattened
from decayfree.study.tasks.metric import Metric

CURVES: tuple[tuple[str, str, Callable[[Row], float], int], ...] = (
    ("Test {}", "of this run", lambda row: row.test_score, 4),
    ("Training {}", "of this run", lambda row: row.train_score, 4),
    ("Weight norm", "geometric mean over the weights, log scale", mean_norm, 3),
    (
        "Effective learning rate",
        "geometric mean over the weights, log scale",
        mean_effective_learning_rate,
        3,
    ),
    ("Angular update", "radians a step, geometric mean over the weights, log scale", mean_angular_update, 3),
)
"""Title, unit, what is read from a row, and digits that are kept; the first two are shares."""
_N_SHARES = 2


def run_charts(metric: Metric) -> list[Chart]:
    """What a run's view has room for, without any run in it."""
    return [
        Chart(
            f"run-chart-{index}", title.format(metric.name), unit, {"layout": run_layout(index < _N_SHARES)}
        )
        for index, (title, unit, _, _) in enumerate(CURVES)
    ]


def runs_data(study: Study, places: Mapping[str, str], charts: Sequence[Chart]) -> dict[str, Any]:
    """What the page's script reads: by key of a run its curves and settings; lists that recur, once."""
    flat = {run.key: flattened(run.settings) for run in study.runs}
    of_methods = (name for settings in flat.values() for name in settings if name.startswith("method."))
    names = list(dict.fromkeys([*of_methods, *study.spec.varying()]))
    steps: dict[tuple[int, ...], int] = {}
    found = {}
    for run in study.runs:
        at = steps.setdefault(tuple(row.step for row in run.rows), len(steps))
        values = flat[run.key]
        found[run.key] = {
            "title": f"{places.get(run.key, run.label)}, seed {run.seed}",
            "state": _state(run),
            "steps": at,
            "curves": [[_kept(value(row), digits) for row in run.rows] for _, _, value, digits in CURVES],
            "settings": [setting_text(values[name]) if name in values else None for name in names],
            "took": f"{run.elapsed_s:,.0f}{SPACE}s",
            "files": [RECORD_FILE, ROWS_FILE, *_more_files(run)],
        }
    return {
        "archive": study.archive,
        "names": names,
        "steps": list(steps),
        "layouts": [chart.figure["layout"] for chart in charts],
        "runs": found,
    }


def _state(run: Run) -> str:
    if not run.rows:
        return f"{run.state}: no sample yet"
    last = run.rows[-1]
    score = "" if math.isnan(last.test_score) else f", test score {percent(last.test_score, 2)}"
    reason = f": {run.reason}" if run.reason else ""
    return f"{run.state} at step {last.step:,} of {run.n_steps:,}{score}{reason}"


def _more_files(run: Run) -> list[str]:
    return [*([SPECTRA_FILE] if run.spectra else []), *([ERROR_FILE] if run.state == "failed" else [])]


def _kept(value: float, digits: int) -> float | None:
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None
