"""What happened to a weight in a step?

Instruments as pure functions, and a recorder that samples them while training. Changes no weight.
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.dynamics.families import update_family as update_family
    from decayfree.dynamics.frames import read_frame as read_frame
    from decayfree.dynamics.measures import Motion as Motion
    from decayfree.dynamics.measures import Slope as Slope
    from decayfree.dynamics.measures import angular_update_rad as angular_update_rad
    from decayfree.dynamics.measures import distance_to_equilibrium as distance_to_equilibrium
    from decayfree.dynamics.measures import effective_learning_rate as effective_learning_rate
    from decayfree.dynamics.measures import motion as motion
    from decayfree.dynamics.measures import slope as slope
    from decayfree.dynamics.recorder import Recorder as Recorder
    from decayfree.dynamics.samples import Sample as Sample
    from decayfree.dynamics.samples import read_jsonl as read_jsonl
    from decayfree.dynamics.sinks import JsonLines as JsonLines
    from decayfree.dynamics.sinks import MLflow as MLflow
    from decayfree.dynamics.sinks import TensorBoard as TensorBoard
    from decayfree.dynamics.sinks import WandB as WandB
    from decayfree.optimizers import UpdateFamily as UpdateFamily

__getattr__ = lazy_face(__name__)
