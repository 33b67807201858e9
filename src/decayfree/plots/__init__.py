"""Show me on paper: figures of a study, a recorder or a file, one line each, to be saved as PDF or SVG.

It computes no statistics and no model: the numbers and colors are those of the page.
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.plots.over_steps import angles as angles
    from decayfree.plots.over_steps import effective_learning_rates as effective_learning_rates
    from decayfree.plots.over_steps import norms as norms
    from decayfree.plots.over_steps import off_span as off_span
    from decayfree.plots.results import accuracy as accuracy
    from decayfree.plots.results import forest as forest
    from decayfree.plots.tuned import budget as budget
    from decayfree.plots.tuned import sensitivity as sensitivity

__getattr__ = lazy_face(__name__, extra="plots")
