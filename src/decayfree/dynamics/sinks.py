"""Where do samples of the instruments go?

To lines of JSON in a file, Weights & Biases, MLflow or TensorBoard: there under ``decayfree/``, over steps of
their own, beside what the training logs itself. Measures nothing: recorder.py does.
"""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decayfree.arguments.kinds import checked
from decayfree.dynamics.samples import Sample, without_nan
from decayfree.errors import InvalidInputError, MissingExtraError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

PREFIX = "decayfree"
STEP = f"{PREFIX}/step"


class JsonLines:
    """Append every sample to a file, one JSON object a line.

    The file is opened and closed for each line, so that a line is on its way to the disk when the step
    returns, and nothing is open between samples. It is made with the first sample. Numbers that are not
    finite become ``null``. `read_jsonl` reads it.

    Args:
        path: The file, in a folder that exists.

    Raises:
        InvalidInputError: If the folder does not exist or ``path`` is a folder.
    """

    @checked()
    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()  # a later change of the working directory does not split the file
        if not self.path.parent.is_dir():
            raise InvalidInputError(
                f"samples cannot go to {self.path}: the folder {self.path.parent} does not exist"
            )
        if self.path.is_dir():
            raise InvalidInputError(f"samples cannot go to {self.path}: it is a folder; name a file in it")

    def __call__(self, sample: Sample) -> None:
        try:
            line = json.dumps(vars(sample), allow_nan=False)
        except ValueError:
            line = json.dumps(without_nan(vars(sample)), allow_nan=False)
        with self.path.open("ab") as file:
            # What a killed process left of a line stays a line of its own.
            file.write((b"" if _ends_a_line(self.path) else b"\n") + line.encode() + b"\n")


class Kept:
    """Passes samples on, and keeps in a file those that a sink fails to take: no logger stops a training.

    The first failure is told by a warning.

    Args:
        sink: Whom samples go to.
        path: The file, a `JsonLines`, for what it raises over.
    """

    def __init__(self, sink: Callable[[Sample], object], path: str | os.PathLike[str]) -> None:
        self.sink, self.path = sink, Path(path).absolute()
        self._is_told = False

    def __call__(self, sample: Sample) -> None:
        try:
            self.sink(sample)
        except Exception as error:
            said = f"the sink failed at step {sample.step} ({type(error).__name__}: {error})"
            try:
                JsonLines(self.path)(sample)
                said += f"; this sample, and others that it fails to take, are kept in {self.path}"
            except (OSError, InvalidInputError) as second:
                said += f", and {self.path} cannot be written ({second}): samples are lost"
            if not self._is_told:
                self._is_told = True
                warnings.warn(said, stacklevel=3)


class WandB:
    """Log every sample to a run of Weights & Biases.

    W&B counts the rows of a run. It drops what comes with ``step=`` below the count, and of two values for
    one row the first. So samples have an axis of their own, ``decayfree/step``, at most one is added to each
    row of the training, and none makes a row; those that come in between, while the training logs nothing, go
    to a run of their own in its group. Nothing is lost, whatever the training counts by.

    Args:
        run: Of ``wandb.init``; by default the one that is open.
        statistics: Of every weight these, such as ``"mean"``, thousands of charts for a deep network; by
            default the 12 numbers of :meth:`Sample.brief`, and the names of the extreme weights.
        stepless: The training never passes ``step=``: all samples can then have rows in its run.

    Raises:
        InvalidInputError: If no run is open.
        MissingExtraError: If the package wandb is not there.
    """

    @checked()
    def __init__(self, run: Any = None, *, statistics: Sequence[str] = (), stepless: bool = False) -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError(_lacking("wandb")) from error
        self._wandb: Any = wandb
        self.run: Any = wandb.run if run is None else run
        if not hasattr(self.run, "define_metric"):
            raise InvalidInputError(
                f"no run of W&B is open: call wandb.init() first, or pass it; got {run!r}"
            )
        self.statistics, self.stepless = statistics, stepless
        self._own_run: Any = None
        self._row = -1  # that has a sample
        _give_axis(self.run)

    def __call__(self, sample: Sample) -> None:
        values = {STEP: sample.step, **told(sample, self.statistics), **names(sample, self.statistics)}
        if self.stepless:
            self.run.log(values)
        elif self.run.step != self._row:
            self.run.log(values, commit=False)
            self._row = self.run.step
        else:
            self._own_run = self._own_run or self._begin_own_run()
            self._own_run.log(values)

    def _begin_own_run(self) -> Any:
        run = self.run
        own = self._wandb.init(
            reinit="create_new",
            entity=run.entity or None,
            project=run.project,
            group=run.group or run.id,
            job_type=PREFIX,
            name=f"{run.name or run.id}, {PREFIX}",
            dir=Path(run.dir).parents[2],
        )
        _give_axis(own)
        return own


