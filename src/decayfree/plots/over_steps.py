"""What weights do over the steps of a training, drawn: norms, steps and where a weight lives.

It computes no numbers: the charts are those of the pages.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from decayfree.arguments.kinds import checked
from decayfree.display.paper import TEXT
from decayfree.dynamics.samples import Sample
from decayfree.errors import InvalidInputError
from decayfree.plots.drawn import figure_of
from decayfree.plots.source import Source, groups_of, read, study_of
from decayfree.report.charts import curves
from decayfree.report.charts.axes import Chart, Look
from decayfree.report.charts.views import chosen_part, method_looks
from decayfree.report.numbers.groups import study_groups
from decayfree.report.numbers.series import StudyNumbers
from decayfree.report.pages.samples import instrument_chart
from decayfree.study.files.results import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_WEIGHTS_TOLD_APART = 8
Looks = Mapping[str, Look]


@checked()
def norms(
    source: Source, *, by_weight: bool = False, group: str | None = None, width: float = TEXT
) -> "Figure":
    """Norms of the weights over training.

    Of a study a line a method: the geometric mean over weights and seeds, with its interval. Where validation
    chose a setting, it is drawn, else all are. Of a recorder a line a weight: the mean over its blocks.

    Args:
        source: A study, a :class:`decayfree.Recorder` that writes a file, a study's folder, or a recorder's
            file.
        by_weight: Of a study with at most 8 weights: a panel for each of them.
        group: Of a study with axes: only this one, named as on the page; by default a panel for each.
        width: In inches. 3.25 is a column of two, 5.5 the text of a page, 6.75 both columns.

    Returns:
        A figure of matplotlib; ``.savefig("norms.pdf")`` keeps it.

    Raises:
        InvalidInputError: If there is nothing to draw in ``source``, or no such group.
        ResultError: If the folder holds no study, or its files are damaged.
        MissingExtraError: If matplotlib is not installed.
    """
    of_weights = curves.norm_charts if by_weight else None
    return _over_steps(source, "norm", curves.mean_norm_chart, of_weights, group, width)


@checked()
def effective_learning_rates(
    source: Source, *, by_weight: bool = False, group: str | None = None, width: float = TEXT
) -> "Figure":
    """Effective learning rates of the weights over training; arguments, result and errors as of `norms`."""
    of_weights = curves.effective_learning_rate_charts if by_weight else None
    chart = curves.effective_learning_rate_chart
    return _over_steps(source, "effective_learning_rate", chart, of_weights, group, width)


@checked()
def angles(source: Source, *, group: str | None = None, width: float = TEXT) -> "Figure":
    """Angles by which a step turns the weights, in radians, with those that decay leads to, dashed.

    Arguments, result and errors as of `norms`.
    """
    chart = curves.angular_update_chart
    return _over_steps(source, "angular_update_rad", chart, None, group, width)


@checked()
def off_span(source: Source, *, group: str | None = None, width: float = TEXT) -> "Figure":
    """Share of the first layer off the span of its inputs, with what it must be by its law, as circles.

    Arguments, result and errors as of `norms`; of studies that follow it (``off_span = true``) only.
    """
    return _of_study(study_of(source), curves.off_span_chart, None, group, width, "off-span shares")


def _over_steps(
    source: Source,
    instrument: str,
    chart: Callable[[StudyNumbers, Looks], Chart],
    of_weights: Callable[[StudyNumbers, Looks], list[Chart]] | None,
    group: str | None,
    width: float,
) -> "Figure":
    found = read(source)
    if isinstance(found, Study):
        return _of_study(found, chart, of_weights, group, width, instrument.replace("_", " "))
    if group is not None or of_weights:
        raise InvalidInputError("group and by_weight are for studies: a recorder's weights are lines already")
    return figure_of([("", _of_samples(found, instrument))], width)


def _of_study(
    study: Study,
    chart: Callable[[StudyNumbers, Looks], Chart],
    of_weights: Callable[[StudyNumbers, Looks], list[Chart]] | None,
    group: str | None,
    width: float,
    what: str,
) -> "Figure":
    numbers = study_groups(study)
    looks = method_looks(numbers)
    titled: list[tuple[str, Chart]] = []
    for one in groups_of(numbers, group):
        part, drawn = chosen_part(numbers, one, looks)
        if not part.shown:
            continue
        n_weights = len(part.shown[0].weights)
        if of_weights and n_weights > curves.MAX_SMALL_MULTIPLES:
            raise InvalidInputError(
                f"by_weight draws at most {curves.MAX_SMALL_MULTIPLES} weights, and there are {n_weights}"
            )
        charts = of_weights(part, drawn) if of_weights else [chart(part, drawn)]
        titled += [
            (" · ".join(text for text in (one.label, of.title if of_weights else "") if text), of)
            for of in charts
            if of.has_points
        ]
    if not titled:
        raise InvalidInputError(f"no run of this study that is done has {what} to draw")
    key = "law" if chart is curves.off_span_chart else "predicted under decay"
    y_title = what if of_weights else ""
    return figure_of(titled, width, y_title=y_title, key=key)


def _of_samples(samples: Sequence[Sample], instrument: str) -> Chart:
    """A line a weight; a few of one run are told apart, many are thin beside their mean."""
    runs = list(dict.fromkeys(sample.run for sample in samples))
    looks = {run: Look(f"--m{index % 8}", "solid", 2.5) for index, run in enumerate(runs)}
    chart = instrument_chart(samples, instrument, looks)
    if chart is None:
        raise InvalidInputError(f"no sample has the instrument {instrument}")
    lines = chart.figure["data"]
    if len(runs) == 1 and len(lines) <= MAX_WEIGHTS_TOLD_APART + 1:
        lines = lines[: max(1, len(lines) - 1)]
        own = [Look(f"--m{index}", dash, 2.0) for index, dash in zip(range(8), _DASHES * 2, strict=False)]
        data = [line | {"line": look.line} for line, look in zip(lines, own, strict=False)]
    else:
        # Of every run two entries: its weights, and their mean, which comes last.
        names = {f"run {run}": f"run {run}: " if len(runs) > 1 else "" for run in runs}
        data = [
            line
            | {
                "name": names[line["legendgroup"]]
                + ("mean of all weights" if line["line"]["width"] > 1 else "each weight")
            }
            for line in lines
        ]
    return replace(chart, figure={**chart.figure, "data": data})


_DASHES = ("solid", "dot", "dash", "dashdot", "longdash")
