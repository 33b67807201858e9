"""The tasks by name."""

from decayfree.arguments.address import Address
from decayfree.errors import InvalidInputError
from decayfree.study.own import OWN, own
from decayfree.study.run_settings import Recipe
from decayfree.study.tasks.classification import Classification
from decayfree.study.tasks.counting import Counting
from decayfree.study.tasks.detection import Detection
from decayfree.study.tasks.metric import Metric
from decayfree.study.tasks.segmentation import Segmentation
from decayfree.study.tasks.task import Task

TASKS: dict[str, Task] = {
    "classification": Classification(),
    "segmentation": Segmentation(),
    "detection": Detection(),
    "counting": Counting(),
}


def task_of(recipe: Recipe) -> Task:
    """The task of a recipe; one of the user's own is made anew.

    Raises:
        InvalidInputError: If that is no task.
    """
    if not isinstance(recipe.task, Address):
        return TASKS[recipe.task]
    made: Task = own("task", recipe.task, args=recipe.task_args, gives=object)
    lacking = [name for name in _METHODS if not callable(getattr(made, name, None))]
    if lacking:
        raise InvalidInputError(
            f"task: {recipe.task}: expected to give {OWN['task'].gives}, got {type(made).__name__} without "
            f"{', '.join(lacking)}"
        )
    try:
        metric = getattr(made, "metric", None)
    except Exception as error:
        raise InvalidInputError(f"task: {recipe.task}: metric raised {error!r}") from error
    if not isinstance(metric, Metric | None):
        raise InvalidInputError(
            f"task: {recipe.task}: metric: expected a decayfree.study.tasks.metric.Metric, by which pages "
            f"call its score, got {metric!r}"
        )
    return made


_METHODS = ("build", "outputs", "loss", "evaluate")
