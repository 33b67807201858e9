"""The tasks by name."""

from decayfree.study.tasks.classification import Classification
from decayfree.study.tasks.counting import Counting
from decayfree.study.tasks.detection import Detection
from decayfree.study.tasks.segmentation import Segmentation
from decayfree.study.tasks.task import Task

TASKS: dict[str, Task] = {
    "classification": Classification(),
    "segmentation": Segmentation(),
    "detection": Detection(),
    "counting": Counting(),
}