class MLflow:
    """Log every sample to a run of MLflow; the names of extreme weights are its tags.

    Args:
        run_id: Of the run; by default the one that is active, or else one that MLflow begins.
        statistics: As for `WandB`.

    Raises:
        MissingExtraError: If the package mlflow is not there.
    """

    @checked()
    def __init__(self, run_id: str | None = None, *, statistics: Sequence[str] = ()) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise MissingExtraError(_lacking("mlflow")) from error
        self._mlflow: Any = mlflow
        self.run_id, self.statistics = run_id, statistics

    def __call__(self, sample: Sample) -> None:
        run = self.run_id or (self._mlflow.active_run() or self._mlflow.start_run()).info.run_id
        now_ms = int(1000 * time.time())
        client, numbers = self._mlflow.MlflowClient(), list(told(sample, self.statistics).items())
        metrics = [self._mlflow.entities.Metric(key, value, now_ms, sample.step) for key, value in numbers]
        for first in range(0, len(metrics), 1000):  # of which MLflow takes so many at a time
            client.log_batch(run, metrics=metrics[first : first + 1000])
        for key, name in names(sample, self.statistics).items():
            client.set_tag(run, key, name)


class TensorBoard:
    """Write every sample to TensorBoard.

    Args:
        writer: A ``SummaryWriter``, or the folder to make one for.
        statistics: As for `WandB`.

    Raises:
        InvalidInputError: If ``writer`` is neither.
        MissingExtraError: If ``writer`` is a folder and the package tensorboard is not there.
    """

    def __init__(
        self, writer: SummaryWriter | str | os.PathLike[str], *, statistics: Sequence[str] = ()
    ) -> None:
        if not isinstance(writer, str | os.PathLike) and not hasattr(writer, "add_scalar"):
            raise InvalidInputError(f"writer must be a SummaryWriter or a folder, got {writer!r:.60}")
        self.writer: Any = _summary_writer(writer) if isinstance(writer, str | os.PathLike) else writer
        self.statistics = statistics

    def __call__(self, sample: Sample) -> None:
        for key, value in told(sample, self.statistics).items():
            self.writer.add_scalar(key, value, sample.step)
        for key, name in names(sample, self.statistics).items():
            self.writer.add_text(key, name, sample.step)
        self.writer.flush()


def _give_axis(run: Any) -> None:
    run.define_metric(STEP, hidden=True)
    run.define_metric(f"{PREFIX}/*", step_metric=STEP)


def told(sample: Sample, statistics: Sequence[str] = ()) -> dict[str, float]:
    """What a logger gets: finite numbers under ``decayfree/``."""
    numbers = sample.flat(*statistics) if statistics else sample.brief()
    return {f"{PREFIX}/{key}": value for key, value in numbers.items() if math.isfinite(value)}


def names(sample: Sample, statistics: Sequence[str] = ()) -> dict[str, str]:
    """Which weights the extreme numbers among these are of."""
    extremes = {} if statistics else sample.extremes()
    return {f"{PREFIX}/{instrument}/extreme_weight": name for instrument, name in extremes.items()}


def _summary_writer(folder: str | os.PathLike[str]) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError(_lacking("tensorboard")) from error
    return SummaryWriter(str(folder))


def _lacking(package: str) -> str:
    return f'this logger needs the package {package}: pip install "decayfree[{package}]"'


def _ends_a_line(path: Path) -> bool:
    if not path.stat().st_size:
        return True
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
