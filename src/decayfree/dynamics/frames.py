"""What a recorder saw as a data frame: a row for each weight and instrument of a step.

Measures nothing; samples.py reads the file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from typing import Any

from decayfree.display.frame import Library, columns_of, frame_of, library_for
from decayfree.dynamics.samples import Sample, read_jsonl


def read_frame(path: str | os.PathLike[str], *, library: Library | None = None) -> Any:
    """The file of a :class:`decayfree.Recorder` as a data frame.

    Args:
        path: Lines of JSON, as for `read_jsonl`.
        library: ``"polars"`` or ``"pandas"``; by default the first of them that is installed.

    Returns:
        A frame with a row for each weight and instrument of a step, and the columns ``run``, ``step``,
        ``weight``, ``instrument``, ``learning_rate`` (of the weight's group in that step) and one a
        statistic over the weight's blocks: ``mean``, ``min``, ``max``, ``q5``, ``q50``, ``q95`` in the
        instrument's unit, and ``undefined``, a count.

    Raises:
        InvalidInputError: If there is no such file, or ``library`` is another one.
        MissingExtraError: If polars and pandas are not installed.
    """
    library = library_for(library)
    return frame_of_samples(read_jsonl(path), library)


def frame_of_samples(samples: Iterable[Sample], library: Library | None = None) -> Any:
    """The same of samples that are at hand."""
    return frame_of(columns_of(_rows(samples)) or {name: [] for name in _NAMES}, library)


_NAMES = ("run", "step", "weight", "instrument", "learning_rate")


def _rows(samples: Iterable[Sample]) -> Iterator[dict[str, Any]]:
    for sample in samples:
        for weight, instruments in sample.weights.items():
            rate = float(sample.learning_rates.get(weight, math.nan))
            for instrument, statistics in instruments.items():
                told = dict(zip(_NAMES, (sample.run, sample.step, weight, instrument, rate), strict=True))
                yield told | {name: float(value) for name, value in statistics.items()}
