"""By what number is a network of each task compared?

Loads nothing that trains: pages read it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

_LONGEST = 60


@dataclass(frozen=True)
class Metric:
    """A task's score: a share, larger is better, that settings are chosen and methods compared by.

    Attributes:
        name: As in a sentence, in a line of at most 60 characters: "accuracy".
        meaning: What it is, one sentence.
    """

    name: str
    meaning: str

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name.isprintable() and 0 < len(self.name) <= _LONGEST):
            raise ValueError(
                f"name: expected a printable line of 1 to {_LONGEST} characters, got {self.name!r}"
            )
        if not (isinstance(self.meaning, str) and self.meaning.isprintable()):
            raise ValueError(f"meaning: expected a printable line, got {self.meaning!r}")


METRICS: Mapping[str, Metric] = {
    "classification": Metric("accuracy", "The share of images whose class is right."),
    "segmentation": Metric(
        "mIoU",
        "Intersection over union of predicted and true pixels of a class in all images; mean over classes.",
    ),
    "detection": Metric(
        "mAP",
        "COCO's average precision: the mean over classes and over IoU thresholds from 0.50 to 0.95.",
    ),
    "counting": Metric(
        "counting accuracy",
        "1 minus the mean absolute error over the mean true count: 0 if none is ever seen, 1 without error.",
    ),
}
"""By task."""


def metric_of(task: str) -> Metric:
    """By what number networks of a task are compared; of one's own only its runs may know what it is."""
    return METRICS.get(task) or Metric("score", f"What {task} scores: a share, larger is better.")


def is_share(name: str) -> bool:
    """Whether a number of a task is a share; those that are not say their unit: "MAE, items".

    Example:
        >>> is_share("mAP50"), is_share("MAE, items")
        (True, False)
    """
    return not name.endswith(_UNITS)


_UNITS = (", items",)
