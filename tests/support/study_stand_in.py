"""A study of two methods for the command line: its spec, files without training, a stand-in for its runner.

Tests say what they expect.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from decayfree.methods import WRS, NoTreatment
from decayfree.study import DataSpec, StudySpec
from decayfree.study.runner.run_study import Progress, StudyOutcome
from support.small_study import RECIPE
from support.synthetic_study import Writer

METHODS = (NoTreatment(), WRS())
SPEC = StudySpec(
    methods=METHODS,
    seeds=(0, 1),
    recipe=dataclasses.replace(RECIPE, data=DataSpec(n_train=64, n_validation=40, n_test=40)),
    title="A study of two methods",
)
FINAL = {"no decay": (0.85, 0.86), "WRS, radius 1": (0.87, 0.88)}


def written(out: Path, **options: Any) -> Path:
    """A study's files, with as many rows as its few steps allow."""
    return Writer(out, n_intervals=4, **options).write()


class Runner:
    """A stand-in for `run_study` that writes results and remembers what it was asked for."""

    def __init__(self, *, interrupted: bool = False, reasons: tuple[str, ...] = ()) -> None:
        self.interrupted, self.reasons = interrupted, reasons
        self.spec: StudySpec | None = None
        self.out: Path | None = None
        self.options: dict[str, Any] = {}

    def __call__(
        self,
        spec: StudySpec,
        out: Path,
        *,
        on_progress: Callable[[Progress], None],
        on_stopping: Callable[[], None],
        **options: Any,
    ) -> StudyOutcome:
        self.spec, self.out, self.options = spec, out, options
        n = len(spec.runs())
        on_progress(
            Progress(n_done=0, n_total=n, fraction=0.1, label="no decay, seed 0", seconds_left=7261.2)
        )
        if self.interrupted:
            on_stopping()
        elif not (out / "runs").exists():
            written(out, spec=spec, final_test=FINAL)
        done = n - len(self.reasons) - self.interrupted
        return StudyOutcome(done, n, len(self.reasons), self.reasons, interrupted=self.interrupted)
