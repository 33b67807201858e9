"""Does it matter? Studies: trainings that differ in their method only, their files, and how these are read.

Nothing here draws or judges; the page is a function of the files. Importing this loads no data and trains
nothing.
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.study.demo import demo_spec as demo_spec
    from decayfree.study.files.folder_lock import FolderInUseError as FolderInUseError
    from decayfree.study.files.integrity import DiskFullError as DiskFullError
    from decayfree.study.files.integrity import ResultError as ResultError
    from decayfree.study.files.results import Row as Row
    from decayfree.study.files.results import Run as Run
    from decayfree.study.files.results import RunState as RunState
    from decayfree.study.files.results import Spectrum as Spectrum
    from decayfree.study.files.results import Study as Study
    from decayfree.study.files.results import read_study as read_study
    from decayfree.study.files.status import RunStatus as RunStatus
    from decayfree.study.files.status import StudyStatus as StudyStatus
    from decayfree.study.files.status import study_status as study_status
    from decayfree.study.optimizers import equilibrium_at as equilibrium_at
    from decayfree.study.own_method import OwnMethod as OwnMethod
    from decayfree.study.run_settings import DataSpec as DataSpec
    from decayfree.study.run_settings import ModelSpec as ModelSpec
    from decayfree.study.run_settings import OptimizerSpec as OptimizerSpec
    from decayfree.study.run_settings import Recipe as Recipe
    from decayfree.study.run_settings import RunSettings as RunSettings
    from decayfree.study.runner.run_study import Progress as Progress
    from decayfree.study.runner.run_study import StudyOutcome as StudyOutcome
    from decayfree.study.runner.run_study import run_study as run_study
    from decayfree.study.spec.axes import Axis as Axis
    from decayfree.study.spec.axes import Override as Override
    from decayfree.study.spec.rounds import Added as Added
    from decayfree.study.spec.rounds import Always as Always
    from decayfree.study.spec.rounds import Extension as Extension
    from decayfree.study.spec.study_spec import SpecError as SpecError
    from decayfree.study.spec.study_spec import StudySpec as StudySpec

__getattr__ = lazy_face(__name__, extra="study")
