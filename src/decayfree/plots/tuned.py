"""How results depend on what is tuned, drawn: sensitivity to settings, and what trials buy.

It computes no numbers: the charts are those of the page.
"""

from typing import TYPE_CHECKING

from decayfree.arguments.kinds import checked
from decayfree.display.paper import TEXT
from decayfree.errors import InvalidInputError
from decayfree.plots.drawn import figure_of
from decayfree.plots.source import Source, groups_of, study_of
from decayfree.report.charts.budget import budget_views
from decayfree.report.charts.views import View, Viewed, method_looks, sensitivity_views, sweep_looks
from decayfree.report.numbers.budget import budgets_of
from decayfree.report.numbers.groups import StudyGroups, study_groups

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@checked()
def sensitivity(source: Source, *, group: str | None = None, width: float = TEXT) -> "Figure":
    """Test accuracy over the coefficient of decay and over the learning rate.

    Crosses at the foot are settings of which runs diverged, on an axis that is logarithmic in the error.

    Args:
        source: A study, or its folder.
        group: Of a study with axes: only this one, named as on the page.
        width: In inches. 3.25 is a column of two, 5.5 the text of a page, 6.75 both columns.

    Returns:
        A figure of matplotlib; ``.savefig("sensitivity.pdf")`` keeps it.

    Raises:
        InvalidInputError: If no method has several settings, or there is no such group.
        ResultError: If the folder holds no study, or its files are damaged.
        MissingExtraError: If matplotlib is not installed.
    """
    numbers = study_groups(study_of(source))
    views = _views(numbers, sensitivity_views(numbers, sweep_looks(numbers)), group)
    if not views:
        raise InvalidInputError("the study must have a method with several settings, to see what they change")
    titled = [
        (" · ".join(text for text in (view.label, _over(chart.title)) if text), chart)
        for view in views
        for chart in view.charts
    ]
    return figure_of(titled, width, y_title=f"test {numbers.metric.name}")


@checked()
def budget(source: Source, *, group: str | None = None, width: float = TEXT) -> "Figure":
    """What k trials buy: test accuracy of the best by validation, with the band of most tuners.

    Arguments, result and errors as of `sensitivity`; of studies with images to validate on only.
    """
    numbers = study_groups(study_of(source))
    views = _views(numbers, budget_views(budgets_of(numbers), method_looks(numbers)), group)
    if not views:
        raise InvalidInputError(
            "the study must have a method with several settings, and validation data that choose between "
            "them: a single trial is all that there is"
        )
    return figure_of([(view.label, view.charts[0]) for view in views], width)


def _views(numbers: StudyGroups, viewed: Viewed, group: str | None) -> list[View]:
    labels = {one.label for one in groups_of(numbers, group)}
    return [view for view in viewed.views if view.label in labels]


def _over(title: str) -> str:
    """What the axis below says already is no title."""
    return "" if title.startswith("over ") else title
