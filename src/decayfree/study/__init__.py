"""Does it matter? Studies: trainings that differ in their method only, their files, and how these are read.

Nothing here draws or judges; the page is a function of the files. Importing this loads no data and trains nothing.
"""

from decayfree.study.demo import demo_spec
from decayfree.study.laws import equilibrium_at
from decayfree.study.results import ResultError, Row, Run, RunState, Spectrum, Study, read_study
from decayfree.study.runner import Progress, StudyOutcome, run_study
from decayfree.study.spec import (
    DataSpec,
    ModelSpec,
    OptimizerSpec,
    Recipe,
    RunSettings,
    SpecError,
    StudySpec,
)

__all__ = [
    "DataSpec",
    "ModelSpec",
    "OptimizerSpec",
    "Progress",
    "Recipe",
    "ResultError",
    "Row",
    "Run",
    "RunSettings",
    "RunState",
    "SpecError",
    "Spectrum",
    "Study",
    "StudyOutcome",
    "StudySpec",
    "demo_spec",
    "equilibrium_at",
    "read_study",
    "run_study",
]
