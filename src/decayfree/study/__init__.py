"""Does it matter? Studies: trainings that differ in their method only, their files, and how these are read.

Nothing here draws or judges; the page is a function of the files. Importing this loads no data and trains
nothing.
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.study.demo import demo_spec
    from decayfree.study.files.folder_lock import FolderInUseError
    from decayfree.study.files.integrity import DiskFullError, ResultError
    from decayfree.study.files.results import Row, Run, RunState, Spectrum, Study, read_study
    from decayfree.study.files.status import RunStatus, StudyStatus, study_status
    from decayfree.study.optimizers import equilibrium_at
    from decayfree.study.run_settings import DataSpec, ModelSpec, OptimizerSpec, Recipe, RunSettings
    from decayfree.study.runner.run_study import Progress, StudyOutcome, run_study
    from decayfree.study.spec.axes import Axis, Override
    from decayfree.study.spec.study_spec import SpecError, StudySpec

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

__getattr__ = lazy_face(
    __name__,
    {
        "spec.axes": "Axis Override",
        "demo": "demo_spec",
        "files.integrity": "DiskFullError ResultError",
        "optimizers": "equilibrium_at",
        "files.folder_lock": "FolderInUseError",
        "run_settings": "DataSpec ModelSpec OptimizerSpec Recipe RunSettings",
        "files.results": "Row Run RunState Spectrum Study read_study",
        "runner.run_study": "Progress StudyOutcome run_study",
        "spec.study_spec": "SpecError StudySpec",
        "files.status": "RunStatus StudyStatus study_status",
    },
)
