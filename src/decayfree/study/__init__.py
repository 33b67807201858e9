"""Does it matter? Studies: trainings that differ in their method only, their files, and how these are read.

Nothing here draws or judges; the page is a function of the files. Importing this loads no data and trains nothing.
"""

from decayfree.study.axes import Axis, Override
from decayfree.study.demo import demo_spec
from decayfree.study.integrity import DiskFullError, ResultError
from decayfree.study.laws import equilibrium_at
from decayfree.study.locking import FolderInUseError
from decayfree.study.recipe import DataSpec, ModelSpec, OptimizerSpec, Recipe, RunSettings
from decayfree.study.results import Row, Run, RunState, Spectrum, Study, read_study
from decayfree.study.runner import Progress, StudyOutcome, run_study
from decayfree.study.spec import SpecError, StudySpec
from decayfree.study.status import RunStatus, StudyStatus, study_status

__all__ = [
    "Axis",
    "DataSpec",
    "DiskFullError",
    "FolderInUseError",
    "ModelSpec",
    "OptimizerSpec",
    "Override",
    "Progress",
    "Recipe",
    "ResultError",
    "Row",
    "Run",
    "RunSettings",
    "RunState",
    "RunStatus",
    "SpecError",
    "Spectrum",
    "Study",
    "StudyOutcome",
    "StudySpec",
    "StudyStatus",
    "demo_spec",
    "equilibrium_at",
    "read_study",
    "run_study",
    "study_status",
]
