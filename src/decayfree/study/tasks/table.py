"""The tasks by name."""

from decayfree.study.tasks.classification import Classification
from decayfree.study.tasks.task import Task

TASKS: dict[str, Task] = {"classification": Classification()}
