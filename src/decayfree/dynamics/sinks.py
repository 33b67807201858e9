"""Where do samples of the instruments go, and what is one?

Lines of JSON in a file, TensorBoard, or any callable that takes a sample. Measures nothing: recorder.py does.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decayfree.arguments.kinds import checked
from decayfree.errors import InvalidInputError, MissingExtraError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@dataclass(frozen=True)
class Sample:
    """What the instruments showed in one optimizer step.

    Args:
        run: Letters that tell runs in one file apart; a resumed run keeps them.
        step: The optimizer step that was looked at; the first is 1.
        learning_rates: Of the step, by parameter name.
        weights: By parameter name, instrument and statistic: ``weights["conv1.weight"]["norm"]["mean"]``.
            Statistics run over the blocks of the weight that the instrument is defined for: ``mean``,
            ``min``, ``max``, quantiles such as ``q5``, ``q50``, ``q95`` (in per cent), and ``undefined``, the
            number of blocks that it is not defined for (a block of norm zero has no angle).
    """

    run: str
    step: int
    learning_rates: Mapping[str, float]
    weights: Mapping[str, Mapping[str, Mapping[str, float]]]

    def flat(self, *statistics: str) -> dict[str, float]:
        """One number a key, as loggers want them: ``{"norm/mean/conv1.weight": 1.0, ...}``.

        Args:
            statistics: Only these, such as ``"mean"``; all by default.

        Example:
            >>> Sample("a", 1, {}, {"conv.weight": {"norm": {"mean": 1.0, "max": 2.0}}}).flat("mean")
            {'norm/mean/conv.weight': 1.0}
        """
        return {
            f"{instrument}/{statistic}/{name}": value
            for name, instruments in self.weights.items()
            for instrument, values in instruments.items()
            for statistic, value in values.items()
            if not statistics or statistic in statistics
        }


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
        line = json.dumps(without_nan(vars(sample)), allow_nan=False)
        with self.path.open("ab") as file:
            # What a killed process left of a line stays a line of its own.
            file.write((b"" if _ends_a_line(self.path) else b"\n") + line.encode() + b"\n")


class TensorBoard:
    """Write every sample to TensorBoard, one chart for each instrument, statistic and weight.

    Args:
        writer: A ``SummaryWriter``, or the folder to make one for.
        statistics: Which ones; a deep network has thousands of charts with all of them.

    Raises:
        InvalidInputError: If ``writer`` is neither.
        MissingExtraError: If ``writer`` is a folder and the package tensorboard is not there.
    """

    def __init__(
        self,
        writer: SummaryWriter | str | os.PathLike[str],
        *,
        statistics: tuple[str, ...] = ("mean", "min", "max"),
    ) -> None:
        if not isinstance(writer, str | os.PathLike) and not hasattr(writer, "add_scalar"):
            raise InvalidInputError(f"writer must be a SummaryWriter or a folder, got {writer!r:.60}")
        self.writer: Any = _summary_writer(writer) if isinstance(writer, str | os.PathLike) else writer
        self.statistics = statistics

    def __call__(self, sample: Sample) -> None:
        for key, value in sample.flat(*self.statistics).items():
            self.writer.add_scalar(key, value, sample.step)
        self.writer.flush()


@checked()
def read_jsonl(path: str | os.PathLike[str]) -> list[Sample]:
    """Read what `JsonLines` wrote.

    Args:
        path: The file; it may hold several runs.

    Returns:
        The samples in the order of the file, ``null`` as NaN. Of a step that a run took twice (it was resumed
        from before it) the later. Lines that are no sample, such as one that a killed process did not finish,
        are left out with a warning.

    Raises:
        InvalidInputError: If there is no such file.
    """
    file = Path(path)
    if not file.is_file():
        raise InvalidInputError(f"there is no file {file} with samples")
    samples: dict[tuple[str, int], Sample] = {}
    broken = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            sample = Sample(**_with_nan(json.loads(line)))
        except (ValueError, TypeError):
            broken.append(str(number))
            continue
        samples.pop((sample.run, sample.step), None)
        samples[sample.run, sample.step] = sample
    if broken:
        warnings.warn(f"{file}: line {', '.join(broken)} holds no sample and was left out", stacklevel=2)
    return list(samples.values())


def without_nan(value: Any) -> Any:
    """A value for JSON: None for numbers that it does not know, lists for tuples.

    Example:
        >>> without_nan({"norm": (1.0, math.nan), "name": "conv"})
        {'norm': [1.0, None], 'name': 'conv'}
    """
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _summary_writer(folder: str | os.PathLike[str]) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError(
            'writing to TensorBoard needs the package tensorboard: pip install "decayfree[tensorboard]"'
        ) from error
    return SummaryWriter(str(folder))


def _ends_a_line(path: Path) -> bool:
    if not path.stat().st_size:
        return True
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _with_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_nan(part) for key, part in value.items()}
    return math.nan if value is None else value
