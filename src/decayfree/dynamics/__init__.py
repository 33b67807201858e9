"""What happened to a weight in a step?

Instruments as pure functions, and a recorder that samples them while training. Changes no weight.
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.dynamics.families import update_family
    from decayfree.dynamics.measures import (
        Motion,
        Slope,
        angular_update_rad,
        distance_to_equilibrium,
        effective_learning_rate,
        motion,
        slope,
    )
    from decayfree.dynamics.recorder import Recorder
    from decayfree.dynamics.sinks import JsonLines, Sample, TensorBoard, read_jsonl
    from decayfree.optimizers import UpdateFamily

__all__ = [
    "UpdateFamily",
    "JsonLines",
    "Motion",
    "Recorder",
    "Sample",
    "Slope",
    "TensorBoard",
    "angular_update_rad",
    "distance_to_equilibrium",
    "effective_learning_rate",
    "motion",
    "read_jsonl",
    "slope",
    "update_family",
]

__getattr__ = lazy_face(
    __name__,
    {
        "measures": (
            "effective_learning_rate Motion motion angular_update_rad Slope slope distance_to_equilibrium"
        ),
        "families": "update_family",
        "decayfree.optimizers": "UpdateFamily",
        "recorder": "Recorder",
        "sinks": "Sample JsonLines TensorBoard read_jsonl",
    },
)
